"""Confidence intervals by bootstrap: questions about one image are not independent, so images are resampled."""

from collections.abc import Callable, Hashable, Iterator, Sequence

import numpy as np

CHUNK = 1_000_000  # draws held in memory at a time
RESAMPLES = 1_000  # of what is computed again in each, unlike a mean

Interval = tuple[float, float] | tuple[None, None]


def clustered_bootstrap(
    values: Sequence[float],
    clusters: Sequence[Hashable],
    resamples: int = 10_000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
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
        low and high; (None, None) if there is one cluster only, as its spread says nothing about other clusters. Where
        all clusters have the same mean the interval is that point: the bootstrap knows only what it has seen.

    Raises:
        ValueError: no rows, or lengths that differ.
    """
    return clustered_bootstraps(np.reshape(values, (-1, 1)), clusters, resamples, seed, level)[0]


def clustered_bootstraps(
    values: np.ndarray,
    clusters: Sequence[Hashable],
    resamples: int = 10_000,
    seed: int = 0,
    level: float = 0.95,
) -> list[Interval]:
    """`clustered_bootstrap` of each column of the values (n k), in the time of one: all take the same draws.

    Raises:
        ValueError: no rows, or lengths that differ.
    """
    if len(values) == 0 or len(values) != len(clusters):
        raise ValueError(f"one cluster per row is needed: {len(values)} rows, {len(clusters)} clusters")
    index = _numbered(clusters)
    counts = np.bincount(index)
    sums = np.stack([np.bincount(index, weights=column) for column in np.transpose(values)], axis=1)  # (clusters k)
    means = [np.empty((0, sums.shape[1]))]
    for drawn in _draws(len(counts), resamples, seed):
        offsets = np.arange(len(drawn))[:, None] * len(counts)
        times = np.bincount((drawn + offsets).ravel(), minlength=drawn.size).reshape(drawn.shape)
        means.append(times @ sums / (times @ counts)[:, None])
    return [_percentiles(column, level) for column in np.concatenate(means).T]


def clustered_bootstrap_of(
    statistic: Callable[[np.ndarray], float],
    clusters: Sequence[Hashable],
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """The same for a statistic that is no mean over rows, such as corpus BLEU, macro F1 or AUROC.

    Args:
        statistic: indices of rows, some of them several times, → its value on them; NaN where it has none there, as
            AUROC of one class. Called once a resample: what can be computed of each row, compute before.
        clusters, resamples, seed, level: of `clustered_bootstrap`, whose draws these are.

    Returns:
        low and high of the values that are numbers, made to reach the statistic of all rows, which that of resamples
        may miss (they repeat rows, by which an ECE rises); (None, None) if there is one cluster only, or no value.

    Raises:
        ValueError: no rows.
    """
    if len(clusters) == 0:
        raise ValueError("an interval needs rows: 0 clusters")
    index = _numbered(clusters)
    members = np.split(np.argsort(index, kind="stable"), np.bincount(index).cumsum()[:-1])
    values = [
        statistic(np.concatenate([members[cluster] for cluster in resample]))
        for drawn in _draws(len(members), resamples, seed)
        for resample in drawn
    ]
    known = np.array(values, dtype=float)
    low, high = _percentiles(known[~np.isnan(known)], level)
    if low is None:
        return None, None
    value = statistic(np.arange(len(clusters)))
    return min(low, value), max(high, value)


def _numbered(clusters: Sequence[Hashable]) -> np.ndarray:
    """Number of each row's cluster, in the order in which they come: (n,)."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(cluster, len(numbers)) for cluster in clusters])


def _draws(clusters: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Numbers of the clusters of each resample, some resamples (r, clusters) at a time; none of a single cluster."""
    if clusters == 1:
        return
    generator = np.random.default_rng(seed)
    step = max(1, CHUNK // clusters)
    for start in range(0, resamples, step):
        yield generator.integers(clusters, size=(min(step, resamples - start), clusters))


def _percentiles(values: np.ndarray, level: float) -> Interval:
    """Both ends of the interval of the resamples' values; None where there are none."""
    if len(values) == 0:
        return None, None
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
