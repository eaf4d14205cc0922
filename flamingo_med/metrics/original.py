"""What the original student project reported: exact match, embedding match, mean cosine, BLEU-1, accuracy of the head.

    evaluate.load("processing/scoring/original.py").compute(predictions=["left lung"], references=["the left lung"])

Only for comparison with its numbers. Its embedding match is lenient: the nearest answer of train stands for the
prediction, and "no" is contained in "normal".

This file stands alone: `evaluate.load` copies it away from the package (hence one import per line, none of ours).
"""

import math
from collections import Counter
from collections.abc import Sequence

import datasets
import evaluate
import numpy as np

VERSION = "v1"
POOLED = "pool:answer|prototypes:train"
POOLED_AS_ORIGINAL = "pool:prompt+answer|prototypes:evaluated"
METRICS = {
    "original_exact": f"original_exact|{VERSION}|norm:strip+lower",
    "original_bleu1": f"original_bleu1|{VERSION}|ngram:1|tok:whitespace|smooth:none|references:max",
    "original_embedding_match": f"original_embedding_match|{VERSION}|nearest-prototype:cosine|contains",
    "original_cosine": f"original_cosine|{VERSION}|mean",
    "original_class_accuracy": f"original_class_accuracy|{VERSION}|argmax",
}


def score(prediction: str, references: str | Sequence[str]) -> dict[str, float]:
    """BLEU-1 of one answer, the best over the references; exact match is that of `exact_match`.

    Args:
        prediction: the answer of the model.
        references: the accepted answer, or all accepted answers.

    >>> score("left lung", ["the left lung", "right lung"])
    {'original_bleu1': 0.6065306597126334}
    """
    return {"original_bleu1": max((bleu1(prediction, text) for text in _listed(references)), default=0.0)}


def signature(metric: str, *, as_original: bool = False) -> str:
    """What is printed beside every number of a metric.

    Args:
        metric: its name.
        as_original: its vectors are pooled over prompt and answer, and the prototypes are of the evaluated split.
    """
    pooled = POOLED_AS_ORIGINAL if as_original else POOLED
    return (
        f"{METRICS[metric]}|{pooled}" if metric in ("original_embedding_match", "original_cosine") else METRICS[metric]
    )


def exact(prediction: str, references: str | Sequence[str]) -> float:
    """1.0 if the prediction equals a reference after strip and lower-case, else 0.0."""
    return float(prediction.strip().lower() in [text.strip().lower() for text in _listed(references)])


def bleu1(prediction: str, reference: str) -> float:
    """Sentence BLEU of single words, without smoothing; 0 where it cannot be computed."""
    predicted, referred = prediction.split(), reference.split()
    if not predicted or not referred:
        return 0.0
    precision = (Counter(predicted) & Counter(referred)).total() / len(predicted)
    return precision * min(1.0, math.exp(1 - len(referred) / len(predicted)))


def embedding_match(
    vectors: np.ndarray, prototypes: np.ndarray, prototype_answers: Sequence[str], references: Sequence
) -> list[float]:
    """Whether the answer of each prediction's nearest prototype contains an accepted answer or is contained in one.

    Args:
        vectors: (n d) of the predictions, see `flamingo_med.inference.embedding`.
        prototypes: (k d), one of each answer.
        prototype_answers: (k) those answers.
        references: (n) of each row the accepted answer, or all accepted answers.

    Returns:
        (n) of 0 and 1.
    """
    nearest = (_unit(vectors) @ _unit(prototypes).T).argmax(1)
    answers = [prototype_answers[i].strip().lower() for i in nearest]
    return [
        float(any(text.strip().lower() in answer or answer in text.strip().lower() for text in _listed(texts)))
        for answer, texts in zip(answers, references, strict=True)
    ]


def cosines(vectors: np.ndarray, reference_vectors: np.ndarray) -> list[float]:
    """Cosine of each prediction's vector and its reference's: (n d), (n d) → (n)."""
    return (_unit(vectors) * _unit(reference_vectors)).sum(1).tolist()


def _unit(vectors: np.ndarray) -> np.ndarray:
    vectors = np.asarray(vectors, dtype=np.float64)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def _listed(references: str | Sequence[str]) -> Sequence[str]:
    return [references] if isinstance(references, str) else references


class Original(evaluate.Metric):
    """`compute(predictions, references, …)` → means over the rows, 0–1 (cosine: -1 to 1).

    `references` is a list of strings, or a list of lists of accepted answers; not a mixture of both. Always: exact,
    bleu1. With `prediction_vectors`, `prototypes` and `prototype_answers`: embedding_match. With `prediction_vectors`
    and `reference_vectors`: cosine. With `class_logits` (n c) and `class_labels` (n): class_accuracy.
    """

    def _info(self) -> evaluate.MetricInfo:
        value = datasets.Value("string")
        return evaluate.MetricInfo(
            description="Scores of the original student project. " + " ".join(METRICS.values()),
            citation="",
            inputs_description="predictions: strings; references: strings, or lists of accepted strings.",
            features=[
                datasets.Features({"predictions": value, "references": value}),
                datasets.Features({"predictions": value, "references": datasets.List(value)}),
            ],
        )

    def _compute(
        self,
        predictions: list[str],
        references: list[str] | list[list[str]],
        prediction_vectors: np.ndarray | None = None,
        reference_vectors: np.ndarray | None = None,
        prototypes: np.ndarray | None = None,
        prototype_answers: Sequence[str] | None = None,
        class_logits: np.ndarray | None = None,
        class_labels: Sequence[int] | None = None,
    ) -> dict[str, float]:
        pairs = list(zip(predictions, references, strict=True))
        values = {
            "original_exact": [exact(*pair) for pair in pairs],
            "original_bleu1": [score(*pair)["original_bleu1"] for pair in pairs],
        }
        if prototypes is not None:
            matches = embedding_match(prediction_vectors, prototypes, prototype_answers, references)
            values["original_embedding_match"] = matches
        if reference_vectors is not None:
            values["original_cosine"] = cosines(prediction_vectors, reference_vectors)
        if class_logits is not None:
            values["original_class_accuracy"] = np.asarray(class_logits).argmax(1) == np.asarray(class_labels)
        return {name: float(np.mean(row_values)) for name, row_values in values.items()}
