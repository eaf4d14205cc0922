"""Any source of one image → an RGB PIL image: file, bytes or `datasets` entry, with size limits and clear errors."""

import io
import os
import struct
import zlib
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from processing.errors import InputError

MAX_BYTES = 512 * 2**20
MAX_PIXELS = 100_000_000
# A closed list: among Pillow's other formats are some that start programs (EPS runs Ghostscript).
FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
TIFF_PHOTOMETRIC = 262
# What Pillow's decoders raise on damaged files.
DECODING_ERRORS = (OSError, ValueError, SyntaxError, EOFError, LookupError, TypeError, struct.error, zlib.error)


def read_image(source: Image.Image | str | Path | bytes | dict) -> Image.Image:
    """The image as 8-bit RGB, upright (EXIF orientation applied), of several frames the first.

    Grey values of more than 8 bits are scaled linearly from their own minimum–maximum to 0–255; transparency is
    composited on black.

    DICOM files, known by their content, are shown with their own lookup tables or window, see `processing.dicom`.

    Args:
        source: a PIL image; a path; the bytes of a file; or the entry of a `datasets.Image(decode=False)` column,
            {"path", "bytes"}, whose bytes, if there, are used instead of its path.

    Raises:
        InputError: file missing, empty, damaged, no image, above `MAX_BYTES` or above `MAX_PIXELS`; DICOM without the
            extra that reads it.

    >>> read_image(Image.new("L", (4, 2), 255)).getpixel((0, 0))
    (255, 255, 255)
    """
    if isinstance(source, Image.Image):
        return _decode(source, "the given image")
    data, name = read_bytes(source)
    if is_dicom(data):
        return _read_dicom(data, name)
    return _decode(_open(data, name), name)


def damage(image: dict) -> str | None:
    """Why the entry of a column of images, {"path", "bytes"}, cannot be read; None if it can.

    A file that has not changed is decoded once in a process.
    """
    path = image["path"]
    if image["bytes"] is not None or path is None or not os.path.isfile(path):
        return _damage(image)
    return _damage_of_file(str(path), os.stat(path).st_mtime_ns)


@cache  # the splits of one data set are loaded one after the other, and each checks all rows
def _damage_of_file(path: str, mtime_ns: int) -> str | None:
    return _damage(path)


def _damage(source: str | dict) -> str | None:
    try:
        read_image(source)
    except InputError as error:
        return str(error)
    return None


def is_dicom(data: bytes) -> bool:
    """Whether this is the content of a DICOM file: its mark after the preamble, or, where an export left both out,
    the length of the file meta information, (0002,0000) UL, at the start."""
    return data[128:132] == b"DICM" or data.startswith(b"\x02\x00\x00\x00UL\x04\x00")


def _read_dicom(data: bytes, name: str) -> Image.Image:
    try:
        from processing.dicom import read_dicom
    except ImportError:
        raise InputError(f'{name} is a DICOM file, which needs: pip install pydicom "pylibjpeg[all]"') from None
    return read_dicom(data, name, max_pixels=MAX_PIXELS)


def read_bytes(source: str | Path | bytes | dict) -> tuple[bytes, str]:
    """Content of the file, of at most `MAX_BYTES`, and the name it has in messages; sources as in `read_image`.

    Raises:
        InputError: file missing, empty or above `MAX_BYTES`.
    """
    if isinstance(source, dict):
        path, data = source.get("path"), source.get("bytes")
        if path is None and data is None:
            raise InputError("an image of the data set has neither path nor bytes")
        source = path if data is None else data
        name = "the given bytes" if path is None else str(path)
    else:
        name = "the given bytes" if isinstance(source, bytes) else str(source)

    if not isinstance(source, str | Path | bytes):
        raise InputError(
            f"an image is a PIL image, a path or the bytes of a file, not of type {type(source).__name__}"
        )
    data = source if isinstance(source, bytes) else _read_file(Path(source))
    if len(data) == 0:
        raise InputError(f"the image file {name} is empty")
    if len(data) > MAX_BYTES:
        raise InputError(f"the image file {name} is larger than {MAX_BYTES >> 20} MiB")
    return data, name


def _read_file(path: Path) -> bytes:
    if path.is_dir():
        raise InputError(f"{path} is a folder, not an image file")
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise InputError(f"the image file {path} does not exist") from error
    except OSError as error:
        raise InputError(f"the image file {path} cannot be read: {error.strerror}") from error
    except ValueError as error:  # it holds a zero byte, or half a character
        raise InputError(f"{str(path)!r} is not the path of a file") from error


def _open(data: bytes, name: str) -> Image.Image:
    """Read the header only; nothing is decoded yet."""
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as error:
        raise InputError(f"{name} is not an image of a known format ({', '.join(FORMATS)})") from error
    except Image.DecompressionBombError as error:
        raise InputError(f"the image {name} has more than {MAX_PIXELS:,} pixels") from error
    except DECODING_ERRORS as error:
        raise InputError(f"the image {name} is truncated or damaged") from error


def _decode(image: Image.Image, name: str) -> Image.Image:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise InputError(f"the image {name} has more than {MAX_PIXELS:,} pixels ({width} × {height})")
    if width * height == 0:
        raise InputError(f"the image {name} has no pixels ({width} × {height})")
    try:
        image.load()
        rgb = _to_rgb(ImageOps.exif_transpose(image))
        return ImageOps.invert(rgb) if _is_negative(image) else rgb
    except DECODING_ERRORS as error:
        raise InputError(f"the image {name} is truncated or damaged") from error


def _is_negative(image: Image.Image) -> bool:
    """Whether 0 stands for white: Pillow turns TIFFs of 8 bits around, deeper ones not."""
    return image.format == "TIFF" and image.mode.startswith("I") and image.tag_v2.get(TIFF_PHOTOMETRIC) == 0


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):  # 16 or 32 bits; Pillow's own conversion clips at 255
        return Image.fromarray(_scale_to_8_bit(np.asarray(image))).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "black"), image).convert("RGB")
    return image.convert("RGB")


def _scale_to_8_bit(grey: np.ndarray) -> np.ndarray:
    """Grey values (h, w) of any range to 0–255; a constant image becomes black, as do values that are not finite."""
    grey = grey.astype(np.float32)
    finite = np.isfinite(grey)
    low = grey.min(where=finite, initial=np.inf)
    high = grey.max(where=finite, initial=-np.inf)
    if not high > low:
        return np.zeros(grey.shape, np.uint8)
    return np.where(finite, (grey - low) * (255 / (high - low)), 0).round().astype(np.uint8)
