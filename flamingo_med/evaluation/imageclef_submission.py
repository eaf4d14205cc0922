"""Submission files of ImageCLEF VQA-Med, a line `image_id|answer` for each image of the test set."""

from collections.abc import Collection, Iterable
from pathlib import Path

from processing.datasets.rows import clean
from processing.errors import InputError
from processing.files import write_whole


def write_submission(path: str | Path, image_ids: Iterable[str], answers: Iterable[str]) -> None:
    """Write a file that the official evaluators take.

    Args:
        path: of the file.
        image_ids: of the test set, in its order (the edition of 2020 insists on it).
        answers: one to each; a line break in one becomes a blank.

    Raises:
        InputError: an answer that is empty or has a "|", or an image twice: the line it would have been.
        ValueError: numbers of images and answers that differ.
    """
    pairs = [(image_id, clean(answer)) for image_id, answer in zip(image_ids, answers, strict=True)]
    seen: set[str] = set()
    for number, (image_id, answer) in enumerate(pairs, start=1):
        where = f"line {number} of {path}, image {image_id},"
        _check(where, image_id, answer, seen)
        seen.add(image_id)
        if "|" in image_id + answer:
            raise InputError(f"{where} would have a '|' that does not end the image id; take it out")
    write_whole(path, "".join(f"{image_id}|{answer}\n" for image_id, answer in pairs))


def _check(where: str, image_id: str, answer: str, seen: Collection[str]) -> None:
    if image_id in seen:
        raise InputError(f"{where} answers that image again; the evaluators take one answer an image")
    if not answer:
        raise InputError(f"{where} has no answer; the evaluators refuse empty ones")
