"""Pictures inside of reports: a figure as PNG, and bytes as the address of an image."""

import io
from base64 import b64encode

from matplotlib.figure import Figure

DPI = 150


def to_png(figure: Figure) -> bytes:
    """The figure's file, the same for the same figure."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()


def data_uri(data: bytes, kind: str) -> str:
    """Bytes of an image of a kind, such as png, inside of a page."""
    return f"data:image/{kind};base64,{b64encode(data).decode()}"
