"""The reader of images that ships with checkpoints, `images_flamingo_med`, for commands: its errors become theirs."""

from pathlib import Path

from PIL import Image

from processing import images_flamingo_med
from processing.errors import InputError
from processing.images_flamingo_med import MAX_PIXELS, ImageError, Source, is_dicom

__all__ = ["MAX_PIXELS", "is_dicom", "read_bytes", "read_image"]


def read_image(source: Source) -> Image.Image:
    """The image as 8-bit RGB, upright: sources and rules as of `images_flamingo_med.read_image`.

    Raises:
        InputError: it cannot be read.
    """
    try:
        return images_flamingo_med.read_image(source)
    except ImageError as error:
        raise InputError(str(error)) from error


def read_bytes(source: str | Path | bytes | dict) -> tuple[bytes, str]:
    """Content of the file, and the name it has in messages; sources as of `images_flamingo_med.read_bytes`.

    Raises:
        InputError: file missing, empty or too large.
    """
    try:
        return images_flamingo_med.read_bytes(source)
    except ImageError as error:
        raise InputError(str(error)) from error
