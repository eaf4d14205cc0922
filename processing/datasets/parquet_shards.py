"""`parquet_shards`: a split of any data set as Parquet files with the images inside, to be read or streamed.

`data_dir` is the folder, which holds `train-00000-of-00012.parquet` and so on, as `flamingo-med shards` writes them.
It is read as any other data set is, into the cache of `datasets`, or as a stream, of which a few row groups are in
memory at a time. Rows about one image stand together, and images in an order by their hash, so that neighbours have
nothing in common: a stream is shuffled in a small buffer only.
"""

import os
import tempfile
from hashlib import sha256
from pathlib import Path

import datasets
import pyarrow
import pyarrow.parquet
from datasets import Dataset, IterableDataset
from tqdm import tqdm

from processing.datasets import FEATURES, images_of
from processing.errors import InputError
from processing.images import read_bytes

ROWS_PER_GROUP = 50  # what a reader holds in memory of each shard that it has open
HOW_TO_WRITE = "write shards by flamingo-med shards"


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
            f"data_dir of the data set parquet_shards is missing; give the folder of its shards, or {HOW_TO_WRITE}"
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


def write_shards(rows: Dataset, split: str, output_dir: str | Path, rows_per_shard: int) -> int:
    """Write all shards, or none.

    Args:
        rows: what is written, with the bytes of the images.
        split: the name that the shards begin with.
        output_dir: folder; must not hold shards of the split.
        rows_per_shard: rows in a file, the last may have fewer.

    Returns:
        the number of shards.

    Raises:
        InputError: shards of the split are there already, an image cannot be read, or the folder cannot be written.
    """
    if rows_per_shard < 1:
        raise InputError(f"rows_per_shard is at least 1, got {rows_per_shard}")
    folder = Path(output_dir)
    if any(folder.glob(f"{split}-*.parquet")):
        raise InputError(f"{folder} holds shards of {split} already; choose another --output_dir, or remove them")
    keys = [(sha256(image.encode()).digest(), row) for image, row in zip(rows["image_id"], rows["id"], strict=True)]
    order = sorted(range(len(rows)), key=keys.__getitem__)
    starts = range(0, len(order), rows_per_shard)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=f".{split}-") as part:
            for number, start in enumerate(tqdm(starts, desc=f"writing {split}", unit="shard")):
                chosen = [_with_bytes(rows[i]) for i in order[start : start + rows_per_shard]]
                table = pyarrow.Table.from_pylist(chosen, schema=FEATURES.arrow_schema)
                file = Path(part, shard_name(split, number, len(starts)))
                pyarrow.parquet.write_table(table, file, row_group_size=ROWS_PER_GROUP)
            for file in sorted(Path(part).iterdir()):
                os.rename(file, folder / file.name)
    except OSError as error:
        raise InputError(f"the shards cannot be written to {folder}: {error.strerror}") from None
    return len(starts)


def _with_bytes(row: dict) -> dict:
    """The row, with the content of its images' files, and of their paths the last part only."""
    first, *more = ({"bytes": data, "path": Path(name).name} for data, name in map(read_bytes, images_of(row)))
    return {**row, "image": first, "more_images": more}
