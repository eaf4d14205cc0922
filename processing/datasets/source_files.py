"""The files that data sets are handed out as: tables, JSON, text, Hub repositories; with errors of one sentence."""

import csv
import gzip
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import datasets
from datasets import Dataset
from datasets.exceptions import DatasetsError
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from processing.errors import InputError, check_path, nearest, reason
from processing.shapes import parse_json

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")

LONGEST_FIELD = 2**24  # of a CSV file; the default of `csv`, 128 KiB, is shorter than some reports


def require_folder(data_dir: str | None, name: str, hint: str) -> Path:
    """The folder of a data set that has no other source.

    Raises:
        InputError: none given, or none there.
    """
    if data_dir is None:
        raise InputError(f"{name} needs --data_dir; {hint}")
    if not Path(data_dir).is_dir():
        raise InputError(f"no folder at {data_dir}; {hint}")
    return Path(data_dir)


def find_file(folder: Path, patterns: Iterable[str]) -> Path | None:
    """The file for the first pattern that matches any: the least deep one, and of those the first by name."""
    for pattern in patterns:
        found = sorted(folder.glob(pattern), key=lambda path: (len(path.parts), str(path)))
        if found:
            return found[0]
    return None


def find_images(folder: Path) -> dict[str, Path]:
    """Name without suffix → path, of every image file in the folder or beneath."""
    files = sorted(folder.rglob("*"), reverse=True)
    return {path.stem: path for path in files if path.suffix.lower() in IMAGE_SUFFIXES}


def read_text(path: Path) -> str:
    """A UTF-8 text file, its line ends all newlines; `splitlines` would also split at marks inside of texts.

    Raises:
        InputError: not there, or no UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as UTF-8 text: {_reason(error)}") from None


def read_json(path: Path) -> list[dict]:
    """A JSON list of objects.

    Raises:
        InputError: not there, or something else.
    """
    try:
        entries = parse_json(read_text(path))
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"{path} cannot be read as JSON: {_reason(error)}") from None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise InputError(f"{path} is not a JSON list of objects")
    return entries


def read_csv(path: Path, columns: Iterable[str]) -> list[dict[str, str]]:
    """Rows of a CSV file with a header, plain or .gz; a missing field is "", extra ones are under None.

    Args:
        path: of the file.
        columns: what the header must have; it may have more.

    Raises:
        InputError: not there, broken, without rows, or a column is missing.
    """
    opener = gzip.open if path.suffix == ".gz" else open
    limit = csv.field_size_limit(LONGEST_FIELD)  # of the whole process
    try:
        with opener(path, "rt", encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file, restval=""))
    except (OSError, EOFError, ValueError, csv.Error, zlib.error) as error:
        raise InputError(f"{path} cannot be read: {_reason(error)}") from None
    finally:
        csv.field_size_limit(limit)
    _require_columns(path, rows[:1], columns)
    return rows


def read_jsonl(path: Path, columns: Iterable[str]) -> list[dict[str, Any]]:
    """Rows of a JSONL file, {} for a line that is no JSON object; blank lines are skipped.

    Args:
        path: of the file.
        columns: what some row must have.

    Raises:
        InputError: not there, without rows, or a column is missing in all of them.
    """
    rows = [_parse(line) for line in read_text(path).split("\n") if line.strip()]
    _require_columns(path, rows, columns)
    return rows


def _parse(line: str) -> dict[str, Any]:
    try:
        row = parse_json(line)
    except ValueError:
        return {}
    return row if isinstance(row, dict) else {}


def _require_columns(path: Path, rows: Sequence[dict], columns: Iterable[str]) -> None:
    if not rows:
        raise InputError(f"{path} holds no rows")
    known = {str(name) for row in rows for name in row if name is not None}
    for column in columns:
        if column not in known:
            raise InputError(f"{path} has no column {column!r}; {nearest(column, known)}")


def read_hub(data_dir: str, splits: Sequence[str], *, name: str, hint: str, or_else: str = "") -> dict[str, Dataset]:
    """The splits of a Hub repository, or of a local copy of one, in the schema image, question, answer.

    Args:
        data_dir: Hub id or local folder with parquet files.
        splits: those it must have.
        name: of the data set, in error messages.
        hint: ending of error messages, where to get the data.
        or_else: what else was looked for in a local folder.

    Returns:
        For each split a memory-mapped data set with undecoded images.

    Raises:
        InputError: it does not load, or lacks a split or a column.
    """
    check_path("data_dir", data_dir, hint)
    # Without this check `load_dataset` turns whatever files a wrong folder holds into a data set in the user's cache.
    if Path(data_dir).is_dir() and next(Path(data_dir).rglob("*.parquet"), None) is None:
        raise InputError(f"{name} not found: {data_dir} holds {or_else}no parquet; {hint}")
    try:
        found = datasets.load_dataset(data_dir)
    except (OSError, ValueError, DatasetsError) as error:
        place = "local folder" if Path(data_dir).is_dir() else "local folder or Hub id"
        raise InputError(f"{name} does not load from the {place} {data_dir} ({reason(error)}); {hint}") from error
    columns = ("image", "question", "answer")
    for split in splits:
        if split not in found or not set(columns) <= set(found[split].column_names):
            raise InputError(f"{data_dir} has no {split} split with the columns {', '.join(columns)}")
    return {split: found[split].cast_column("image", datasets.Image(decode=False)) for split in splits}


def fetch(data_dir: str, tables: Sequence[str], archive: str, hint: str) -> tuple[Path, Path]:
    """Folder of the tables and folder of the images: a local folder as it is, or files of a Hub repository.

    Args:
        data_dir: local folder, or Hub id of a data set that keeps its images in a zip archive.
        tables: names of the tables.
        archive: name of that archive; it is unpacked into the cache of `datasets`.
        hint: ending of error messages, where to get the data.

    Raises:
        InputError: neither a folder nor a repository that can be reached.
    """
    if Path(data_dir).is_dir():
        return Path(data_dir), Path(data_dir)
    check_path("data_dir", data_dir, hint)
    try:
        snapshot = snapshot_download(data_dir, repo_type="dataset", allow_patterns=[*tables, archive])
    except (OSError, ValueError, HfHubHTTPError, HFValidationError) as error:
        raise InputError(f"neither a folder nor a Hub id: {data_dir} ({reason(error)}); {hint}") from None
    if not Path(snapshot, archive).is_file():
        raise InputError(f"the Hub repository {data_dir} has no {archive}; {hint}")
    return Path(snapshot), Path(datasets.DownloadManager().extract(str(Path(snapshot, archive))))


def _reason(error: Exception) -> str:
    return str(error).partition("\n")[0]
