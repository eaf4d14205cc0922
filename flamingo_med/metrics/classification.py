"""Accuracy, macro F1 and AUROC of the classification head; computed by scikit-learn.

    evaluate.load("processing/scoring/classification.py").compute(
        predictions=[0, 1, 1], references=[0, 1, 0], probabilities=[[0.9, 0.1], [0.2, 0.8], [0.4, 0.6]]
    )

This file stands alone: `evaluate.load` copies it away from the package (hence one import per line, none of ours).
"""

from collections.abc import Callable

import datasets
import evaluate
import numpy as np
from scipy.stats import rankdata
from sklearn.metrics import accuracy_score, f1_score

VERSION = "v1"
METRICS = {
    "class_accuracy": f"class_accuracy|{VERSION}|all-classes-right",
    "class_macro_f1": f"class_macro_f1|{VERSION}|classes:seen|empty:0",
    "class_auroc": f"class_auroc|{VERSION}|one-vs-rest|macro|classes:with-both",
}


def signature(metric: str) -> str:
    """What is printed beside every number of a metric."""
    return METRICS[metric]


def scores(
    predictions: np.ndarray, references: np.ndarray, probabilities: np.ndarray | None = None
) -> dict[str, float]:
    """All scores of a set of rows.

    Args:
        predictions: (n) class ids; or, where several classes may hold, (n c) of 0 and 1.
        references: the same of the truth.
        probabilities: (n c) or anything that ranks as they do, such as logits; for AUROC.

    Returns:
        class_accuracy: of several classes all must be right. class_macro_f1: mean over the classes that a prediction
        or a reference has. class_auroc, with `probabilities`: mean over the classes that some rows have and some have
        not; NaN where there is none.
    """
    predictions, references = np.asarray(predictions), np.asarray(references)
    everything = np.arange(len(references))
    of_rows = statistics(predictions, references, probabilities)
    values = {name: statistic(everything) for name, statistic in of_rows.items()}
    return {"class_accuracy": float(accuracy_score(references, predictions)), **values}


def statistics(
    predictions: np.ndarray, references: np.ndarray, probabilities: np.ndarray | None = None
) -> dict[str, Callable[[np.ndarray], float]]:
    """Macro F1 and AUROC as functions of row numbers, for an interval; arguments as of `scores`."""
    found = {"class_macro_f1": lambda rows: macro_f1(predictions[rows], references[rows])}
    if probabilities is not None:
        ranking = np.asarray(probabilities)
        found["class_auroc"] = lambda rows: auroc(ranking[rows], references[rows])
    return found


def macro_f1(predictions: np.ndarray, references: np.ndarray) -> float:
    """Mean F1 over the classes that a prediction or a reference has: both (n), or both (n c)."""
    one_class = references.ndim == 1
    seen = np.union1d(predictions, references) if one_class else np.flatnonzero((predictions | references).any(0))
    return float(f1_score(references, predictions, labels=seen, average="macro", zero_division=0))


def auroc(probabilities: np.ndarray, references: np.ndarray) -> float:
    """Mean AUROC over the classes that some rows have and some have not: (n c), (n) or (n c) → one number or NaN.

    By the sum of ranks, of all classes at once: an interval asks for it a thousand times.
    """
    truth = references == 1 if references.ndim == 2 else references[:, None] == np.arange(probabilities.shape[1])
    both = truth.any(0) & ~truth.all(0)
    if not both.any():
        return float("nan")
    ranks, truth = rankdata(probabilities[:, both], axis=0), truth[:, both]
    positive, negative = truth.sum(0), (~truth).sum(0)
    below = (ranks * truth).sum(0) - positive * (positive + 1) / 2  # pairs in the right order, ties by half
    return float((below / (positive * negative)).mean())


class Classification(evaluate.Metric):
    """`compute(predictions, references, probabilities=None)` → what `scores` returns.

    `predictions` and `references` are class ids, or lists of 0 and 1 where several classes may hold.
    """

    def _info(self) -> evaluate.MetricInfo:
        number = datasets.Value("int64")
        several = datasets.List(number)
        return evaluate.MetricInfo(
            description="Accuracy, macro F1 and AUROC of classes. " + " ".join(METRICS.values()),
            citation="Pedregosa et al., Scikit-learn, JMLR 12 (2011).",
            inputs_description="predictions, references: class ids, or lists of 0 and 1; probabilities: (n c).",
            features=[
                datasets.Features({"predictions": number, "references": number}),
                datasets.Features({"predictions": several, "references": several}),
            ],
        )

    def _compute(
        self, predictions: list, references: list, probabilities: np.ndarray | None = None
    ) -> dict[str, float]:
        return scores(predictions, references, probabilities)
