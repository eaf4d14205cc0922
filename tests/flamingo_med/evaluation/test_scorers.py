"""What all scorers have in common: loaded by path without network, combined, one signature a metric; exact match."""

import socket
import sys
from pathlib import Path

import evaluate
import pytest

from flamingo_med.evaluation.scorers import SCORERS, scorers_for
from flamingo_med.metrics import classification, exact_match, sentence_similarity
from flamingo_med.metrics.exact_match import ExactMatch
from flamingo_med.metrics.imageclef import ImageClef
from flamingo_med.metrics.normalized_match import NormalizedMatch
from flamingo_med.metrics.original import Original
from flamingo_med.metrics.text_overlap import TextOverlap
from flamingo_med.metrics.vqa_rad_accuracy import VqaRad

CLASSES = [ExactMatch, ImageClef, NormalizedMatch, Original, TextOverlap, VqaRad]
ROWS = {"predictions": ["Yes ", "left lung", ""], "references": ["yes", "the right lung", "no"]}


@pytest.fixture
def metric_cache(tmp_path, monkeypatch):
    """Keep the files of `evaluate` out of the user's cache and apart from other tests', and forbid the network."""
    monkeypatch.setattr(evaluate.config, "HF_MODULES_CACHE", tmp_path / "modules")
    monkeypatch.setattr(sys, "path", [path for path in sys.path if not Path(path, "evaluate_modules").is_dir()])
    forget_modules()
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("went to the network"))
    yield str(tmp_path / "metrics")
    forget_modules()


def forget_modules() -> None:
    """Else later loads look for their module in an earlier test's folder."""
    for name in [name for name in sys.modules if name.startswith("evaluate_modules")]:
        del sys.modules[name]


@pytest.mark.parametrize("metric_class", CLASSES)
def test_loaded_by_path_it_gives_what_the_class_gives(metric_cache, metric_class):
    path = str(Path(sys.modules[metric_class.__module__].__file__))
    loaded = evaluate.load(path, cache_dir=metric_cache).compute(**ROWS)
    assert loaded == metric_class(cache_dir=metric_cache).compute(**ROWS)
    several = [[text, "another"] for text in ROWS["references"]]
    assert metric_class(cache_dir=metric_cache).compute(predictions=ROWS["predictions"], references=several)
    batched = metric_class(cache_dir=metric_cache)
    for prediction, reference in zip(*ROWS.values(), strict=True):
        batched.add_batch(predictions=[prediction], references=[reference])
    assert batched.compute() == loaded


@pytest.mark.parametrize("module", [classification, sentence_similarity])
def test_scorers_of_other_inputs_load_by_path(metric_cache, module):
    loaded = evaluate.load(module.__file__, cache_dir=metric_cache)
    if module is classification:
        assert loaded.compute(predictions=[0, 1], references=[0, 0])["class_accuracy"] == 0.5
    else:
        assert "Blind to negation" in loaded.description


def test_combined(metric_cache):
    combined = evaluate.combine([metric_class(cache_dir=metric_cache) for metric_class in CLASSES])
    found = combined.compute(**ROWS)
    assert {"exact_match", "accuracy", "bleu", "token_f1", "original_bleu1", "rouge_l", "accuracy_all"} <= set(found)
    assert found["exact_match"] == found["accuracy_all"] == found["original_exact"] == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("dataset", "references", "names"),
    [
        ("phantom", [["yes"], ["left lung"]], "exact_match normalized_match original"),
        ("vqa_rad", [["yes"]], "exact_match vqa_rad_accuracy normalized_match original"),
        ("vqa_med_2019", [["mri"]], "exact_match imageclef normalized_match original"),
        ("vqa_med_2021", [["mri"]], "exact_match imageclef normalized_match original"),
        ("mimic_cxr", [["no acute cardiopulmonary process"], ["the lungs are clear and well expanded"]],
         "exact_match text_overlap normalized_match original"),
        ("custom", [["one two three four five", "short"]], "exact_match text_overlap normalized_match original"),
        ("custom", [["one two three four five"], ["yes"]], "exact_match normalized_match original"),
    ],
)  # fmt: skip
def test_which_scorers_a_data_set_gets(dataset, references, names):
    found = [scorer.module.__name__.rpartition(".")[2] for scorer in scorers_for(dataset, references)]
    assert found == names.split()


def test_a_row_has_one_value_and_one_signature_a_metric():
    modules = [scorer.module for scorer in SCORERS]
    names = [name for module in modules for name in module.score("left lung", ["left lung", "the lung"])]
    assert len(names) == len(set(names)) == 8
    for scorer in modules:
        for name, value in scorer.score("left lung", ["left lung", "the lung"]).items():
            assert type(value) is float and value == 1.0
            assert scorer.signature(name).startswith(f"{name}|v1|")
            assert scorer.score("", [])[name] == 0.0
            assert scorer.score("xyz", ["left lung"])[name] == 0.0
            assert scorer.score("x", "xyz")[name] == 0.0  # a string is one reference, not its letters


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
    assert exact_match.exact_match(prediction, references) == score
    assert exact_match.score(prediction, references) == {"exact_match": score}


@pytest.mark.parametrize("loaded", [True, False])
def test_exact_match_loaded_by_path_and_used_directly(metric_cache, loaded):
    def metric():
        if loaded:
            return evaluate.load(str(Path(exact_match.__file__)), cache_dir=metric_cache)
        return ExactMatch(cache_dir=metric_cache)

    assert metric().compute(predictions=["Yes ", "left"], references=["yes", "right"]) == {"exact_match": 0.5}
    several = {"predictions": ["Yes ", "left", "both"], "references": [["yes", "y"], ["right", "Left"], []]}
    assert metric().compute(**several) == {"exact_match": pytest.approx(2 / 3)}
    assert metric().compute(predictions=["ja"], references=["ja"]) == {"exact_match": 1.0}
    batched = metric()
    batched.add_batch(predictions=["a"], references=["a"])
    batched.add_batch(predictions=["b"], references=["c"])
    assert batched.compute() == {"exact_match": 0.5}
