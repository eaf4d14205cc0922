"""DataArguments: which data set a command reads, and how its rows are loaded."""

from dataclasses import dataclass, field

from datasets import Dataset, IterableDataset

from processing.datasets import DEFAULT_DATASET, load_split, parquet_shards
from processing.datasets.rows import exclude_images
from processing.errors import InputError


@dataclass
class DataArguments:
    """Which data set, and from where."""

    dataset: str = field(default=DEFAULT_DATASET, metadata={"help": "name of the data set"})
    data_dir: str | None = field(default=None, metadata={"help": "its folder or Hub id; its own default if unset"})
    data: dict = field(default_factory=dict, metadata={"help": "its options: --data.seed 1"})
    exclude: str | None = field(
        default=None,
        metadata={"help": "report of flamingo-med overlap: rows about its images of b are excluded from all splits"},
    )
    streaming: bool = field(
        default=False,
        metadata={"help": "train on Parquet shards without loading them; max_steps ends the training"},
    )

    def load(self, split: str) -> Dataset:
        """One split of it, see `processing.datasets.load_split`."""
        rows = load_split(self.dataset, split, self.data_dir, **self.data)
        return exclude_images(rows, self.exclude, f"{self.dataset} {split}") if self.exclude else rows

    def load_train(self) -> Dataset | IterableDataset:
        """The train split, or a stream of it."""
        if not self.streaming:
            return self.load("train")
        if self.exclude:
            raise InputError("no row of a stream can be excluded; write the shards without them")
        if self.dataset != "parquet_shards":
            how = parquet_shards.HOW_TO_WRITE
            raise InputError(f"only the data set parquet_shards can be streamed, not {self.dataset}; {how}")
        return parquet_shards.stream("train", self.data_dir)
