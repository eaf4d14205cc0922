"""The experiments of docs/results.md: trains and scores what `experiments.yaml` lists, and prints one table.

    python benchmarks/experiments.py --group vqa_med --settings.data_dir DIR --settings.vision facebook/dinov2-small

Each experiment is a recipe with a few settings changed, trained and then scored by `eval.py`, both in a process of its
own; what is there already is not done again, so that the command goes on where it was stopped. Each is compared with
the reference of its group row by row: a difference has an interval that is paired and clustered by image.
"""

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from processing.errors import InputError, check_keys, run
from processing.recipe import build_arguments, describe, override, read_recipe
from processing.scoring.compare import differences, format_difference, pair_rows
from processing.scoring.predictions import read_predictions
from processing.scoring.report import format_score

ROOT = Path(__file__).resolve().parent.parent
LIST = Path(__file__).with_suffix(".yaml")


@dataclass
class ExperimentArguments:
    """Which experiments, and where they go."""

    group: str = field(metadata={"help": "of experiments.yaml"})
    output_dir: str = field(default="runs/experiments", metadata={"help": "folder of all runs"})
    only: list = field(default_factory=list, metadata={"help": "some of the group: --only '[a, b]'"})
    settings: dict = field(default_factory=dict, metadata={"help": "of train.py, for all: --settings.data_dir DIR"})


def train(folder: Path, recipe: str, settings: dict) -> None:
    """Train one experiment where that is not done.

    Raises:
        InputError: it was trained with other settings.
    """
    arguments = [part for name, value in settings.items() for part in (f"--{name}", yaml_line(value))]
    if not (folder / "recipe.yaml").is_file():  # written last
        call("train.py", recipe, "--output_dir", folder, "--resume_from_checkpoint", "true", *arguments)
    elif override(trained := read_recipe(folder / "recipe.yaml"), arguments) != trained:
        raise InputError(f"{folder} was trained with other settings than {settings}; choose another --output_dir")


def score(folder: Path, split: str) -> None:
    """Score one experiment on a split where that is not done."""
    scores = folder / "eval" / split
    if not (scores / "metrics.json").is_file():
        call("eval.py", "--model", folder, "--split", split, "--output_dir", scores)


def call(script: str, *arguments: str | Path) -> None:
    """Run one of the project's commands; ends where that fails."""
    here = os.path.relpath(ROOT / script)  # which run.json and the card will show
    done = subprocess.run([sys.executable, here, *map(str, arguments)], stdout=sys.stderr)
    if done.returncode:
        raise InputError(f"{script} ended with code {done.returncode}; what it said is above")


def yaml_line(value: object) -> str:
    """A setting as it stands on a command line."""
    return yaml.safe_dump(value, default_flow_style=True, width=10**6).removesuffix("\n").removesuffix("\n...")


def dotted(settings: dict) -> dict:
    """Nested settings as `train.py` takes them, each by itself: a whole mapping would replace that of the recipe.

    >>> dotted({"data_dir": "DIR", "model": {"resampler_depth": 2}})
    {'data_dir': 'DIR', 'model.resampler_depth': 2}
    """
    flat = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            flat |= {f"{name}.{inner}": leaf for inner, leaf in dotted(value).items()}
        else:
            flat[name] = value
    return flat


def folder_of(experiment: str, output_dir: str) -> Path:
    """Where the experiment "GROUP/NAME" is kept.

    >>> folder_of("vqa_med/8 latents", "runs").as_posix()
    'runs/vqa_med/8-latents'
    """
    group, _, name = experiment.partition("/")
    return Path(output_dir, group, re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-"))


def table(experiments: dict[str, Path], reference: Path, split: str) -> str:
    """A row of Markdown for each experiment.

    Args:
        experiments: name → folder of the run.
        reference: folder of the run that the others are compared with where it is there.
        split: the one whose scores are shown.
    """
    columns = "closed | open | all | blank images | less blank, paired | less the reference, paired | minutes"
    lines = [f"| {split} | {columns} |", "|---|---|---|---|---|---|---|---|"]
    known = reference / "eval" / split / "predictions.jsonl"
    first = read_predictions(known) if known.is_file() else None
    for name, folder in experiments.items():
        scores = folder / "eval" / split
        metrics = json.loads((scores / "metrics.json").read_text())
        exact = [s for s in metrics["scores"] if s["metric"] == "exact_match"]
        found = {(s["condition"], s["subset"]): format_score(s) for s in exact}
        cells = [found.get(("model", subset), "-") for subset in ("closed", "open", "all")]
        less_blank, less_first = format_difference(metrics["meta"]["model_minus_blank_image"]), "-"
        if first and folder != reference:
            pairs = pair_rows(first, read_predictions(scores / "predictions.jsonl"), ("the reference", name))
            (row,) = (row for row in differences(pairs, "exact_match") if row["subset"] == "all")
            less_first = format_difference(row)
        minutes = json.loads((folder / "summary.json").read_text())["seconds"] / 60
        cells += [found.get(("blank_image", "all"), "-"), less_blank, less_first, f"{minutes:.0f}"]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Experiments of a group, one after the other → table."""
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        print(f"{__doc__}\n{describe(ExperimentArguments)}")
        return
    (args,) = build_arguments(override({}, sys.argv[1:], ExperimentArguments), ExperimentArguments)
    groups = yaml.safe_load(LIST.read_text())
    check_keys([args.group], groups, "group")
    group = groups[args.group]
    check_keys(args.only, group["experiments"], "experiment")
    done = {}
    for name, changes in group["experiments"].items():
        if args.only and name not in args.only:
            continue
        settings = {**dotted(args.settings), **group.get("settings", {}), **changes}
        if "init_from" in settings:
            settings["init_from"] = str(folder_of(settings["init_from"], args.output_dir))
        print(f"{args.group}: {name}", file=sys.stderr, flush=True)
        done[name] = folder_of(f"{args.group}/{name}", args.output_dir)
        train(done[name], os.path.relpath(ROOT / group["recipe"]), settings)
        for split in group["splits"]:
            score(done[name], split)
    reference = folder_of(group["reference"], args.output_dir)
    print("\n\n".join(table(done, reference, split) for split in group["splits"]))


if __name__ == "__main__":
    run(main)
