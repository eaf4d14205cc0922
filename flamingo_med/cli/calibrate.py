"""Fit a model's confidences to an evaluation of its validation split.

Writes calibration.json beside the weights, and plots beside the predictions. With --target_risk it
also finds the confidence below which to abstain, so that at most this share of the answers given
to new questions is wrong.

  flamingo-med evaluate --model runs/phantom --split validation
  flamingo-med calibrate runs/phantom/eval/phantom-validation/predictions.jsonl --target_risk 0.1
"""

from dataclasses import dataclass, field
from pathlib import Path

from flamingo_med.cli.parser import CommandParser
from flamingo_med.evaluation.calibration import Calibration, fit, guarantee, save_calibration
from flamingo_med.evaluation.predictions import read_meta, read_predictions
from flamingo_med.evaluation.tables import format_measures
from flamingo_med.reporting.calibration_plots import write_plots
from processing.errors import InputError, disk_errors

WORDS = {"predictions": "predictions.jsonl of an evaluation with --split validation"}


@dataclass
class CalibrationArguments:
    """What the confidences are fitted to."""

    predictions: str = field(metadata={"help": WORDS["predictions"]})
    target_risk: float | None = field(
        default=None, metadata={"help": "share of wrong answers, such as 0.1, that may be given to new questions"}
    )

    def __post_init__(self):
        if self.target_risk is not None and not 0 < self.target_risk < 1:
            raise InputError(f"target_risk is above 0 and below 1, got {self.target_risk}")


def main(arguments: list[str]) -> None:
    """Temperatures, and with a target risk the threshold to abstain at; calibration.json and plots."""
    parser = CommandParser(
        "flamingo-med calibrate", __doc__, CalibrationArguments, words=WORDS, often=("target_risk",)
    )
    (args,) = parser.build(arguments)
    path = Path(args.predictions)
    predictions, folder = read_predictions(path), path.parent
    meta = read_meta(folder / "metrics.json")
    if meta["split"] != "validation":
        raise InputError(f"{path} is of the {meta['split']} split; fit on validation, then score the others")
    if not Path(meta["model"]).is_dir():
        raise InputError(f"calibration.json is written beside the weights, but {meta['model']} is no folder")
    calibration, measures = fit(predictions, {name: meta[name] for name in ("dataset", "split", "fingerprints")})
    if args.target_risk is not None:
        calibration = guarantee(calibration, predictions, args.target_risk)
    counts = calibration.fitted_on
    print(
        f"{format_measures(measures)}\n\nof the rows that the temperatures were fitted on, with 95 % intervals "
        "clustered by image; score others for a test\n"
        f"{len(predictions)} rows: {counts['answers']} scored, {counts['candidates']} with the answer among candidates"
    )
    if args.target_risk is not None:
        print(describe_guarantee(calibration))
    with disk_errors(meta["model"]):
        save_calibration(meta["model"], calibration)
    with disk_errors(folder):
        write_plots(folder, predictions, calibration)
    print(f"written: {meta['model']}/calibration.json, {folder}/reliability.png, {folder}/risk_coverage.png")


def describe_guarantee(calibration: Calibration) -> str:
    """What the calibration promises of new questions, in a sentence."""
    found = calibration.guarantees
    target, images = f"{found['target_risk']:.0%}", found["images"]
    threshold = found["threshold"]
    if threshold is None:
        return f"abstention: no threshold keeps the risk at {target} on {images} images, one question each; use more"
    return (
        f"abstention: below a confidence of {threshold['confidence']:.2f}; so at most {target} of the answers to new "
        f"questions are wrong (level {found['level']:.0%}, {images} images, a question each), and "
        f"{threshold['coverage']:.0%} of the questions are answered"
    )
