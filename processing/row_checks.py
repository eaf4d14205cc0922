"""Finds the rows that no model can read before any work is done with them: by their texts, and by their images."""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

from processing.datasets import images_of
from processing.errors import InputError
from processing.images import damage
from processing.processing_flamingo_med import FlamingoMedProcessor

AT_ONCE = 256  # rows that are tokenized together
LISTED = 20


def bad_texts(
    processor: FlamingoMedProcessor,
    questions: Sequence[str],
    answers: Sequence[str] | None = None,
    *,
    context: int | None = None,
    new_tokens: int = 0,
) -> dict[int, str]:
    """Numbers of the rows whose texts cannot be asked or trained on, and why; never quotes them.

    Args:
        processor: of the model.
        questions: (n)
        answers: (n), in training.
        context: the most tokens that the decoder reads, where the tokenizer does not say it.
        new_tokens: tokens of the longest answer, for which a question has to leave room.
    """
    bad: dict[int, str] = {}
    for start in range(0, len(questions), AT_ONCE):
        numbers = range(start, min(start + AT_ONCE, len(questions)))
        groups: Iterable[Sequence[int]] = [numbers]
        while groups:  # all at once, and only where there is something wrong one by one
            failed = []
            for group in groups:
                try:
                    some = [questions[i] for i in group], answers and [answers[i] for i in group]
                    _check_texts(processor, *some, context, new_tokens)
                except ValueError as error:
                    failed += [[i] for i in group] if len(group) > 1 else []
                    bad |= {group[0]: str(error)} if len(group) == 1 else {}
            groups = failed
    return bad


def _check_texts(
    processor: FlamingoMedProcessor,
    questions: Sequence[str],
    answers: Sequence[str] | None,
    context: int | None,
    new_tokens: int,
) -> None:
    """Raise a ValueError if any row cannot be asked or trained on."""
    rendered = {question: processor.render(question) for question in dict.fromkeys(questions)}
    batch = processor.tokenize([rendered[question] for question in questions], answers)
    if context is None:
        return
    lengths = batch["attention_mask"].sum(1)
    longest = int(lengths.max())
    if longest > context:
        raise ValueError(f"a text of {longest} tokens does not fit the decoder's {context}; shorten it")
    if answers is not None:
        lengths = lengths - (batch["labels"] != -100).sum(1)
    longest = int(lengths.max())
    if longest + new_tokens > context:
        raise ValueError(
            f"a question of {longest} tokens and an answer of up to {new_tokens} does not fit the decoder's "
            f"{context}; shorten the question"
        )


def bad_images(rows: Iterable[dict]) -> dict[int, str]:
    """Numbers of the rows with an image that cannot be read, and why; each file is decoded once in a process.

    Args:
        rows: with image and more_images.
    """

    def reason(row: dict) -> str | None:
        return next(filter(None, map(damage, images_of(row))), None)

    reasons, rows = [], iter(rows)
    with ThreadPoolExecutor() as pool:  # some rows at a time, as they may hold the bytes of their images
        while some := list(islice(rows, AT_ONCE)):
            reasons += pool.map(reason, some)
    return {i: why for i, why in enumerate(reasons) if why is not None}


def refuse(bad: Sequence[tuple[str, str]], total: int, what: str) -> None:
    """Refuse rows that are bad, if any; the first `LISTED` are listed.

    Args:
        bad: id and reason of each.
        total: number of rows that were looked at.
        what: what they are rows of.

    Raises:
        InputError: there are some.
    """
    if not bad:
        return
    lines = [f"  row {name}: {reason}" for name, reason in bad[:LISTED]]
    more = [f"  and {len(bad) - LISTED} more"] if len(bad) > LISTED else []
    head = f"{len(bad)} of {total} rows of {what} cannot be read by the model; correct or remove them:"
    raise InputError("\n".join([head, *lines, *more]))
