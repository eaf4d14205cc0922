"""Answers given without a look at the image: what a model has to beat."""

from collections import Counter, defaultdict
from collections.abc import Iterable


def majority_answers(train_rows: Iterable[dict], rows: Iterable[dict]) -> list[str]:
    """For each row the most frequent train answer to questions of its type.

    The type is `question_type`; where that is empty or not in train, `answer_type`; where that is not in train either,
    all of train counts. Answers are counted, and returned, stripped and lower-cased; of equally frequent ones the
    alphabetically first wins.

    Args:
        train_rows: `datasets.Dataset` or list of dicts with question_type, answer_type and answer.
        rows: the same; their answers are not looked at.

    Raises:
        ValueError: no train rows.
    """
    answers: dict[tuple[str, str], Counter] = defaultdict(Counter)
    for row in train_rows:
        for key in _keys(row):
            answers[key][row["answer"].strip().lower()] += 1
    if not answers:
        raise ValueError("the most frequent answer needs train rows")
    most_frequent = {key: min(counts, key=lambda answer: (-counts[answer], answer)) for key, counts in answers.items()}
    return [next(most_frequent[key] for key in _keys(row) if key in most_frequent) for row in rows]


def _keys(row: dict) -> list[tuple[str, str]]:
    """What a row's answer is looked up by, the most specific first."""
    keys = [("answer_type", row["answer_type"]), ("all", "")]
    return [("question_type", row["question_type"]), *keys] if row["question_type"] else keys
