"""Pages of explanations as one file: templates filled in, and pictures as data URIs."""

from collections.abc import Mapping

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure

from flamingo_med.explanation.explanation import Explanation, paint
from flamingo_med.explanation.interrogation import ClassifierExplanation, Finding, in_words
from flamingo_med.reporting.figures import DPI, data_uri, thumbnail, to_png

SIDE = 768  # of a picture of the image, in pixels; originals may have thousands
CLASSES = 12  # that are listed


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


def classifier_page(explanation: ClassifierExplanation, title: str, about: Mapping[str, str]) -> str:
    """The page that explains a classifier.

    Args:
        explanation: of `explain_classifier`.
        title: which classifier, by which model.
        about: name → value, for the foot.
    """
    listed = list(explanation.probabilities.items())
    one = "Exactly one class holds (softmax); it asserts the most probable."
    several = "Several classes may hold (sigmoid); it asserts those of 0.5 or more."
    return render(
        "classifier.html.jinja",
        title=title,
        sentences=in_words(explanation),
        picture=thumbnail(explanation.image, SIDE),
        size=f"{explanation.image.width} × {explanation.image.height}",
        probabilities=listed[:CLASSES],
        left_out=len(listed[CLASSES:]),
        kind=several if explanation.multi_label else one,
        findings=[_finding(finding) for finding in explanation.findings],
        min_confidence=explanation.min_confidence,
        method=_method(explanation),
        about=about,
    )


def _finding(finding: Finding) -> dict:
    values = {name: getattr(finding, name) for name in ("name", "verdict", "probability", "replies", "maps_alike")}
    values["classifier_map"] = finding.classifier_map and map_figure(finding.classifier_map)
    if finding.vqa_map:
        values |= {"vqa_map": map_figure(finding.vqa_map), "vqa_question": finding.vqa_map.question}
    return values


def _method(explanation: ClassifierExplanation) -> str | None:
    """Name and settings; those of the two models may differ with the size of what they see."""
    maps = [m for f in explanation.findings for m in (f.classifier_map, f.vqa_map) if m]
    details = " and ".join(dict.fromkeys(one.details for one in maps))
    return f"{explanation.method}, {details}" if maps else None
