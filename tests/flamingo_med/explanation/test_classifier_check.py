"""Explaining a classifier by questions: templates, both kinds of classifier, verdicts, the page; maps side by side."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, CLIPImageProcessorPil, ResNetConfig, ResNetForImageClassification

pytest.importorskip("captum")
from flamingo_med.evaluation.calibration import Calibration
from flamingo_med.explanation import HeadClassifier, ImageClassifier, explain, explain_classifier
from flamingo_med.explanation.classifier import load_classifier
from flamingo_med.explanation.classifier_check import (
    ABSTENTION,
    AGREEMENT,
    CONTRADICTION,
    common_share,
    describe_findings,
)
from flamingo_med.explanation.map_comparison import percent_boxes
from flamingo_med.explanation.questions import DEFAULT, read_questions
from processing.datasets.phantom_questions import CLOSED_WORDINGS, HEART_WORDINGS, NOUNS, OPEN_WORDINGS
from processing.errors import InputError
from tests.conftest import QUESTIONS

CLASSES = {0: "effusion", 1: "cardiomegaly", 2: "pacemaker"}
SEVERAL = {"id2label": CLASSES, "problem_type": "multi_label_classification"}


@pytest.fixture
def image(images) -> Image.Image:
    return images[0].convert("RGB")


@pytest.fixture
def make_resnet():
    """make_resnet([logit, …], **config): an image classifier that says this of every image, and a bit of this one."""

    def make(logits=(2.0, -2.0, -3.0), **config) -> ImageClassifier:
        torch.manual_seed(0)
        config = {**SEVERAL, **config}
        config["label2id"] = {name: i for i, name in config["id2label"].items()}
        small = {"embedding_size": 8, "hidden_sizes": [8, 8], "depths": [1, 1], "layer_type": "basic"}
        model = ResNetForImageClassification(ResNetConfig(**small, **config)).eval()
        head = model.classifier[-1]
        head.weight.data.mul_(0.05)
        head.bias.data = torch.tensor(logits)
        size = {"height": 32, "width": 32}
        return ImageClassifier(model, CLIPImageProcessorPil(size=size, do_center_crop=False))

    return make


@pytest.fixture
def make_vqa(make_model, processor, monkeypatch):
    """make_vqa({part of a question: probabilities}): a tiny model that finds candidates so probable."""

    def make(sayings: dict[str, list[float]]):
        model = make_model()
        model.generation_config.max_new_tokens = 3

        def score_answers(candidates, input_ids, **inputs):
            texts = processor.batch_decode(input_ids)
            rows = [next(value for part, value in sayings.items() if part in text) for text in texts]
            assert all(len(row) == len(candidates) for row in rows)
            return torch.tensor(rows).log()

        monkeypatch.setattr(model, "score_answers", score_answers)
        return model

    return make


def test_phantom_knows_every_question_about_its_findings():
    questions = read_questions()
    for label, noun in NOUNS.items():
        wordings = [*CLOSED_WORDINGS["presence"], *(text for texts in OPEN_WORDINGS.values() for text in texts)]
        known = {*HEART_WORDINGS, *(text.format(noun=noun) for text in wordings)}
        asked = {text for template in questions.about(label).values() for text in template.ask}
        assert asked and asked <= known


def test_questions_about_a_class():
    questions = read_questions()
    unknown = questions.about("Lung_Opacity")
    assert list(unknown) == ["presence", "normal", "side", "place", "size"]
    assert unknown["presence"].ask[0] == "Is there a lung opacity?" and not unknown["place"].answers
    heart = questions.about("Enlarged_Heart")
    assert list(heart) == ["presence", "normal"]
    assert heart["presence"].answers == ["yes", "no"] and heart["normal"].agrees == ["yes"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no settings"),
        ("questions: {}", "asks for no presence"),
        ("question: {}", "unknown key of .*did you mean questions?"),
        ("questions: {presence: {ask: ['Is it?']}}", "needs answers and agrees"),
        ("questions: {presence: {ask: [], answers: [yes, no], agrees: [yes]}}", "asks nothing"),
        (
            "questions: {presence: {ask: 'Is it?', answers: [yes, no], agrees: [yes]}}",
            "ask is 'Is it\\?', but must be",
        ),
        ("questions: {presence: {ask: ['Is it?'], answers: [0, 1], agrees: [1]}}", "put numbers in quotes"),
        ("questions: {presence: {ask: ['Is it?'], answers: [yes, no], agrees: [ja]}}", "agrees among them"),
        ("questions: {presence: {ask: ['Is it?'], answers: [yes, no], agrees: [yes, no]}}", "every answer agrees"),
        ("questions: {presence: {aks: ['Is it?']}}", "did you mean ask?"),
        ("findings: [{noun: x}]", "names no classes"),
        ("findings: [{classes: [x], sise: null}]", "did you mean size?"),
        ("findings: [{classes: [x], presence: null}]", "needs a noun and a presence"),
        ("findings: [{classes: [x], size: 3}]", "size of x in .* must be a mapping or null"),
        ("findings: {x: y}", "must be a list"),
    ],
)
def test_bad_questions(text, message, tmp_path):
    path = tmp_path / "questions.yaml"
    if text.startswith("findings"):
        text = DEFAULT.read_text(encoding="utf-8").partition("\nfindings:")[0] + f"\n{text}\n"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_questions(path)


def test_no_questions(tmp_path):
    with pytest.raises(InputError, match="no questions at .*nowhere.yaml; copy"):
        read_questions(tmp_path / "nowhere.yaml")


def test_probabilities_of_an_image_classifier(make_resnet, image):
    several, one = make_resnet(), make_resnet(problem_type="single_label_classification")
    with torch.no_grad():
        logits = several.model(pixel_values=several.pixels(image)).logits[0]
    assert several.probabilities(image) == pytest.approx(
        {name: logits[i].sigmoid().item() for i, name in CLASSES.items()}
    )
    shares = one.probabilities(image)
    assert sum(shares.values()) == pytest.approx(1) and next(iter(shares)) == "effusion"


@torch.no_grad()
def test_probabilities_of_our_head(make_model, processor, image):
    model = make_model(**SEVERAL)
    logits = model(**processor(images=image, text=QUESTIONS[0])).class_logits[0]
    found = HeadClassifier(model, processor, QUESTIONS[0]).probabilities(image)
    assert found == pytest.approx({name: logits[i].sigmoid().item() for i, name in CLASSES.items()})
    assert list(found.values()) == sorted(found.values(), reverse=True)


def test_classifiers_that_cannot_be_asked_about(make_model, make_resnet, processor):
    with pytest.raises(InputError, match="no classes to ask about"):
        HeadClassifier(make_model(), processor, QUESTIONS[0])
    with pytest.raises(InputError, match="this one is empty"):
        HeadClassifier(make_model(**SEVERAL), processor, " ")
    with pytest.raises(InputError, match="called LABEL_0"):
        make_resnet(id2label={0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"})
    with pytest.raises(InputError, match="no image classifier at nowhere"):
        load_classifier("nowhere", QUESTIONS[0])


def verdicts(make_resnet, make_vqa, processor, image, sayings, **arguments) -> tuple[dict, list]:
    arguments = {"method": None, "top": 3, **arguments}
    made = explain_classifier(image, make_resnet(), make_vqa(sayings), processor, **arguments)
    return {finding.name: finding for finding in made.findings}, describe_findings(made)


def test_verdicts(make_resnet, make_vqa, processor, image):
    sayings = {
        "pleural effusion small": [0.5, 0.4],
        "size of the pleural effusion": [0.5, 0.4],
        "side": [0.9, 0.05],
        "effusion": [0.97, 0.02],
        "heart enlarged": [0.9, 0.1],
        "silhouette": [0.9, 0.1],
        "cardiomegaly": [0.02, 0.98],
        "pacemaker": [0.1, 0.05],  # something else than yes or no is 0.85 probable
    }
    found, words = verdicts(make_resnet, make_vqa, processor, image, sayings)
    assert {name: finding.verdict for name, finding in found.items()} == {
        "effusion": AGREEMENT,
        "cardiomegaly": CONTRADICTION,  # not by presence, but by what the heart looks like compared with normal
        "pacemaker": ABSTENTION,
    }
    kinds = {name: [reply.kind for reply in finding.replies] for name, finding in found.items()}
    assert kinds["effusion"] == ["presence", "side", "size"]
    assert kinds["cardiomegaly"] == ["presence", "normal"] and kinds["pacemaker"] == ["presence"]
    presence, side, size = found["effusion"].replies
    assert presence.says_present == pytest.approx(0.97 / 0.99, abs=1e-3) and len(presence.wordings) == 3
    assert presence.coverage == pytest.approx(0.99, abs=1e-3)
    assert (side.answer, side.verdict, side.says_present) == ("left", None, None) and size.answer == "small"
    assert [verdict for verdict, _ in words] == [CONTRADICTION, ABSTENTION, AGREEMENT]
    assert (
        "says that cardiomegaly is not there" in words[0][1] and "“Is the heart enlarged?” yes (0.90)" in words[0][1]
    )
    assert words[2][1].endswith(
        "pleural effusion?” left (0.95); it is undecided about “Is the pleural effusion small or large?”."
    )
    assert "Is there cardiomegaly" not in words[0][1] and "rather give another answer than yes or no" in words[1][1]


def test_the_wordings_are_averaged_and_doubt_abstains(make_resnet, make_vqa, processor, image):
    sayings = {"Is there a": [1.0, 0.0], "Does this": [0.0, 1.0], "Can a": [1.0, 0.0]}
    sayings = {part: [max(value, 1e-9) for value in row] for part, row in sayings.items()} | {"": [0.5, 0.5]}
    found, words = verdicts(make_resnet, make_vqa, processor, image, sayings, top=1)
    (reply,) = found["effusion"].replies
    assert reply.confidence == pytest.approx(2 / 3, abs=1e-3) and reply.verdict == ABSTENTION
    assert "the VQA model is undecided" in words[0][1]
    found, _ = verdicts(make_resnet, make_vqa, processor, image, sayings, top=1, min_confidence=0.6)
    assert found["effusion"].verdict == AGREEMENT
    unsure = partial(make_resnet, (0.2, -3.0, -3.0))
    found, words = verdicts(unsure, make_vqa, processor, image, {"effusion": [0.99, 0.01]}, top=1)
    assert found["effusion"].verdict == ABSTENTION and "not sure enough to be checked" in words[0][1]


def test_what_is_asserted_is_always_asked_about(make_resnet, make_vqa, processor, image):
    all_there = partial(make_resnet, (3.0, 2.0, 1.5))
    no = {"": [0.01, 0.99]}
    found, _ = verdicts(all_there, make_vqa, processor, image, no, top=1)
    assert list(found) == ["effusion", "cardiomegaly", "pacemaker"]
    assert {finding.verdict for finding in found.values()} == {CONTRADICTION}
    one = partial(all_there, problem_type="single_label_classification")
    found, _ = verdicts(one, make_vqa, processor, image, no, top=2, min_confidence=0.5)
    assert [finding.asserted for finding in found.values()] == [True, False]
    assert [finding.verdict for finding in found.values()] == [CONTRADICTION, AGREEMENT]


@pytest.mark.parametrize("method", ["occlusion", "integrated_gradients"])
def test_maps_of_both(make_model, make_resnet, processor, image, method):
    model = make_model(**SEVERAL)
    model.generation_config.max_new_tokens = 3
    head = HeadClassifier(model, processor, QUESTIONS[0])
    (finding, *_) = explain_classifier(image, head, model, processor, top=1, method=method).findings
    as_such = explain(model, processor, image, QUESTIONS[0], class_name=finding.name, method=method)
    torch.testing.assert_close(finding.classifier_map.pixel_maps, as_such.pixel_maps)
    asked = finding.replies[0].wordings[0]
    as_such = explain(model, processor, image, asked, answer="yes", alternative="no", method=method)
    torch.testing.assert_close(finding.vqa_map.pixel_maps, as_such.pixel_maps)
    assert 0 < finding.maps_alike < 1
    (finding, *_) = explain_classifier(image, make_resnet(), model, processor, top=1, method=method).findings
    assert finding.classifier_map.pixel_maps.any() and "effusion" in finding.classifier_map.target
    assert finding.classifier_map.original_maps().shape == (1, image.height, image.width)


def test_the_map_of_an_image_classifier_shows_where_it_looks(make_resnet, make_vqa, processor, image):
    classifier = make_resnet()

    class Corner(torch.nn.Module):
        config = classifier.model.config
        device, dtype = torch.device("cpu"), torch.float32

        def forward(self, pixel_values):
            value = pixel_values[:, :, :8, :8].mean((1, 2, 3))
            return type(classifier.model(pixel_values=pixel_values))(logits=value.unsqueeze(1).repeat(1, 3))

    corner = ImageClassifier(Corner(), classifier.image_processor)
    heat = (
        explain_classifier(image, corner, make_vqa({"": [0.5, 0.5]}), processor, top=1)
        .findings[0]
        .classifier_map.pixel_maps[0]
    )
    assert heat[:8, :8].abs().min() > 0 and heat[16:].abs().max() == 0 and heat[:, 16:].abs().max() == 0


def test_common_share():
    first, second = np.array([[1.0, 1.0, -5.0]]), np.array([[0.0, 2.0, 6.0]])
    assert common_share(first, first) == pytest.approx(1) and common_share(first, second) == pytest.approx(0.25)
    assert common_share(first, -first.clip(min=0)) == 0


def test_arguments(make_model, make_resnet, processor, image):
    for arguments, message in (
        ({"method": "attention"}, "unknown method for classifier and VQA model alike"),
        ({"top": 0}, "top is at least 1"),
        ({"min_confidence": 1.0}, "min_confidence in"),
    ):
        with pytest.raises(InputError, match=message):
            explain_classifier(image, make_resnet(), make_model(), processor, **arguments)


@pytest.fixture
def folders(make_model, make_resnet, processor, image, tmp_path) -> Path:
    """head, resnet and a picture."""
    names = {**CLASSES, 0: "<b>effusion"}
    model = make_model(id2label=names, problem_type="multi_label_classification")
    model.generation_config.max_new_tokens = 3
    model.save_pretrained(tmp_path / "head")
    processor.save_pretrained(tmp_path / "head")
    recipe = f"dataset: phantom\ndata_dir: {tmp_path}\ndata: {{test_images: 6, image_size: 64}}\n"
    (tmp_path / "head" / "recipe.yaml").write_text(recipe)
    resnet = make_resnet()
    resnet.model.save_pretrained(tmp_path / "resnet")
    resnet.image_processor.save_pretrained(tmp_path / "resnet")
    assert AutoImageProcessor.from_pretrained(tmp_path / "resnet", backend="pil").size == {"height": 32, "width": 32}
    image.save(tmp_path / "image.png")
    return tmp_path


def of_classifier(folders, classifier) -> list:
    arguments = {"model": "head", "classifier": classifier, "image": "image.png", "output_dir": "page"}
    return [
        "explain-classifier",
        *(part for name, value in arguments.items() for part in (f"--{name}", folders / value)),
    ]


@pytest.mark.parametrize("classifier", ["head", "resnet"])
def test_the_command(classifier, folders, command):
    output = command(*of_classifier(folders, classifier))
    report = json.loads((folders / "page" / "explanation.json").read_text())
    assert len(report["findings"]) == 3 and len(report["verdicts"]) == 3
    assert all(one["sentence"] in output for one in report["verdicts"])
    assert report["meta"]["versions"]["torch"] and len(report["meta"]["image_sha256"]) == 64
    page = (folders / "page" / "explanation.html").read_text()
    assert "<script" not in page and "http" not in page and "<b>" not in page and "Not for clinical use" in page
    assert page.count("data:image/png;base64,") == 2 * 3 and page.count("data:image/jpeg;base64,") == 1
    assert ("does not list it: <b>effusion" in output) == (classifier == "head")
    assert ("&lt;b&gt;effusion" in page) == (classifier == "head")
    command(*of_classifier(folders, classifier))
    assert json.loads((folders / "page" / "explanation.json").read_text())["findings"] == report["findings"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--image", "nowhere.png"], "nowhere.png does not exist"),
        (["--classifier", "nowhere"], "no image classifier at nowhere"),
        (["--model", "nowhere"], "no image-text-to-text model at nowhere"),
        (["--questions", "nowhere"], "no questions at nowhere"),
        (["--method", "grad_cam"], "unknown method"),
        (["--output_dir", "README.md/x"], "cannot be written to README.md/x"),
        (["--clasifier", "x"], "did you mean classifier?"),
    ],
)
def test_mistakes(arguments, message, folders, command):
    assert message in command(*of_classifier(folders, "resnet"), *arguments, code=2)


def test_maps_side_by_side(folders, command):
    models = f"[{folders / 'head'}, {folders / 'head'}]"
    arguments = ["compare-maps", "--models", models, "--limit", "2", "--output_dir", folders / "side"]
    output = command(*arguments, "--method", "attention")
    page = (folders / "side" / "comparison.html").read_text()
    assert page.count("data:image/png;base64,") == 2 * 2 and page.count("data:image/jpeg;base64,") == 2
    assert "<script" not in page and "http" not in page
    assert "attention" in page and "side by side on phantom test, questions: 2" in output
    assert (folders / "side" / "comparison.png").read_bytes().startswith(b"\x89PNG")
    for mistake, message in (
        (["--models", "[]"], "no model given"),
        (["--limit", "0"], "limit is at least 1"),
        (["--method", "oclusion"], "did you mean occlusion?"),
        (["--models", "[nowhere]"], "no nowhere/recipe.yaml, which would name the data set"),
    ):
        assert message in command(*arguments, *mistake, code=2)


def test_boxes_in_percent_of_the_image(image):
    row = {"image": image.resize((200, 100)), "boxes": [{"label": "nodule", "box": [50, 25, 100, 75]}]}
    place = {"left": "25.00", "top": "25.00", "width": "25.00", "height": "50.00"}
    assert percent_boxes(row) == [{"label": "nodule", **place}]


def test_confidences_are_calibrated(make_resnet, make_vqa, processor, image):
    asked = {"effusion": [0.9, 0.1]}
    plain, _ = verdicts(make_resnet, make_vqa, processor, image, asked, top=1)
    warm, _ = verdicts(make_resnet, make_vqa, processor, image, asked, top=1, calibration=Calibration(1.0, 4.0))
    assert plain["effusion"].verdict == AGREEMENT and warm["effusion"].verdict == ABSTENTION
    assert warm["effusion"].replies[0].confidence == pytest.approx(0.9**0.25 / (0.9**0.25 + 0.1**0.25))


def test_a_model_of_another_kind(make_model, make_resnet, processor, image, monkeypatch):
    model = make_model()
    monkeypatch.setattr(type(model.config), "model_type", "llava")
    for explained in (
        lambda: explain(model, processor, image, QUESTIONS[0], answer="yes"),
        lambda: explain_classifier(image, make_resnet(), model, processor),
    ):
        with pytest.raises(InputError, match="only models of this project are explained, and this one is a llava"):
            explained()
