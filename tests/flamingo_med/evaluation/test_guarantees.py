"""Abstention and conformal sets: bounds by hand, and promises kept on simulated data."""

import math

import numpy as np
import pytest

from flamingo_med.evaluation.guarantees import (
    STEPS,
    abstention_threshold,
    conformal_quantile,
    conformal_sets,
    risk_bound,
)


def test_clopper_pearson_by_hand():
    assert risk_bound(0, 59, 0.95) == pytest.approx(1 - 0.05 ** (1 / 59))  # below 5 %: the rule of three
    assert risk_bound(0, 59, 0.95) < 0.05 < risk_bound(0, 58, 0.95)
    assert risk_bound(7, 7, 0.95) == 1
    bound = risk_bound(2, 20, 0.95)  # where 2 or fewer errors of 20 have a probability of 5 %
    assert sum(math.comb(20, k) * bound**k * (1 - bound) ** (20 - k) for k in range(3)) == pytest.approx(0.05)


def test_threshold_by_hand():
    # 200 right answers at 0.9, and 200 at 0.4, half of them wrong
    confidences, hits = [0.9] * 200 + [0.4] * 200, [1] * 200 + [0, 1] * 100
    threshold = abstention_threshold(confidences, hits, risk=0.05)
    assert (threshold.confidence, threshold.coverage, threshold.risk) == (0.9, 0.5, 0)
    assert threshold.bound == pytest.approx(1 - (0.05 / STEPS) ** (1 / 200))
    everything = abstention_threshold(confidences, hits, risk=0.35)
    assert (everything.confidence, everything.coverage, everything.risk) == (0.4, 1.0, 0.25)
    assert abstention_threshold(confidences, hits, risk=0.001) is None
    shuffled = np.random.default_rng(0).permutation(400)
    assert abstention_threshold(np.array(confidences)[shuffled], np.array(hits)[shuffled], risk=0.05) == threshold


def test_threshold_keeps_its_promise():
    generator = np.random.default_rng(0)
    broken, found, runs = 0, 0, 400
    for _ in range(runs):
        confidences = generator.random(1000)
        threshold = abstention_threshold(confidences, generator.random(1000) < confidences, risk=0.25)
        if threshold is not None:
            found += 1
            broken += (1 - threshold.confidence) / 2 > 0.25  # the true risk above the threshold
    assert found > 0.9 * runs
    assert broken <= 0.05 * runs


@pytest.mark.parametrize(
    ("confidences", "hits", "risk", "message"),
    [
        ([], [], 0.1, "0 confidences"),
        ([0.5], [1, 0], 0.1, "1 confidences, 2 hits"),
        ([0.5], [0.5], 0.1, "hit of 0 or 1"),
        ([0.5], [1], 0.0, "above 0 and below 1, not 0.0"),
    ],
)
def test_threshold_of_nonsense(confidences, hits, risk, message):
    with pytest.raises(ValueError, match=message):
        abstention_threshold(confidences, hits, risk)


def test_conformal_by_hand():
    right = np.array([0.9, 0.8, 0.7, 0.6, 0.55, 0.5, 0.45, 0.3, 0.2])
    probabilities = np.stack([right, 1 - right], axis=1)
    quantile = conformal_quantile(probabilities, [0] * 9, alpha=0.2)  # the ⌈10 · 0.8⌉ = 8th of 9 scores 1 - p
    assert quantile == pytest.approx(0.7)
    assert conformal_sets([[0.75, 0.25], [0.4, 0.6]], quantile).tolist() == [[True, False], [True, True]]
    assert conformal_quantile(probabilities, [0] * 9, alpha=0.05) == math.inf  # 9 questions say nothing of 1 in 20
    assert conformal_sets([[1.0, 0.0]], math.inf).tolist() == [[True, False]]  # 0 is no candidate
    with pytest.raises(ValueError, match="alpha must be"):
        conformal_quantile(probabilities, [0] * 9, alpha=1)
    with pytest.raises(ValueError, match="9 questions, 1 right"):
        conformal_quantile(probabilities, [0], alpha=0.1)


@pytest.mark.parametrize("alpha", [0.05, 0.1, 0.3])
def test_conformal_coverage(alpha):
    """Over calibration sets of n = 99 and new questions the coverage is 1 - alpha exactly, of a bad model too."""
    generator = np.random.default_rng(2)
    covered, runs, n, new = [], 400, 99, 50
    for _ in range(runs):
        logits = generator.normal(size=(n + new, 4))
        true = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        correct = (true.cumsum(1) < generator.random((n + new, 1))).sum(1)
        claimed = np.exp(4 * logits + generator.normal(size=logits.shape))  # overconfident, and noisy
        claimed /= claimed.sum(1, keepdims=True)
        sets = conformal_sets(claimed[n:], conformal_quantile(claimed[:n], correct[:n], alpha))
        covered.append(sets[np.arange(new), correct[n:]].mean())
    error = np.std(covered) / np.sqrt(runs)
    assert np.mean(covered) == pytest.approx(1 - alpha, abs=3 * error)
    assert error < 0.005
