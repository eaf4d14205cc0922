"""Any source of one image → an RGB PIL image: the one reader behind every way in, with size limits and clear errors.

This file ships with checkpoints, so it imports nothing of ours; `processing.images` hands it to commands.
"""

import base64
import binascii
import importlib
import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from huggingface_hub import get_session
from PIL import Image, ImageOps, UnidentifiedImageError

Source = Image.Image | np.ndarray | torch.Tensor | str | Path | bytes | dict

MAX_BYTES = 512 * 2**20
MAX_PIXELS = 100_000_000
# A closed list: among Pillow's other formats are some that start programs (EPS runs Ghostscript).
FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
CHANNELS = (1, 3, 4)
TIFF_PHOTOMETRIC = 262
# What Pillow's decoders raise on damaged files.
DECODING_ERRORS = (OSError, ValueError, SyntaxError, EOFError, LookupError, TypeError, struct.error, zlib.error)


class ImageError(ValueError):
    """An image that cannot be read: the message names it and the reason, in one sentence."""


def read_image(source: Source) -> Image.Image:
    """The image as 8-bit RGB, upright (EXIF orientation applied), of several frames the first.

    Grey values of more than 8 bits are scaled linearly from their own minimum–maximum to 0–255, but floats from 0 to 1
    by 255; of colours of 16 bits the high bytes count; transparency is composited on black.

    DICOM files, known by their content, are shown with their own lookup tables or window, see `processing.dicom`.

    Args:
        source: a PIL image; an array or tensor (h w), (h w c) or (c h w) of 1, 3 or 4 channels; a path, URL or base64
            text; the bytes of a file; or the entry of a `datasets.Image(decode=False)` column, {"path", "bytes"},
            whose bytes, if there, are used instead of its path.

    Raises:
        ImageError: file missing, empty, damaged, no image, above `MAX_BYTES` or above `MAX_PIXELS`; an array that is
            no image; DICOM without the extra that reads it.

    >>> read_image(Image.new("L", (4, 2), 255)).getpixel((0, 0))
    (255, 255, 255)
    """
    if isinstance(source, np.ndarray | torch.Tensor):
        return _decode(_from_array(source), "the given array")
    if isinstance(source, Image.Image):
        return _decode(source, "the given image")
    data, name = read_bytes(source)
    if is_dicom(data):
        return _read_dicom(data, name)
    return _decode(_open(data, name), name)


def is_dicom(data: bytes) -> bool:
    """Whether this is the content of a DICOM file: its mark after the preamble, or, where an export left both out,
    the length of the file meta information, (0002,0000) UL, at the start."""
    return data[128:132] == b"DICM" or data.startswith(b"\x02\x00\x00\x00UL\x04\x00")


def _read_dicom(data: bytes, name: str) -> Image.Image:
    try:  # by its name, as a checkpoint's code also runs where the package is not installed
        read_dicom = importlib.import_module("processing.dicom").read_dicom
    except ImportError:
        raise ImageError(f'{name} is a DICOM file, which needs: pip install "flamingo-med[dicom]"') from None
    return read_dicom(data, name, max_pixels=MAX_PIXELS)


def read_bytes(source: str | Path | bytes | dict) -> tuple[bytes, str]:
    """Content of the file, of at most `MAX_BYTES`, and the name it has in messages; sources as in `read_image`.

    Raises:
        ImageError: file missing, empty or above `MAX_BYTES`; nothing at all in the source.
    """
    if isinstance(source, dict):
        path, data = source.get("path"), source.get("bytes")
        if path is None and data is None:
            raise ImageError("an image of the data set has neither path nor bytes")
        if not isinstance(path, str | Path | None) or not isinstance(data, bytes | None):
            kinds = f"a path of type {type(path).__name__} and bytes of type {type(data).__name__}"
            raise ImageError(f"an image of the data set has {kinds}; give a text and the bytes of a file")
        name = "the given bytes" if path is None else str(path)
        data = _read_file(Path(path)) if data is None else data
    elif isinstance(source, bytes):
        data, name = source, "the given bytes"
    elif isinstance(source, str) and (text := _read_text(source)) is not None:
        data, name = text, source if source.startswith("http") else "the given base64 text"
    elif isinstance(source, str | Path):
        data, name = _read_file(Path(source)), str(source)
    else:
        raise ImageError(f"{type(source).__name__} is no image; give a PIL image, an array, a path or bytes")

    if len(data) == 0:
        raise ImageError(f"the image file {name} is empty")
    if len(data) > MAX_BYTES:
        raise ImageError(f"the image file {name} is larger than {MAX_BYTES >> 20} MiB")
    return data, name


def _read_text(source: str) -> bytes | None:
    """What a URL or base64 text stands for; None where it is neither, and so a path."""
    if source.startswith(("http://", "https://")):
        try:
            return get_session().get(source, follow_redirects=True).raise_for_status().content
        except Exception as error:  # of any HTTP client that the Hub's library has been given
            raise ImageError(f"the image {source} cannot be fetched: {error}") from error
    if os.path.isfile(source):  # unlike Path.is_file, says no to a text that is too long for a path
        return None
    is_data = source.startswith("data:")
    try:
        data = base64.b64decode(source.partition(",")[2] if is_data else "".join(source.split()), validate=True)
    except (binascii.Error, ValueError):
        return None
    return data if is_data or len(source) > 64 else None


def _read_file(path: Path) -> bytes:
    if os.path.isdir(path):
        raise ImageError(f"{path} is a folder, not an image file")
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise ImageError(f"the image file {path} does not exist") from error
    except OSError as error:
        raise ImageError(f"the image file {path} cannot be read: {error.strerror}") from error


def _open(data: bytes, name: str) -> Image.Image:
    """Read the header only; nothing is decoded yet."""
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as error:
        raise ImageError(f"{name} is not an image of a known format ({', '.join(FORMATS)})") from error
    except Image.DecompressionBombError as error:
        raise ImageError(f"the image {name} has more than {MAX_PIXELS:,} pixels") from error
    except DECODING_ERRORS as error:
        raise ImageError(f"the image {name} is truncated or damaged") from error


def _decode(image: Image.Image, name: str) -> Image.Image:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ImageError(f"the image {name} has more than {MAX_PIXELS:,} pixels ({width} × {height})")
    if width * height == 0:
        raise ImageError(f"the image {name} has no pixels ({width} × {height})")
    try:
        image.load()
        rgb = _to_rgb(ImageOps.exif_transpose(image))
        return ImageOps.invert(rgb) if _is_negative(image) else rgb
    except DECODING_ERRORS as error:
        raise ImageError(f"the image {name} is truncated or damaged") from error


def _is_negative(image: Image.Image) -> bool:
    """Whether 0 stands for white: Pillow turns TIFFs of 8 bits around, deeper ones not."""
    return image.format == "TIFF" and image.mode.startswith("I") and image.tag_v2.get(TIFF_PHOTOMETRIC) == 0


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):  # 16 or 32 bits; Pillow's own conversion clips at 255
        return Image.fromarray(_grey_to_8_bit(np.asarray(image))).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "black"), image).convert("RGB")
    return image.convert("RGB")


def _from_array(array: np.ndarray | torch.Tensor) -> Image.Image:
    """An array of 8 bits, or what `_grey_to_8_bit` and `_colours_to_8_bit` make of it, as L, RGB or RGBA."""
    shape, channels_first = tuple(array.shape), isinstance(array, torch.Tensor)
    if channels_first:
        array = array.detach().cpu()
        array = (array.float() if array.is_floating_point() else array).numpy()  # NumPy has no bfloat16
    if array.ndim == 3 and shape[0] in CHANNELS and (channels_first or shape[2] not in CHANNELS):
        array = np.moveaxis(array, 0, 2)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in CHANNELS)):
        raise ImageError(f"an array {shape} is no image; give (h, w), (h, w, c) or (c, h, w) of 1, 3 or 4 channels")
    if array.size == 0:
        raise ImageError(f"the given array has no pixels {shape}")
    if array.dtype == bool:
        array = array * np.uint8(255)
    if array.dtype != np.uint8:
        array = _grey_to_8_bit(array) if array.ndim == 2 else _colours_to_8_bit(array)
    return Image.fromarray(np.ascontiguousarray(array))


def _grey_to_8_bit(grey: np.ndarray) -> np.ndarray:
    """Grey values (h, w) of any range to 0–255, floats from 0 to 1 by 255; else a constant image becomes black, as do
    values that are not finite."""
    is_share = grey.dtype.kind == "f"
    grey = grey.astype(np.float32)
    finite = np.isfinite(grey)
    low = grey.min(where=finite, initial=np.inf)
    high = grey.max(where=finite, initial=-np.inf)
    if is_share and low >= 0 and high <= 1:
        low, high = np.float32(0), np.float32(1)
    if not high > low:
        return np.zeros(grey.shape, np.uint8)
    return np.where(finite, (grey - low) * (255 / (high - low)), 0).round().astype(np.uint8)


def _colours_to_8_bit(colours: np.ndarray) -> np.ndarray:
    """Colours (h, w, c): of 16 bits the high bytes, as Pillow reads files; floats from 0 to 1 by 255; 0 to 255."""
    if colours.dtype == np.uint16:
        return (colours >> 8).astype(np.uint8)
    if not (colours.min() >= 0 and colours.max() <= 255):
        raise ImageError(
            f"the given array has colours from {colours.min():g} to {colours.max():g}; give 0 to 255, or floats 0 to 1"
        )
    if colours.dtype.kind == "f" and colours.max() <= 1:
        colours = colours * 255
    return colours.round().astype(np.uint8)
