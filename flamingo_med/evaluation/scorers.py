"""Which scorers an evaluation reports: a line each.

A scorer is a file with `score(prediction, references)` → {metric: value of the row}, whose mean over its rows is the
value of a subset, `signature(metric)`, and a metric class for the `evaluate` library. Those that need more than two
texts have functions of their own in `scores.py`: `classification`, the measures of confidence, and the embeddings of
`original`, which `evaluation.conditions.embedding_scores` makes. `sentence_similarity` needs an encoder of the user's
choice, which `evaluate --sentence_encoder` names. What one scorer has under another's name, such as the exact match
of `original`, is in its class alone.
"""

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import NamedTuple

import numpy as np

from flamingo_med.metrics import exact_match, imageclef, normalized_match, original, text_overlap, vqa_rad_accuracy

LONG = 5  # words; a text of that length is judged by what it overlaps with, not by whether it is the same

Members = dict[str, list[int]]


def always(dataset: str, references: Sequence[Sequence[str]]) -> bool:
    """For every data set."""
    return True


def of(*names: str) -> Callable[[str, Sequence[Sequence[str]]], bool]:
    """For the data sets with these names."""
    return lambda dataset, references: dataset in names


def long_answers(dataset: str, references: Sequence[Sequence[str]]) -> bool:
    """For any whose accepted answers have `LONG` words or more on average, such as reports."""
    return bool(references) and np.mean([len(texts[0].split()) for texts in references]) >= LONG


class Scorer(NamedTuple):
    """A scorer, and what of it is reported where.

    Attributes:
        module: its file.
        applies: name of the data set and accepted answers of each row → whether it is reported.
        subsets: the only ones that it is about; all where empty.
        groups: accepted answers and answer types of each row → name of each further subset, for all scorers, and its
            rows.
        statistics: predictions and accepted answers → metric → function of row numbers, whose value on all rows is no
            mean over them.
    """

    module: ModuleType
    applies: Callable[[str, Sequence[Sequence[str]]], bool] = always
    subsets: tuple[str, ...] = ()
    groups: Callable[[Sequence[Sequence[str]], Sequence[str]], Members] | None = None
    statistics: Callable[..., dict[str, Callable[[np.ndarray], float]]] | None = None


SCORERS = (
    Scorer(exact_match),
    Scorer(imageclef, of("vqa_med_2019", "vqa_med_2020", "vqa_med_2021")),
    Scorer(vqa_rad_accuracy, of("vqa_rad"), subsets=("open", "not_yes_no"), groups=vqa_rad_accuracy.groups),
    Scorer(text_overlap, long_answers, statistics=text_overlap.statistics),
    Scorer(normalized_match),
    Scorer(original),
)

# Shown under every condition and by question type and organ, with their titles; of the others there is a summary.
IN_FULL = {
    "exact_match": "Exact match",
    "imageclef_accuracy": "ImageCLEF accuracy",
    "imageclef_bleu": "ImageCLEF BLEU",
    "class_accuracy": "Accuracy of the classification head",
}


def scorers_for(dataset: str, references: Sequence[Sequence[str]]) -> list[Scorer]:
    """The scorers that are reported of a data set.

    Args:
        dataset: its name.
        references: accepted answers of each row that has some.
    """
    return [scorer for scorer in SCORERS if scorer.applies(dataset, references)]
