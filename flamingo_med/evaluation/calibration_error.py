"""Does a confidence of 0.8 mean right in 8 of 10? Measures of it."""

from collections.abc import Sequence

import numpy as np

BINS = 15


def reliability_bins(confidences: Sequence[float], hits: Sequence[float], bins: int = BINS) -> list[dict]:
    """Data of a reliability diagram: bins of equal width, (low, high], those without rows left out.

    Args:
        confidences: one a row, 0 to 1.
        hits: 1 where the answer is right, else 0; or a score between.
        bins: number of bins.

    Returns:
        Dicts with low, high, n, confidence and accuracy (the means in the bin).

    Raises:
        ValueError: no rows, lengths that differ, a confidence outside of 0 to 1.
    """
    confidences, hits = checked(confidences, hits)
    numbers = np.clip(np.ceil(confidences * bins).astype(int) - 1, 0, bins - 1)
    return [
        {
            "low": number / bins,
            "high": (number + 1) / bins,
            "n": int((numbers == number).sum()),
            "confidence": float(confidences[numbers == number].mean()),
            "accuracy": float(hits[numbers == number].mean()),
        }
        for number in np.unique(numbers).tolist()
    ]


def expected_calibration_error(confidences: Sequence[float], hits: Sequence[float], bins: int = BINS) -> float:
    """Mean distance of confidence and accuracy in a bin, weighted by its rows; 0 is best, 1 is worst.

    Naeini et al., "Obtaining well calibrated probabilities using Bayesian binning" (AAAI 2015). Arguments and errors
    as of `reliability_bins`.
    """
    filled = reliability_bins(confidences, hits, bins)
    return sum(b["n"] * abs(b["confidence"] - b["accuracy"]) for b in filled) / len(hits)


def brier_score(confidences: Sequence[float], hits: Sequence[float]) -> float:
    """Mean squared distance of the confidence from "is right"; always saying 0.5 scores 0.25.

    Brier, Monthly Weather Review 78 (1950), of the event that the answer is right. Of closed questions the confidence
    is the answer's probability among the candidates. Arguments and errors as of `reliability_bins`.
    """
    confidences, hits = checked(confidences, hits)
    return float(((confidences - hits) ** 2).mean())


def risk_coverage(confidences: Sequence[float], hits: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """What share of the answers given is wrong, if only the most confident ones are given.

    Of rows with one confidence none comes first: each counts with their mean, so the order of the rows is no matter.
    Arguments and errors as of `reliability_bins`.

    Returns:
        coverages 1/n, 2/n, …, 1 and risks, both (n,).
    """
    confidences, hits = checked(confidences, hits)
    _, group, sizes = np.unique(-confidences, return_inverse=True, return_counts=True)
    errors = np.bincount(group, weights=1 - hits) / sizes
    answered = np.arange(1, len(hits) + 1)
    return answered / len(hits), np.repeat(errors, sizes).cumsum() / answered


def aurc(confidences: Sequence[float], hits: Sequence[float]) -> float:
    """Area under the risk–coverage curve, the mean risk over all coverages; 0 is best.

    Geifman, Uziel and El-Yaniv, "Bias-reduced uncertainty estimation for deep neural classifiers" (ICLR 2019).
    Arguments and errors as of `reliability_bins`.
    """
    return float(risk_coverage(confidences, hits)[1].mean())


def checked(confidences: Sequence[float], hits: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Both as arrays (n,). Arguments and errors as of `reliability_bins`."""
    confidences, hits = np.asarray(confidences, dtype=float), np.asarray(hits, dtype=float)
    if confidences.shape != hits.shape or confidences.ndim != 1 or len(hits) == 0:
        raise ValueError(f"one hit per confidence is needed: {confidences.shape} confidences, {hits.shape} hits")
    if not ((confidences >= 0) & (confidences <= 1)).all():
        raise ValueError("a confidence is outside of 0 to 1")
    return confidences, hits
