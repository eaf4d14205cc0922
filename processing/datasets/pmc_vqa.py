"""PMC-VQA: multiple-choice questions about figures of PubMed Central articles (Zhang et al. 2023, CC BY-SA).

`data_dir` is a folder, or a Hub id (default `xmcmic/PMC-VQA`), with `train.csv` and `test.csv` (or `train_2.csv` and
`test_2.csv`) and the figures, in a folder or `images.zip`. The set has no validation split: it is taken from train, by
figure.
"""

import csv
from pathlib import Path

from datasets import Dataset, DownloadManager

from processing.datasets.rows import (
    carve,
    check_images,
    clean,
    image_file,
    images_below,
    local_folder,
    make_row,
    to_dataset,
)
from processing.errors import InputError

HUB_ID = "xmcmic/PMC-VQA"
WHERE = f"set data_dir to the Hub id {HUB_ID}"
LETTERS = "ABCD"


def load(
    split: str, data_dir: str | None = None, *, validation_fraction: float = 0.02, seed: int = 0, version: int = 1
) -> Dataset:
    """One split with the columns of `FEATURES`.

    Args:
        split: "train", "validation" or "test".
        data_dir: folder or Hub id, see the top of this file.
        validation_fraction: share of the figures of train that become validation.
        seed: of that choice.
        version: 1 for `train.csv`, 2 for `train_2.csv`, without compound figures.

    Raises:
        InputError: data not found, or a row without its columns.
    """
    name = f"{'test' if split == 'test' else 'train'}{'' if version == 1 else f'_{version}'}.csv"
    root = local_folder("pmc_vqa", data_dir, HUB_ID, name, WHERE)
    path = next(root.rglob(name))
    archive = path.parent / ("images.zip" if version == 1 else f"images_{version}.zip")
    images = images_below(Path(DownloadManager().extract(str(archive))) if archive.is_file() else root)
    with path.open(encoding="utf-8", newline="") as file:
        rows = [_row(entry, number, path, images) for number, entry in enumerate(csv.DictReader(file), start=1)]
    for row in rows:
        row["split"] = "test" if split == "test" else "train"
    carve(rows, "validation", validation_fraction, seed)
    rows = [row for row in rows if row["split"] == split]
    check_images(rows)
    return to_dataset(rows)


def _row(entry: dict, number: int, path: Path, images: dict[str, Path]) -> dict:
    try:
        figure = Path(entry["Figure_path"]).stem
        question, answer = clean(entry["Question"]), clean(entry["Answer"])
        choices = {letter: _choice(entry[f"Choice {letter}"], letter) for letter in LETTERS}
    except KeyError as error:
        raise InputError(f"{path} has no column {error}") from None
    if figure not in images:
        raise InputError(f"row {number} of {path} is about {figure}, but there is no such image")
    return make_row(
        id=str(number),
        image=image_file(images[figure]),
        image_id=figure,
        question=question,
        answer=choices.get(answer, answer),  # version 2 gives the letter, version 1 the words
        question_type="multiple choice",
        label=[],
    )


def _choice(text: str, letter: str) -> str:
    return clean(clean(text).removeprefix(f"{letter}:"))
