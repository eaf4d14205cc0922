"""VQA-RAD: 2248 clinical questions about 314 radiology images (Lau et al. 2018, CC0), official or Hub files.

`data_dir` is one of
- a folder with the official files: `vqa_rad.json` and `images/` (or the OSF names of both), from https://osf.io/89kps/
- the Hub id `flaviagiammarino/vqa-rad` (default), or a folder in its schema: image, question, answer; train and test.

The official test set shares 202 of its 203 images with train; `scheme="image_disjoint"` is the split without that.
"""

import json
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

from datasets import Dataset

from processing.datasets.rows import (
    clean,
    image_name,
    make_row,
    require_fraction,
    require_images,
    split_validation,
    to_dataset,
    uniform,
)
from processing.datasets.source_files import read_hub
from processing.errors import InputError, nearest

HUB_ID = "flaviagiammarino/vqa-rad"
WHERE_TO_GET_IT = f"get the official files from https://osf.io/89kps/ or set data_dir to the Hub id {HUB_ID}"
JSON_NAMES = ("vqa_rad.json", "VQA_RAD Dataset Public.json")
FOLDER_NAMES = ("images", "VQA_RAD Image Folder")
SCHEMES = ("official", "image_disjoint")
TEST_FRACTION = 0.2  # of the images, in the scheme "image_disjoint"
QUESTION_TYPES = {
    "pres": "presence",
    "prse": "presence",
    "pos": "position",
    "abn": "abnormality",
    "attrib": "attribute",
    "atrib": "attribute",
}

ORGANS = {"abd": "abdomen"}


def load(
    split: str,
    data_dir: str | None = None,
    *,
    scheme: str = "official",
    validation_fraction: float = 0.1,
    seed: int = 0,
) -> Dataset:
    """One split of VQA-RAD with the columns of `FEATURES`.

    Args:
        split: "train", "validation" or "test".
        data_dir: folder or Hub id, see the top of this file.
        scheme: "official" keeps the published test set and takes validation from its train set, by image.
            "image_disjoint" shares no image between any two splits; about `TEST_FRACTION` of the images are test, the
            same ones for every seed.
        validation_fraction: share of the images outside test that become validation, in [0, 1).
        seed: of the choice of validation images.

    Raises:
        InputError: unknown scheme, fraction out of range, data not found, broken or incomplete.
    """
    if scheme not in SCHEMES:
        raise InputError(f"unknown scheme {scheme!r} of vqa_rad; {nearest(scheme, SCHEMES)}")
    require_fraction("validation_fraction", validation_fraction)

    rows = _read(data_dir or HUB_ID)
    if scheme == "image_disjoint":
        for row in rows:
            row["split"] = "test" if uniform("test", row["group"]) < TEST_FRACTION else "train"
    split_validation(rows, validation_fraction, seed)
    return to_dataset([row for row in rows if row["split"] == split])


def paraphrase_pairs(data_dir: str | None = None) -> list[tuple[str, str]]:
    """Ids of the pairs of questions that say the same in other words; none from the Hub, where nothing tells them.

    A pair is a question and its own rephrasing, in "strict agreement" by the official file, about one image and with
    one answer.

    Raises:
        InputError: as of `load`.
    """
    path = _official_file(data_dir or HUB_ID)
    return [] if path is None else _parse(path, _twins)


def _twins(entries: list[dict]) -> list[tuple[str, str]]:
    linked: dict[str, list[dict]] = {}
    for entry in entries:
        linked.setdefault(entry["qid_linked_id"], []).append(entry)
    pairs = [(first, second) for together in linked.values() for first, second in combinations(together, 2)]
    return [(str(first["qid"]), str(second["qid"])) for first, second in pairs if _say_the_same(first, second)]


def _say_the_same(first: dict, second: dict) -> bool:
    """Whether one is the other's rephrasing; questions are linked for other reasons, too."""
    questions = [clean(entry["question"]) for entry in (first, second)]
    rephrased = [clean(entry.get("question_rephrase", "")) for entry in (first, second)]
    return (
        first["question_relation"] == second["question_relation"] == "strict agreement"
        and (questions[0] == rephrased[1] or questions[1] == rephrased[0])
        and questions[0].lower() != questions[1].lower()
        and first["image_name"] == second["image_name"]
        and clean(first["answer"]).lower() == clean(second["answer"]).lower()
    )


def _read(data_dir: str) -> list[dict]:
    """All rows: the columns of `FEATURES`, and "split", the published one: "train" or "test"."""
    path = _official_file(data_dir)
    return _read_hub(data_dir) if path is None else _read_official(path)


def _official_file(data_dir: str) -> Path | None:
    """The official JSON file in a folder, None where it is in the Hub's schema."""
    return next((Path(data_dir, name) for name in JSON_NAMES if Path(data_dir, name).is_file()), None)


def _read_official(path: Path) -> list[dict]:
    folder = next((path.parent / name for name in FOLDER_NAMES if (path.parent / name).is_dir()), None)
    if folder is None:
        raise InputError(f"no image folder {' or '.join(map(repr, FOLDER_NAMES))} beside {path}; {WHERE_TO_GET_IT}")
    rows = _parse(path, lambda entries: _official_rows(entries, folder))
    require_images(rows)
    return rows


def _parse(path: Path, take: Callable[[list[dict]], list]) -> list:
    """What `take` makes of the questions in the official file."""
    try:
        return take(json.loads(path.read_text(encoding="utf-8")))
    except KeyError as error:
        raise InputError(f"a question in {path} lacks the key {error}") from error
    except (ValueError, TypeError, AttributeError) as error:  # no JSON, or JSON of another shape
        raise InputError(f"{path} is not the JSON list of VQA-RAD questions: {error}") from error


def _official_rows(entries: list[dict], folder: Path) -> list[dict]:
    groups = _groups(entries)
    return [_official_row(entry, folder, groups[entry["image_name"]]) for entry in entries]


def _official_row(entry: dict, folder: Path, group: str) -> dict:
    kind = entry["question_type"].split(",")[0].strip().lower()  # of several, "POS, PRES", the first
    organ = clean(entry["image_organ"]).lower()
    row = make_row(
        id=str(entry["qid"]),
        image=folder / entry["image_name"],
        image_id=Path(entry["image_name"]).stem,
        question=entry["question"],
        answer=entry["answer"],
        answer_type=entry["answer_type"].strip().lower(),
        question_type=QUESTION_TYPES.get(kind, kind),
        organ=ORGANS.get(organ, organ),
        group=group,
    )
    return {**row, "split": "test" if entry["phrase_type"].startswith("test") else "train"}


def _groups(entries: list[dict]) -> dict[str, str]:
    """Image name → name of its group, the alphabetically first of the images that belong together: those of one
    patient's case, and those that rephrasings of one question are about (once each in the official file)."""
    parent = {entry["image_name"]: entry["image_name"] for entry in entries}

    def first(name: str) -> str:
        while parent[name] != name:
            name = parent[name]
        return name

    image_of: dict[str, str] = {}
    for entry in entries:
        for tie in (entry["image_case_url"], entry["qid_linked_id"]):
            pair = first(entry["image_name"]), first(image_of.setdefault(tie, entry["image_name"]))
            parent[max(pair)] = min(pair)
    return {name: Path(first(name)).stem for name in parent}


def _read_hub(data_dir: str) -> list[dict]:
    parts = read_hub(
        data_dir, ("train", "test"), name="VQA-RAD", hint=WHERE_TO_GET_IT, or_else=f"no {JSON_NAMES[0]} and "
    )
    return [
        _hub_row(entry, f"{split}-{number}", split)
        for split, entries in parts.items()
        for number, entry in enumerate(entries)
    ]


def _hub_row(entry: dict, row_id: str, split: str) -> dict:
    row = make_row(
        id=row_id,
        image=entry["image"],
        image_id=image_name(entry["image"], f"row {row_id} of the VQA-RAD data set"),
        question=entry["question"],
        answer=entry["answer"],
    )
    return {**row, "split": split}
