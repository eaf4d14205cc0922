"""Write a split of any data set as Parquet shards.

They are read as the data set parquet_shards, or streamed.

  flamingo-med shards --recipe vqa_rad --data_dir DIR --split train --output_dir SHARDS
"""

from dataclasses import dataclass, field

from flamingo_med.cli.arguments import build_with_typed_data
from flamingo_med.cli.parser import CommandParser
from processing.datasets.arguments import DataArguments
from processing.datasets.parquet_shards import write_shards


@dataclass
class ShardArguments:
    """What is written, and where."""

    recipe: str = field(metadata={"help": "recipe that names the data set"})
    output_dir: str = field(metadata={"help": "folder of the shards, of one split or of several"})
    split: str = field(default="train", metadata={"help": "train, validation or test"})
    rows_per_shard: int = field(default=1000, metadata={"help": "rows in a file; all of them are in memory at once"})


def main(arguments: list[str]) -> None:
    """Recipe → one split → shards."""
    often = ("recipe", "data_dir", "split", "output_dir", "rows_per_shard")
    parser = CommandParser("flamingo-med shards", __doc__, ShardArguments, DataArguments, often=often)
    args, data_args = build_with_typed_data(parser, arguments)
    rows = data_args.load(args.split)
    count = write_shards(rows, args.split, args.output_dir, args.rows_per_shard)
    print(f"{len(rows)} rows of {data_args.dataset} in {count} shards: {args.output_dir}")
