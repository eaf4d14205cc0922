"""The report: golden values by hand, its table and file, and the known figure of "no" on the real VQA-RAD test set."""

import json

import datasets
import pytest

from flamingo_med.evaluation import tables
from flamingo_med.evaluation.scores import score_rows
from flamingo_med.metrics.exact_match import signature
from processing.datasets import load_split
from processing.files import write_json


def row(question_type, answer_type, answer, image_id="i"):
    return {
        "question_type": question_type,
        "answer_type": answer_type,
        "answer": answer,
        "answers": [answer],
        "image_id": image_id,
    }


ROWS = [
    row("presence", "closed", "yes", "a"),
    row("presence", "closed", "no", "a"),
    row("side", "open", "left", "b"),
    row("", "open", "mri", "c"),
]


def test_score_rows_golden():
    scores = score_rows(ROWS, {"model": ["Yes", "yes", "left ", "ct"], "majority": ["no"] * 4})
    scores = [s for s in scores if s["metric"] == "exact_match"]
    names = ["all", "closed", "open", "question_type=presence", "question_type=side"]
    assert [(s["condition"], s["subset"]) for s in scores] == [(c, n) for c in ("model", "majority") for n in names]
    assert [s["value"] for s in scores] == [0.5, 0.5, 0.5, 0.5, 1.0, 0.25, 0.5, 0.0, 0.5, 0.0]
    assert [s["n"] for s in scores[:5]] == [4, 2, 2, 2, 1]
    assert set(scores[0]) == {"metric", "subset", "condition", "value", "low", "high", "n", "signature"}
    assert (scores[0]["metric"], scores[0]["signature"]) == ("exact_match", "exact_match|v1|norm:strip+lower")
    assert scores[0]["low"] <= 0.5 <= scores[0]["high"]
    assert (scores[1]["low"], scores[1]["high"]) == (None, None)  # both closed questions are about one image


def test_score_rows_leaves_out_empty_subsets_and_checks_lengths():
    scores = score_rows(datasets.Dataset.from_list(ROWS[3:]), {"model": ["mri"]})
    scores = [s for s in scores if s["metric"] == "exact_match"]
    assert [(s["subset"], s["value"], s["n"]) for s in scores] == [("all", 1.0, 1), ("open", 1.0, 1)]
    with pytest.raises(ValueError, match="'model' has 1 answers to 4 questions"):
        score_rows(ROWS, {"model": ["yes"]})


def test_format_table():
    def score(condition, subset, value, low, high, n):
        interval = {"value": value, "low": low, "high": high, "n": n}
        return {"condition": condition, "subset": subset, "signature": signature("exact_match"), **interval}

    scores = [
        score("model", "all", 0.874, 0.85, 0.9, 451),
        score("model", "closed", 0.9, 0.871, 0.929, 272),
        score("question_only", "all", 0.4, None, None, 451),
    ]
    assert tables.format_table(scores).split("\n") == [
        "exact_match|v1|norm:strip+lower  [95 % interval, clustered by image]",
        "condition      closed (n=272)      all (n=451)",
        "model          0.900 [0.87, 0.93]  0.874 [0.85, 0.90]",
        "question_only  -                   0.400 [-]",
    ]


def test_write_json_is_atomic_and_free_of_nan(tmp_path):
    path = tmp_path / "new" / "metrics.json"
    write_json(path, {"scores": [{"value": float("nan"), "low": 0.5}], "pair": (1, float("inf")), "name": "µ"})
    assert json.loads(path.read_text("utf-8")) == {
        "scores": [{"value": None, "low": 0.5}],
        "pair": [1, None],
        "name": "µ",
    }
    before = path.read_bytes()
    with pytest.raises(TypeError):
        write_json(path, {"value": object()})
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["metrics.json"]


def test_always_no_on_the_real_test_set(shared_data):
    test = load_split("vqa_rad", "test", str(shared_data / "vqa_rad"))
    found = score_rows(test, {"majority": ["no"] * len(test)})
    scores = {s["subset"]: s for s in found if s["metric"] == "exact_match"}
    percent = {name: round(100 * scores[name]["value"], 1) for name in ("closed", "open", "all")}
    assert percent == {"closed": 48.9, "open": 0.0, "all": 29.5}
    assert [scores[name]["n"] for name in ("closed", "open", "all")] == [272, 179, 451]
