"""The map of an explanation as a picture that can be laid over the image: the weaker, the more transparent."""

from dataclasses import dataclass

import numpy as np
from matplotlib import colormaps
from PIL import Image

from flamingo_med.explanation import Explanation

SIGNED, UNSIGNED = "RdBu_r", "inferno"  # as in `Explanation.overlay`


@dataclass(frozen=True)
class Heat:
    """A map to look at.

    Attributes:
        picture: RGBA, of the shape of the image that is shown.
        signed: places may speak against the answer too.
        empty: no place had a part in the answer.
        method, details, target: of the explanation.
    """

    picture: Image.Image
    signed: bool
    empty: bool
    method: str
    details: str
    target: str


def to_heat(explanation: Explanation) -> Heat:
    """The first map of an explanation."""
    values = explanation.original_maps()[0]
    largest = float(np.abs(values).max())
    signed = bool(values.min() < 0)
    share = values / (largest or 1.0)
    colours = colormaps[SIGNED]((share + 1) / 2) if signed else colormaps[UNSIGNED](share)
    colours[..., 3] = np.abs(share)
    picture = Image.fromarray((colours * 255).round().astype(np.uint8), "RGBA")
    return Heat(picture, signed, largest == 0, explanation.method, explanation.details, explanation.target)


def gradient(signed: bool) -> str:
    """The colours of the scale, as CSS."""
    name = SIGNED if signed else UNSIGNED
    stops = [colormaps[name](place / 8) for place in range(9)]
    return ", ".join("rgb({:.0f} {:.0f} {:.0f})".format(*(255 * channel for channel in stop[:3])) for stop in stops)
