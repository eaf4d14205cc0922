"""Rows of a data set to one batch, in which every distinct image stands once."""

from collections.abc import Sequence

import torch
from PIL.Image import Image
from torch import Tensor

from processing.augmentation import Augmentation
from processing.errors import InputError
from processing.images import read_image
from processing.processing_flamingo_med import FlamingoMedProcessor


class FlamingoMedCollator:
    """Rows with image, image_id, question (and answer) → what the model's forward takes.

    Args:
        processor: the model's processor.
        answers: with the answers, to learn from; without, to generate from.
        blank_images: every image a uniform grey, to see what the model answers without one.
    """

    def __init__(self, processor: FlamingoMedProcessor, *, answers: bool, blank_images: bool = False):
        self.processor = processor
        self.answers = answers
        self.blank_images = blank_images

    def __call__(self, rows: Sequence[dict]) -> dict[str, Tensor]:
        """b rows about m distinct images → pixel_values (m 1 c h w), row_images (b 1), input_ids (b t), …"""
        rows_of_images = {row["image_id"]: row for row in rows}
        number = {image_id: i for i, image_id in enumerate(rows_of_images)}
        images = [self.read_image(row) for row in rows_of_images.values()]
        pixel_values = self.processor.image_processor(images, return_tensors="pt")["pixel_values"].unsqueeze(1)
        if self.blank_images:
            pixel_values = torch.zeros_like(pixel_values)  # after normalisation: the mean colour
        try:
            prompts = [self.processor.render(row["question"]) for row in rows]
            tokens = self.processor.tokenize(prompts, [row["answer"] for row in rows] if self.answers else None)
        except ValueError as error:
            raise InputError(f"one of {len(rows)} questions, about {', '.join(number)}: {error}") from None
        row_images = torch.tensor([[number[row["image_id"]]] for row in rows])
        return {"pixel_values": pixel_values, "row_images": row_images, **tokens}

    def read_image(self, row: dict) -> Image:
        """The image of a row, as it is."""
        return read_image(row["image"])


class TrainingCollator(FlamingoMedCollator):
    """As `FlamingoMedCollator`, for training: with answers, and with images changed at random.

    The evaluation builds the other one, so it cannot be given an augmentation.

    Args:
        processor: the model's processor.
        augmentation: how images are changed.
        seed: with epoch and image_id of a row, what the change depends on.
    """

    def __init__(self, processor: FlamingoMedProcessor, augmentation: Augmentation, seed: int):
        super().__init__(processor, answers=True)
        self.augmentation = augmentation
        self.seed = seed

    def read_image(self, row: dict) -> Image:
        """The image of a row, changed for its epoch."""
        return self.augmentation(super().read_image(row), self.seed, row["epoch"], row["image_id"])
