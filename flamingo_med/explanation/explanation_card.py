"""The explanation report as a picture and as one HTML page with all in it; neither shows an image or a question."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from flamingo_med.evaluation.tables import format_score
from flamingo_med.explanation.explanation import literal
from flamingo_med.explanation.measurement import LOWER_IS_BETTER, MEASURES
from flamingo_med.explanation.templates import render
from flamingo_med.reporting.figures import data_uri


def draw(scores: Sequence[Mapping], title: str) -> Figure:
    """A panel for each measure, a line with its 95 % interval for each method."""
    cells = {(s["metric"], s["condition"]): s for s in scores if s["subset"] == "all"}
    measures = [name for name in MEASURES if any(metric == name for metric, _ in cells)]
    methods = list(dict.fromkeys(method for _, method in cells))
    columns = min(4, len(measures))
    rows = -(-len(measures) // columns)
    figure = Figure(figsize=(3.2 * columns + 1, (0.3 * len(methods) + 1) * rows + 0.4), layout="constrained")
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False).flatten()
    for axes in panels:
        axes.set_axis_off()
    for axes, name in zip(panels, measures, strict=False):
        axes.set_axis_on()
        for place, method in enumerate(methods):
            if score := cells.get((name, method)):
                axes.plot(score["value"], place, "o", color="black", markersize=4)
                if score["low"] is not None:
                    axes.plot([score["low"], score["high"]], [place, place], color="black", linewidth=1.2)
        axes.set_title(f"{name} ({'lower' if name in LOWER_IS_BETTER else 'higher'} is better)", fontsize=9)
        axes.set_yticks(range(len(methods)), methods, fontsize=8)
        axes.set_ylim(len(methods) - 0.5, -0.5)
        axes.tick_params(axis="x", labelsize=8)
        axes.grid(axis="x", color="#dddddd")
    figure.suptitle(literal(title), fontsize=10)
    return figure


def to_html(scores: Sequence[Mapping], sentences: Sequence[str], notes: Sequence[str], title: str, png: bytes) -> str:
    """The page: what follows from the scores, the picture, all scores by subset, and how each measure is defined.

    Args:
        scores: of `measurement.score`.
        sentences: of `measurement.verdicts`.
        notes: what was left out, and the like.
        title: which model on what.
        png: of `draw`.
    """
    subsets = sorted({s["subset"] for s in scores}, key=lambda name: (name != "all", name))
    return render(
        "explanation_card.html.jinja",
        title=title,
        notes=notes,
        sentences=sentences,
        picture=data_uri(png, "png"),
        tables=[_table(subset, [s for s in scores if s["subset"] == subset]) for subset in subsets],
        signatures=[signature for name, signature in MEASURES.items() if any(s["metric"] == name for s in scores)],
    )


def _table(subset: str, scores: Sequence[Mapping]) -> dict:
    """Header and lines of the scores of one subset, a line for each method."""
    cells = {(s["condition"], s["metric"]): s for s in scores}
    measures = [name for name in MEASURES if any(metric == name for _, metric in cells)]
    counts = [max(s["n"] for s in scores if s["metric"] == name) for name in measures]
    header = ["method", *(f"{name} (n={n})" for name, n in zip(measures, counts, strict=True))]
    methods = dict.fromkeys(method for method, _ in cells)
    lines = [[method, *(format_score(cells.get((method, name))) for name in measures)] for method in methods]
    return {"subset": subset, "header": header, "lines": lines}
