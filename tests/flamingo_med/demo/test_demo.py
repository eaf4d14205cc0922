"""The demo page without a browser: uploads, questions, records, HTML, and what the command refuses."""

import asyncio
import copy
import json
import socket
import sys
from html import unescape

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("gradio")

from fastapi import HTTPException

from flamingo_med.demo import fragments, login
from flamingo_med.demo.asking import ask, look
from flamingo_med.demo.guard import served_names
from flamingo_med.demo.heat import to_heat
from flamingo_med.demo.record import audit_record, describe_model
from flamingo_med.demo.session import MAX_EXAMPLES, Assistant, Memory, Session
from flamingo_med.demo.upload import SHOWN, Upload
from flamingo_med.evaluation.calibration import Calibration
from flamingo_med.explanation import METHODS, explain, explain_case, prepare
from flamingo_med.inference.answering import answer_questions
from processing.dicom import grey_range
from processing.errors import InputError
from tests.conftest import QUESTIONS
from tests.flamingo_med.inference.test_answering import write_blip2
from tests.processing.test_dicom import PATIENT, RAMP, encode, make

CLASSES = {0: "effusion", 1: "nodule", 2: "normal"}


@pytest.fixture
def model(make_model):
    model = make_model(id2label=CLASSES)
    model.generation_config.max_new_tokens = 4
    return model


@pytest.fixture
def assistant(model, processor):
    return Assistant(model, processor, "runs/tiny")


@pytest.fixture
def see(processor):
    return lambda image: look(processor, image)


@pytest.fixture
def upload(images, see):
    return Upload.drawn(images[0], "one.png", see)


def test_a_file_is_deleted_once_it_is_read(images, see, tmp_path):
    good, bad = tmp_path / "good.png", tmp_path / "bad.png"
    images[0].save(good)
    bad.write_bytes(b"no image")
    assert Upload.take(str(good), see).image.size == images[0].size
    with pytest.raises(InputError, match="bad.png is not an image of a known format"):
        Upload.take(str(bad), see)
    with pytest.raises(InputError, match="upload it again"):
        Upload.take(str(good), see)
    assert not list(tmp_path.iterdir())


def test_a_window(see, tmp_path):
    ct = make(RAMP.astype(np.int16), 16, RescaleSlope=1, RescaleIntercept=-1024, WindowCenter=40, WindowWidth=400)
    (tmp_path / "scan").write_bytes(encode(ct))
    upload = Upload.take(str(tmp_path / "scan"), see)
    grey = upload.grey
    assert (grey.lowest, grey.highest, grey.center, grey.width) == (-1024, 3071, 40, 400)
    wide = upload.through(1024, 4096)
    assert wide.window == (1024, 4096) and wide.sha256 == upload.sha256
    assert len(np.unique(np.asarray(wide.image))) > len(np.unique(np.asarray(upload.image)))


def test_frames(assistant, images, see):
    stack = np.stack([np.full((3, 4), 10), np.arange(12).reshape(3, 4)]).astype(np.uint8)
    first = Upload.of(encode(make(stack, NumberOfFrames=2)), "stack", see)
    assert (first.frames, first.frame, first.grey.highest) == (2, 0, 10)
    second = first.through(5, 8).at(1)
    assert (second.frame, second.window, second.grey.highest) == (1, (5, 8), 11)
    assert second.image != first.image and second.through(6, 2).frame == 1
    reply = ask(assistant.model, assistant.processor, second.pixels, QUESTIONS[0])
    assert audit_record(assistant.description, second, QUESTIONS[0], reply)["image"]["frame"] == 2
    with pytest.raises(InputError, match="stack has the frames 1 to 2, not 3"):
        first.at(2)
    assert Upload.drawn(images[0], "one.png", see).frames == 1


def test_what_a_window_can_be_set_on():
    assert grey_range(encode(make(RAMP, 12)), "x", max_pixels=100).width == 4095  # without a window of its own
    padded = grey_range(encode(make(RAMP, 12, PixelPaddingValue=0)), "x", max_pixels=100)
    assert (padded.lowest, padded.center) == (7, (7 + 4095) / 2)
    colour = make(np.zeros((2, 2, 3), np.uint8))
    assert grey_range(encode(colour), "x", max_pixels=100) is None
    assert grey_range(encode(make(np.zeros((2, 2), np.uint8), PixelPaddingValue=0)), "x", max_pixels=100) is None
    with pytest.raises(InputError, match="truncated or damaged"):
        grey_range(encode(make(RAMP, 12))[:-4], "x", max_pixels=100)


def test_the_answer_is_that_of_the_command_line(model, processor, images):
    reply = ask(model, processor, look(processor, images[0]), f" {QUESTIONS[0]} ")
    (expected,) = answer_questions(model, processor, [{"image": images[0], "image_id": "", "question": QUESTIONS[0]}])
    assert reply.answer.text == expected.text
    assert reply.answer.confidence == pytest.approx(expected.confidence, abs=1e-5)


def test_confidence_is_calibrated_where_the_model_is(model, processor, images, assistant, upload):
    raw = ask(model, processor, look(processor, images[0]), QUESTIONS[0])
    calibration = Calibration(answer_temperature=2.0)
    reply = ask(model, processor, look(processor, images[0]), QUESTIONS[0], calibration=calibration)
    assert not raw.calibrated and reply.calibrated
    assert reply.answer.confidence == pytest.approx(calibration.confidence(raw.answer.confidence), abs=1e-5)
    assert reply.answer.confidence != pytest.approx(raw.answer.confidence, abs=1e-3)
    assert "not calibrated" in assistant.answer(Session(upload), QUESTIONS[0])
    calibrated = Assistant(model, processor, "runs/tiny", calibration)
    assert "calibrated on validation" in calibrated.answer(Session(upload), QUESTIONS[0])


def test_alternatives_and_classes(model, processor, images):
    reply = ask(model, processor, look(processor, images[0]), QUESTIONS[0])
    probabilities = [option.probability for option in reply.options]
    assert len(probabilities) > 1 and probabilities == sorted(probabilities, reverse=True)
    assert 0 < sum(probabilities) <= 1
    assert reply.answer.text in [option.text for option in reply.options]
    inputs = processor(images=images[0], text=QUESTIONS[0])
    scores = model.score_answers(processor.tokenize_answers([reply.options[0].text]), **inputs)
    assert probabilities[0] == pytest.approx(scores.exp().item(), rel=1e-3)
    with torch.no_grad():
        expected = model(**inputs).class_logits[0].softmax(-1)
    given = {option.text: option.probability for option in reply.classes}
    assert given == pytest.approx({name: expected[i].item() for i, name in CLASSES.items()}, abs=1e-5)


def test_independent_classes(make_model, processor, images):
    model = make_model(id2label=CLASSES, problem_type="multi_label_classification")
    model.generation_config.max_new_tokens = 2
    with torch.no_grad():
        expected = model(**processor(images=images[0], text=QUESTIONS[0])).class_logits[0].sigmoid()
    given = {
        option.text: option.probability
        for option in ask(model, processor, look(processor, images[0]), QUESTIONS[0]).classes
    }
    assert given == pytest.approx({name: expected[i].item() for i, name in CLASSES.items()}, abs=1e-5)


def test_a_model_without_a_head(make_model, processor, images):
    model = make_model()
    model.generation_config.max_new_tokens = 2
    assert ask(model, processor, look(processor, images[0]), QUESTIONS[0]).classes == []


def test_examples_come_before_the_question(model, processor, images):
    examples = [(images[1], QUESTIONS[1], "yes"), (images[2], QUESTIONS[2], "left")]
    seen = [(look(processor, image), question, answer) for image, question, answer in examples]
    reply = ask(model, processor, look(processor, images[0]), QUESTIONS[0], seen)
    inputs = processor(images=images[0], text=QUESTIONS[0], examples=examples)
    written = model.generate(**inputs, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    assert reply.answer.text == processor.decode(written, skip_special_tokens=True).strip()


@pytest.mark.parametrize(
    ("question", "message"),
    [("  ", "the question is empty"), ("What is <image>?", "special token"), ("why " * 200, "does not fit")],
)
def test_questions_that_cannot_be_asked(question, message, model, processor, images):
    with pytest.raises(InputError, match=message):
        ask(model, processor, look(processor, images[0]), question)


def test_the_record_says_what_was_asked_and_nothing_of_the_patient(assistant, see, tmp_path):
    (tmp_path / "Doe_Jane.dcm").write_bytes(encode(make(RAMP, 12, WindowCenter=1234, WindowWidth=2000)))
    upload = Upload.take(str(tmp_path / "Doe_Jane.dcm"), see)
    reply = ask(assistant.model, assistant.processor, upload.pixels, QUESTIONS[0])
    record = audit_record(assistant.description, upload, QUESTIONS[0], reply, [(upload, QUESTIONS[1], "no")])
    assert record["image"] == {"sha256": upload.sha256, "width": 4, "height": 2, "frame": None, "window": None}
    assert record["question"] == QUESTIONS[0] and record["examples"][0]["answer"] == "no"
    assert record["answer"] == reply.answer.text and 0 <= record["confidence"] <= 1
    assert record["time"].endswith("+00:00") and record["versions"]["torch"]
    text = json.dumps(record)
    for secret in (PATIENT, "Doe", '"4711"', str(tmp_path)):
        assert secret not in text
    moved = audit_record(assistant.description, upload.through(2000, 100), QUESTIONS[0], reply)
    assert moved["image"]["window"] == {"center": 2000, "width": 100}


def test_a_model_is_named_by_its_weights(model, tmp_path):
    model.save_pretrained(tmp_path)
    first = describe_model(model, str(tmp_path))
    assert first == describe_model(model, str(tmp_path)) and first["revision"].startswith("sha256:")
    assert first["name"] == tmp_path.name  # and nothing of where that is
    assert describe_model(model, str(tmp_path / "run" / "checkpoint-20"))["name"] == "run/checkpoint-20"
    with torch.no_grad():
        model.lm_head.weight.add_(1) if hasattr(model, "lm_head") else next(model.parameters()).add_(1)
    model.save_pretrained(tmp_path)
    assert describe_model(model, str(tmp_path)) != first
    model.config._commit_hash = "abc"
    assert describe_model(model, "some/model") == {"name": "some/model", "revision": "abc"}


def test_of_a_large_image_little_is_kept_and_the_answer_is_the_same(assistant, see):
    large = Image.fromarray(np.random.default_rng(0).integers(0, 255, (900, 1500), dtype=np.uint8))
    upload = Upload.drawn(large, "large.png", see)
    assert upload.size == (1500, 900) and max(upload.image.size) == SHOWN
    assert upload.nbytes < 10 * 2**20 and not upload.data
    assert torch.equal(upload.pixels, see(large))
    session = Session(upload)
    assistant.answer(session, QUESTIONS[0])
    (expected,) = answer_questions(
        assistant.model, assistant.processor, [{"image": large, "image_id": "", "question": QUESTIONS[0]}]
    )
    assert session.reply.answer.text == expected.text
    assert "1500 by 900 pixels" in assistant.explain(session, "occlusion")


def test_the_map_of_a_large_image_lies_on_its_places(model, processor, see):
    large = Image.fromarray(np.random.default_rng(0).integers(0, 255, (700, 1300, 3), dtype=np.uint8))
    upload = Upload.drawn(large, "large.png", see)
    case = prepare(
        model,
        processor,
        upload.image,
        QUESTIONS[0],
        answer="yes",
        original=upload.size[::-1],
        pixels=upload.pixels.unsqueeze(0),
    )
    shown = explain_case(case, "grad_cam").original_maps()[0]
    full = explain(model, processor, large, QUESTIONS[0], method="grad_cam", answer="yes").original_maps()[0]
    assert shown.shape == upload.image.size[::-1]
    scaled = np.asarray(Image.fromarray(full).resize(upload.image.size, Image.Resampling.BOX))
    assert np.abs(shown - scaled).mean() < 0.01 * full.max()


def test_the_sessions_used_longest_ago_make_room(assistant, upload):
    memory = Memory(2 * upload.nbytes)
    first, second, third = (Session(upload) for _ in range(3))
    assert memory.use(first) == memory.use(second) == memory.use(first) == []
    assert memory.use(third) == [second] and memory.nbytes == 2 * upload.nbytes
    with pytest.raises(InputError, match="the image was dropped, since other users' images needed the memory"):
        assistant.answer(second, QUESTIONS[0])
    second.show(upload)
    assert assistant.answer(second, QUESTIONS[0])
    del first, third
    assert memory.use(second) == [] and memory.nbytes == upload.nbytes
    assert Memory(1).use(second) == [], "a session alone is never dropped"


def test_an_image_that_is_dropped_meanwhile(assistant, upload, monkeypatch):
    from flamingo_med.demo import asking

    session = Session(upload)

    def dropping(*arguments):
        session.drop()
        return ask(*arguments)

    monkeypatch.setattr(asking, "ask", dropping)
    with pytest.raises(InputError, match="upload it again"):
        assistant.answer(session, QUESTIONS[0])
    assert assistant.explain(session, "occlusion") == fragments.EMPTY_VIEWER


def test_nothing_from_outside_is_markup(assistant, upload):
    session = Session(upload)
    evil = '<img src=x onerror="alert(1)"> ${1 + 1} {{ 1 }}'
    page = assistant.answer(session, evil)
    assert "<img src=x" not in page and evil in unescape(page)
    assert "<b>" not in fragments.error("<b>") and "<b>" not in fragments.header("<b>")
    assert "<b>" not in fragments.examples([(upload, "<b>", "<b>")])


@pytest.mark.parametrize("method", METHODS)
def test_a_map_is_laid_over_the_image(method, model, processor, images):
    explanation = explain(model, processor, images[0], QUESTIONS[0], method=method, answer="yes")
    heat = to_heat(explanation)
    alpha = np.asarray(heat.picture)[..., 3]
    assert heat.picture.mode == "RGBA" and heat.picture.size == images[0].size
    if explanation.original_maps().any():
        assert alpha.max() == 255 and alpha.min() < 255
        assert alpha.flat[np.abs(explanation.original_maps()[0]).argmax()] == 255
    assert heat.empty == (not explanation.original_maps().any())


def test_a_session_from_image_to_map(assistant, upload):
    session = Session()
    with pytest.raises(InputError, match="there is no image to ask about"):
        assistant.answer(session, QUESTIONS[0])
    assert assistant.explain(session, "occlusion") == fragments.EMPTY_VIEWER
    session.show(upload)
    assert 'class="heat"' not in assistant.explain(session, "occlusion")
    assert "Download the audit record" in assistant.answer(session, QUESTIONS[0])
    assert 'class="heat"' in assistant.explain(session, "occlusion")
    assert 'class="heat"' not in assistant.explain(session, "none")
    with pytest.raises(InputError):
        assistant.answer(session, "")
    assert 'class="heat"' not in assistant.explain(session, "occlusion")  # the last question has no answer


def test_a_map_that_cannot_be_made_is_a_note(make_model, processor, upload):
    model = make_model(vision_feature_select="pooled")
    model.generation_config.max_new_tokens = 2
    assistant, session = Assistant(model, processor, "tiny"), Session(upload)
    assistant.answer(session, QUESTIONS[0])
    assert "one pooled vector" in assistant.explain(session, "grad_cam")


def test_an_image_that_is_replaced_meanwhile_gets_no_answer(assistant, upload, images, monkeypatch):
    session, other = Session(upload), Upload.drawn(images[1], "other.png", assistant.see)
    from flamingo_med.demo import asking

    def replacing(*arguments):
        session.show(other)
        return ask(*arguments)

    monkeypatch.setattr(asking, "ask", replacing)
    assert assistant.answer(session, QUESTIONS[0]) == fragments.NO_ANSWER
    assert session.reply is None
    assert assistant.explain(session, "occlusion") == fragments.viewer(other)


def test_few_shot_examples_of_a_session(assistant, upload):
    session = Session(upload, pending=upload)
    with pytest.raises(InputError, match="fill in all three"):
        session.add_example(QUESTIONS[0], " ")
    session.add_example(QUESTIONS[0], "yes")
    with pytest.raises(InputError, match="fill in all three"):
        session.add_example(QUESTIONS[0], "yes")
    assistant.answer(session, QUESTIONS[0])
    assert "without the examples" in assistant.explain(session, "occlusion")
    session.examples *= MAX_EXAMPLES
    session.pending = upload
    with pytest.raises(InputError, match=f"at most {MAX_EXAMPLES}"):
        session.add_example(QUESTIONS[0], "yes")


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass only while somebody waits."""
    now = [1000.0]

    async def sleep(seconds):
        now[0] += seconds

    monkeypatch.setattr(login.asyncio, "sleep", sleep)
    monkeypatch.setattr(login.time, "monotonic", lambda: now[0])
    return now


def attempt(door: login.Login, password: str, address: str) -> bool:
    login._client.set(address)
    return asyncio.run(door.check("reader", password))


def test_wrong_passwords_wait_longer_and_longer_and_others_do_not(clock):
    door, start = login.Login("reader", "right"), clock[0]
    waits = []
    for _ in range(7):
        before = clock[0]
        assert not attempt(door, "wrong", "10.0.0.1")
        waits.append(clock[0] - before)
    assert waits == [0, 0, 0, 1, 2, 4, 8]
    with pytest.raises(HTTPException, match="try again in 16 s") as refused:
        attempt(door, "right", "10.0.0.1")
    assert refused.value.status_code == 429 and refused.value.headers["Retry-After"] == "16"
    before = clock[0]
    assert attempt(door, "right", "10.0.0.2") and clock[0] == before
    clock[0] += 16
    assert attempt(door, "right", "10.0.0.1") and not attempt(door, "wrong", "10.0.0.1")
    assert clock[0] - start < 40
    for _ in range(5):
        attempt(door, "wrong", "10.0.0.1")
    clock[0] += login.FORGET + login.LONGEST
    before = clock[0]
    assert not attempt(door, "wrong", "10.0.0.1") and clock[0] == before


def test_many_addresses_that_guess_wait_and_those_who_have_logged_in_do_not(clock):
    door = login.Login("reader", "right")
    assert attempt(door, "right", "10.0.0.1")
    for number in range(100):
        attempt(door, "wrong", f"10.1.0.{number}")
    before = clock[0]
    assert attempt(door, "right", "10.0.0.1") and clock[0] == before
    assert attempt(door, "right", "10.0.0.2") and clock[0] == before + login.LONGEST_OF_ALL


def test_attempts_at_the_same_time_wait_one_for_the_other(clock):
    door = login.Login("reader", "right")

    async def many():
        login._client.set("10.0.0.1")
        return await asyncio.gather(*(door.check("reader", "wrong") for _ in range(20)), return_exceptions=True)

    results = asyncio.run(many())
    assert sum(result is False for result in results) <= 7
    assert sum(isinstance(result, HTTPException) for result in results) >= 13


def test_an_address_of_a_client():
    assert login.network_of("10.0.0.7") == login.network_of("::ffff:10.0.0.7") == "10.0.0.7"
    assert login.network_of("2001:db8::1") == login.network_of("2001:db8::2") != login.network_of("2001:db8:1::1")
    assert login.network_of("testclient") == "testclient"


def test_names_of_the_page():
    assert served_names("127.0.0.1") == ["127.0.0.1", "[::1]", "localhost"]
    assert {"10.1.2.3", "vqa.example.org"} < set(served_names("10.1.2.3", ["vqa.example.org"]))
    assert socket.gethostname() in served_names("0.0.0.0") and "[fe80::1]" in served_names("fe80::1%eth0")
    for wrong in ("*", "https://vqa.example.org", "a b"):
        with pytest.raises(InputError, match="is none"):
            served_names("127.0.0.1", [wrong])


def test_mistakes_at_the_start(command, monkeypatch):
    monkeypatch.delenv("FLAMINGO_MED_PASSWORD", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        message = command("demo", "--model", "nowhere", "--port", port, code=2)
        assert f"cannot be served at 127.0.0.1:{port}" in message and "choose another --port" in message
    with socket.create_server(("127.0.0.1", 0)) as probe:
        free = ["--model", "nowhere", "--port", probe.getsockname()[1]]
    assert "no image-text-to-text model at nowhere" in command("demo", *free, code=2)
    assert "set --user NAME" in command("demo", *free, "--host", "0.0.0.0", code=2)
    assert "FLAMINGO_MED_PASSWORD" in command("demo", *free, "--user", "reader", code=2)
    assert "did you mean port?" in command("demo", "--model", "nowhere", "--prot", "1", code=2)
    assert "port is from 1 to 65535" in command("demo", "--model", "nowhere", "--port", "0", code=2)
    assert "queue_size is at least 1" in command("demo", *free, "--queue_size", "0", code=2)
    assert "memory_mb is at least 96" in command("demo", *free, "--memory_mb", "95", code=2)
    assert "names of hosts" in command("demo", *free, "--host_names", "[https://a]", code=2)
    assert "--max_upload_mb" in command("demo", "--help")


def test_other_models_are_refused(command, processor, tmp_path):
    write_blip2(tmp_path, copy.deepcopy(processor.tokenizer))
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    assert "is not a model of ours" in command("demo", "--model", tmp_path, "--port", port, code=2)


def test_gradio_is_an_extra(command, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("flamingo_med.demo.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "gradio", None)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    message = command("demo", "--model", "nowhere", "--port", port, code=2)
    assert 'the page needs gradio: pip install "gradio>=6.31,<7" captum' in message
