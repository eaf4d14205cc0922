"""Plot of one metric under all conditions, as PNG."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from flamingo_med.reporting.calibration_plots import COLOURS, REFERENCE
from flamingo_med.reporting.figures import to_png


def score_plot(scores: Sequence[dict], labels: Mapping[str, str]) -> bytes:
    """A dot and its 95 % interval for each condition, the model's in colour.

    Args:
        scores: tidy rows of one metric and one subset.
        labels: condition → what it is called.

    Returns:
        the bytes of a PNG; its title has metric, subset and n.
    """
    figure = Figure(figsize=(6.4, 1.2 + 0.4 * len(scores)), layout="constrained")
    axes = figure.subplots()
    for place, score in enumerate(reversed(scores)):
        colour = COLOURS[0] if score["condition"] == "model" else REFERENCE
        if score["low"] is not None:
            axes.plot([score["low"], score["high"]], [place, place], color=colour, linewidth=2.5)
        axes.plot(score["value"], place, "o", color=colour)
    axes.set_yticks(range(len(scores)), [labels[score["condition"]] for score in reversed(scores)])
    axes.set(xlim=(0, 1), ylim=(-0.6, len(scores) - 0.4), xlabel=scores[0]["signature"])
    axes.set_title(f"{scores[0]['metric']}, {scores[0]['subset']}, n = {scores[0]['n']}, 95 %", fontsize="medium")
    axes.spines[["top", "right"]].set_visible(False)
    return to_png(figure)
