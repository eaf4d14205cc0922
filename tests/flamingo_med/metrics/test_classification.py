"""Accuracy, macro F1 and AUROC of the head: golden values by hand, one class and several, and their intervals."""

import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from flamingo_med.evaluation.intervals import clustered_bootstrap_of
from flamingo_med.metrics.classification import Classification, auroc, scores, signature, statistics


def test_one_class():
    probabilities = np.array([[0.9, 0.1, 0], [0.2, 0.8, 0], [0.4, 0.6, 0], [0.3, 0.5, 0.2]])
    found = scores([0, 1, 1, 1], [0, 1, 0, 1], probabilities)
    assert found["class_accuracy"] == 0.75
    assert found["class_macro_f1"] == pytest.approx((2 / 3 + 4 / 5) / 2)  # nothing has class 2: it does not count
    assert found["class_auroc"] == pytest.approx((4 / 4 + 3 / 4) / 2)  # of class 1 one of four pairs is the wrong way


def test_class_that_only_predictions_have_counts():
    assert scores([0, 2], [0, 0])["class_macro_f1"] == pytest.approx((2 / 3 + 0) / 2)


def test_several_classes():
    truth = np.array([[1, 0, 0], [0, 1, 0], [1, 1, 0]])
    predicted = np.array([[1, 0, 0], [0, 0, 0], [1, 1, 0]])
    found = scores(predicted, truth, np.array([[0.9, 0.1, 0], [0.1, 0.4, 0], [0.8, 0.9, 0]]))
    assert found == {
        "class_accuracy": pytest.approx(2 / 3),
        "class_macro_f1": pytest.approx((1 + 2 / 3) / 2),
        "class_auroc": 1.0,
    }


def test_auroc_is_that_of_scikit_learn():
    generator = np.random.default_rng(0)
    scores, truth = generator.integers(0, 9, (50, 4)) / 8, generator.integers(0, 2, (50, 4))
    assert auroc(scores, truth) == pytest.approx(roc_auc_score(truth, scores, average="macro"))


def test_auroc_counts_ties_by_half_and_is_nan_where_there_is_no_pair():
    assert auroc(np.array([[0.5, 0.5], [0.5, 0.5]]), np.array([0, 1])) == 0.5
    assert math.isnan(auroc(np.array([[0.5, 0.5], [0.5, 0.5]]), np.array([1, 1])))


def test_interval():
    generator = np.random.default_rng(0)
    truth = generator.integers(0, 3, 60)
    predicted = np.where(generator.random(60) < 0.7, truth, generator.integers(0, 3, 60))
    images = [f"image {i // 3}" for i in range(60)]
    macro_f1 = statistics(predicted, truth)["class_macro_f1"]
    value = macro_f1(np.arange(60))
    assert value == scores(predicted, truth)["class_macro_f1"]
    low, high = clustered_bootstrap_of(macro_f1, images, resamples=100)
    assert low < value < high


def test_metric(tmp_path):
    metric = Classification(cache_dir=str(tmp_path))
    found = metric.compute(predictions=[0, 1], references=[0, 0], probabilities=[[0.9, 0.1], [0.2, 0.8]])
    assert found["class_accuracy"] == 0.5 and math.isnan(found["class_auroc"])
    several = Classification(cache_dir=str(tmp_path)).compute(
        predictions=[[1, 0], [0, 1]], references=[[1, 0], [1, 1]]
    )
    assert several == {"class_accuracy": 0.5, "class_macro_f1": pytest.approx((2 / 3 + 1) / 2)}
    assert signature("class_auroc").startswith("class_auroc|v1|")
