"""Write a split of any data set as Parquet shards, to be read as the data set `sharded`, or streamed.

    python -m processing.datasets.shards --recipe recipes/vqa_rad.yaml --data_dir DIR --split train --output_dir SHARDS

Rows about one image stand together, and images in an order by their hash, so that neighbours have nothing in common: a
stream is shuffled in a small buffer only.
"""

import os
import sys
import tempfile
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import pyarrow
import pyarrow.parquet
from datasets import Dataset
from tqdm import tqdm

from processing.datasets import FEATURES, images_of
from processing.datasets.sharded import shard_name
from processing.errors import InputError, run
from processing.images import read_bytes
from processing.recipe import DataArguments, build_with_data, describe

ROWS_PER_GROUP = 50  # what a reader holds in memory of each shard that it has open


@dataclass
class ShardArguments:
    """What is written, and where."""

    recipe: str = field(metadata={"help": "recipe that names the data set"})
    output_dir: str = field(metadata={"help": "folder of the shards, of one split or of several"})
    split: str = field(default="train", metadata={"help": "train, validation or test"})
    rows_per_shard: int = field(default=1000, metadata={"help": "rows in a file; all of them are in memory at once"})


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


def main() -> None:
    """Recipe → one split → shards."""
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        print(f"{__doc__}\n{describe(ShardArguments, DataArguments)}")
        return
    args, data_args = build_with_data(sys.argv[1:], ShardArguments)
    rows = data_args.load(args.split)
    count = write_shards(rows, args.split, args.output_dir, args.rows_per_shard)
    print(f"{len(rows)} rows of {data_args.dataset} in {count} shards: {args.output_dir}")


if __name__ == "__main__":
    run(main)
