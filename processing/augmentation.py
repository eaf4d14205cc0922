"""Random changes of training images that leave the answer true: never a flip, which would swap left and right."""

from dataclasses import dataclass, field, fields
from hashlib import sha256

import numpy as np
from PIL import Image, ImageEnhance

from processing.errors import InputError


@dataclass(frozen=True)
class Augmentation:
    """How far an image may be changed; what is 0 is not changed.

    Raises:
        InputError: a value outside 0 to its largest.
    """

    rotation: float = field(default=0.0, metadata={"help": "largest angle in degrees, either way", "largest": 30})
    crop: float = field(default=0.0, metadata={"help": "largest share of width and height cut off", "largest": 0.5})
    contrast: float = field(
        default=0.0, metadata={"help": "largest relative change of contrast, and of exposure", "largest": 0.9}
    )

    def __post_init__(self):
        for f in fields(self):
            value, largest = getattr(self, f.name), f.metadata["largest"]
            if not 0 <= value <= largest:
                raise InputError(f"{f.name} of augmentation is {value}, but must be from 0 to {largest}")

    def __call__(self, image: Image.Image, *key: str | int) -> Image.Image:
        """A changed copy of an RGB image, cropped ones smaller; the same for the same image and key everywhere.

        Args:
            image: what is changed.
            key: what the chance depends on, such as seed, epoch and image.
        """
        digest = sha256("/".join(map(str, key)).encode()).digest()
        random = np.random.default_rng(int.from_bytes(digest, "big"))
        # All are drawn, used or not, so that changing one strength leaves the others' draws alone.
        angle, cut, left, top, contrast, exposure = random.uniform(size=6).tolist()
        if self.rotation:
            image = image.rotate(self.rotation * (2 * angle - 1), Image.Resampling.BILINEAR)
        if self.crop:
            image = _crop(image, 1 - self.crop * cut, left, top)
        if self.contrast:
            image = ImageEnhance.Contrast(image).enhance(1 + self.contrast * (2 * contrast - 1))
            image = ImageEnhance.Brightness(image).enhance(1 + self.contrast * (2 * exposure - 1))
        return image


def _crop(image: Image.Image, kept: float, left: float, top: float) -> Image.Image:
    """The kept share of width and height, from the left and top shares (0–1) of the room that there is."""
    width, height = (max(1, round(side * kept)) for side in image.size)
    x, y = round((image.width - width) * left), round((image.height - height) * top)
    return image.crop((x, y, x + width, y + height))
