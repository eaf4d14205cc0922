"""Augmentation: other looks of an image in training. Nothing is ever mirrored: a flip would swap left and right."""

import random
from dataclasses import dataclass, field

from PIL import Image, ImageEnhance

from processing.errors import InputError


@dataclass(frozen=True)
class Augmentation:
    """How far an image may be changed, in each of these ways by an amount drawn evenly from the range.

    Raises:
        InputError: a value out of its range.
    """

    rotation: float = field(default=0.0, metadata={"help": "degrees, at most 30, either way", "most": 30.0})
    crop: float = field(default=0.0, metadata={"help": "share of width and height cut off, at most 0.5", "most": 0.5})
    contrast: float = field(default=0.0, metadata={"help": "relative change, at most 0.9, either way", "most": 0.9})
    exposure: float = field(default=0.0, metadata={"help": "relative change, at most 0.9, either way", "most": 0.9})

    def __post_init__(self):
        for name, definition in self.__dataclass_fields__.items():
            most = definition.metadata["most"]
            if not 0 <= getattr(self, name) <= most:
                raise InputError(f"augmentation.{name} must be from 0 to {most}, not {getattr(self, name)}")

    def __call__(self, image: Image.Image, seed: str) -> Image.Image:
        """Another look of an RGB image; the same one for the same seed, on every machine.

        >>> Augmentation(rotation=5)(Image.new("RGB", (4, 4), "white"), seed="0/1/synpic42").size
        (4, 4)
        """
        draw = random.Random(seed).uniform
        angle = draw(-self.rotation, self.rotation)
        cut, x, y = draw(0, self.crop), draw(0, 1), draw(0, 1)
        contrast, exposure = (1 + draw(-most, most) for most in (self.contrast, self.exposure))
        width, height = image.size
        left, top = x * cut * width, y * cut * height
        box = (left, top, left + (1 - cut) * width, top + (1 - cut) * height)
        image = image.rotate(angle, Image.Resampling.BILINEAR)
        image = image.resize(image.size, Image.Resampling.BILINEAR, box)
        image = ImageEnhance.Contrast(image).enhance(contrast)
        return ImageEnhance.Brightness(image).enhance(exposure)
