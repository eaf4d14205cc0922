"""Intervals by clustered bootstrap: against the normal approximation, and of means and other statistics alike."""

import math

import numpy as np
import pytest

from flamingo_med.evaluation.intervals import clustered_bootstrap, clustered_bootstrap_of, clustered_bootstraps


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
    monkeypatch.setattr("flamingo_med.evaluation.intervals.CHUNK", 7)
    assert clustered_bootstrap(values, clusters, resamples=500) == whole


def test_interval_edge_cases():
    assert clustered_bootstrap([0, 1, 1], ["a", "a", "a"]) == (None, None)
    assert clustered_bootstrap([1, 1], ["a", "b"]) == (1.0, 1.0)
    with pytest.raises(ValueError, match="0 rows"):
        clustered_bootstrap([], [])
    with pytest.raises(ValueError, match="2 rows, 1 clusters"):
        clustered_bootstrap([1, 0], ["a"])


def test_interval_of_a_statistic_agrees_with_that_of_the_mean():
    values = np.random.default_rng(4).random(200)
    clusters = [f"image {i % 37}" for i in range(200)]
    low, high = clustered_bootstrap(values, clusters, resamples=300, seed=5)
    statistic = clustered_bootstrap_of(lambda index: values[index].mean(), clusters, resamples=300, seed=5)
    assert statistic == pytest.approx((low, high), abs=1e-12)


def test_statistic_is_given_whole_clusters():
    clusters = ["a", "b", "a", "c", "b", "a"]
    seen = []
    clustered_bootstrap_of(lambda index: seen.append(sorted(index.tolist())) or 0.0, clusters, resamples=20)
    assert len(seen) == 21 and seen.pop() == [0, 1, 2, 3, 4, 5]  # at the end all rows as they are
    for index in seen:
        counts = [index.count(i) for i in range(6)]
        assert counts[0] == counts[2] == counts[5] and counts[1] == counts[4]
        assert counts[0] + counts[1] + counts[3] == 3  # as many clusters as there are
    assert len({tuple(index) for index in seen}) > 1


def test_statistic_that_is_no_number_on_some_resamples():
    def mean_of_ones(index):
        ones = index[index < 2]
        return float(ones.mean()) if len(ones) else float("nan")

    low, high = clustered_bootstrap_of(mean_of_ones, range(4), resamples=200)
    assert (low, high) == (0.0, 1.0)
    nothing = clustered_bootstrap_of(lambda index: float("nan"), range(4), resamples=10)
    assert nothing == (None, None)
    assert clustered_bootstrap_of(len, ["a", "a"], resamples=10) == (None, None)
    with pytest.raises(ValueError, match="0 clusters"):
        clustered_bootstrap_of(len, [])


def test_interval_reaches_a_value_that_resamples_miss():
    """The number of distinct rows is largest where none is repeated."""
    low, high = clustered_bootstrap_of(lambda index: float(len(set(index.tolist()))), range(50), resamples=50)
    assert low < high == 50


def test_value_that_is_no_number_is_not_hidden():
    with np.errstate(invalid="ignore"):
        assert math.isnan(clustered_bootstrap([0.0, float("nan"), 1.0], ["a", "b", "c"])[0])


def test_intervals_of_many_scores_are_those_of_each():
    values = [[0, 1], [1, 1], [0, 0], [1, 0], [1, 1]]
    found = clustered_bootstraps(values, ["a", "b", "b", "c", "d"], resamples=500)
    for i in range(2):
        column = [row[i] for row in values]
        expected = clustered_bootstrap(column, ["a", "b", "b", "c", "d"], resamples=500)
        assert found[i] == pytest.approx(expected)
