"""The reader of images that ships with checkpoints, `images_flamingo_med`, for commands: its errors become theirs."""

import os
from functools import cache
from pathlib import Path

from PIL import Image

from processing import images_flamingo_med
from processing.errors import InputError
from processing.images_flamingo_med import MAX_PIXELS, ImageError, Source, is_dicom

__all__ = ["MAX_PIXELS", "damage", "is_dicom", "read_bytes", "read_image"]


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
