"""The page that explains a classifier by questions, as one HTML file."""

from collections.abc import Mapping

from flamingo_med.explanation.classifier_check import ClassifierExplanation, Finding, describe_findings
from flamingo_med.explanation.templates import SIDE, map_figure, render
from flamingo_med.reporting.figures import thumbnail

CLASSES = 12  # that are listed


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
        "classifier_page.html.jinja",
        title=title,
        sentences=describe_findings(explanation),
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
