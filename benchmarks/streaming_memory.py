"""Memory of training data that are streamed: resident memory after so many rows, which must not grow with them.

    python benchmarks/streaming_memory.py --rows 100000

Writes so many synthetic rows, each with a picture of its own of 48 × 48 pixels of noise (7 kB, which no
compression makes smaller), as shards in a temporary folder; then reads them as training does, decodes every picture,
and prints the resident memory of the process on the way.
"""

import multiprocessing
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO
from itertools import islice
from pathlib import Path

import numpy as np
import psutil
from datasets import Dataset
from PIL import Image

from flamingo_med.cli.main import run
from flamingo_med.cli.parser import CommandParser
from flamingo_med.training.sampler import EndlessRows
from processing.datasets import FEATURES
from processing.datasets.parquet_shards import stream, write_shards
from processing.images import read_image

STEPS = (1_000, 10_000, 50_000, 100_000)


@dataclass
class MemoryArguments:
    """How much is read."""

    rows: int = field(default=100_000, metadata={"help": "synthetic rows that are written and read"})


def make_rows(count: int) -> Iterator[dict]:
    """Rows about pictures of noise."""
    for i in range(count):
        noise = np.random.default_rng(i).integers(0, 256, (48, 48, 3), dtype=np.uint8)
        file = BytesIO()
        Image.fromarray(noise).save(file, "PNG", compress_level=0)
        yield {
            "id": f"{i}",
            "image": {"path": f"{i}.png", "bytes": file.getvalue()},
            "image_id": f"{i}",
            "question": "Is there a nodule?",
            "answer": "yes",
            "answers": ["yes"],
            "answer_type": "closed",
            "question_type": "presence",
            "organ": "lung",
            "more_images": [],
            "label": [],
            "boxes": [],
            "group": f"{i}",
        }


def write(count: int, folder: str) -> None:
    rows = Dataset.from_generator(
        make_rows, features=FEATURES, gen_kwargs={"count": count}, cache_dir=f"{folder}/cache"
    )
    write_shards(rows, "train", folder, rows_per_shard=1000)


def main() -> None:
    """Write in another process, so that its memory does not count; then read and measure."""
    (args,) = CommandParser("python benchmarks/streaming_memory.py", __doc__, MemoryArguments).build(sys.argv[1:])
    count = args.rows
    with tempfile.TemporaryDirectory() as folder:
        writer = multiprocessing.get_context("spawn").Process(target=write, args=(count, folder))
        writer.start()
        writer.join()
        size = sum(file.stat().st_size for file in Path(folder).glob("*.parquet"))
        print(f"{count:,} rows, {size / 2**20:,.0f} MiB of shards")
        for number, row in enumerate(islice(EndlessRows(stream("train", folder), 0, 1000), count), start=1):
            read_image(row["image"])
            if number in STEPS:
                print(f"{number:>9,} rows: {psutil.Process().memory_info().rss / 2**20:,.0f} MiB resident", flush=True)


if __name__ == "__main__":
    run(main)
