"""Scoring: golden values by hand, intervals, baselines, the report, and known figures of the real VQA-RAD test set."""

import json
import math
import socket
import sys
from pathlib import Path

import datasets
import evaluate
import numpy as np
import pytest

from processing.datasets import load_split
from processing.files import write_json
from processing.scoring import exact_match as exact_match_file
from processing.scoring import report
from processing.scoring.baselines import majority_answers
from processing.scoring.exact_match import ExactMatch, exact_match, signature
from processing.scoring.intervals import clustered_bootstrap


@pytest.mark.parametrize(
    ("prediction", "references", "score"),
    [
        ("yes", "yes", 1.0),
        (" YES\n", "yes ", 1.0),
        ("yes.", "yes", 0.0),
        ("right lung", "lung", 0.0),
        ("b", ["a", "B "], 1.0),
        ("c", ["a", "b"], 0.0),
        ("a", "abc", 0.0),  # a string is one reference, not its letters
        ("", "", 1.0),
        ("", "no", 0.0),
        ("no", [], 0.0),
        ("ÖDEM", "ödem", 1.0),
        ("μ", "μ", 1.0),
    ],
)
def test_exact_match_of_one_row(prediction, references, score):
    assert exact_match(prediction, references) == score


@pytest.fixture
def metric_cache(tmp_path, monkeypatch):
    """Keep the files of `evaluate` out of the user's cache, and forbid the network."""
    monkeypatch.setattr(evaluate.config, "HF_MODULES_CACHE", tmp_path / "modules")
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("went to the network"))
    yield str(tmp_path / "metrics")
    for name in [name for name in sys.modules if name.startswith("evaluate_modules")]:
        del sys.modules[name]  # else later loads look for their module in this test's folder


@pytest.mark.parametrize("loaded", [True, False])
def test_metric_loaded_by_path_and_used_directly(metric_cache, loaded):
    def metric():
        if loaded:
            return evaluate.load(str(Path(exact_match_file.__file__)), cache_dir=metric_cache)
        return ExactMatch(cache_dir=metric_cache)

    assert metric().compute(predictions=["Yes ", "left"], references=["yes", "right"]) == {"exact_match": 0.5}
    several = {"predictions": ["Yes ", "left", "both"], "references": [["yes", "y"], ["right", "Left"], []]}
    assert metric().compute(**several) == {"exact_match": pytest.approx(2 / 3)}
    assert metric().compute(predictions=["ja"], references=["ja"]) == {"exact_match": 1.0}
    batched = metric()
    batched.add_batch(predictions=["a"], references=["a"])
    batched.add_batch(predictions=["b"], references=["c"])
    assert batched.compute() == {"exact_match": 0.5}


def test_interval_covers_the_mean_and_repeats():
    values = np.random.default_rng(1).integers(0, 2, 300)
    clusters = [f"image {i % 60}" for i in range(300)]
    low, high = clustered_bootstrap(values, clusters)
    assert 0 < low < values.mean() < high < 1
    assert (low, high) == clustered_bootstrap(values, clusters)
    few = clustered_bootstrap(values, clusters, resamples=50)
    assert few != clustered_bootstrap(values, clusters, resamples=50, seed=1)
    narrow = clustered_bootstrap(values, clusters, level=0.5)
    assert low < narrow[0] < narrow[1] < high


def test_interval_agrees_with_the_normal_approximation():
    values = np.random.default_rng(2).random(400)
    low, high = clustered_bootstrap(values, range(400))
    half = 1.96 * values.std() / 20
    assert low == pytest.approx(values.mean() - half, abs=0.002)
    assert high == pytest.approx(values.mean() + half, abs=0.002)


def test_correlated_clusters_widen_the_interval():
    per_image = np.random.default_rng(3).integers(0, 2, 50)
    values, clusters = np.repeat(per_image, 9), np.repeat(np.arange(50), 9)
    low, high = clustered_bootstrap(values, clusters)
    naive_low, naive_high = clustered_bootstrap(values, range(450))
    assert high - low == pytest.approx(3 * (naive_high - naive_low), rel=0.1)  # √9 rows per cluster


def test_interval_does_not_depend_on_the_order_of_chunks(monkeypatch):
    values, clusters = [0, 1, 1, 0, 1], ["a", "b", "b", "c", "d"]
    whole = clustered_bootstrap(values, clusters, resamples=500)
    monkeypatch.setattr("processing.scoring.intervals.CHUNK", 7)
    assert clustered_bootstrap(values, clusters, resamples=500) == whole


def test_interval_edge_cases():
    assert all(math.isnan(end) for end in clustered_bootstrap([0, 1, 1], ["a", "a", "a"]))
    assert clustered_bootstrap([1, 1], ["a", "b"]) == (1.0, 1.0)
    with pytest.raises(ValueError, match="0 values"):
        clustered_bootstrap([], [])
    with pytest.raises(ValueError, match="2 values, 1 clusters"):
        clustered_bootstrap([1, 0], ["a"])


def row(question_type, answer_type, answer, image_id="i"):
    return {
        "question_type": question_type,
        "answer_type": answer_type,
        "answer": answer,
        "answers": [answer],
        "image_id": image_id,
    }


TRAIN = [
    row("presence", "closed", "Yes "),
    row("presence", "closed", "yes"),
    row("presence", "closed", "No"),
    row("side", "open", "right"),
    row("side", "open", "Left"),
    row("", "open", "mri"),
    row("", "open", "MRI"),
]


@pytest.mark.parametrize("make", [list, datasets.Dataset.from_list])
def test_majority_answers(make):
    asked = [
        row("presence", "closed", "-"),
        row("side", "open", "-"),  # left and right tie
        row("size", "closed", "-"),  # unseen type
        row("", "open", "-"),  # a type that is not named says nothing
        row("size", "other", "-"),  # mri and yes tie over all
    ]
    assert majority_answers(make(TRAIN), make(asked)) == ["yes", "left", "yes", "mri", "mri"]
    with pytest.raises(ValueError, match="train rows"):
        majority_answers([], asked)


ROWS = [
    row("presence", "closed", "yes", "a"),
    row("presence", "closed", "no", "a"),
    row("side", "open", "left", "b"),
    row("", "open", "mri", "c"),
]


def test_score_rows_golden():
    scores = report.score_rows(ROWS, {"model": ["Yes", "yes", "left ", "ct"], "majority": ["no"] * 4})
    names = ["all", "closed", "open", "question_type=presence", "question_type=side"]
    assert [(s["condition"], s["subset"]) for s in scores] == [(c, n) for c in ("model", "majority") for n in names]
    assert [s["value"] for s in scores] == [0.5, 0.5, 0.5, 0.5, 1.0, 0.25, 0.5, 0.0, 0.5, 0.0]
    assert [s["n"] for s in scores[:5]] == [4, 2, 2, 2, 1]
    assert set(scores[0]) == {"metric", "subset", "condition", "value", "low", "high", "n", "signature"}
    assert (scores[0]["metric"], scores[0]["signature"]) == ("exact_match", "exact_match|v1|norm:strip+lower")
    assert scores[0]["low"] <= 0.5 <= scores[0]["high"]
    assert (scores[1]["low"], scores[1]["high"]) == (None, None)  # both closed questions are about one image


def test_score_rows_leaves_out_empty_subsets_and_checks_lengths():
    scores = report.score_rows(datasets.Dataset.from_list(ROWS[3:]), {"model": ["mri"]})
    assert [(s["subset"], s["value"], s["n"]) for s in scores] == [("all", 1.0, 1), ("open", 1.0, 1)]
    with pytest.raises(ValueError, match="'model' has 1 answers to 4 questions"):
        report.score_rows(ROWS, {"model": ["yes"]})


def test_format_table():
    def score(condition, subset, value, low, high, n):
        interval = {"value": value, "low": low, "high": high, "n": n}
        return {"condition": condition, "subset": subset, "signature": signature(), **interval}

    scores = [
        score("model", "all", 0.874, 0.85, 0.9, 451),
        score("model", "closed", 0.9, 0.871, 0.929, 272),
        score("question_only", "all", 0.4, None, None, 451),
    ]
    assert report.format_table(scores).split("\n") == [
        "exact_match|v1|norm:strip+lower  [95 % interval, clustered by image]",
        "condition      closed (n=272)        all (n=451)",
        "model          0.900 [0.87, 0.93]    0.874 [0.85, 0.90]",
        "question_only  -                     0.400 [-]",
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
    scores = {s["subset"]: s for s in report.score_rows(test, {"majority": ["no"] * len(test)})}
    percent = {name: round(100 * scores[name]["value"], 1) for name in ("closed", "open", "all")}
    assert percent == {"closed": 48.9, "open": 0.0, "all": 29.5}
    assert [scores[name]["n"] for name in ("closed", "open", "all")] == [272, 179, 451]
