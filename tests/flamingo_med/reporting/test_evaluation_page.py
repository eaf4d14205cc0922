"""What is written of an evaluation: scores of blind sets and heads, predictions.jsonl, the page and its plots."""

import base64
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from PIL import Image

from flamingo_med.evaluation.calibration import Calibration
from flamingo_med.evaluation.scores import difference, score_confidence, score_rows
from flamingo_med.evaluation.tables import format_summary, format_tables, write_predictions
from flamingo_med.inference.backends import Answer
from flamingo_med.reporting import evaluation_page
from flamingo_med.reporting.figures import thumbnail
from processing.datasets.rows import make_row, to_dataset

VOID = {"meta", "img", "source", "br", "wbr"}


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
    scores = score_confidence(rows, asked, Calibration(2.0, 4.0))
    which = {s["signature"].split("confidence:")[1] for s in scores if s["subset"] == "closed"}
    ends = ("token_mean", "candidates", "token_mean,temperature:2.000", "candidates,temperature:4.000")
    assert which == {f"{end}|resamples:1000" for end in ends}
    assert not any("candidates" in s["signature"] for s in scores if s["subset"] != "closed")
    ece = {s["signature"]: s["value"] for s in scores if (s["metric"], s["subset"]) == ("ece", "all")}
    assert len(set(ece.values())) == 2


def test_the_printed_tables_have_the_numbers_of_the_scores(rows, answers):
    """Every number in them is a score's, every score that belongs there is in them, at its place."""
    predictions = {"model": [a.text for a in answers], "majority": ["yes"] * 20, "blank_image": ["left"] * 20}
    scores = score_rows(rows, predictions, "vqa_med_2019") + score_confidence(rows, answers)
    table = format_tables(scores)
    assert max(map(len, table.splitlines())) <= 140
    assert all(s["low"] - 1e-9 <= s["value"] <= s["high"] + 1e-9 for s in scores)
    cells = {(s["signature"], s["subset"], s["condition"]): s for s in scores}
    in_full, by_group, summary = table.split("\n\n")

    def read(line):
        return [(float(n), float(a), float(b)) for n, a, b in re.findall(r"(\d\.\d+) \[(\S+), (\S+)\]", line)]

    def expected(*keys):
        found = [cells[key] for key in keys if key in cells]
        return [(round(s["value"], 3), round(s["low"], 2), round(s["high"], 2)) for s in found]

    seen = []
    for line in in_full.splitlines():
        if "|v1" in line:
            signature = line.split()[0]
        elif not line.startswith("condition"):
            name = line.split()[0]
            assert read(line) == expected(*((signature, subset, name) for subset in ("closed", "open", "all")))
            seen.append((signature.split("|")[0], name))
    metrics = ("exact_match", "imageclef_accuracy", "imageclef_bleu")
    assert seen == [(metric, condition) for metric in metrics for condition in predictions]
    for line in by_group.splitlines()[1:]:
        keys = [(key[0], line.split()[0], "model") for key in dict.fromkeys((k[0],) for k in cells)]
        assert read(line) == expected(*(key for key in keys if key[0].split("|")[0] in metrics))
    assert [line.split()[0] for line in by_group.splitlines()] == [
        "model", "question_type=presence", "question_type=side",
    ]  # fmt: skip
    lines = summary.splitlines()[1:]
    assert len(lines) == 6 and "closed: brier|v1" in lines[-1]
    for line in lines:
        signature, subset = line.split()[-1], "closed" if "  closed: " in line else "all"
        assert read(line) == expected((signature, subset, "model"), (signature, subset, "blank_image"))


def test_predictions(rows, answers, tmp_path):
    answers[0] = Answer("yes", 0.5, ["a", "b"], 0.25, {"yes": -1.0, "no": -1.0})
    write_predictions(tmp_path / "predictions.jsonl", rows, answers, blanked=["no"] * 20)
    lines = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text("utf-8").split("\n")[:-1]]
    expected = {
        "id": "r0", "image_id": "image 0", "question": "Is <b>0</b> & „µ“ 有?", "answer": "yes", "answers": ["yes"],
        "answer_type": "closed", "question_type": "presence", "prediction": "yes", "confidence": 0.5,
        "blank_image_prediction": "no", "candidate_confidence": 0.5, "candidates": {"yes": -1.0, "no": -1.0},
        "class_prediction": "a, b", "class_confidence": 0.25, "exact_match": 1.0,
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
    evaluation_page.write_page(tmp_path / "report", META, scores, rows, answers)
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
    evaluation_page.write_page(tmp_path / "report", META, scores, rows, answers)
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
        "Model, blank images",
        "presence",
    ):
        assert words in text, words
    assert text.count("Accepted") == 10


@pytest.mark.parametrize("name", ["scores", "reliability", "risk_coverage"])
def test_figures(rows, answers, scores, tmp_path, name):
    for folder in ("first", "second"):
        evaluation_page.write_page(tmp_path / folder, META, scores, rows, answers)
    with Image.open(tmp_path / "first" / f"{name}.png") as figure:
        assert (
            figure.format == "PNG" and figure.width > 600 and len(figure.getcolors(figure.width * figure.height)) > 5
        )
    assert (tmp_path / "first" / f"{name}.png").read_bytes() == (tmp_path / "second" / f"{name}.png").read_bytes()


def test_examples_are_of_each_kind_and_differ(rows, answers):
    chosen = dict(evaluation_page.choose(rows, answers))
    assert chosen["Most confident mistakes"] == [0, 3, 6, 9]
    assert chosen["Best: right and most confident"] == [1, 2, 4, 5]
    assert chosen["Worst: wrong and least confident"] == [15, 12]
    assert evaluation_page.choose(rows, [Answer("yes", 0.5)] * 20)[1][0] == "Best: right and most confident"
    all_right = [Answer(row["answer"], 0.5) for row in rows]
    assert [title for title, _ in evaluation_page.choose(rows, all_right)] == ["Best: right and most confident"]


def test_examples_are_about_different_images(rows, answers):
    wrong = [Answer("?", 0.9 - i / 100) for i in range(20)]
    first = dict(evaluation_page.choose(rows, wrong))["Most confident mistakes"]
    assert [rows["image_id"][i] for i in first] == ["image 0", "image 1", "image 2", "image 3"]
    few = rows.select([0, 5, 10, 15])  # one image
    assert evaluation_page.choose(few, wrong[:4])[0][1] == [0, 1, 2, 3]


def test_thumbnails_are_small(rows):
    uri = thumbnail(rows[0]["image"], 448)
    with Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))) as image:
        assert image.size == (448, 224)
