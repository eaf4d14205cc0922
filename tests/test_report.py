"""What is written of an evaluation: scores of blind sets and heads, predictions.jsonl, the page and its plots."""

import base64
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from PIL import Image

from processing.backends import Answer
from processing.datasets.rows import make_row, to_dataset
from processing.pictures import thumbnail
from processing.scoring import page
from processing.scoring.intervals import clustered_bootstrap, clustered_bootstraps
from processing.scoring.report import (
    difference,
    format_summary,
    score_classes,
    score_confidence,
    score_rows,
    write_predictions,
)
from processing.scoring.temperature import Calibration

VOID = {"meta", "img", "source", "br"}


@pytest.fixture
def rows(tmp_path):
    """Twenty rows about five images, the last two without answers."""
    found = []
    for i in range(20):
        path = tmp_path / f"{i % 5}.png"
        Image.new("RGB", (600, 300), (50 * (i % 5), 0, 0)).save(path)
        answer = "" if i >= 18 else ("yes", "left")[i % 2]
        row = {"id": f"r{i}", "image_id": f"image {i % 5}", "image": path, "answer": answer}
        found.append(make_row(**row, question=f"Is <b>{i}</b> & „µ“ 有?", question_type=("presence", "side")[i % 2]))
    return to_dataset(found)


@pytest.fixture
def answers():
    """Right but for the rows 0, 3, 6, …, each with another confidence."""
    texts = ["<script>alert(1)</script>" if i % 3 == 0 else ("yes", "left")[i % 2] for i in range(20)]
    return [Answer(text, 0.99 - i / 25) for i, text in enumerate(texts)]


META = {
    "model": "runs/phantom",
    "dataset": "phantom",
    "split": "test",
    "data": {"seed": 1},
    "revision": None,
    "seed": 0,
    "rows": {"all": 20, "scored": 18, "images": 5},
    "fingerprints": {"model": "abc", "rows": "def"},
    "overlap": "2 of 5 test images are in train",
    "model_minus_blank_image": {"value": -0.1, "low": -0.2, "high": 0.3},
    "command": "python eval.py --model runs/phantom",
    "commit": None,
    "versions": {"torch": "2"},
}


@pytest.fixture
def scores(rows, answers):
    predictions = {"model": [a.text for a in answers], "majority": ["yes"] * 20, "blank_image": ["left"] * 20}
    return score_rows(rows, predictions) + score_confidence(rows, answers)


def test_rows_without_answers_are_not_scored(rows, scores):
    of_model = {s["subset"]: s for s in scores if s["condition"] == "model" and s["metric"] == "exact_match"}
    assert {name: s["n"] for name, s in of_model.items()} == {
        "all": 18, "closed": 9, "open": 9, "question_type=presence": 9, "question_type=side": 9,
    }  # fmt: skip
    assert of_model["all"]["value"] == pytest.approx(12 / 18)
    assert score_rows(rows.select([18, 19]), {"model": ["yes", "no"]}) == []


def test_groups_by_organ():
    rows = [
        {"answers": ["a"], "answer_type": "open", "image_id": str(i), "organ": organ} for i, organ in enumerate("xxy")
    ]
    scores = {s["subset"]: s["value"] for s in score_rows(rows, {"model": ["a", "b", "a"]})}
    assert scores == {"all": pytest.approx(2 / 3), "open": pytest.approx(2 / 3), "organ=x": 0.5, "organ=y": 1.0}


def test_intervals_of_many_scores_are_those_of_each(rows):
    values = [[0, 1], [1, 1], [0, 0], [1, 0], [1, 1]]
    found = clustered_bootstraps(values, ["a", "b", "b", "c", "d"], resamples=500)
    for i in range(2):
        column = [row[i] for row in values]
        expected = clustered_bootstrap(column, ["a", "b", "b", "c", "d"], resamples=500)
        assert found[i] == pytest.approx(expected)


def test_classes_are_scored_where_the_head_knows_them():
    labels = [["a"], ["b"], ["unseen"], [], ["a", "b"], ["a", "unseen"]]
    rows = [
        {"answers": ["-"], "answer_type": "open", "image_id": str(i), "label": label} for i, label in enumerate(labels)
    ]
    said = [["a"], ["a"], ["a"], ["a"], ["b", "a"], ["a"]]
    answers = [Answer("-", 0.5, classes) for classes in said]
    scores, unknown = score_classes(rows, {"model": answers}, ["a", "b"])
    assert unknown == 3
    assert (scores[0]["metric"], scores[0]["value"], scores[0]["n"]) == ("class_accuracy", pytest.approx(2 / 3), 3)
    assert scores[0]["signature"] == "class_accuracy|v1|classes:known"


def test_difference_is_paired(rows, answers):
    texts = [answer.text for answer in answers]
    assert difference(rows, texts, texts) == {"value": 0.0, "low": 0.0, "high": 0.0}
    found = difference(rows, texts, ["left"] * 20)
    assert found["value"] == pytest.approx(12 / 18 - 9 / 18) and found["low"] <= found["value"] <= found["high"]


def test_confidence_is_scored_beside_the_others(rows, answers):
    scores = score_confidence(rows, answers)
    found = {(s["metric"], s["subset"]): s for s in scores}
    assert [*found] == [
        ("ece", "all"), ("aurc", "all"), ("ece", "closed"), ("aurc", "closed"), ("brier", "closed"), ("ece", "open"),
        ("aurc", "open"),
    ]  # fmt: skip
    assert all(0 <= s["low"] <= s["value"] <= s["high"] <= 1 and s["condition"] == "model" for s in scores)
    assert found["ece", "all"]["signature"] == "ece|v1|bins:15|hit:exact_match|confidence:token_mean|resamples:1000"
    assert "ece|v1|bins:15" in format_summary(scores)


def test_confidence_among_candidates_and_at_a_temperature(rows, answers):
    asked = [
        replace(answer, candidates={"yes": -0.5, "no": -1.0}) if kind == "closed" else answer
        for answer, kind in zip(answers, rows["answer_type"], strict=True)
    ]
    scores = score_confidence(rows, asked, Calibration(2.0))
    which = {s["signature"].split("confidence:")[1] for s in scores if s["subset"] == "closed"}
    ends = ("token_mean", "candidates", "token_mean,temperature:2.000")
    assert which == {f"{end}|resamples:1000" for end in ends}
    assert not any("candidates" in s["signature"] for s in scores if s["subset"] != "closed")
    ece = {s["signature"]: s["value"] for s in scores if (s["metric"], s["subset"]) == ("ece", "all")}
    assert len(set(ece.values())) == 2


def test_predictions(rows, answers, tmp_path):
    answers[0] = Answer("yes", 0.5, ["a", "b"], 0.25, {"yes": -1.0, "no": -1.0})
    write_predictions(tmp_path / "predictions.jsonl", rows, answers)
    lines = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text("utf-8").split("\n")[:-1]]
    expected = {
        "id": "r0", "image_id": "image 0", "question": "Is <b>0</b> & „µ“ 有?", "answer": "yes", "answers": ["yes"],
        "answer_type": "closed", "question_type": "presence", "prediction": "yes", "confidence": 0.5,
        "candidate_confidence": 0.5, "candidates": {"yes": -1.0, "no": -1.0}, "class_prediction": "a, b",
        "class_confidence": 0.25, "exact_match": 1.0,
    }  # fmt: skip
    assert lines[0] == {**lines[0], **expected}
    assert "candidates" not in lines[1] and lines[1]["exact_match"] == 1.0
    assert lines[19]["answers"] == [] and "exact_match" not in lines[19] and len(lines) == 20


class Page(HTMLParser):
    """Tags of a page, all of them closed; its text; what it refers to."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.references, self.text = [], [], [], ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append((tag, attributes))
        self.references += [attributes[name] for name in ("src", "srcset", "href") if name in attributes]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.text += data


def test_page_needs_no_other_file_and_no_script(rows, answers, scores, tmp_path):
    page.write_page(tmp_path / "report", META, scores, rows, answers)
    source = (tmp_path / "report" / "index.html").read_text("utf-8")
    read = Page(source)
    assert len(read.references) == 12 and all(r.startswith("data:image/") for r in read.references)
    assert not {"script", "link", "iframe"} & {tag for tag, _ in read.tags}
    assert "url(" not in source and "@import" not in source
    assert all(attributes["alt"] for tag, attributes in read.tags if tag == "img")
    assert all(attributes.get("scope") in ("row", "col") for tag, attributes in read.tags if tag == "th")
    assert "<script>alert(1)</script>" in read.text  # as text, not as a script
    assert "Is <b>1</b> & „µ“ 有?" in read.text


def test_page_says_what_matters(rows, answers, scores, tmp_path):
    page.write_page(tmp_path / "report", META, scores, rows, answers)
    text = re.sub(r"\s+", " ", Page((tmp_path / "report" / "index.html").read_text("utf-8")).text)
    for words in (
        "Not for clinical use",
        "66.7 %",
        "Not shown, −10.0 points",
        "Yes, some",
        "2 of 5 test images are in train",
        "2 more have no answers to score by",
        "exact_match|v1|norm:strip+lower",
        "ece|v1|bins:15|hit:exact_match|confidence:token_mean|resamples:1000",
        "python eval.py --model runs/phantom",
        "Model, images blanked",
        "presence",
    ):
        assert words in text, words
    assert text.count("Accepted") == 10


@pytest.mark.parametrize("name", ["scores", "reliability", "risk_coverage"])
def test_figures(rows, answers, scores, tmp_path, name):
    for folder in ("first", "second"):
        page.write_page(tmp_path / folder, META, scores, rows, answers)
    with Image.open(tmp_path / "first" / f"{name}.png") as figure:
        assert (
            figure.format == "PNG" and figure.width > 600 and len(figure.getcolors(figure.width * figure.height)) > 5
        )
    assert (tmp_path / "first" / f"{name}.png").read_bytes() == (tmp_path / "second" / f"{name}.png").read_bytes()


def test_examples_are_of_each_kind_and_differ(rows, answers):
    chosen = dict(page.choose(rows, answers))
    assert chosen["Most confident mistakes"] == [0, 3, 6, 9]
    assert chosen["Best: right and most confident"] == [1, 2, 4, 5]
    assert chosen["Worst: wrong and least confident"] == [15, 12]
    assert page.choose(rows, [Answer("yes", 0.5)] * 20)[1][0] == "Best: right and most confident"
    all_right = [Answer(row["answer"], 0.5) for row in rows]
    assert [title for title, _ in page.choose(rows, all_right)] == ["Best: right and most confident"]


def test_examples_are_about_different_images(rows, answers):
    wrong = [Answer("?", 0.9 - i / 100) for i in range(20)]
    first = dict(page.choose(rows, wrong))["Most confident mistakes"]
    assert [rows["image_id"][i] for i in first] == ["image 0", "image 1", "image 2", "image 3"]
    few = rows.select([0, 5, 10, 15])  # one image
    assert page.choose(few, wrong[:4])[0][1] == [0, 1, 2, 3]


def test_thumbnails_are_small(rows):
    uri = thumbnail(rows[0]["image"], 448)
    with Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))) as image:
        assert image.size == (448, 224)
