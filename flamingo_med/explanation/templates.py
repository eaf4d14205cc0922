"""What the HTML pages of explanations share: templates of this folder filled in, and a map as a picture."""

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure

from flamingo_med.explanation.explanation import Explanation, paint
from flamingo_med.reporting.figures import DPI, data_uri, to_png

SIDE = 768  # of a picture of the image, in pixels; originals may have thousands


def render(template: str, **values: object) -> str:
    """A template of this folder, everything in it escaped."""
    environment = Environment(
        loader=PackageLoader("flamingo_med.explanation", "."), autoescape=True, undefined=StrictUndefined
    )
    return environment.get_template(template).render(**values)


def map_figure(explanation: Explanation) -> dict:
    """What `figures.html.jinja` shows of the first map: it over its image, and the ends of its scale."""
    heat = explanation.original_maps()[0]
    width, height = explanation.image.size
    inches = SIDE / DPI / max(width, height)
    figure = Figure(figsize=(inches * width, inches * height))
    axes = figure.add_axes((0, 0, 1, 1))
    paint(axes, explanation.image, heat)
    axes.set_axis_off()
    axes.set_aspect("auto")
    return {
        "picture": data_uri(to_png(figure), "png"),
        "largest": f"{np.abs(heat).max():.2g}",
        "signed": bool(heat.min() < 0),
        "target": explanation.target,
    }
