"""What the data sets share: a row and its defaults, splits by hash, image files, and copies on the Hub."""

import hashlib
import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import datasets
from datasets import Dataset
from datasets.exceptions import DatasetsError
from huggingface_hub import snapshot_download

from processing.datasets import FEATURES
from processing.errors import InputError

IMAGE_SUFFIXES = {".bmp", ".dcm", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
logger = logging.getLogger(__name__)


def make_row(*, answer: str, image_id: str, **columns) -> dict:
    """A row of `FEATURES`; what the data set does not say follows from the answer and the image."""
    return {
        "image_id": image_id,
        "more_images": [],
        "answer": answer,
        "answers": [answer] if answer else [],
        "answer_type": "closed" if answer.lower() in {"yes", "no"} else "open",
        "question_type": "",
        "label": [answer.lower()] if answer else [],
        "boxes": [],
        "group": image_id,
        **columns,
    }


def to_dataset(rows: Sequence[dict]) -> Dataset:
    """Rows, which may have more keys than `FEATURES`, to a data set."""
    return Dataset.from_dict({name: [row[name] for row in rows] for name in FEATURES}, features=FEATURES)


def clean(text: str | int) -> str:
    """Any run of white space, tabs included, becomes one blank; outer white space goes."""
    return " ".join(str(text).split())


def uniform(purpose: str, group: str) -> float:
    """Hash to [0, 1), the same on every machine."""
    digest = hashlib.sha256(f"{purpose}/{group}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def carve(rows: list[dict], part: str, fraction: float, seed: int) -> None:
    """Move the rows of a share of the groups from the split "train" to the split `part`, in place.

    Raises:
        InputError: fraction out of range.
    """
    if not 0 <= fraction < 1:
        raise InputError(f"{part}_fraction must be at least 0 and below 1, not {fraction}")
    groups = sorted({row["group"] for row in rows if row["split"] == "train"}, key=lambda g: uniform(str(seed), g))
    chosen = set(groups[: round(fraction * len(groups))])
    for row in rows:
        if row["split"] == "train" and row["group"] in chosen:
            row["split"] = part


def image_file(path: Path) -> dict:
    """The entry of the column `image` for a file."""
    return {"path": str(path), "bytes": None}


def images_below(folder: Path) -> dict[str, Path]:
    """Name without suffix → file, of all images in a folder and below."""
    return {path.stem: path for path in sorted(folder.rglob("*")) if path.suffix.lower() in IMAGE_SUFFIXES}


def check_images(rows: Iterable[dict]) -> None:
    """Raise an InputError where files of images are missing."""
    names = {image["path"] for row in rows for image in [row["image"], *row["more_images"]] if image["bytes"] is None}
    missing = sorted(name for name in names if not Path(name).is_file())
    if missing:
        raise InputError(f"{len(missing)} of {len(names)} images are missing, the first is {missing[0]}")


def report_dropped(name: str, reasons: Counter, kept: int) -> None:
    """Say how many rows a data set left out, and why."""
    if reasons:
        why = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
        logger.warning("%s: left out %d of %d: %s", name, reasons.total(), reasons.total() + kept, why)


def local_folder(name: str, data_dir: str | None, hub_id: str | None, marker: str, where: str) -> Path:
    """The folder of a data set: the given one, or a snapshot of a Hub id.

    Args:
        name: of the data set, for messages.
        data_dir: folder or Hub id; None for `hub_id`.
        hub_id: default Hub id, None where there is none.
        marker: glob pattern of a file that the folder must hold, at any depth.
        where: where to get it, for messages.

    Raises:
        InputError: no such folder or Hub id, or it holds something else.
    """
    source = data_dir or hub_id
    if source is None:
        raise InputError(f"{name} needs a data_dir: {where}")
    folder = Path(source)
    if not folder.exists() and source.count("/") == 1 and not source.startswith((".", "/")):
        try:
            folder = Path(snapshot_download(source, repo_type="dataset"))
        except OSError as error:
            reason = str(error).partition("\n")[0]
            raise InputError(f"{name}: {source} is neither a local folder nor loads from the Hub ({reason})") from None
    if not folder.is_dir():
        raise InputError(f"{name}: there is no folder {folder}; {where}")
    if next(folder.rglob(marker), None) is None:
        raise InputError(f"{name}: {folder} holds no {marker}; {where}")
    return folder


def read_hub(name: str, data_dir: str, splits: Sequence[str], where: str) -> list[dict]:
    """Rows, with "split", of a Hub id (or a copy of its parquet files) with the columns image, question, answer.

    Raises:
        InputError: it does not load, or has other splits or columns.
    """
    # Without this check `load_dataset` turns whatever files a wrong folder holds into a data set in the user's cache.
    if Path(data_dir).is_dir() and next(Path(data_dir).rglob("*.parquet"), None) is None:
        raise InputError(f"{name}: {data_dir} holds no parquet; {where}")
    try:
        loaded = datasets.load_dataset(data_dir)
    except (OSError, ValueError, DatasetsError) as error:
        place = "local folder" if Path(data_dir).is_dir() else "local folder or Hub id"
        reason = str(error).partition("\n")[0]
        raise InputError(f"{name} does not load from the {place} {data_dir} ({reason}); {where}") from error

    rows = []
    for split in splits:
        if split not in loaded or not {"image", "question", "answer"} <= set(loaded[split].column_names):
            raise InputError(f"{name}: {data_dir} has no {split} split with the columns image, question, answer")
        entries = loaded[split].cast_column("image", datasets.Image(decode=False))
        rows += [_hub_row(name, entry, f"{split}-{number}", split) for number, entry in enumerate(entries)]
    return rows


def _hub_row(name: str, entry: dict, row_id: str, split: str) -> dict:
    if entry["image"] is None or entry["image"]["bytes"] is None:
        raise InputError(f"row {row_id} of {name} holds no image bytes")
    image_id = hashlib.sha256(entry["image"]["bytes"]).hexdigest()[:16]
    question, answer = clean(entry["question"]), clean(entry["answer"])
    row = make_row(id=row_id, image=entry["image"], image_id=image_id, question=question, answer=answer)
    return {**row, "split": split}
