"""MIMIC-CXR-VQA: questions from templates about MIMIC-CXR's radiographs (Bae et al. 2023), from PhysioNet.

`data_dir` is a folder that holds, at most three levels down, `train.json`, `valid.json` and `test.json`, and, unless
`images_dir` names MIMIC-CXR-JPG's folder with them, the images: `files/p10/p10000032/s50414267/IMAGE_ID.jpg`. The data
need a PhysioNet credential: https://physionet.org/content/mimic-ext-mimic-cxr-vqa/
"""

from datasets import Dataset

from processing.datasets.rows import clean, make_row, require_images, to_dataset
from processing.datasets.source_files import find_file, read_json, require_folder
from processing.errors import InputError

WHERE_TO_GET_IT = "get it from https://physionet.org/content/mimic-ext-mimic-cxr-vqa/"
FILES = {"train": "train.json", "validation": "valid.json", "test": "test.json"}
KEYS = ("subject_id", "study_id", "image_id", "image_path", "question", "semantic_type", "content_type", "answer")
NO_ANSWER = "none"  # what an empty list is called in words


def load(split: str, data_dir: str | None = None, *, images_dir: str | None = None) -> Dataset:
    """One published split; the answer is the listed ones joined by commas, each of them a class.

    Args:
        split: one of `SPLITS`.
        data_dir: folder with the questions.
        images_dir: folder of MIMIC-CXR-JPG, the parent of its `files`; data_dir by default.

    Raises:
        InputError: files not found or of another form; images missing.
    """
    root = require_folder(data_dir, "mimic_cxr_vqa", WHERE_TO_GET_IT)
    images = root if images_dir is None else require_folder(images_dir, "images_dir of mimic_cxr_vqa", WHERE_TO_GET_IT)
    # Not "**": beside the questions may lie a tree of 377,110 images.
    path = find_file(root, ["/".join(["*"] * depth + [FILES[split]]) for depth in range(4)])
    if path is None:
        raise InputError(f"no {FILES[split]} of MIMIC-CXR-VQA in {root} or three levels beneath; {WHERE_TO_GET_IT}")
    rows = []
    for number, entry in enumerate(read_json(path)):
        missing = [key for key in KEYS if key not in entry]
        if missing:
            raise InputError(f"question {number + 1} in {path} lacks the key {missing[0]!r}")
        answers = entry["answer"]
        if not isinstance(answers, list) or not all(isinstance(answer, str) for answer in answers):
            raise InputError(f"the answer of question {number + 1} in {path} is not a list of texts")
        rows.append(
            make_row(
                id=f"{split}-{number}",
                image=images / "files" / str(entry["image_path"]),
                image_id=str(entry["image_id"]),
                question=entry["question"],
                answer=", ".join(answers) or NO_ANSWER,
                question_type=clean(entry["semantic_type"]).lower(),
                label=answers,
                group=f"p{entry['subject_id']}",
            )
        )
    require_images(rows, images / "files")
    return to_dataset(rows)
