"""PMC-VQA: multiple-choice questions about figures of biomedical articles (Zhang et al. 2023).

`data_dir` is a folder with `train.csv`, `test.csv` (or the second version's `train_2.csv`, `test_2.csv`) and the
images beneath it, or the Hub id `xmcmic/PMC-VQA` (default; images.zip has 19 GB, that of version 2 has 2 GB).
Validation is split off train, by image.
"""

import re
from pathlib import Path

from datasets import Dataset

from processing.datasets.rows import make_row, require_images, split_validation, to_dataset
from processing.datasets.source_files import fetch, find_file, find_images, read_csv
from processing.errors import InputError

HUB_ID = "xmcmic/PMC-VQA"
WHERE_TO_GET_IT = f"set data_dir to the Hub id {HUB_ID} or to a folder with its files"
CHOICES = ("A", "B", "C", "D")
COLUMNS = ("Figure_path", "Question", "Answer", *(f"Choice {letter}" for letter in CHOICES))


def load(
    split: str,
    data_dir: str | None = None,
    *,
    version: int = 1,
    choices: bool = False,
    validation_fraction: float = 0.02,
    seed: int = 0,
) -> Dataset:
    """One split; the answer is the text of the right choice.

    Args:
        split: one of `SPLITS`.
        data_dir: folder or Hub id, see the top of this file.
        version: 1, or 2, whose images are single panels.
        choices: write the choices after the question, "… A: … B: …", and accept the letter as an answer too.
        validation_fraction: share of train's images that become validation, in [0, 1).
        seed: of the choice of validation images.

    Raises:
        InputError: unknown version; table, column or images not found; an answer that is none of the choices.
    """
    if version not in (1, 2):
        raise InputError(f"version of pmc_vqa is 1 or 2, not {version}")
    ending = "" if version == 1 else "_2"
    tables = [f"train{ending}.csv", f"test{ending}.csv"]
    folder, image_folder = fetch(data_dir or HUB_ID, tables, f"images{ending}.zip", WHERE_TO_GET_IT)
    name = f"{'test' if split == 'test' else 'train'}{ending}.csv"
    path = find_file(folder, [name])
    if path is None:
        raise InputError(f"no {name} of PMC-VQA in {folder}; {WHERE_TO_GET_IT}")
    images = find_images(image_folder)
    rows = []
    for number, entry in enumerate(read_csv(path, COLUMNS), start=1):
        row = _row(entry, f"{path.stem}-{number}", images, image_folder, choices)
        rows.append({**row, "split": "test" if split == "test" else "train"})
    split_validation(rows, validation_fraction, seed)
    rows = [row for row in rows if row["split"] == split]
    require_images(rows, image_folder)
    return to_dataset(rows)


def _row(entry: dict, row_id: str, images: dict[str, Path], folder: Path, choices: bool) -> dict:
    texts = {letter: re.sub(rf"^\s*{letter}\s*:", "", entry[f"Choice {letter}"]).strip() for letter in CHOICES}
    # Version 1 has the text in Answer and the letter in Answer_label; version 2 has the letter in Answer.
    letter = entry.get("Answer_label", entry["Answer"]).strip()
    if letter not in texts:
        raise InputError(f"row {row_id} of PMC-VQA has the answer label {letter!r}; it is one of {', '.join(CHOICES)}")
    question = entry["Question"]
    if choices:
        question = " ".join([question, *(f"{name}: {text}" for name, text in texts.items())])
    return make_row(
        id=row_id,
        image=images.get(Path(entry["Figure_path"]).stem, folder / entry["Figure_path"]),
        image_id=Path(entry["Figure_path"]).stem,
        question=question,
        answer=texts[letter],
        answers=[texts[letter], letter] if choices else None,
    )
