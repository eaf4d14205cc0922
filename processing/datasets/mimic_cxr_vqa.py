"""MIMIC-CXR-VQA: templated questions about MIMIC-CXR radiographs (Bae et al. 2023), in PhysioNet's layout.

`data_dir` is a folder with `train.json`, `valid.json` and `test.json` (at any depth); the radiographs are in the
folder `images_dir`, MIMIC-CXR-JPG's `files`. Access is credentialed:
https://physionet.org/content/mimic-ext-mimic-cxr-vqa/.
"""

import json
from pathlib import Path

from datasets import Dataset

from processing.datasets.rows import check_images, clean, image_file, local_folder, make_row, to_dataset
from processing.errors import InputError

WHERE = "get access at https://physionet.org/content/mimic-ext-mimic-cxr-vqa/"
FILES = {"train": "train.json", "validation": "valid.json", "test": "test.json"}


def load(split: str, data_dir: str | None = None, *, images_dir: str | None = None) -> Dataset:
    """One split with the columns of `FEATURES`; `label` holds the answers one by one, `group` is the patient.

    Args:
        split: "train", "validation" or "test".
        data_dir: folder of the questions.
        images_dir: folder of the radiographs; `files` in `data_dir` by default.

    Raises:
        InputError: data not found, broken or incomplete.
    """
    root = local_folder("mimic_cxr_vqa", data_dir, None, FILES[split], WHERE)
    path = next(root.rglob(FILES[split]))
    images = Path(images_dir) if images_dir else root / "files"
    try:
        rows = [_row(entry, images) for entry in json.loads(path.read_text(encoding="utf-8"))]
    except KeyError as error:
        raise InputError(f"a question in {path} lacks the key {error}") from None
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is not the JSON list of MIMIC-CXR-VQA questions: {error}") from None
    check_images(rows)
    return to_dataset(rows)


def _row(entry: dict, images: Path) -> dict:
    names = [clean(name) for name in entry["answer"]]
    return make_row(
        id=f"{entry['split']}-{entry['idx']}",
        image=image_file(images / entry["image_path"]),
        image_id=entry["image_id"],
        question=clean(entry["question"]),
        answer=", ".join(names) or "none",  # of the asked, nothing holds
        question_type=entry["content_type"],
        answer_type="closed" if entry["semantic_type"] == "verify" else "open",
        label=names,
        group=str(entry["subject_id"]),
    )
