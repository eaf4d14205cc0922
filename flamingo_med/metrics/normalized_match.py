"""Exact match and token F1 after a normalisation that is careful with medical text; for any data set.

    evaluate.load("processing/scoring/normalized_match.py").compute(predictions=["The lung."], references=["lung"])

SQuAD's two scores (Rajpurkar et al. 2016), but `normalize` keeps what tells findings apart: decimal points, signs such
as + and <, the "a" of hepatitis A, and letters of any alphabet.

This file stands alone: `evaluate.load` copies it away from the package (hence one import per line, none of ours).
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

import datasets
import evaluate

VERSION = "v1"
METRICS = {
    name: f"{name}|{VERSION}|norm:nfkc+case+punct+articles+numbers|references:max"
    for name in ("normalized_exact_match", "token_f1")
}
NUMBER_WORDS = "zero one two three four five six seven eight nine ten"
NUMBERS = {"none": "0"} | {word: str(number) for number, word in enumerate(NUMBER_WORDS.split())}


def score(prediction: str, references: str | Sequence[str]) -> dict[str, float]:
    """Normalised exact match and token F1 of one answer, each the best over the references; 0 where there are none.

    Args:
        prediction: the answer of the model.
        references: the accepted answer, or all accepted answers.

    >>> score("in the left lung", ["Left lung."])
    {'normalized_exact_match': 0.0, 'token_f1': 0.8}
    """
    references = [references] if isinstance(references, str) else references
    predicted, accepted = normalize(prediction).split(), [normalize(text).split() for text in references]
    return {
        "normalized_exact_match": float(predicted in accepted),
        "token_f1": max((token_f1(predicted, tokens) for tokens in accepted), default=0.0),
    }


def signature(metric: str) -> str:
    """What is printed beside every number of a metric."""
    return METRICS[metric]


def normalize(text: str) -> str:
    """An answer as it is compared.

    Compatible characters become one (µ of the keyboard and μ of the alphabet), capitals small; apostrophes and the
    commas of 1,000 go; other punctuation but decimal points becomes a blank; number words to ten become digits, "none"
    becomes 0; articles go, but an "a" only at the beginning, since elsewhere it may be a name.

    >>> normalize("The 1,000 µg of Crohn's-type A, none in 2.5 cm.")
    '1000 μg of crohns type a 0 in 2.5 cm'
    """
    text = unicodedata.normalize("NFKC", text).casefold()
    text = re.sub(r"(?<=\d),(?=\d{3}(?!\d))|['’]", "", text)
    text = re.sub(r"\.(?!\d)", " ", text)
    text = "".join(" " if unicodedata.category(c).startswith("P") and c != "." else c for c in text)
    tokens = [NUMBERS.get(token, token) for token in text.split() if token not in ("an", "the")]
    return " ".join(tokens[1:] if tokens[:1] == ["a"] and len(tokens) > 1 else tokens)


def token_f1(prediction: Sequence[str], reference: Sequence[str]) -> float:
    """Harmonic mean of precision and recall of tokens, repetitions counted; 1 where both sides are empty."""
    if not prediction or not reference:
        return float(not prediction and not reference)
    matches = (Counter(prediction) & Counter(reference)).total()
    return 2 * matches / (len(prediction) + len(reference))


class NormalizedMatch(evaluate.Metric):
    """`compute(predictions, references)` → {"normalized_exact_match", "token_f1"}: means over the rows, 0–1.

    `references` is a list of strings, or a list of lists of accepted answers; not a mixture of both.
    """

    def _info(self) -> evaluate.MetricInfo:
        value = datasets.Value("string")
        return evaluate.MetricInfo(
            description="Exact match and token F1 of normalised answers. " + " ".join(METRICS.values()),
            citation="",
            inputs_description="predictions: strings; references: strings, or lists of accepted strings.",
            features=[
                datasets.Features({"predictions": value, "references": value}),
                datasets.Features({"predictions": value, "references": datasets.List(value)}),
            ],
        )

    def _compute(self, predictions: list[str], references: list[str] | list[list[str]]) -> dict[str, float]:
        rows = [score(*pair) for pair in zip(predictions, references, strict=True)]
        return {name: sum(row[name] for row in rows) / len(rows) for name in METRICS}
