"""A split's answers under every condition: which images are shown, which candidates asked about, and resuming."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from flamingo_med.evaluation.conditions import (
    answer_conditions,
    embedding_scores,
    model_fingerprint,
    other_images,
    sentence_scores,
)
from flamingo_med.evaluation.scores import score_rows
from flamingo_med.inference.answering import answer_questions
from flamingo_med.inference.backends import Answer, FlamingoMedBackend
from flamingo_med.inference.candidates import candidate_answers
from flamingo_med.inference.embedding import embed_answers
from flamingo_med.inference.partial_answers import PartialAnswers
from processing.datasets.rows import make_row, to_dataset
from processing.errors import InputError
from tests.conftest import QUESTIONS

ALL = ["model", "blank_image", "shuffled_image"]


def questions(folder, counts=(3, 1, 4), answers=("yes", "Left")):
    """Rows about as many images as there are counts."""
    folder.mkdir(exist_ok=True)
    rows = []
    for number, count in enumerate(counts):
        path = folder / f"{number}.png"
        Image.new("RGB", (32, 32), (90 * number, 40, 250 - 90 * number)).save(path)
        for i in range(count):
            row = {"id": f"{number}-{i}", "image_id": str(number), "image": path}
            rows.append(make_row(**row, question=QUESTIONS[i % 3], answer=answers[i % len(answers)]))
    return to_dataset(rows)


@pytest.mark.parametrize("counts", [(3, 1, 4), (9, 1), (1, 1, 1, 1, 1)])
def test_no_image_stays_with_its_questions(tmp_path, counts):
    rows = questions(tmp_path, counts)
    shown = [rows["image_id"][i] for i in other_images(rows)]
    assert all(own != other for own, other in zip(rows["image_id"], shown, strict=True))
    assert set(shown) == set(rows["image_id"])


def test_shuffling_does_not_depend_on_the_order_of_rows(tmp_path):
    rows = questions(tmp_path)
    turned = rows.select(reversed(range(len(rows))))
    shown = dict(zip(rows["id"], [rows["image_id"][i] for i in other_images(rows)], strict=True))
    assert shown == dict(zip(turned["id"], [turned["image_id"][i] for i in other_images(turned)], strict=True))


def test_one_image_cannot_be_shuffled(tmp_path):
    with pytest.raises(ValueError, match="at least two"):
        other_images(questions(tmp_path, (3,)))


def row(question_type, answer_type, answer):
    kind = {"question_type": question_type, "answer_type": answer_type}
    return make_row(id="-", image_id="-", question="?", answer=answer, image="-", **kind)


def test_candidates_are_trains_closed_answers():
    train = [row("presence", "closed", a) for a in ("No", "no", "Yes", "No", "NO", "maybe")]
    train += [row("side", "closed", "left"), row("side", "open", "Both")]
    train += [row("many", "closed", f"{i:02}") for i in range(30)] + [row("many", "closed", "29")]
    asked = [row("presence", "closed", "?"), row("side", "closed", "?"), row("side", "open", "?")]
    asked += [row("many", "closed", "?"), row("new", "closed", "?")]
    presence, side, opened, many, new = candidate_answers(to_dataset(train), to_dataset(asked))
    assert presence == ["No", "maybe", "Yes"]  # most frequent first, then by name, in the most frequent spelling
    assert (side, opened) == (["left"], [])
    assert many == ["29", *(f"{i:02}" for i in range(19))]
    assert new[:2] == ["No", "29"] and len(new) == 20
    assert candidate_answers(to_dataset(train[7:8]), to_dataset(asked[:1])) == [[]]


def test_conditions(make_model, processor, tmp_path):
    model, rows = make_model(), questions(tmp_path / "images")
    answers, fingerprint = answer_conditions(model, processor, rows, rows, ALL, tmp_path / "partial")
    assert list(answers) == ALL and fingerprint == model_fingerprint(model, processor)
    own = answer_questions(model, processor, rows)
    assert [a.confidence for a in answers["model"]] == pytest.approx([a.confidence for a in own], abs=1e-5)
    assert answers["model"][0].candidates.keys() == {"yes"} and answers["model"][1].candidates is None
    assert answers["blank_image"][0] == answers["blank_image"][3]  # one question about two images
    assert answers["shuffled_image"][0].confidence != pytest.approx(own[0].confidence, abs=1e-5)


@pytest.fixture
def asked(monkeypatch):
    """Numbers of questions in the batches that a model was asked."""
    sizes, answer = [], FlamingoMedBackend.answer
    monkeypatch.setattr(
        FlamingoMedBackend, "answer", lambda self, *args: [sizes.append(len(args[1])), answer(self, *args)][1]
    )
    return sizes


def test_only_what_is_missing_is_asked(make_model, processor, tmp_path, asked, caplog):
    model, rows, folder = make_model(), questions(tmp_path / "images"), tmp_path / "partial"
    arguments = (model, processor, rows, rows, ["model"], folder)
    whole, _ = answer_conditions(*arguments)
    path = folder / "model-0.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:4]) + lines[4][:-9])  # killed while it wrote the fourth answer
    shutil.copy(path, folder / "model-1.jsonl")  # another process, which had read the same
    path.write_bytes(b"".join(lines[:3]))
    asked.clear()
    again, _ = answer_conditions(*arguments)
    assert sum(asked) == 5 and "resumes, 3 of 8 answers are there" in caplog.text
    for answer, same in zip(again["model"], whole["model"], strict=True):
        assert answer.text == same.text and answer.confidence == pytest.approx(same.confidence, abs=1e-5)


@pytest.mark.parametrize("changed", ["weights", "rows", "length", "nothing", "place"])
def test_answers_of_something_else_are_not_taken(make_model, processor, tmp_path, asked, changed, caplog):
    model, rows, folder = make_model(), questions(tmp_path / "images"), tmp_path / "partial"
    answer_conditions(model, processor, rows, rows, ["model"], folder)
    asked.clear()
    if changed == "weights":
        with torch.no_grad():
            model.resampler.latents[0, 0] += 1e-3
    elif changed == "rows":
        rows = questions(tmp_path / "images", answers=("no", "Left"))
    elif changed == "length":
        model.generation_config.max_new_tokens = 3
    elif changed == "place":
        rows, model.config._name_or_path = questions(tmp_path / "elsewhere"), "moved"
    answer_conditions(model, processor, rows, rows, ["model"], folder)
    same = changed in ("nothing", "place")
    assert sum(asked) == (0 if same else 8)
    assert ("starting again" in caplog.text) == (not same)


def test_partial_answers(tmp_path):
    answers = {3: Answer("yes", 0.5, candidates={"yes": -0.1}), 5: Answer("zweiseitig\u2028\n„µ“", 0.25, ["a"], 0.5)}
    partial = PartialAnswers(tmp_path / "new", "model", "abc")
    assert partial.answers == {} and partial.outdated == []
    partial.open(process=1)
    for number, answer in answers.items():
        partial.add(number, answer)
    found = PartialAnswers(tmp_path / "new", "model", "abc")  # not closed, as after a kill
    assert found.answers == answers
    assert PartialAnswers(tmp_path / "new", "blank_image", "abc").answers == {}
    other = PartialAnswers(tmp_path / "new", "model", "xyz")
    assert other.answers == {} and other.outdated == [tmp_path / "new" / "model-1.jsonl"]
    other.open(process=1)
    other.close()
    (line,) = (tmp_path / "new" / "model-1.jsonl").read_text().splitlines()
    assert json.loads(line) == {"condition": "model", "fingerprint": "xyz"}


@pytest.mark.parametrize("content", [b"", b"{", b"[]\n", b"\xff\xfe\n", b'{"condition": "model"'])
def test_damaged_partial_answers_are_begun_anew(tmp_path, content):
    path = tmp_path / "model-0.jsonl"
    path.write_bytes(content)
    partial = PartialAnswers(tmp_path, "model", "abc")
    assert partial.outdated == [path]
    partial.open(process=0)
    partial.add(0, Answer("no", 0.5))
    partial.close()
    partial.read()
    assert partial.answers == {0: Answer("no", 0.5)} and partial.outdated == []


def test_embedding_scores(make_model, processor, tmp_path, capsys):
    """Of its own answer a cosine of 1 and, by the prototype of that answer, a match; nothing of a row without."""
    model, rows = make_model(), questions(tmp_path, answers=("yes", "Left", ""))
    texts = [answer or "no" for answer in rows["answer"]]
    found = embedding_scores(model, processor, rows, rows, {"model": texts, "blank_image": texts, "majority": texts})
    assert "embedding of answers: train" in capsys.readouterr().err
    assert [*found] == ["model", "blank_image"]
    assert [bool(row) for row in found["model"]] == [bool(answer) for answer in rows["answer"]]
    scored = [row for row in found["model"] if row]
    assert all(row["original_cosine"] == pytest.approx(1.0) for row in scored)
    assert all(row["original_cosine"] < 0.9999 for row in found["blank_image"] if row)
    known = [i for i, answer in enumerate(rows["answer"]) if answer]
    vectors = embed_answers(model, processor, [rows[i] for i in known], [texts[i] for i in known])
    means = {name: vectors[[texts[i].lower() == name for i in known]].mean(0) for name in ("left", "yes")}
    unit = {name: mean / np.linalg.norm(mean) for name, mean in means.items()}
    nearest = [max(unit, key=lambda name, vector=vector: unit[name] @ vector) for vector in vectors]
    expected = [float(name == texts[i].lower()) for name, i in zip(nearest, known, strict=True)]
    assert [row["original_embedding_match"] for row in scored] == expected


def test_embedding_scores_do_not_depend_on_the_order_of_rows(make_model, processor, tmp_path, monkeypatch):
    monkeypatch.setattr("flamingo_med.evaluation.conditions.EMBEDDED_AT_ONCE", 3)
    model, rows = make_model(), questions(tmp_path)
    texts = {"model": ["left", "yes", "no", "yes"] * 2}
    found = embedding_scores(model, processor, rows, rows, texts)["model"]
    turned = embedding_scores(model, processor, rows.select(reversed(range(8))), rows, {"model": texts["model"][::-1]})
    assert [row["original_embedding_match"] for row in found] == [
        row["original_embedding_match"] for row in turned["model"][::-1]
    ]
    cosines = [[row["original_cosine"] for row in some] for some in (found, turned["model"][::-1])]
    assert cosines[0] == pytest.approx(cosines[1], abs=1e-5)


def test_an_answer_that_does_not_fit_is_not_embedded(make_model, processor, tmp_path, monkeypatch):
    rows = questions(tmp_path)
    monkeypatch.setattr(processor.tokenizer, "model_max_length", 128)
    with pytest.raises(InputError, match="does not fit the decoder's 128"):
        embedding_scores(make_model(), processor, rows, rows, {"model": ["left " * 200] * 8})


def test_long_answers_are_not_embedded(make_model, processor, tmp_path):
    rows = questions(tmp_path, answers=("there is no pleural effusion", "the heart is of normal size"))
    assert embedding_scores(make_model(), processor, rows, rows, {"model": ["no"] * 8}) == {}


def test_sentence_scores_by_an_encoder_of_ones_choice(tmp_path, monkeypatch):
    rows = questions(tmp_path, counts=(2, 1))
    texts = {"model": ["yes", "no", "Left"], "blank_image": ["no", "no", "no"], "majority": ["no"] * 3}
    asked = []

    def similarities(predictions, references, encoder):
        asked.append(encoder)
        return [float(prediction in some) for prediction, some in zip(predictions, references, strict=True)]

    monkeypatch.setattr("flamingo_med.metrics.sentence_similarity.similarities", similarities)
    scores = sentence_scores(rows, texts, "an/encoder")
    assert scores.keys() == {"model", "blank_image"} and asked == ["an/encoder"] * 2
    references = rows["answers"][:]
    assert [row["sentence_similarity"] for row in scores["model"]] == [
        float(text in some) for text, some in zip(texts["model"], references, strict=True)
    ]
    (similarity,) = (
        row
        for row in score_rows(rows, {"model": texts["model"]}, "", {"model": scores["model"]}, "an/encoder")
        if row["metric"] == "sentence_similarity" and row["subset"] == "all"
    )
    assert "encoder:an/encoder" in similarity["signature"] and similarity["n"] == 3


def test_a_sentence_encoder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match="no sentence encoder at .*none"):
        sentence_scores(questions(tmp_path), {"model": ["yes"] * 8}, str(tmp_path / "none"))
