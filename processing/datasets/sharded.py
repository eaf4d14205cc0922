"""`sharded`: a data set in Parquet shards with the images inside, as `processing.datasets.shards` writes it.

`data_dir` is its folder, which holds `train-00000-of-00012.parquet` and so on. It is read as any other data set is,
into the cache of `datasets`, or as a stream, of which a few row groups are in memory at a time.
"""

from pathlib import Path

import datasets
import pyarrow
import pyarrow.parquet
from datasets import Dataset, IterableDataset

from processing.datasets import FEATURES
from processing.errors import InputError

HOW_TO_WRITE = "write shards by python -m processing.datasets.shards --help"


def load(split: str, data_dir: str | None = None) -> Dataset:
    """One split as a whole, in the cache of `datasets`.

    Args:
        split: one of `SPLITS`.
        data_dir: folder of the shards.

    Raises:
        InputError: no shards of the split, some missing, or damaged.
    """
    return _read(split, data_dir, streaming=False)


def stream(split: str, data_dir: str | None = None) -> IterableDataset:
    """One split, row by row; arguments and errors as of `load`."""
    return _read(split, data_dir, streaming=True)


def _read(split: str, data_dir: str | None, streaming: bool) -> Dataset | IterableDataset:
    files = find_shards(split, data_dir)
    return datasets.load_dataset("parquet", data_files=files, features=FEATURES, split="train", streaming=streaming)


def find_shards(split: str, data_dir: str | None) -> list[str]:
    """The files of a split, in order, once all are found to be there and whole."""
    if data_dir is None:
        raise InputError(
            f"data_dir of the data set sharded is missing; give the folder of its shards, or {HOW_TO_WRITE}"
        )
    files = sorted(Path(data_dir).glob(f"{split}-*-of-*.parquet"))
    if not files:
        raise InputError(f"{data_dir} holds no shards {split}-….parquet; {HOW_TO_WRITE}")
    expected = [shard_name(split, number, len(files)) for number in range(len(files))]
    if [file.name for file in files] != expected:
        raise InputError(
            f"the {len(files)} shards of {split} in {data_dir} are not one whole set, {expected[0]} to {expected[-1]}"
        )
    for file in files:
        try:
            columns = pyarrow.parquet.read_schema(file).names
        except (pyarrow.ArrowException, OSError):
            raise InputError(f"{file} is damaged or no Parquet file; {HOW_TO_WRITE}") from None
        if set(columns) != set(FEATURES):
            raise InputError(f"{file} has other columns than {', '.join(FEATURES)}; {HOW_TO_WRITE}")
    return [str(file) for file in files]


def shard_name(split: str, number: int, count: int) -> str:
    """File name of a shard, numbered from 0."""
    return f"{split}-{number:05d}-of-{count:05d}.parquet"
