"""Exact match after strip and lower-case, as a function of one answer and as a metric of the `evaluate` library.

    evaluate.load("processing/scoring/exact_match.py").compute(predictions=["Yes "], references=["yes"])

This file stands alone: `evaluate.load` copies it away from the package (hence one import per line, none of ours).
"""

from collections.abc import Sequence

import datasets
import evaluate

METRICS = {"exact_match": "exact_match|v1|norm:strip+lower"}


def exact_match(prediction: str, references: str | Sequence[str]) -> float:
    """1.0 if the prediction equals a reference after strip and lower-case, else 0.0.

    Args:
        prediction: the answer of the model.
        references: the accepted answer, or all accepted answers.

    >>> exact_match(" Yes", ["no", "yes"])
    1.0
    """
    if isinstance(references, str):
        references = [references]
    return float(any(prediction.strip().lower() == reference.strip().lower() for reference in references))


def score(prediction: str, references: str | Sequence[str]) -> dict[str, float]:
    """`exact_match` by the name of the metric, as every scorer has it."""
    return {"exact_match": exact_match(prediction, references)}


def signature(metric: str) -> str:
    """What is printed beside every number of a metric."""
    return METRICS[metric]


class ExactMatch(evaluate.Metric):
    """`compute(predictions, references)` → {"exact_match": mean over the rows, 0–1}.

    `references` is a list of strings, or a list of lists of accepted answers; not a mixture of both.
    """

    def _info(self) -> evaluate.MetricInfo:
        string = datasets.Value("string")
        return evaluate.MetricInfo(
            description="Share of predictions that equal an accepted answer after strip and lower-case.",
            citation="",
            inputs_description="predictions: strings; references: strings, or lists of accepted strings.",
            features=[
                datasets.Features({"predictions": string, "references": string}),
                datasets.Features({"predictions": string, "references": datasets.List(string)}),
            ],
        )

    def _compute(self, predictions: list[str], references: list[str] | list[list[str]]) -> dict[str, float]:
        scores = [exact_match(*pair) for pair in zip(predictions, references, strict=True)]
        return {"exact_match": sum(scores) / len(scores)}
