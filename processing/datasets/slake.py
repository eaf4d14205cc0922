"""SLAKE: 642 CT, MRI and X-ray images with questions, and boxes of organs and diseases (Liu et al. 2021, CC BY 4.0).

`data_dir` is a folder, or a Hub id (default `BoKelvin/SLAKE`), with `train.json`, `validate.json`, `test.json` and
`imgs/`, or `imgs.zip`. Only the English questions are read.
"""

import json
from pathlib import Path

from datasets import Dataset, DownloadManager

from processing.datasets.rows import check_images, clean, image_file, local_folder, make_row, to_dataset
from processing.errors import InputError

HUB_ID = "BoKelvin/SLAKE"
WHERE = f"get it from https://www.med-vqa.com/slake or set data_dir to the Hub id {HUB_ID}"
FILES = {"train": "train.json", "validation": "validate.json", "test": "test.json"}


def load(split: str, data_dir: str | None = None) -> Dataset:
    """One split with the columns of `FEATURES`; `boxes` holds those that question or answer name.

    Raises:
        InputError: data not found, broken or incomplete.
    """
    root = local_folder("slake", data_dir, HUB_ID, FILES[split], WHERE)
    path = next(root.rglob(FILES[split]))
    images = _images(path.parent)
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        rows = [_row(entry, images) for entry in entries if entry["q_lang"] == "en"]
    except KeyError as error:
        raise InputError(f"a question in {path} lacks the key {error}") from None
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is not the JSON list of SLAKE questions: {error}") from None
    check_images(rows)
    return to_dataset(rows)


def _images(folder: Path) -> Path:
    if (folder / "imgs").is_dir():
        return folder / "imgs"
    if (folder / "imgs.zip").is_file():  # as on the Hub; unpacked once into the cache of `datasets`
        unpacked = Path(DownloadManager().extract(str(folder / "imgs.zip")))
        return unpacked / "imgs" if (unpacked / "imgs").is_dir() else unpacked
    raise InputError(f"slake: {folder} holds neither imgs nor imgs.zip; {WHERE}")


def _row(entry: dict, images: Path) -> dict:
    question, answer = clean(entry["question"]), clean(entry["answer"])
    image = images / entry["img_name"]
    said = f"{question} {answer}".lower()
    return make_row(
        id=str(entry["qid"]),
        image=image_file(image),
        image_id=Path(entry["img_name"]).parent.name,
        question=question,
        answer=answer,
        answer_type=entry["answer_type"].strip().lower(),
        question_type=clean(entry["content_type"]).lower(),
        boxes=[box for box in _boxes(image.with_name("detection.json")) if box["label"].lower() in said],
    )


def _boxes(path: Path) -> list[dict]:
    """Boxes of an image; the file has a list of {name: [x, y, width, height]}."""
    if not path.is_file():
        return []
    found = [(name, box) for entry in json.loads(path.read_text()) for name, box in entry.items()]
    return [{"label": name, "box": [x, y, x + width, y + height]} for name, (x, y, width, height) in found]
