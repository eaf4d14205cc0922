"""The answers that a closed question may have, by the train split."""

from collections import Counter, defaultdict

from datasets import Dataset

MOST = 20


def candidate_answers(train_rows: Dataset, rows: Dataset) -> list[list[str]]:
    """For each closed question the answers that train gives to closed questions of its type, for others none.

    At most `MOST`, the most frequent ones, each in its most frequent spelling, which is the one that a model learns to
    write. A type that train lacks has the answers to all closed questions.

    Args:
        train_rows: with question_type, answer_type and answer.
        rows: the same; their answers are not looked at.
    """
    counts: dict[str | None, dict[str, Counter]] = defaultdict(lambda: defaultdict(Counter))
    columns = (train_rows[name][:] for name in ("answer_type", "question_type", "answer"))
    for kind, question_type, answer in zip(*columns, strict=True):
        if kind == "closed":
            for key in (question_type, None):
                counts[key][answer.strip().lower()][answer.strip()] += 1
    known = {key: _most_frequent(answers) for key, answers in counts.items()}
    return [
        known.get(question_type, known.get(None, [])) if kind == "closed" else []
        for kind, question_type in zip(rows["answer_type"], rows["question_type"], strict=True)
    ]


def _most_frequent(answers: dict[str, Counter]) -> list[str]:
    """The most frequent spelling of each of the most frequent answers; of equal ones the alphabetically first."""
    names = sorted(answers, key=lambda name: (-answers[name].total(), name))[:MOST]
    return [min(answers[name], key=lambda text, counts=answers[name]: (-counts[text], text)) for name in names]
