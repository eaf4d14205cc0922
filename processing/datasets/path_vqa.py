"""PathVQA: 32 799 questions about 4 998 pathology images (He et al. 2020), from the Hub or a copy of its parquet."""

from datasets import Dataset

from processing.datasets.rows import read_hub, to_dataset

HUB_ID = "flaviagiammarino/path-vqa"


def load(split: str, data_dir: str | None = None) -> Dataset:
    """One split with the columns of `FEATURES`; `data_dir` is a folder or Hub id in the schema of `HUB_ID`.

    Raises:
        InputError: data not found, or of another schema.
    """
    return to_dataset(read_hub("path_vqa", data_dir or HUB_ID, (split,), f"set data_dir to the Hub id {HUB_ID}"))
