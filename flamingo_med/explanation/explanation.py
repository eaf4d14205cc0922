"""Explanation: the maps of one method, and a picture of them over the image that says what it shows."""

from dataclasses import dataclass
from pathlib import Path
from textwrap import fill

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from PIL import Image
from torch import Tensor

from flamingo_med.explanation.geometry import Geometry
from processing.errors import InputError


@dataclass(frozen=True)
class Explanation:
    """Maps of how much each place of an image contributed to k numbers.

    Attributes:
        method: one of `METHODS`.
        details: how it was used.
        question, answer: what was asked, and what the model answers or was given as its answer.
        target: what is explained.
        labels: names of the k numbers; one for the target as a whole, or one for each token of the answer.
        image: the original.
        patch_maps: (k rows columns) in the image encoder's grid.
        pixel_maps: (k h w) in the pixels that the model sees.
        geometry: between these and the original.
    """

    method: str
    details: str
    question: str
    answer: str
    target: str
    labels: tuple[str, ...]
    image: Image.Image
    patch_maps: Tensor
    pixel_maps: Tensor
    geometry: Geometry

    def original_maps(self) -> np.ndarray:
        """(k H W) in the pixels of the original, 0 where the model saw nothing of it."""
        return self.geometry.to_original(self.pixel_maps)

    def overlay(self) -> Figure:
        """The maps over the image, one beside the other, each with a colour bar; below, method and target."""
        figure = Figure(figsize=(4.6 * len(self.labels), 5.0), layout="constrained")
        for axes, label, heat in zip(
            figure.subplots(1, len(self.labels), squeeze=False)[0], self.labels, self.original_maps(), strict=True
        ):
            figure.colorbar(paint(axes, self.image, heat), ax=axes, shrink=0.7)
            axes.set_title(literal(label), fontsize=9)
            axes.set_axis_off()
        asked = f"{self.question} → {self.answer}"
        caption = [asked, f"{self.method} ({self.details})", f"target: {self.target}"]
        lines = [fill(line, 60 * len(self.labels)) for line in caption]
        figure.supxlabel(literal("\n".join([*lines, "Not for clinical use."])), fontsize=8)
        return figure

    def save(self, path: str | Path) -> None:
        """Write the overlay as PNG.

        Raises:
            InputError: it cannot be written.
        """
        figure = self.overlay()
        try:
            figure.savefig(path, format="png", dpi=150)
        except OSError as error:
            raise InputError(f"the picture cannot be written to {path}: {error.strerror}") from None


def paint(axes: Axes, image: Image.Image, heat: np.ndarray) -> AxesImage:
    """A map (H W) over its image, which shows through where the map is near 0; red for and blue against, where it has
    both. What is returned gives a colour bar its scale."""
    axes.imshow(image)
    largest = float(np.abs(heat).max()) or 1.0
    signed = heat.min() < 0
    return axes.imshow(
        heat,
        cmap="RdBu_r" if signed else "inferno",
        vmin=-largest if signed else 0,
        vmax=largest,
        alpha=0.7 * np.abs(heat) / largest,
        interpolation="nearest",
    )


def literal(text: str) -> str:
    """Dollar signs would begin a formula."""
    return text.replace("$", r"\$")
