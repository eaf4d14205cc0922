"""The order of training rows, each with its epoch: by image where all are at hand, shuffled on the way in a stream."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import count, pairwise

import datasets
import torch
from torch.utils.data import Dataset, IterableDataset, Sampler

STEPS_SORTED = 50


class EpochRows(Dataset):
    """The rows that `ImageGroupedBatchSampler` asks for, with the column epoch, on which their augmentation depends.

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


class ImageGroupedBatchSampler(Sampler[list[tuple[int, int]]]):
    """Batches of (row, epoch): every row once an epoch, images in random order, and the rows of each in random order.

    So questions about one image stand together, and a batch encodes the image once. Several processes divide each step
    among them, whatever its size: together they take the steps that one process would take with batches of that size.
    (accelerate's own division would repeat rows to fill up the last step of an epoch.)

    Args:
        image_ids: the image of each row.
        batch_size: rows of a step and process; the last step of an epoch has fewer.
        seed: with the epoch, what the order depends on.
        lengths: of the rows, in any unit, for batches that are padded: images whose rows are of similar length then
            come together.
        process_index, num_processes: which share of each step is yielded.
        drop_last: leave the last step out where it is smaller.
    """

    def __init__(
        self,
        image_ids: Sequence[str],
        *,
        batch_size: int,
        seed: int = 0,
        lengths: Sequence[int] | None = None,
        process_index: int = 0,
        num_processes: int = 1,
        drop_last: bool = False,
    ):
        self.seed = seed
        self.epoch = 0
        self.step_size = batch_size * num_processes
        self.lengths = lengths
        self.process_index = process_index
        self.num_processes = num_processes
        groups: dict[str, list[int]] = defaultdict(list)
        for row, image_id in enumerate(image_ids):
            groups[image_id].append(row)
        self.groups = list(groups.values())
        whole, rest = divmod(len(image_ids), self.step_size)
        # So few rows that a process would have none are added to the step before.
        self.num_steps = whole + (not drop_last and (rest >= num_processes or whole == 0))
        self.num_rows = whole * self.step_size if drop_last else len(image_ids)

    def set_epoch(self, epoch: int) -> None:
        """Called by the data loader before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.num_steps

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        generator = torch.Generator().manual_seed((self.seed << 20) + self.epoch)  # no epoch twice
        rows = self._order(generator)[: self.num_rows]
        bounds = [*range(0, self.num_steps * self.step_size, self.step_size), self.num_rows]
        steps = [rows[start:end] for start, end in pairwise(bounds)]
        if self.lengths is not None:  # not the short ones first
            steps = [steps[i] for i in torch.randperm(len(steps), generator=generator).tolist()]
        for step in steps:
            start, end = (len(step) * i // self.num_processes for i in (self.process_index, self.process_index + 1))
            yield [(row, self.epoch) for row in step[start:end]]

    def _order(self, generator: torch.Generator) -> list[int]:
        """All rows, those of an image together."""
        groups = [self.groups[i] for i in torch.randperm(len(self.groups), generator=generator).tolist()]
        if self.lengths is not None:  # sorted within some steps only, so that the order stays random
            window = max(1, STEPS_SORTED * self.step_size * len(groups) // sum(map(len, groups)))
            windows = [groups[start : start + window] for start in range(0, len(groups), window)]
            groups = [g for some in windows for g in sorted(some, key=lambda g: max(self.lengths[row] for row in g))]
        return [rows[i] for rows in groups for i in torch.randperm(len(rows), generator=generator).tolist()]


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
            # Shuffled again for each pass: the epoch of one stream is shared by all workers, whose passes differ in
            # length. From one shard at a time: images stand in no order in it, and mixing several ends in a wait.
            rows = self.rows.shuffle(seed=self.seed, buffer_size=self.buffer_size, max_buffer_input_shards=1)
            rows.set_epoch(epoch)
            yield from ({**row, "epoch": epoch} for row in rows)
