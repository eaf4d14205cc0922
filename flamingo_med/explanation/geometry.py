"""Where a map lies: encoder's grid → pixels that the model sees → pixels of the original image, and boxes back."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from transformers import BaseImageProcessor
from transformers.image_processing_backends import PilBackend
from transformers.models.convnext.image_processing_pil_convnext import ConvNextImageProcessorPil

from processing.errors import InputError


@dataclass(frozen=True)
class Grid:
    """How the image encoder divides what it sees.

    Attributes:
        rows, columns: of its patches, or of its feature map.
        height, width: pixels that these cover, from the top left corner; a vision transformer leaves out what does
            not fill a patch.
    """

    rows: int
    columns: int
    height: int
    width: int

    def to_pixels(self, maps: Tensor, size: tuple[int, int]) -> Tensor:
        """(k rows columns) → (k h w), each cell a block of its value, since finer than that nothing is known."""
        blocks = F.interpolate(maps.unsqueeze(0), (self.height, self.width), mode="nearest-exact").squeeze(0)
        return F.pad(blocks, (0, size[1] - self.width, 0, size[0] - self.height))

    def from_pixels(self, maps: Tensor) -> Tensor:
        """(k h w) → (k rows columns), the mean of each cell."""
        return F.adaptive_avg_pool2d(maps[:, : self.height, : self.width], (self.rows, self.columns))


@dataclass(frozen=True)
class Geometry:
    """What an image processor does to the place of things: it scales a window of the original to the model's input.

    Attributes:
        original: height and width of the original image.
        model: height and width of the model's input.
        window: top, left, bottom, right of the part of the original that the model sees, in original pixels;
            beyond the image where the processor pads.
    """

    original: tuple[int, int]
    model: tuple[int, int]
    window: tuple[float, float, float, float]

    @classmethod
    def of(cls, image_processor: BaseImageProcessor, original: tuple[int, int]) -> "Geometry":
        """The geometry of an image of that height and width.

        Raises:
            InputError: an image processor of another kind than resizing and cropping at the centre.
        """
        resized, model = _resize_and_crop(image_processor, original)
        # Where the image is smaller than the crop, the same formula says how much is padded.
        starts = [(length - kept) // 2 for length, kept in zip(resized, model, strict=True)]
        scales = [length / new for length, new in zip(original, resized, strict=True)]
        (top, left), (height, width) = starts, model
        window = (top * scales[0], left * scales[1], (top + height) * scales[0], (left + width) * scales[1])
        return cls(original, model, window)

    def shown_at(self, size: tuple[int, int]) -> "Geometry":
        """The same where the original is shown at another height and width."""
        down, across = (shown / length for shown, length in zip(size, self.original, strict=True))
        top, left, bottom, right = self.window
        return Geometry(size, self.model, (top * down, left * across, bottom * down, right * across))

    def to_original(self, maps: Tensor) -> np.ndarray:
        """Maps in the model's pixels (k h w) → in the original's (k H W), 0 where the model saw nothing."""
        top, left, bottom, right = self.window
        down, across = self.model[0] / (bottom - top), self.model[1] / (right - left)
        affine = (across, 0, -left * across, 0, down, -top * down)  # from the original to the model's pixels
        size = self.original[::-1]

        def warp(one: np.ndarray) -> np.ndarray:
            image = Image.fromarray(one.astype(np.float32))
            return np.asarray(image.transform(size, Image.Transform.AFFINE, affine, Image.Resampling.BILINEAR))

        return np.stack([warp(one) for one in maps.cpu().numpy()])

    def mask(self, boxes: Sequence[Sequence[float]]) -> Tensor:
        """(h w) True on the model's pixels whose centre lies in one of the boxes x0 y0 x1 y1 of the original."""
        top, left, bottom, right = self.window
        y = top + (torch.arange(self.model[0]) + 0.5) * (bottom - top) / self.model[0]
        x = left + (torch.arange(self.model[1]) + 0.5) * (right - left) / self.model[1]
        inside = torch.zeros(self.model, dtype=torch.bool)
        for x0, y0, x1, y1 in boxes:
            inside |= ((y0 <= y) & (y < y1)).unsqueeze(1) & ((x0 <= x) & (x < x1))
        return inside


def _resize_and_crop(
    image_processor: BaseImageProcessor, original: tuple[int, int]
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Height and width after resizing, and after cropping at the centre, as `transformers` computes them."""
    kind, size, crop = type(image_processor), image_processor.size, image_processor.crop_size
    if kind is ConvNextImageProcessorPil:  # of ResNet too: it crops while it resizes, from 384 pixels on it does not
        edge = size.shortest_edge
        square = (edge, edge)
        return (_shortest_edge(int(edge / image_processor.crop_pct), original) if edge < 384 else square), square
    moves = (kind.resize, kind.center_crop, kind._preprocess) if isinstance(image_processor, PilBackend) else None
    if moves != (PilBackend.resize, PilBackend.center_crop, PilBackend._preprocess) or image_processor.do_pad:
        raise InputError(
            f"{kind.__name__} moves pixels in a way that explanations cannot undo; build the processor with "
            "one that resizes and crops, such as CLIPImageProcessorPil"
        )
    resized = original
    if image_processor.do_resize and size.height and size.width:
        resized = (size.height, size.width)
    elif image_processor.do_resize:
        if not size.shortest_edge or size.longest_edge:
            raise InputError(f"explanations cannot undo a resizing to {dict(size)}; give height and width")
        resized = _shortest_edge(size.shortest_edge, original)
    return resized, (crop.height, crop.width) if image_processor.do_center_crop else resized


def _shortest_edge(edge: int, original: tuple[int, int]) -> tuple[int, int]:
    short = min(original)
    return tuple(edge if side == short else int(edge * side / short) for side in original)
