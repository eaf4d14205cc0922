"""The explanation report as a picture and as one HTML page with all in it; neither shows an image or a question."""

from collections.abc import Mapping, Sequence
from html import escape

from matplotlib.figure import Figure

from modeling_flamingo_med.explanation.explanation import literal
from modeling_flamingo_med.explanation.report import LOWER_IS_BETTER, MEASURES
from processing.pictures import data_uri
from processing.scoring.report import format_score

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; max-width: 75em; margin: 2em auto; padding: 0 1em; color: #222 }
table { border-collapse: collapse; margin: 1em 0; font-variant-numeric: tabular-nums }
th, td { text-align: left; padding: .25em .8em .25em 0; border-bottom: 1px solid #ddd }
img { max-width: 100% } code { font-size: 90% }
"""


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
        scores: of `report.score`.
        sentences: of `report.judge`.
        notes: what was left out, and the like.
        title: which model on what.
        png: of `draw`.
    """
    subsets = sorted({s["subset"] for s in scores}, key=lambda name: (name != "all", name))
    used = [name for name in MEASURES if any(s["metric"] == name for s in scores)]
    picture = data_uri(png, "png")
    parts = [
        f"<h1>{escape(title)}</h1>",
        "<p>95 % intervals by bootstrap clustered by image. Not for clinical use.</p>",
        *(f"<p>{escape(note)}</p>" for note in notes),
        f"<ul>{''.join(f'<li>{escape(sentence)}</li>' for sentence in sentences)}</ul>",
        f'<img alt="{escape(title)}" src="{picture}">',
    ]
    for subset in subsets:
        parts += [f"<h2>{escape(subset)}</h2>", _table([s for s in scores if s["subset"] == subset])]
    definitions = "".join(f"<li><code>{escape(MEASURES[name])}</code></li>" for name in used)
    parts.append(f"<h2>Signatures</h2><ul>{definitions}</ul>")
    head = f'<meta charset="utf-8"><title>{escape(title)}</title><style>{STYLE}</style>'
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>\n' + "\n".join(parts) + "\n</body></html>\n"


def _table(scores: Sequence[Mapping]) -> str:
    cells = {(s["condition"], s["metric"]): s for s in scores}
    measures = [name for name in MEASURES if any(metric == name for _, metric in cells)]
    methods = dict.fromkeys(method for method, _ in cells)
    lines = []
    for method in methods:
        line = [method, *(format_score(cells.get((method, name))) for name in measures)]
        lines.append("".join(f"<td>{escape(text)}</td>" for text in line))
    counts = [max(s["n"] for s in scores if s["metric"] == name) for name in measures]
    header = ["method", *(f"{name} (n={n})" for name, n in zip(measures, counts, strict=True))]
    top = "".join(f"<th>{escape(text)}</th>" for text in header)
    return f"<table><tr>{top}</tr>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"
