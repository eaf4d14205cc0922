"""Your own data: a table of image paths, questions and answers, or an imagefolder with metadata; checked up front.

`data_dir` is one of
- a table, `*.csv` or `*.jsonl`;
- a folder with a table for each split, `train.csv`, `validation.csv`, `test.csv`, or with a folder for each split that
  holds `metadata.csv` (an imagefolder); `.jsonl` as well;
- a folder with one table, `metadata.csv` or any other name; `.jsonl` as well.

Image paths are relative to their table, and lead to files below `data_dir` (of a table, its folder). One table may
name the split of each row in a column `split`; without it, test is chosen by a hash of the image. Validation, unless
there is one, is split off train by image. Optional columns: `group` (patient, case: stays in one split),
`question_type`, `label` (in CSV several classes are separated by `|`, and an empty cell is not known; in JSON lines
`[]` is none of them).
"""

import logging
import os
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

from datasets import Dataset

from processing.datasets import SPLITS
from processing.datasets.rows import (
    clean,
    image_name,
    make_row,
    require_fraction,
    split_name,
    split_validation,
    to_dataset,
    uniform,
)
from processing.datasets.source_files import read_csv, read_jsonl
from processing.errors import InputError, check_keys, nearest
from processing.images import damage
from processing.shapes import is_text

logger = logging.getLogger(__name__)

SUFFIXES = (".csv", ".jsonl")
REQUIRED = ("image", "question", "answer")
OPTIONAL = ("split", "group", "question_type", "label")
LAYOUT = "give a .csv or .jsonl table with the columns image, question and answer, or a folder with such tables"
ON_BAD_ROWS = ("raise", "skip")


def load(
    split: str,
    data_dir: str | None = None,
    *,
    columns: dict | None = None,
    on_bad_rows: str = "raise",
    check_images: bool = True,
    allow_outside: bool = False,
    test_fraction: float = 0.2,
    validation_fraction: float = 0.1,
    seed: int = 0,
) -> Dataset:
    """One split; every row of every table is checked first.

    Args:
        split: one of `SPLITS`.
        data_dir: table or folder, see the top of this file.
        columns: our name → the table's, for those that differ: {"image": "file"}. In a table named metadata, image is
            `file_name` unless it is given here.
        on_bad_rows: "raise" refuses data with a bad row; "skip" leaves bad rows out and prints how many. Both list
            every bad row with its number (the first after the header is 1) and the reason.
        check_images: read every image once, which finds damaged ones; else only look whether the files are there.
        allow_outside: take images from anywhere; else a row whose path leads out of the folder is bad.
        test_fraction: share of the images that become test, where the data name no split, in [0, 1).
        validation_fraction: share of train's images that become validation, where the data name none, in [0, 1).
        seed: of the choice of validation images; test images are the same for every seed.

    Raises:
        InputError: no table, a column that is missing, an unknown option, or bad rows.
    """
    columns = columns or {}
    check_keys(columns, [*REQUIRED, *OPTIONAL], "column of own")
    for name, column in columns.items():
        if not is_text(column):
            raise InputError(f"columns.{name} of own is {column!r}, not the name of a column")
    if on_bad_rows not in ON_BAD_ROWS:
        raise InputError(f"unknown on_bad_rows {on_bad_rows!r} of own; {nearest(on_bad_rows, ON_BAD_ROWS)}")
    require_fraction("test_fraction", test_fraction)

    rows, bad, total = [], [], 0
    for path, split_of_table in _tables(data_dir):
        names = {"image": "file_name" if path.stem == "metadata" else "image", **columns}
        names = {name: names.get(name, name) for name in (*REQUIRED, *OPTIONAL)}
        required = [names[name] for name in REQUIRED] + [names[name] for name in OPTIONAL if name in columns]
        entries = read_csv(path, required) if path.suffix == ".csv" else read_jsonl(path, required)
        total += len(entries)
        root = None if allow_outside else Path(data_dir) if os.path.isdir(data_dir) else path.parent
        for number, entry in enumerate(entries, start=1):
            reason = _problem(entry, names, path.parent, root, check_images)
            if reason:
                bad.append(f"row {number} of {path}: {reason}")
            else:
                ours = {name: entry.get(column) for name, column in names.items()}
                rows.append(_row(ours, path, number, split_of_table))
    _report(bad, total, on_bad_rows)
    _split(rows, test_fraction, validation_fraction, seed)
    return to_dataset([row for row in rows if row["split"] == split])


def _tables(data_dir: str | None) -> list[tuple[Path, str | None]]:
    """Each table and, where its name says it, its split."""
    if data_dir is None:
        raise InputError(f"own needs --data_dir; {LAYOUT}")
    path = Path(data_dir)
    if path.is_file() and path.suffix in SUFFIXES:
        return [(path, None)]
    if not path.is_dir():
        raise InputError(f"no table and no folder at {path}; {LAYOUT}")
    named = [
        (path / f"{name}{suffix}", split)
        for split in SPLITS
        for name in (split, f"{split}/metadata")
        for suffix in SUFFIXES
        if (path / f"{name}{suffix}").is_file()
    ]
    if named:
        twice = [split for split, count in Counter(split for _, split in named).items() if count > 1]
        if twice:
            raise InputError(f"{path} has several tables for the {twice[0]} split; keep one")
        return named
    tables = sorted(p for p in path.iterdir() if p.suffix in SUFFIXES)
    if len(tables) != 1:
        raise InputError(f"{path} holds {len(tables)} tables, none named for a split as train.csv is; {LAYOUT}")
    return [(tables[0], None)]


def _problem(entry: dict, names: dict[str, str], folder: Path, root: Path | None, check_images: bool) -> str | None:
    """Why a row of a table in a folder is bad; None if it is good. Never quotes a question or an answer.

    Images lie below root, or, where that is None, anywhere.
    """
    if not entry:
        return "it is not a JSON object"
    if None in entry:
        return "it has more fields than the header; put a text that holds a comma in quotes"
    for name in REQUIRED:
        value = entry.get(names[name])
        if value is None or not str(value).strip():
            return f"{names[name]} is empty"
        if isinstance(value, dict | list):
            return f"{names[name]} is not a text"
    for column in names.values():
        value = entry.get(column)
        if not all(is_text(str(part)) for part in (value if isinstance(value, list) else [value])):
            return f"{column} holds half a character (a lone surrogate)"
    split = entry.get(names["split"])
    if split and split_name(str(split)) is None:
        return f"{names['split']} is {split!r}, none of {', '.join(SPLITS)}"
    path = folder / str(entry[names["image"]]).strip()
    if not os.path.isfile(path):  # unlike Path.is_file, says no to a text that is too long for a path
        return f"the image file {path} does not exist"
    if root is not None and _leads_out(path, root):
        return f"the image file {path} is outside of {root}; if that is right, pass --data.allow_outside true"
    return damage({"path": str(path), "bytes": None}) if check_images else None


def _leads_out(path: Path, root: Path) -> bool:
    """Whether a path leaves a folder; links within the folder may lead anywhere, as whoever made it has made them."""
    by_name = ".." not in path.parts and Path(os.path.abspath(path)).is_relative_to(os.path.abspath(root))
    return not by_name and not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root))


def _row(entry: dict[str, Any], table: Path, number: int, split: str | None) -> dict:
    image = table.parent / str(entry["image"]).strip()
    label = entry["label"]
    names = label if isinstance(label, list) else str("" if label is None else label).split("|")
    names = [clean(name) for name in names if clean(name)]
    row = make_row(
        id=f"{split or table.stem}-{number}",
        image=image,
        image_id=_identity(str(image), image.stat().st_mtime_ns),
        question=entry["question"],
        answer=entry["answer"],
        question_type=str(entry["question_type"] or "").strip().lower(),
        label=names if names or isinstance(label, list) else None,
        group=clean("" if entry["group"] is None else entry["group"]),
    )
    return {**row, "split": split or split_name(str(entry["split"] or ""))}


@cache  # the splits of one data set are loaded one after the other, and each reads all rows
def _identity(path: str, mtime_ns: int) -> str:
    """What an image is called whatever its path: copies, and other spellings of one path, are one image."""
    try:
        return image_name({"bytes": Path(path).read_bytes()}, path)
    except OSError as error:
        raise InputError(f"the image file {path} cannot be read: {error.strerror}") from error


def _report(bad: list[str], total: int, on_bad_rows: str) -> None:
    """Refuse or announce bad rows, each of them by number and reason."""
    if not bad:
        return
    listed = "\n".join(f"  {line}" for line in bad)
    if on_bad_rows == "raise":
        raise InputError(f"{len(bad)} of {total} rows are bad; fix them, or pass --data.on_bad_rows skip:\n{listed}")
    logger.warning(f"{len(bad)} of {total} rows are bad and excluded:\n{listed}")


def _split(rows: list[dict], test_fraction: float, validation_fraction: float, seed: int) -> None:
    """Give a split to rows that name none, and a validation split to data without one."""
    unnamed = sum(row["split"] is None for row in rows)
    if 0 < unnamed < len(rows):
        raise InputError(f"{unnamed} of {len(rows)} rows name no split, the others do; name it in all rows or in none")
    for row in rows:
        row["split"] = row["split"] or ("test" if uniform("test", row["group"]) < test_fraction else "train")
    if not any(row["split"] == "validation" for row in rows):
        split_validation(rows, validation_fraction, seed)
