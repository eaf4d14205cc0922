"""Reads what an evaluation wrote: predictions.jsonl, about each row, and metrics.json, about all."""

from pathlib import Path
from typing import Any, TypedDict

from processing.errors import InputError
from processing.shapes import check_shape, parse_json


class _Key(TypedDict):
    id: str
    image_id: str


class Prediction(_Key, total=False):
    """A row of predictions.jsonl; its scores have the names of the scorers."""

    question: str
    answer: str
    answers: list[str]
    answer_type: str
    question_type: str
    organ: str
    prediction: str
    blank_image_prediction: str
    class_prediction: str
    confidence: float
    exact_match: float | None
    candidates: dict[str, float]


class Meta(TypedDict):
    """What a metrics.json says at least of its evaluation."""

    model: str
    dataset: str
    split: str
    fingerprints: dict[str, Any]


def read_predictions(path: str | Path) -> list[dict]:
    """The rows of a predictions.jsonl.

    Raises:
        InputError: no such file, no rows in it, a line that is no JSON object with id and image_id or has a value of
            another type or range, or an id twice.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = "not UTF-8" if isinstance(error, UnicodeDecodeError) else error.strerror
        raise InputError(
            f"predictions cannot be read from {path}: {reason}; flamingo-med evaluate writes them"
        ) from None
    if lines == [""]:
        raise InputError(f"{path} is empty; evaluate again")
    rows, seen = [], set()
    for number, line in enumerate(lines, start=1):
        try:
            row = parse_json(line)
            check_shape(row, _Key, "it")
        except ValueError:
            raise InputError(f"line {number} of {path} is no JSON object with id and image_id") from None
        try:
            check_shape(row, Prediction, "row")
            _check_range(row)
        except ValueError as error:
            raise InputError(f"line {number} of {path} is not as flamingo-med evaluate writes it: {error}") from None
        if row["id"] in seen:
            raise InputError(f"line {number} of {path} has the id {row['id']} for the second time")
        seen.add(row["id"])
        rows.append(row)
    return rows


def read_meta(path: str | Path) -> dict:
    """What a metrics.json says of its evaluation: model, dataset, split, fingerprints and more.

    Raises:
        InputError: no such file, or none of eval.py's.
    """
    try:
        meta = parse_json(Path(path).read_text(encoding="utf-8"))["meta"]
        check_shape(meta, Meta, "meta")
        return meta
    except (OSError, ValueError, TypeError, KeyError):
        raise InputError(
            f"{path} is missing or not what flamingo-med evaluate writes; it says what the predictions are"
        ) from None


def _check_range(row: dict) -> None:
    """Raises ValueError where a share is none, or a whole number is beyond all floats."""
    for name in ("confidence", "exact_match"):
        if not 0 <= (row.get(name) or 0) <= 1:
            raise ValueError(f"row.{name} is not from 0 to 1")
    for name, value in row.items():
        if type(value) is int:
            check_shape(value, float, f"row.{name}")
