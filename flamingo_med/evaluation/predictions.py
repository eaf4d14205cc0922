"""Reads what an evaluation wrote: predictions.jsonl, about each row, and metrics.json, about all."""

import json
from pathlib import Path

from processing.errors import InputError


def read_predictions(path: str | Path) -> list[dict]:
    """The rows of a predictions.jsonl.

    Raises:
        InputError: no such file, no rows in it, a line that is no JSON object with id and image_id, or an id twice.
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
            row = json.loads(line)
            key = row["id"], row["image_id"]
        except (ValueError, TypeError, KeyError):
            raise InputError(f"line {number} of {path} is no JSON object with id and image_id") from None
        if key[0] in seen:
            raise InputError(f"line {number} of {path} has the id {key[0]} for the second time")
        seen.add(key[0])
        rows.append(row)
    return rows


def read_meta(path: str | Path) -> dict:
    """What a metrics.json says of its evaluation: model, dataset, split, fingerprints and more.

    Raises:
        InputError: no such file, or none of eval.py's.
    """
    try:
        meta = json.loads(Path(path).read_text(encoding="utf-8"))["meta"]
        return meta | {name: meta[name] for name in ("model", "dataset", "split", "fingerprints")}
    except (OSError, ValueError, TypeError, KeyError):
        raise InputError(
            f"{path} is missing or not what flamingo-med evaluate writes; it says what the predictions are"
        ) from None
