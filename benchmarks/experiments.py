"""The experiments of docs/results.md: trains and scores what `experiments.yaml` lists, and prints one table.

    python benchmarks/experiments.py --group vqa_med --settings.data_dir DIR --settings.vision facebook/dinov2-small

Each experiment is a recipe with a few settings changed, trained and then scored, both in a process of its own; what is
there already is not done again, so that the command resumes where it was stopped. Each is compared row by row with the
reference of its group, the mean of all its seeds that are there: a difference has an interval that is paired and
clustered by image, and knows nothing of the spread between seeds.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from flamingo_med.cli.main import run
from flamingo_med.cli.parser import CommandParser
from flamingo_med.common.settings import override, read_recipe
from flamingo_med.evaluation.comparison import differences, format_difference, pair_rows
from flamingo_med.evaluation.intervals import clustered_bootstrap
from flamingo_med.evaluation.predictions import read_predictions
from flamingo_med.evaluation.tables import format_score
from flamingo_med.metrics.exact_match import exact_match
from processing.errors import InputError, check_keys

ROOT = Path(__file__).resolve().parent.parent
LIST = Path(__file__).with_suffix(".yaml")


@dataclass
class ExperimentArguments:
    """Which experiments, and where they go."""

    group: str = field(metadata={"help": "of experiments.yaml"})
    output_dir: str = field(default="runs/experiments", metadata={"help": "folder of all runs"})
    only: list = field(default_factory=list, metadata={"help": "some of the group: --only \"['a', 'b, seed 1']\""})
    settings: dict = field(default_factory=dict, metadata={"help": "of training, for all: --settings.data_dir DIR"})


def train(folder: Path, recipe: str, settings: dict) -> None:
    """Train one experiment where that is not done.

    Raises:
        InputError: it was trained with other settings, those of the recipe included.
    """
    arguments = [part for name, value in settings.items() for part in (f"--{name}", yaml_line(value))]
    if not (folder / "recipe.yaml").is_file():  # written last
        call("train", recipe, "--output_dir", folder, "--resume_from_checkpoint", "true", *arguments)
        return
    trained, asked = read_recipe(folder / "recipe.yaml"), override(read_recipe(recipe), arguments)
    of_folder = dict.fromkeys(("output_dir", "resume_from_checkpoint"))  # it may have been moved
    if trained | of_folder != asked | of_folder:
        raise InputError(
            f"{folder} was trained with other settings than {recipe} and {settings}; choose another --output_dir"
        )


def score(folder: Path, split: str) -> None:
    """Score one experiment on a split where that is not done."""
    scores = folder / "eval" / split
    if not (scores / "metrics.json").is_file():
        call("evaluate", "--model", folder, "--split", split, "--output_dir", scores)


def call(command: str, *arguments: str | Path) -> None:
    """Run one of the project's commands; ends where that fails."""
    program = [sys.executable, "-m", "flamingo_med.cli.main", command]
    done = subprocess.run([*program, *map(str, arguments)], stdout=sys.stderr)
    if done.returncode:
        raise InputError(f"flamingo-med {command} ended with code {done.returncode}; what it said is above")


def yaml_line(value: object) -> str:
    """A setting as it stands on a command line."""
    return yaml.safe_dump(value, default_flow_style=True, width=10**6).removesuffix("\n").removesuffix("\n...")


def dotted(settings: dict) -> dict:
    """Nested settings one by one, by dotted names: a whole mapping would replace that of the recipe.

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


def read_scores(folder: Path, split: str) -> list[dict]:
    """Rows of an evaluation, with the exact match of the answers with images and, as `blank_image`, without."""
    rows = read_predictions(folder / "eval" / split / "predictions.jsonl")
    return [
        {**row, "blank_image": exact_match(row["blank_image_prediction"], row["answers"])}
        for row in rows
        if row["answers"]
    ]


def mean(runs: list[list[dict]]) -> list[dict]:
    """Of several runs on the same rows, each row with the mean of its scores."""
    names = ("exact_match", "blank_image")
    others = [{row["id"]: row for row in run} for run in runs]
    return [
        {**row, **{name: sum(run[row["id"]][name] for run in others) / len(runs) for name in names}} for row in runs[0]
    ]


def score_of(rows: list[dict], answer_type: str) -> str:
    """Exact match and interval of the rows of a type, or of all; "-" where there are none."""
    rows = [row for row in rows if answer_type in ("all", row["answer_type"])]
    if not rows:
        return "-"
    values = [row["exact_match"] for row in rows]
    low, high = clustered_bootstrap(values, [row["image_id"] for row in rows])
    return format_score({"value": sum(values) / len(values), "low": low, "high": high})


def difference_of(first: list[dict], second: list[dict]) -> str:
    """Exact match of the second less that of the first, of all rows."""
    pairs = pair_rows(first, second, ("the reference", "another experiment"))
    return format_difference(next(row for row in differences(pairs, "exact_match") if row["subset"] == "all"))


def without_seed(experiment: str) -> str:
    """The name that experiments share which differ in the seed.

    >>> without_seed("one stage, seed 1")
    'one stage'
    """
    return re.sub(r", seed \d+$", "", experiment)


def with_means(experiments: Iterable[str]) -> dict[str, list[str]]:
    """Lines of a table and the experiments that each is of: themselves, and the mean of those that differ in the seed.

    >>> with_means(["a", "a, seed 1", "b"])
    {'a': ['a'], 'a, seed 1': ['a, seed 1'], 'a, mean of 2 seeds': ['a', 'a, seed 1'], 'b': ['b']}
    """
    families = {}
    for name in experiments:
        families.setdefault(without_seed(name), []).append(name)
    lines = {}
    for family, members in families.items():
        lines |= {name: [name] for name in members}
        if len(members) > 1:
            lines[f"{family}, mean of {len(members)} seeds"] = members
    return lines


def table(runs: dict[str, Path], reference: list[Path], split: str) -> str:
    """A line of Markdown for each run, and for the mean of those that differ in the seed.

    Args:
        runs: name of the experiment → folder.
        reference: runs whose mean the others are compared with; of some there may be no scores.
        split: the one whose scores are shown.
    """
    columns = "closed | open | all | blank images | to blank images, paired | to the reference, paired | minutes"
    lines = [f"| {split} | {columns} |", "|---|---|---|---|---|---|---|---|"]
    reference = [folder for folder in reference if (folder / "eval" / split / "predictions.jsonl").is_file()]
    first = mean([read_scores(folder, split) for folder in reference]) if reference else None
    for line, names in with_means(runs).items():
        folders = [runs[name] for name in names]
        rows = mean([read_scores(folder, split) for folder in folders])
        blank = [{**row, "exact_match": row["blank_image"]} for row in rows]
        minutes = sum(json.loads((folder / "summary.json").read_text())["seconds"] / 60 for folder in folders)
        cells = [
            *(score_of(rows, subset) for subset in ("closed", "open", "all")),
            score_of(blank, "all"),
            difference_of(blank, rows),
            "-" if first is None or folders == reference else difference_of(first, rows),
            f"{minutes:.0f}",
        ]
        lines.append(f"| {line} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Experiments of a group, one after the other → table."""
    (args,) = CommandParser("python benchmarks/experiments.py", __doc__, ExperimentArguments).build(sys.argv[1:])
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
    earlier, _, compared_with = group["reference"].partition("/")
    seeds = [name for name in groups[earlier]["experiments"] if without_seed(name) == compared_with]
    reference = [folder_of(f"{earlier}/{name}", args.output_dir) for name in seeds]
    print("\n\n".join(table(done, reference, split) for split in group["splits"]))


if __name__ == "__main__":
    run(main)
