"""Fit a model's confidences to an evaluation of its validation split.

Writes calibration.json beside the weights, and plots beside the predictions.

  flamingo-med evaluate --model runs/phantom --split validation
  flamingo-med calibrate runs/phantom/eval/phantom-validation/predictions.jsonl
"""

from pathlib import Path

from flamingo_med.cli.parser import CommandParser
from flamingo_med.evaluation.calibration import fit, save_calibration
from flamingo_med.evaluation.predictions import read_meta, read_predictions
from flamingo_med.evaluation.tables import format_measures
from flamingo_med.reporting.calibration_plots import write_plots
from processing.errors import InputError


def main(arguments: list[str]) -> None:
    """Fit the temperatures of a model's confidences to an evaluation of its validation split: calibration.json beside
    the weights, and plots beside the predictions."""
    words = {"predictions": "predictions.jsonl of an evaluation with --split validation"}
    words, _ = CommandParser("flamingo-med calibrate", __doc__, words=words).parse(arguments)
    path = Path(words["predictions"])
    predictions, folder = read_predictions(path), path.parent
    meta = read_meta(folder / "metrics.json")
    if meta["split"] != "validation":
        raise InputError(f"{path} is of the {meta['split']} split; fit on validation, then score the others")
    if not Path(meta["model"]).is_dir():
        raise InputError(f"calibration.json is written beside the weights, but {meta['model']} is no folder")
    calibration, measures = fit(predictions, {name: meta[name] for name in ("dataset", "split", "fingerprints")})
    save_calibration(meta["model"], calibration)
    write_plots(folder, predictions, calibration)
    counts = calibration.fitted_on
    print(
        f"{format_measures(measures)}\n\nof the rows that the temperatures were fitted on, with 95 % intervals "
        "clustered by image; score others for a test\n"
        f"{len(predictions)} rows: {counts['answers']} scored, {counts['candidates']} with the answer among candidates"
    )
    print(f"written: {meta['model']}/calibration.json, {folder}/reliability.png, {folder}/risk_coverage.png")
