"""The data sets, one small file each, all with the same columns: `load_split("phantom", "train")`.

A data set is a function `load(split, data_dir, **options) -> datasets.Dataset` with the columns of `FEATURES`, and one
line in `REGISTRY`. What its file shares with the others is in `rows.py` and `files.py`.
"""

from collections.abc import Callable, Sequence
from hashlib import sha256
from pkgutil import resolve_name
from typing import get_type_hints

from datasets import Dataset, Features, Image, List, Value

from processing.errors import InputError, check_keys, check_types

SPLITS = ("train", "validation", "test")
DEFAULT_DATASET = "phantom"

FEATURES = Features(
    {
        "id": Value("string"),  # of the row, unique within the data set
        "image": Image(decode=False),  # {"path", "bytes"}; `processing.images.read_image` decodes it
        "more_images": List(Image(decode=False)),  # those after the first, where a row is about several; mostly []
        "image_id": Value("string"),  # rows about the same image (or images) share it; intervals are clustered by it
        "question": Value("string"),  # "" asks for a report
        "answer": Value("string"),
        "answers": List(Value("string")),  # every accepted reference, `answer` first; [] in a blind test set
        "answer_type": Value("string"),  # "closed" or "open"; "" in a blind test set
        "question_type": Value("string"),  # lower case, e.g. "presence", "side"; "" where the data set names none
        "organ": Value(
            "string"
        ),  # or body region that the image shows, lower case; "" where the data set does not say
        "label": List(Value("string")),  # classes that hold: [] where none does, None where that is unknown
        "boxes": List({"label": Value("string"), "box": List(Value("float32"), 4)}),  # x0 y0 x1 y1 in original pixels
        "group": Value("string"),  # patient, case or image: what must never stand on both sides of a split
    }
)

REGISTRY = {
    "phantom": "processing.datasets.phantom:load",
    "vqa_rad": "processing.datasets.vqa_rad:load",
    "vqa_med_2019": "processing.datasets.vqa_med:load_2019",
    "vqa_med_2020": "processing.datasets.vqa_med:load_2020",
    "vqa_med_2021": "processing.datasets.vqa_med:load_2021",
    "slake": "processing.datasets.slake:load",
    "path_vqa": "processing.datasets.path_vqa:load",
    "pmc_vqa": "processing.datasets.pmc_vqa:load",
    "mimic_cxr": "processing.datasets.mimic_cxr:load",
    "mimic_cxr_vqa": "processing.datasets.mimic_cxr_vqa:load",
    "custom": "processing.datasets.custom:load",
    "parquet_shards": "processing.datasets.parquet_shards:load",
}


def load_split(name: str, split: str, data_dir: str | None = None, /, **options) -> Dataset:
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
    load: Callable[..., Dataset] = resolve_name(REGISTRY[name])
    hints = get_type_hints(load)
    check_keys(options, hints.keys() - {"split", "data_dir", "return"}, f"option of {name}")
    rows = load(split, data_dir, **check_types(options, hints))
    if len(rows) == 0:
        raise InputError(f"the {split} split of {name} is empty; check its data_dir and options {options}")
    return rows


def images_of(row: dict) -> list[dict]:
    """The image of a row and, of a study, its further views."""
    return [row["image"], *row.get("more_images", ())]


def fingerprint(rows: Dataset) -> str:
    """Hash of the rows' ids, images' names, questions and answers, wherever the files lie."""
    columns = ("id", "image_id", "question", "answers")
    return sha256(repr([rows[name][:] for name in columns]).encode()).hexdigest()[:16]


def class_names(train_rows: Dataset) -> list[str]:
    """Names of the classes of the train split, sorted: those that a model has an output for (`config.id2label`)."""
    return sorted({name for names in train_rows["label"] for name in names or ()})


def count_unseen(rows: Dataset, names: Sequence[str]) -> int:
    """Number of rows with a class that is not among the names; they are still there to generate the answer of."""
    known = set(names)
    return sum(not known.issuperset(label or ()) for label in rows["label"])
