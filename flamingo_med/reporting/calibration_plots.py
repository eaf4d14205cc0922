"""Reliability diagram and risk–coverage curve of a set of answers, as PNG: of several confidences side by side."""

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from flamingo_med.evaluation.calibration import Calibration
from flamingo_med.evaluation.calibration_error import (
    BINS,
    aurc,
    expected_calibration_error,
    reliability_bins,
    risk_coverage,
)
from flamingo_med.evaluation.intervals import clustered_bootstrap
from flamingo_med.reporting.figures import to_png

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")  # Okabe and Ito's, told apart by all eyes
REFERENCE = "#707070"
SIZE = (5.2, 4.6)  # inches

Confidences = Mapping[str, Sequence[float]]


def reliability_diagram(confidences: Confidences, hits: Sequence[float], clusters: Sequence[Hashable]) -> bytes:
    """Accuracy against confidence, bin by bin; the area of a dot is the share of the rows in the bin.

    Args:
        confidences: name → one a row, 0 to 1; at most four.
        hits: 1 where the answer is right, else 0.
        clusters: name of the image of each row.

    Returns:
        the bytes of a PNG; its title has n and the accuracy with its 95 % interval clustered by image, its legend the
        ECE of each.
    """
    figure, axes = _axes("confidence", "accuracy", hits, clusters, top=1)
    axes.plot([0, 1], [0, 1], color=REFERENCE, linestyle="--", label="calibrated")
    for (name, values), colour in zip(confidences.items(), COLOURS[: len(confidences)], strict=True):
        filled = reliability_bins(values, hits)
        x, y = [b["confidence"] for b in filled], [b["accuracy"] for b in filled]
        label = f"{name}, ECE {expected_calibration_error(values, hits):.3f} ({BINS} bins)"
        axes.plot(x, y, color=colour, label=label)
        axes.scatter(x, y, [10 + 300 * b["n"] / len(hits) for b in filled], color=colour, alpha=0.7)
    return _with_legend(figure, axes)


def risk_coverage_curve(confidences: Confidences, hits: Sequence[float], clusters: Sequence[Hashable]) -> bytes:
    """Risk against coverage, beside the best and a random order of the same answers.

    Arguments as of `reliability_diagram`.

    Returns:
        the bytes of a PNG; its title as there, its legend the AURC of each.
    """
    curves = {name: risk_coverage(values, hits) for name, values in confidences.items()}
    everything = 1 - float(np.mean(hits))
    top = max(0.05, everything, *(risks.max() for _, risks in curves.values()))
    figure, axes = _axes("coverage", "risk", hits, clusters, top)
    axes.axhline(everything, color=REFERENCE, linestyle=":", label=f"random order, AURC {everything:.3f}")
    best = aurc(hits, hits)
    axes.plot(*risk_coverage(hits, hits), color=REFERENCE, linestyle="--", label=f"best order, AURC {best:.3f}")
    for (name, curve), colour in zip(curves.items(), COLOURS[: len(curves)], strict=True):
        axes.plot(*curve, color=colour, label=f"{name}, AURC {curve[1].mean():.3f}")
    return _with_legend(figure, axes)


def write_plots(folder: str | Path, predictions: Sequence[dict], calibration: Calibration) -> None:
    """reliability.png and risk_coverage.png of predictions.jsonl's rows, without and with the temperature."""
    rows = [row for row in predictions if "confidence" in row and row.get("exact_match") is not None]
    confidences = np.array([row["confidence"] for row in rows])
    named = {"as generated": confidences}
    named[f"at temperature {calibration.answer_temperature:.2f}"] = calibration.confidence(confidences)
    hits, clusters = [row["exact_match"] for row in rows], [row["image_id"] for row in rows]
    Path(folder, "reliability.png").write_bytes(reliability_diagram(named, hits, clusters))
    curve = risk_coverage_curve({"by confidence": confidences}, hits, clusters)  # a temperature keeps their order
    Path(folder, "risk_coverage.png").write_bytes(curve)


def _axes(x: str, y: str, hits: Sequence[float], clusters: Sequence[Hashable], top: float) -> tuple[Figure, Axes]:
    low, high = clustered_bootstrap(hits, clusters)
    interval = "one image" if low is None else f"95 % [{low:.2f}, {high:.2f}]"
    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.subplots()
    axes.set(xlabel=x, ylabel=y, xlim=(0, 1.05), ylim=(0, 1.05 * top))
    axes.set_title(f"n = {len(hits)}, accuracy {np.mean(hits):.3f}, {interval}", fontsize="medium")
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _with_legend(figure: Figure, axes: Axes) -> bytes:
    axes.legend(loc="best", frameon=False, fontsize="small")
    return to_png(figure)
