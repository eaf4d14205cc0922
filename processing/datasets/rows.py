"""What all data sets do with rows: fill the common columns, check images, split validation off, log what is left."""

import hashlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import EllipsisType

from datasets import Dataset, concatenate_datasets

from processing.datasets import FEATURES, SPLITS
from processing.errors import InputError
from processing.shapes import parse_json

logger = logging.getLogger(__name__)

YES_NO = ("yes", "no")


def make_row(
    *,
    id: str,
    image_id: str,
    question: str,
    answer: str,
    image: str | Path | dict | None = None,
    answers: Sequence[str] | None = None,
    answer_type: str | None = None,
    question_type: str = "",
    organ: str = "",
    label: Iterable[str] | EllipsisType | None = ...,
    boxes: Sequence[dict] = (),
    group: str | None = None,
    more_images: Iterable[str | Path] = (),
) -> dict:
    """A row with the columns of `FEATURES`, texts cleaned.

    Args:
        id, image_id, question, answer, question_type, organ, boxes: as in `FEATURES`.
        label: names of the classes that hold, or None; by default the answer, in lower case, where there is one.
        image: a path, or the entry of a `datasets.Image(decode=False)` column; None if `to_dataset` gets it apart.
        answers: every accepted reference; the answer alone by default, none where it is empty (a blind test set).
        answer_type: by default "closed" where the answer is yes or no, "" where there is none, else "open".
        group: the image by default.
        more_images: paths of the row's images after the first.
    """
    answer = clean(answer)
    if answers is None:
        answers = [answer] if answer else []
    if answer_type is None:
        answer_type = ("closed" if answer.lower() in YES_NO else "open") if answer else ""
    if label is ...:
        label = [answer.lower()] if answer else None
    return {
        "id": id,
        "image": _file(image) if isinstance(image, str | Path) else image,
        "more_images": [_file(path) for path in more_images],
        "image_id": image_id,
        "question": clean(question),
        "answer": answer,
        "answers": [clean(text) for text in answers],
        "answer_type": answer_type,
        "question_type": question_type,
        "organ": organ,
        "label": label if label is None else list(label),
        "boxes": list(boxes),
        "group": group or image_id,
    }


def to_dataset(rows: Sequence[Mapping], images: Dataset | None = None) -> Dataset:
    """Rows to a data set with the columns of `FEATURES`.

    Args:
        rows: of `make_row`; other keys are left out.
        images: a data set with the column image, one for each row, which stays where it is, memory-mapped; the rows'
            own images are not used then.
    """
    features = FEATURES.copy()
    if images is not None:
        del features["image"]
    columns = Dataset.from_dict({name: [row[name] for row in rows] for name in features}, features=features)
    if images is None:
        return columns
    together = concatenate_datasets([columns, images.select_columns("image")], axis=1)
    return together.select_columns(list(FEATURES)).cast(FEATURES)


def clean(text: str | int | float) -> str:
    """Any run of white space, tabs included, becomes one blank; outer white space goes."""
    return " ".join(str(text).split())


def image_name(image: dict | None, where: str) -> str:
    """Image id of a column's entry, whose files have no names: a hash of its bytes.

    Raises:
        InputError: no bytes in it; `where` is what it is an entry of.
    """
    if image is None or image["bytes"] is None:
        raise InputError(f"{where} holds no image bytes")
    return hashlib.sha256(image["bytes"]).hexdigest()[:16]


def require_images(rows: Iterable[dict], looked_in: str | Path | None = None) -> None:
    """Refuse rows whose image files are not there.

    Raises:
        InputError: how many are missing, of how many, and the first of them.
    """
    names = sorted({image["path"] for row in rows for image in (row["image"], *row["more_images"])})
    missing = [name for name in names if not Path(name).is_file()]
    if missing:
        where = f" (looked in {looked_in})" if looked_in else ""
        raise InputError(f"{len(missing)} of {len(names)} images are missing{where}, the first is {missing[0]}")


def uniform(purpose: str, group: str) -> float:
    """Hash to [0, 1), the same on every machine."""
    digest = hashlib.sha256(f"{purpose}/{group}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def split_validation(rows: Iterable[dict], fraction: float, seed: int) -> None:
    """Move a share of the groups of the rows' "split" "train" to "validation", the same whatever the rows' order.

    Raises:
        InputError: the fraction is not in [0, 1).
    """
    require_fraction("validation_fraction", fraction)
    train = [row for row in rows if row["split"] == "train"]
    groups = sorted({row["group"] for row in train}, key=lambda group: (uniform(str(seed), group), group))
    validation = set(groups[: round(fraction * len(groups))])
    for row in train:
        if row["group"] in validation:
            row["split"] = "validation"


def require_fraction(option: str, value: float) -> None:
    if not 0 <= value < 1:
        raise InputError(f"{option} must be at least 0 and below 1, not {value}")


def exclude_images(rows: Dataset, path: str, name: str) -> Dataset:
    """The rows but for those about images that another data set has too, and logs how many these are.

    Args:
        rows: of a split.
        path: report of `processing.datasets.split_overlap`, with the data set as its b.
        name: of the split.

    Raises:
        InputError: no such report, or nothing left.
    """
    try:
        images = set(parse_json(Path(path).read_text(encoding="utf-8"))["image_ids"])
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"{path} is no report of flamingo-med overlap") from None
    kept = [i for i, image_id in enumerate(rows["image_id"]) if image_id not in images]
    if not kept:
        raise InputError(f"{path} names all images of {name}")
    log_dropped(name, len(rows), {f"about images that {path} names": len(rows) - len(kept)})
    return rows.select(kept)


def split_name(name: str) -> str | None:
    """One of `SPLITS` from any usual name of it; None where it is none.

    >>> split_name("Val")
    'validation'
    """
    name = name.strip().lower()
    return name if name in SPLITS else {"val": "validation", "valid": "validation", "validate": "validation"}.get(name)


def log_dropped(what: str, total: int, reasons: Mapping[str, int]) -> None:
    """Log how many of the `total` things are excluded, and why; nothing where all are used."""
    dropped = sum(reasons.values())
    if dropped:
        why = ", ".join(f"{count} {reason}" for reason, count in reasons.items() if count)
        logger.info(f"{what}: {dropped} of {total} excluded ({why})")


def _file(path: str | Path) -> dict:
    return {"path": str(path), "bytes": None}
