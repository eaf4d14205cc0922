"""ImageGroupedSampler: questions about one image follow each other, so that a batch encodes the image once."""

from collections import defaultdict
from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler


class ImageGroupedSampler(Sampler[int]):
    """Every row once an epoch: images in random order, and the rows of each in random order.

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

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed((self.seed << 20) + self.epoch)  # no epoch twice
        groups = list(self.rows_of.values())
        for group in torch.randperm(len(groups), generator=generator).tolist():
            rows = groups[group]
            for row in torch.randperm(len(rows), generator=generator).tolist():
                yield rows[row]
