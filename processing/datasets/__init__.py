"""The data sets, one small file each, all with the same columns: `load_split("phantom", "train")`.

A data set is a function `load(split, data_dir, **options) -> datasets.Dataset` with the columns of `FEATURES`, and one
line in `REGISTRY`.
"""

from collections.abc import Callable
from hashlib import sha256
from importlib import import_module
from typing import get_type_hints

from datasets import Dataset, Features, Image, List, Value

from processing.errors import InputError, check_keys, check_types

SPLITS = ("train", "validation", "test")

FEATURES = Features(
    {
        "id": Value("string"),  # of the row, unique within the data set
        "image": Image(decode=False),  # {"path", "bytes"}; `processing.images.read_image` decodes it
        "image_id": Value("string"),  # rows about the same image share it; intervals are clustered by it
        "question": Value("string"),
        "answer": Value("string"),
        "answers": List(Value("string")),  # every accepted reference, `answer` first
        "answer_type": Value("string"),  # "closed" or "open"
        "question_type": Value("string"),  # lower case, e.g. "presence", "side"; "" where the data set names none
        "boxes": List({"label": Value("string"), "box": List(Value("float32"), 4)}),  # x0 y0 x1 y1 in original pixels
        "group": Value("string"),  # patient, case or image: what must never stand on both sides of a split
    }
)

REGISTRY = {
    "phantom": "processing.datasets.phantom",
    "sharded": "processing.datasets.sharded",
    "vqa_rad": "processing.datasets.vqa_rad",
}


def load_split(name: str, split: str, data_dir: str | None = None, **options) -> Dataset:
    """One split of a data set of the registry, with the columns of `FEATURES`.

    Args:
        name: a key of `REGISTRY`.
        split: one of `SPLITS`.
        data_dir: local folder or Hub id; each data set's file says what it expects, and its default.
        options: the data set's own keyword arguments.

    Raises:
        InputError: unknown name, split or option; data not found; no row in the split.
    """
    check_keys([name], REGISTRY, "data set")
    check_keys([split], SPLITS, f"split of {name}")
    load: Callable[..., Dataset] = import_module(REGISTRY[name]).load
    hints = get_type_hints(load)
    check_keys(options, hints.keys() - {"split", "data_dir", "return"}, f"option of {name}")
    rows = load(split, data_dir, **check_types(options, hints))
    if len(rows) == 0:
        raise InputError(f"the {split} split of {name} is empty; check its data_dir and options {options}")
    return rows


def fingerprint(rows: Dataset) -> str:
    """Hash of the rows' ids, images' names, questions and answers, wherever the files lie."""
    columns = ("id", "image_id", "question", "answers")
    return sha256(repr([rows[name][:] for name in columns]).encode()).hexdigest()[:16]
