"""Places: a bright square goes through the real image processors, and is found again where it was drawn."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessorPil, ConvNextImageProcessorPil, SiglipImageProcessorPil
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil

from flamingo_med.explanation.geometry import Geometry, Grid
from processing.errors import InputError
from processing.images import read_image

SIZES = {"portrait": (200, 120), "landscape": (90, 170), "square": (128, 128), "tiny": (20, 30)}
PROCESSORS = {
    "clip": CLIPImageProcessorPil(size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64}),
    "cropped": CLIPImageProcessorPil(size={"shortest_edge": 80}, crop_size={"height": 64, "width": 48}),
    "padded": CLIPImageProcessorPil(size={"shortest_edge": 40}, crop_size={"height": 64, "width": 64}),
    "whole": CLIPImageProcessorPil(size={"height": 64, "width": 64}, do_center_crop=False),
    "as_it_is": CLIPImageProcessorPil(do_resize=False, do_center_crop=False),
    "crop_only": CLIPImageProcessorPil(do_resize=False, crop_size={"height": 61, "width": 50}),
    "siglip": SiglipImageProcessorPil(size={"height": 56, "width": 56}),
    "dinov2": BitImageProcessorPil(size={"shortest_edge": 73}, crop_size={"height": 56, "width": 56}),
    "resnet": ConvNextImageProcessorPil(size={"shortest_edge": 56}, crop_pct=0.875),
    "resnet_large": ConvNextImageProcessorPil(size={"shortest_edge": 384}),
}


def square(size: tuple[int, int]) -> tuple[np.ndarray, list[float]]:
    """A bright square, off the centre both ways, on black (h w), and its box."""
    height, width = size
    side = min(size) // 4
    top, left = height // 2 - side // 3, width // 2 - 3 * side // 4
    drawn = np.zeros(size, np.uint8)
    drawn[top : top + side, left : left + side] = 255
    return drawn, [left, top, left + side, top + side]


def overlap(first, second) -> float:
    return (first & second).sum() / (first | second).sum()


@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("name", PROCESSORS)
def test_a_bright_square_is_found_again(name, shape):
    drawn, box = square(SIZES[shape])
    pixels = PROCESSORS[name](Image.fromarray(drawn).convert("RGB"), return_tensors="pt")["pixel_values"]
    geometry = Geometry.of(PROCESSORS[name], SIZES[shape])
    assert geometry.model == tuple(pixels.shape[-2:]) and geometry.original == SIZES[shape]
    seen = pixels[0].mean(0)
    bright = seen > (seen.min() + seen.max()) / 2
    assert overlap(geometry.mask([box]), bright) > (0.7 if shape == "tiny" else 0.85)
    (found,) = geometry.to_original(bright.unsqueeze(0).float())
    assert found.shape == drawn.shape
    assert overlap(found > 0.5, drawn > 0) > (0.7 if shape == "tiny" else 0.85)


@pytest.mark.parametrize("name", ["clip", "cropped", "whole"])
def test_a_bright_square_in_a_dicom(name):
    pytest.importorskip("pydicom")
    from tests.processing.test_dicom import encode, make

    drawn, box = square((100, 140))
    image = read_image(encode(make(drawn)))
    assert image.size == (140, 100)
    geometry = Geometry.of(PROCESSORS[name], (image.height, image.width))
    seen = PROCESSORS[name](image, return_tensors="pt")["pixel_values"][0].mean(0)
    bright = seen > (seen.min() + seen.max()) / 2
    (found,) = geometry.to_original(bright.unsqueeze(0).float())
    assert overlap(found > 0.5, drawn > 0) > 0.85 and overlap(geometry.mask([box]), bright) > 0.85


def test_an_image_that_is_turned_upright():
    drawn, _ = square((60, 100))
    file = io.BytesIO()
    exif = Image.Exif()
    exif[274] = 6  # to be turned clockwise
    Image.fromarray(drawn).save(file, "JPEG", exif=exif)
    image = read_image(file.getvalue())
    seen = PROCESSORS["whole"](image, return_tensors="pt")["pixel_values"][0].mean(0)
    (found,) = Geometry.of(PROCESSORS["whole"], (image.height, image.width)).to_original(
        (seen > 0).unsqueeze(0).float()
    )
    assert overlap(found > 0.5, np.rot90(drawn, -1) > 128) > 0.85


def test_what_was_cropped_off_has_nothing_and_the_rest_its_place():
    geometry = Geometry.of(PROCESSORS["clip"], (64, 128))
    assert geometry.window == (0, 32, 64, 96)
    (found,) = geometry.to_original(torch.ones(1, 64, 64))
    assert not found[:, :32].any() and (found[:, 32:96] == 1).all() and not found[:, 96:].any()
    assert not geometry.mask([[0, 0, 32, 64]]).any()
    assert geometry.mask([[0, 0, 33, 64]]).sum() == 64
    assert not geometry.mask([]).any()
    assert geometry.mask([[40, 0, 42, 2], [41, 1, 43, 3]]).sum() == 7


def test_grid_to_pixels_and_back():
    grid = Grid(2, 3, 20, 30)  # patches of 10, in an image of 24 × 35
    maps = torch.arange(12.0).reshape(2, 2, 3)
    pixels = grid.to_pixels(maps, (24, 35))
    assert pixels.shape == (2, 24, 35)
    assert (pixels[0, :10, 10:20] == 1).all() and (pixels[1, 10:20, 20:30] == 11).all()
    assert not pixels[:, 20:].any() and not pixels[..., 30:].any()
    assert torch.equal(grid.from_pixels(pixels), maps)


class Shifted(CLIPImageProcessorPil):
    def center_crop(self, image, size, **kwargs):
        return super().center_crop(image[..., 1:, :], size, **kwargs)


@pytest.mark.parametrize(
    ("image_processor", "message"),
    [
        (Shifted(), "Shifted moves pixels"),
        (CLIPImageProcessorPil(do_pad=True), "moves pixels"),
        (CLIPImageProcessorPil(size={"shortest_edge": 20, "longest_edge": 40}), "cannot undo a resizing"),
    ],
)
def test_what_cannot_be_undone_is_refused(image_processor, message):
    with pytest.raises(InputError, match=message):
        Geometry.of(image_processor, (50, 60))
