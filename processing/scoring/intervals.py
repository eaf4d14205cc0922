"""Confidence intervals by bootstrap: questions about one image are not independent, so images are resampled."""

from collections.abc import Hashable, Sequence

import numpy as np

CHUNK = 1_000_000  # draws held in memory at a time


def clustered_bootstrap(
    values: Sequence[float],
    clusters: Sequence[Hashable],
    resamples: int = 10_000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float, float]:
    """Percentile interval of the mean of `values`, by resampling whole clusters with replacement.

    The interval of a paired difference is that of the differences per row; equal seeds and clusters give equal draws.
    Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), chapter 13; for clusters: Field and Welsh,
    "Bootstrapping clustered data", J. R. Stat. Soc. B 69 (2007), 369–390.

    Args:
        values: one score per row, (n,).
        clusters: name of the cluster (image) of each row, (n,).
        resamples: number of bootstrap means.
        seed: of the draws.
        level: coverage, between 0 and 1.

    Returns:
        low and high; (nan, nan) if there is one cluster only, as its spread says nothing about other clusters. Where
        all clusters have the same mean the interval is that point: the bootstrap knows only what it has seen.

    Raises:
        ValueError: no rows, or lengths that differ.
    """
    if len(values) == 0 or len(values) != len(clusters):
        raise ValueError(f"one cluster per value is needed: {len(values)} values, {len(clusters)} clusters")
    numbers: dict[Hashable, int] = {}
    index = [numbers.setdefault(cluster, len(numbers)) for cluster in clusters]
    if len(numbers) == 1:
        return float("nan"), float("nan")

    sums = np.bincount(index, weights=values)
    counts = np.bincount(index)
    generator = np.random.default_rng(seed)
    means = np.empty(resamples)
    step = max(1, CHUNK // len(sums))
    for start in range(0, resamples, step):
        drawn = generator.integers(len(sums), size=(min(step, resamples - start), len(sums)))
        means[start : start + step] = sums[drawn].sum(1) / counts[drawn].sum(1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
