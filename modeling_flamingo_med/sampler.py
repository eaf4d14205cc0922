"""The order of training rows, each with its epoch: by image where all are at hand, shuffled on the way in a stream."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import count

import datasets
import torch
from torch.utils.data import Dataset, IterableDataset, Sampler


class EpochRows(Dataset):
    """The rows that `ImageGroupedSampler` asks for, with the column epoch, on which their augmentation depends.

    (The sampler, not the rows, knows the epoch: it runs in one process, whatever the number of workers.)

    Args:
        rows: what is trained on.
    """

    def __init__(self, rows: datasets.Dataset):
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: tuple[int, int]) -> dict:
        row, epoch = index
        return {**self.rows[row], "epoch": epoch}


class ImageGroupedSampler(Sampler[tuple[int, int]]):
    """Every row once an epoch: images in random order, and the rows of each in random order.

    So questions about one image follow each other, and a batch encodes the image once. Yields (row, epoch).

    Args:
        image_ids: the image of each row.
        seed: with the epoch, what the order depends on.
    """

    def __init__(self, image_ids: Sequence[str], seed: int = 0):
        self.seed = seed
        self.epoch = 0
        self.rows_of: dict[str, list[int]] = defaultdict(list)
        for row, image_id in enumerate(image_ids):
            self.rows_of[image_id].append(row)
        self.num_rows = len(image_ids)

    def set_epoch(self, epoch: int) -> None:
        """Called by the data loader before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.num_rows

    def __iter__(self) -> Iterator[tuple[int, int]]:
        generator = torch.Generator().manual_seed((self.seed << 20) + self.epoch)  # no epoch twice
        groups = list(self.rows_of.values())
        for group in torch.randperm(len(groups), generator=generator).tolist():
            rows = groups[group]
            for row in torch.randperm(len(rows), generator=generator).tolist():
                yield rows[row], self.epoch


class EndlessRows(IterableDataset):
    """The rows of a stream, pass after pass, each in another order and with the number of the pass as their epoch.

    Without an end, so that what has been trained on is a number of batches, which `Trainer` skips when it resumes.

    Args:
        rows: one pass, this process's share of it.
        seed: with the pass, what the order depends on.
        buffer_size: rows held in memory to draw the next one from; the order of the shards is shuffled besides.
    """

    def __init__(self, rows: datasets.IterableDataset, seed: int, buffer_size: int):
        self.rows = rows
        self.seed = seed
        self.buffer_size = buffer_size

    def __iter__(self) -> Iterator[dict]:
        for epoch in count():
            # Shuffled anew for each pass: the epoch of one stream is shared by all workers, whose passes differ in
            # length. From one shard at a time: images stand in no order in it, and mixing several ends in a wait.
            rows = self.rows.shuffle(seed=self.seed, buffer_size=self.buffer_size, max_buffer_input_shards=1)
            rows.set_epoch(epoch)
            yield from ({**row, "epoch": epoch} for row in rows)
