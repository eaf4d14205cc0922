"""`own`: your own images and questions, from a table (CSV or JSON lines) that names images, questions and answers.

`data_dir` is a table, a folder with one table for each split (`train.csv`, `validation.csv`, `test.csv`; or
`.jsonl`), or a folder with one table: `metadata.csv` or `metadata.jsonl`, as `datasets`' imagefolder has it. A single
table may have a column `split`; without it, validation and test are taken from it by group, the same ones on every
machine. Image paths are relative to the table.
"""

import csv
import json
from collections.abc import Iterator
from pathlib import Path

from datasets import Dataset

from processing.datasets.rows import carve, clean, image_file, logger, make_row, to_dataset
from processing.errors import InputError, check_keys, nearest
from processing.images import read_image

# Our names, and those that tables use for them by default.
COLUMNS = {
    "image": "image",
    "question": "question",
    "answer": "answer",
    "id": "id",
    "question_type": "question_type",
    "label": "label",
    "group": "group",
    "split": "split",
}
SUFFIXES = (".csv", ".jsonl")
SHOWN = 20  # bad rows that a message lists; the file has all


def load(
    split: str,
    data_dir: str | None = None,
    *,
    columns: dict | None = None,
    on_bad_rows: str = "raise",
    validation_fraction: float = 0.1,
    test_fraction: float = 0.1,
    seed: int = 0,
) -> Dataset:
    """One split with the columns of `FEATURES`. All images are opened first, and every bad row is reported.

    Args:
        split: "train", "validation" or "test".
        data_dir: table or folder, see the top of this file.
        columns: our name → the table's, e.g. {question: Frage}; known are image, question, answer, and, as far as they
            are there, id, question_type, label (several are separated by `|`), group (the patient) and split.
        on_bad_rows: "raise" an error, or "skip" them and say how many.
        validation_fraction, test_fraction: of the groups, where one table holds all rows without a column split.
        seed: of that choice.

    Raises:
        InputError: no table, a missing column, or bad rows.
    """
    choices = ("raise", "skip")
    if on_bad_rows not in choices:
        raise InputError(f"on_bad_rows is raise or skip, not {on_bad_rows!r}; {nearest(on_bad_rows, choices)}")
    check_keys(columns or {}, COLUMNS, "column of own")
    names = {**COLUMNS, **(columns or {})}
    table, is_split = _find_table(data_dir, split)
    entries = list(_read(table))
    _check_columns(entries, names, table)

    rows, bad = [], []
    for number, theirs in entries:
        entry = {name: theirs.get(column) for name, column in names.items()}
        reason = _fault(entry, table.parent)
        if reason:
            bad.append(f"row {number}: {reason}")
        else:
            rows.append(_row(entry, number, table.parent, "train" if is_split else entry["split"]))
    _report(bad, len(entries), table, on_bad_rows)
    if is_split:
        return to_dataset(rows)
    if all(row["split"] is None for row in rows):
        for row in rows:
            row["split"] = "train"
        carve(rows, "test", test_fraction, seed)
        carve(rows, "validation", validation_fraction, seed + 1)
    return to_dataset([row for row in rows if row["split"] == split])


def _find_table(data_dir: str | None, split: str) -> tuple[Path, bool]:
    """The table with the rows of a split, and whether it holds that split alone."""
    if data_dir is None:
        raise InputError("own needs a data_dir: a table (.csv or .jsonl), or a folder with one")
    path = Path(data_dir)
    if path.is_file():
        if path.suffix not in SUFFIXES:
            raise InputError(f"{path} is neither .csv nor .jsonl")
        return path, False
    for stem, is_split in ((split, True), ("metadata", False)):
        for suffix in SUFFIXES:
            if (path / f"{stem}{suffix}").is_file():
                return path / f"{stem}{suffix}", is_split
    raise InputError(f"{path} holds no table {split}.csv, {split}.jsonl, metadata.csv or metadata.jsonl")


def _read(table: Path) -> Iterator[tuple[int, dict]]:
    """Numbered rows; the first below a CSV's header, and the first line of JSON, is 1."""
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            if table.suffix == ".csv":
                yield from enumerate(csv.DictReader(file), start=1)
            else:
                for number, line in enumerate(file, start=1):
                    entry = json.loads(line)
                    if not isinstance(entry, dict):
                        raise InputError(f"line {number} of {table} is not a JSON object")
                    yield number, {"image": entry.get("file_name"), **entry}
    except UnicodeDecodeError as error:
        raise InputError(f"{table} is not UTF-8 (byte {error.start}); save it as UTF-8") from None
    except ValueError as error:
        raise InputError(f"{table} is not one JSON object a line: {error}") from None


def _check_columns(entries: list[tuple[int, dict]], names: dict[str, str], table: Path) -> None:
    there = {column for _, entry in entries for column in entry}
    for name in ("image", "question", "answer"):
        if entries and names[name] not in there:
            known = ", ".join(sorted(there))
            raise InputError(f"{table} has no column {names[name]!r} but {known}; map it: --data.columns.{name} NAME")


def _fault(entry: dict, folder: Path) -> str:
    """What is wrong with a row, "" where nothing is."""
    for name in ("image", "question", "answer"):
        if entry[name] is None or not str(entry[name]).strip():
            return f"no {name}"
    if entry["split"] not in (None, "train", "validation", "test"):
        return f"split is {entry['split']!r}, not train, validation or test"
    try:
        read_image(folder / str(entry["image"]))
    except InputError as error:
        return str(error)
    return ""


def _row(entry: dict, number: int, folder: Path, split: str | None) -> dict:
    given = {name: clean(entry[name]) for name in ("question_type", "group") if entry[name]}
    if entry["label"]:
        given["label"] = [clean(name) for name in str(entry["label"]).split("|")]
    return make_row(
        id=clean(entry["id"] or number),
        image=image_file(folder / str(entry["image"])),
        image_id=str(entry["image"]),
        question=clean(entry["question"]),
        answer=clean(entry["answer"]),
        **given,
        split=split,
    )


def _report(bad: list[str], total: int, table: Path, on_bad_rows: str) -> None:
    """Raise, or say, which rows are bad."""
    if not bad:
        return
    more = f"\n… and {len(bad) - SHOWN} more" if len(bad) > SHOWN else ""
    listed = "\n".join(bad[:SHOWN]) + more
    if on_bad_rows == "raise":
        raise InputError(
            f"{len(bad)} of {total} rows of {table} are bad; mend them, or --data.on_bad_rows skip\n{listed}"
        )
    logger.warning("%s: skipped %d of %d rows\n%s", table, len(bad), total, listed)
