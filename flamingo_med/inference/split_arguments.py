"""What a command on a split takes: which model, which data set, and where the results go."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from flamingo_med.common.settings import build_arguments, read_recipe
from processing.datasets.arguments import DataArguments
from processing.errors import InputError, check_path

TRUST_HELP = "run the code that a model of another kind than ours brings with it"


@dataclass(kw_only=True)
class TrainedModelArguments:
    """Which model."""

    model: str = field(metadata={"help": "folder or Hub id of the model"})
    revision: str | None = field(
        default=None, metadata={"help": "branch, tag or commit of a model of the Hub; its main branch if unset"}
    )
    trust_remote_code: bool = field(default=False, metadata={"help": TRUST_HELP})

    def __post_init__(self):
        check_path("--model", self.model)
        if self.revision is not None and Path(self.model).is_dir():
            raise InputError(f"--revision {self.revision} is for a model of the Hub, and {self.model} is a folder")


@dataclass(kw_only=True)
class SplitArguments(TrainedModelArguments):
    """Which model, on which split of a data set, and where the results go."""

    recipe: str | None = field(default=None, metadata={"help": "recipe that names the data set; the model's if unset"})
    split: str = field(default="test", metadata={"help": "train, validation or test"})
    output_dir: str | None = field(
        default=None,
        metadata={"help": "folder of the results; MODEL/eval (or explain)/DATASET-SPLIT-OPTIONS if unset"},
    )

    def __post_init__(self):
        super().__post_init__()
        self.recipe = self.recipe or f"{self.model}/recipe.yaml"


def build_with_data(kind: type, change: Callable[[dict], dict]) -> tuple[Any, DataArguments]:
    """Arguments of a command on a data set: an instance of its own dataclass, and the data set of the recipe.

    Args:
        kind: a dataclass with a `recipe`.
        change: puts what the user gave into settings; it overrides the recipe.

    Raises:
        InputError: as of `build_arguments` and `read_recipe`; a recipe without a data set.
    """
    args, _ = build_arguments(change({}), kind, DataArguments)
    if args.recipe.endswith("/recipe.yaml") and not Path(args.recipe).is_file():
        raise InputError(f"no {args.recipe}, which would name the data set; add --recipe NAME or FILE")
    recipe = read_recipe(args.recipe)
    if "dataset" not in recipe:
        raise InputError(f"{args.recipe} names no dataset; known settings of it: dataset, data_dir, data")
    of_data = {f.name: recipe[f.name] for f in fields(DataArguments) if f.name in recipe}
    args, data_args = build_arguments(change(of_data), kind, DataArguments)
    return args, data_args


def results_folder(args: SplitArguments, kind: str, data_args: DataArguments) -> Path:
    """Where the results of a kind, such as eval, go: output_dir, by default a folder beneath the model, or in runs/
    for one of the Hub."""
    if args.output_dir:
        return Path(args.output_dir)
    exclude = {"exclude": Path(data_args.exclude).stem} if data_args.exclude else {}
    options = "".join(f"-{name}={value}" for name, value in sorted((data_args.data | exclude).items()))
    options = re.sub(r"[^\w.=-]+", "_", options)  # mappings and paths, in the name of a folder
    revision = f"@{args.revision.replace('/', '--')}" if args.revision else ""
    beneath = args.model if Path(args.model).is_dir() else f"runs/{args.model.replace('/', '--')}{revision}"
    return Path(beneath, kind, f"{data_args.dataset}-{args.split}{options}")
