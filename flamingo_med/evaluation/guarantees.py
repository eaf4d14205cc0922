"""Promises that hold for new questions: a confidence below which to abstain, and answer sets that hold the right one.

Both are made of validation rows and hold for rows drawn alike, whatever the model. Questions about one image are not
drawn independently of each other, so that one of each image counts: `one_row_per_image`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import beta

from processing.datasets.rows import uniform

STEPS = 20  # coverages that a threshold is looked for at: 1, 0.95, …, 0.05


@dataclass(frozen=True)
class Threshold:
    """Answer where the confidence is at least `confidence`.

    Attributes:
        confidence: the threshold.
        coverage, risk: of the validation rows, the share answered, and the share of these that is wrong.
        bound: upper bound of the risk on new rows.
    """

    confidence: float
    coverage: float
    risk: float
    bound: float


def risk_bound(errors: int, answered: int, level: float) -> float:
    """One-sided upper bound of a rate of errors; Clopper and Pearson, Biometrika 26 (1934), 404–413."""
    return 1.0 if errors == answered else float(beta.ppf(level, errors + 1, answered - errors))


def abstention_threshold(
    confidences: Sequence[float], hits: Sequence[bool], risk: float, level: float = 0.95
) -> Threshold | None:
    """The smallest threshold that keeps the risk of the answers given at or below a target.

    The `STEPS` thresholds are tried together, each bound at 1 - (1 - level) / STEPS, so the promise holds for the one
    that is chosen: with probability `level` over the validation rows, new rows answered have at most this risk
    (Geifman and El-Yaniv, "Selective classification for deep neural networks", NeurIPS 2017, with a fixed grid in
    place of their search).

    Args:
        confidences: of validation rows, (n,).
        hits: whether each is right, (n,).
        risk: the target, between 0 and 1.
        level: of the promise.

    Returns:
        the threshold; None where no threshold keeps the target: then abstain, or validate on more rows.

    Raises:
        ValueError: no rows, lengths that differ, hits that are neither 0 nor 1, a target outside of 0 to 1.
    """
    confidences, hits = np.asarray(confidences, dtype=float), np.asarray(hits, dtype=float)
    if len(hits) == 0 or confidences.shape != hits.shape or not np.isin(hits, (0, 1)).all():
        raise ValueError(f"a hit of 0 or 1 per confidence is needed: {len(confidences)} confidences, {len(hits)} hits")
    if not 0 < risk < 1:
        raise ValueError(f"the target risk must be above 0 and below 1, not {risk}")
    falling = np.sort(confidences)[::-1]
    for step in range(STEPS, 0, -1):
        threshold = falling[-(-len(falling) * step // STEPS) - 1]
        answered = confidences >= threshold
        n, errors = int(answered.sum()), int((1 - hits[answered]).sum())
        bound = risk_bound(errors, n, 1 - (1 - level) / STEPS)
        if bound <= risk:
            return Threshold(float(threshold), n / len(hits), errors / n, bound)
    return None


def one_row_per_image(predictions: Sequence[dict]) -> list[dict]:
    """One row of each image, chosen by a hash, since the promises are about rows drawn independently of each other."""
    chosen: dict[str, dict] = {}
    for row in sorted(predictions, key=lambda row: uniform("guarantees", row["id"])):
        chosen.setdefault(row["image_id"], row)
    return list(chosen.values())


def conformal_quantile(probabilities: np.ndarray, correct: Sequence[int], alpha: float) -> float:
    """How improbable the right answer of a closed question may be, from validation, for sets that hold it mostly.

    Split conformal prediction with the score 1 - p(right answer): Angelopoulos and Bates, "A gentle introduction to
    conformal prediction and distribution-free uncertainty quantification" (2021, arXiv:2107.07511), section 1.

    Args:
        probabilities: of the candidates, (n k); 0 where a question has fewer than k.
        correct: number of the right candidate, (n,). A question whose right answer is no candidate has no place here,
            and the promise is not about such.
        alpha: share of new questions whose set may lack the right answer, between 0 and 1.

    Returns:
        what `conformal_sets` takes; infinite where n is too small for alpha, so that sets hold all candidates.

    Raises:
        ValueError: no questions, lengths that differ, alpha outside of 0 to 1.
    """
    n = len(correct)
    if n == 0 or len(probabilities) != n:
        raise ValueError(f"{len(probabilities)} questions, {n} right candidates")
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must be above 0 and below 1, not {alpha}")
    scores = np.sort(1 - np.asarray(probabilities)[np.arange(n), correct])
    rank = int(np.ceil((n + 1) * (1 - alpha)))
    return float(scores[rank - 1]) if rank <= n else float("inf")


def conformal_sets(probabilities: np.ndarray, quantile: float) -> np.ndarray:
    """The answers of each set, (n k) of bool: they hold the right one of at least 1 - alpha of new questions.

    That is marginal coverage, over all questions; not for every kind of question, nor given the image. A set may be
    empty: no candidate was probable enough.
    """
    probabilities = np.asarray(probabilities)
    return (1 - probabilities <= quantile) & (probabilities > 0)
