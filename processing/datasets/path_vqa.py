"""PathVQA: questions about pathology images from textbooks (He et al. 2020), in its Hub schema.

`data_dir` is the Hub id `flaviagiammarino/path-vqa` (default), or a folder in its schema: image, question, answer in
parquet files of the splits train, validation and test.
"""

from datasets import Dataset

from processing.datasets.rows import image_name, make_row, to_dataset
from processing.datasets.source_files import read_hub

HUB_ID = "flaviagiammarino/path-vqa"
WHERE_TO_GET_IT = f"set data_dir to the Hub id {HUB_ID}"


def load(split: str, data_dir: str | None = None) -> Dataset:
    """One published split; images stay in their files, memory-mapped.

    Args:
        split: one of `SPLITS`.
        data_dir: Hub id or folder, see the top of this file.

    Raises:
        InputError: it does not load, or lacks a split, a column or an image.
    """
    entries = read_hub(data_dir or HUB_ID, [split], name="PathVQA", hint=WHERE_TO_GET_IT)[split]
    texts = zip(entries["question"], entries["answer"], strict=True)
    rows = [
        make_row(
            id=f"{split}-{number}",
            image_id=image_name(image, f"row {split}-{number} of the PathVQA data set"),
            question=question,
            answer=answer,
        )
        for number, (image, (question, answer)) in enumerate(zip(entries["image"], texts, strict=True))
    ]
    return to_dataset(rows, images=entries)
