"""Reads the files that a run and its evaluations have written, and checks that they hold what cards are made of."""

from pathlib import Path
from typing import Any, TypedDict

from modeling_flamingo_med.configuration_flamingo_med import FlamingoMedConfig
from processing.errors import InputError, one_line
from processing.shapes import check_shape, parse_json

OF_THE_RUN = ("config.json", "run.json", "summary.json")


class Stage(TypedDict):
    """What a model was trained on; `settings` of a run are one too."""

    dataset: str | None
    data: dict


class _Settings(TypedDict, total=False):
    dataset: str | None
    data: dict
    exclude: str | None
    output_dir: str


class Run(TypedDict):
    """run.json."""

    command: str
    commit: str | None
    versions: dict[str, str]
    stages_before: list[Stage]
    settings: _Settings


class _Hardware(TypedDict):
    processes: int
    device: str
    cores: int | None


class _Loss(TypedDict):
    first: float
    last: float


class _Validation(TypedDict):
    step: int
    loss: float
    exact_match: float
    low: float | None
    high: float | None


class Summary(TypedDict):
    """summary.json, see `run_report.summary`."""

    steps: int
    epochs: float
    questions_per_step: int
    learning_rate: float
    lr_scheduler: str
    seed: int
    seconds: float | None
    resumed: bool
    hardware: _Hardware
    loss: _Loss | None
    validation: _Validation | None


class _Interval(TypedDict):
    value: float
    low: float | None
    high: float | None


class _Rows(TypedDict):
    scored: int
    images: int


class _Meta(TypedDict):
    dataset: str
    split: str
    data: dict
    rows: _Rows
    overlap: str
    model_minus_blank_image: _Interval
    command: str
    commit: str | None


class _Score(_Interval):
    metric: str
    subset: str
    condition: str
    n: int
    signature: str


class Evaluation(TypedDict):
    """metrics.json of a split with answers."""

    meta: _Meta
    scores: list[_Score]


def read_run(folder: str | Path) -> tuple[FlamingoMedConfig, Run, Summary]:
    """What is known of a finished run.

    Raises:
        InputError: a file of it is missing or damaged.
    """
    config, run, summary = (read_json(Path(folder, name)) for name in OF_THE_RUN)
    _require(run, Run, Path(folder, "run.json"))
    _require(summary, Summary, Path(folder, "summary.json"))
    try:
        return FlamingoMedConfig.from_dict(config), run, summary
    except Exception as error:  # the settings of whatever encoder and decoder, which their own classes check
        raise InputError(f"{Path(folder, 'config.json')} describes no model: {one_line(error)}") from None


def read_evaluations(folder: str | Path) -> list[Evaluation]:
    """What its evaluations have found, those of blind test sets left out.

    Raises:
        InputError: a metrics.json is damaged.
    """
    found = []
    for path in sorted(Path(folder, "eval").glob("*/metrics.json")):
        evaluation = read_json(path)
        if evaluation.get("scores") == []:  # a blind test set has none
            continue
        _require(evaluation, Evaluation, path)
        found.append({name: evaluation[name] for name in ("meta", "scores")})
    return found


def read_json(path: Path) -> dict[str, Any]:
    """A file that the run has written."""
    try:
        found = parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"no {path.name} in {path.parent}; give the output_dir of a finished run") from None
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict):
        raise InputError(f"{path} cannot be read; it is damaged, or was not written by this project")
    return found


def _require(found: dict, shape: type, path: Path) -> None:
    try:
        check_shape(found, shape, path.stem)
    except ValueError as error:
        raise InputError(f"{path} is damaged, or was not written by this project: {error}") from None
