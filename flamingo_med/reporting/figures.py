"""Pictures inside of reports: a figure as PNG, and an image or its bytes as an address."""

import io
from base64 import b64encode
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image

from processing.images import read_image

DPI = 150


def to_png(figure: Figure) -> bytes:
    """The figure's file, the same for the same figure."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()


def data_uri(data: bytes, kind: str) -> str:
    """Bytes of an image of a kind, such as png, inside of a page."""
    return f"data:image/{kind};base64,{b64encode(data).decode()}"


def thumbnail(image: Image.Image | str | Path | bytes | dict, largest_side: int) -> str:
    """An image, made smaller where it is large, as a data URI."""
    small = read_image(image)
    small.thumbnail((largest_side, largest_side), Image.Resampling.LANCZOS)
    data = io.BytesIO()
    small.save(data, "JPEG", quality=88)
    return data_uri(data.getvalue(), "jpeg")
