"""Recipes: a YAML file of settings, overridden from the command line, into argument dataclasses."""

import re
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, get_type_hints

import yaml
from datasets import Dataset, IterableDataset

from processing.datasets import load_split, sharded
from processing.datasets.rows import leave_out
from processing.errors import InputError, check_keys, check_types


@dataclass(kw_only=True)
class TrainedModelArguments:
    """Which model."""

    model: str = field(metadata={"help": "folder or Hub id of the model"})
    revision: str | None = field(
        default=None, metadata={"help": "branch, tag or commit of a model of the Hub; its main branch if unset"}
    )

    def __post_init__(self):
        if self.revision is not None and Path(self.model).is_dir():
            raise InputError(f"--revision {self.revision} is for a model of the Hub, and {self.model} is a folder")


@dataclass(kw_only=True)
class SplitArguments(TrainedModelArguments):
    """Which model, on which split of a data set, and where the results go."""

    recipe: str | None = field(default=None, metadata={"help": "recipe that names the data set; the model's if unset"})
    split: str = field(default="test", metadata={"help": "train, validation or test"})
    output_dir: str | None = field(
        default=None,
        metadata={"help": "MODEL/eval/DATASET-SPLIT-OPTIONS (or explain/) if unset, in runs/ for one of the Hub"},
    )

    def __post_init__(self):
        super().__post_init__()
        self.recipe = self.recipe or f"{self.model}/recipe.yaml"


@dataclass
class DataArguments:
    """Which data set, and from where."""

    dataset: str = field(default="phantom", metadata={"help": "name of the data set"})
    data_dir: str | None = field(default=None, metadata={"help": "its folder or Hub id; its own default if unset"})
    data: dict = field(default_factory=dict, metadata={"help": "its options: --data.seed 1"})
    without: str | None = field(
        default=None,
        metadata={"help": "report of processing.datasets.overlap: its images of b are left out of all splits"},
    )
    streaming: bool = field(
        default=False,
        metadata={"help": "train on the shards of a sharded data set without loading it; max_steps ends"},
    )

    def load(self, split: str) -> Dataset:
        """One split of it, see `processing.datasets.load_split`."""
        rows = load_split(self.dataset, split, self.data_dir, **self.data)
        return leave_out(rows, self.without, f"{self.dataset} {split}") if self.without else rows

    def load_train(self) -> Dataset | IterableDataset:
        """The train split, or a stream of it."""
        if not self.streaming:
            return self.load("train")
        if self.without:
            raise InputError("rows of a stream are not left out; write the shards without them")
        if self.dataset != "sharded":
            raise InputError(f"only the data set sharded is streamed, not {self.dataset}; {sharded.HOW_TO_WRITE}")
        return sharded.stream("train", self.data_dir)


class _Loader(yaml.SafeLoader):
    """YAML in which 1e-4 is a number, and yes and no are words (YAML 1.1 wants 1.0e-4, and takes no for false)."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool" or first in "tTfF"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def read_recipe(path: str) -> dict[str, Any]:
    """The settings in a recipe file.

    Raises:
        InputError: no such file, or it holds something else than a YAML mapping.
    """
    if not Path(path).is_file():
        raise InputError(f"no recipe at {path}; those of this project are in recipes/")
    return read_mapping(path)


def read_mapping(path: str) -> dict[str, Any]:
    """The settings in a YAML file, in which yes and no are words.

    Raises:
        InputError: it holds something else than a YAML mapping.
    """
    try:
        settings = yaml.load(Path(path).read_text(encoding="utf-8"), _Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(settings, dict):
        raise InputError(f"{path} holds no settings; write them as name: value, one a line")
    return settings


def override(settings: dict[str, Any], arguments: Sequence[str], *kinds: type) -> dict[str, Any]:
    """Settings changed by `--name value` pairs; a dot enters a mapping, and a name alone stands for true.

    Values are read as YAML, but those of the dataclasses' texts are taken as they are (null aside, where there may be
    none): a question may hold a colon, a revision be 1.0.

    >>> override({"seed": 0, "model": {"resampler_depth": 2}}, ["--seed", "1", "--model.resampler_depth", "6"])
    {'seed': 1, 'model': {'resampler_depth': 6}}
    """
    settings = deepcopy(settings)
    hints = {f"--{name}": hint for kind in kinds for name, hint in get_type_hints(kind).items()}
    position = 0
    while position < len(arguments):
        name, equals, text = arguments[position].partition("=")
        if not name.startswith("--"):
            raise InputError(f"unexpected {name!r}; arguments are written --name value")
        position += 1
        if not equals:
            text = "true"
            if position < len(arguments) and not arguments[position].startswith("--"):
                text = arguments[position]
                position += 1
        try:
            plain = hints.get(name) is str or (hints.get(name) == (str | None) and text != "null")
            value = text if plain else yaml.load(text, _Loader)
        except yaml.YAMLError:
            value = text
        *path, last = name[2:].split(".")
        target = settings
        for key in path:
            target = target.setdefault(key, {})
            if not isinstance(target, dict):
                raise InputError(f"{name}: {key} is {target!r}, not a mapping that could be entered")
        target[last] = value
    return settings


def build_arguments(settings: dict[str, Any], *kinds: type) -> list[Any]:
    """An instance of each dataclass from the settings of all of them.

    Raises:
        InputError: a name that no dataclass has, one that is missing, or a value of the wrong type.
    """
    check_keys(settings, [f.name for kind in kinds for f in fields(kind) if f.init], "setting")
    instances = []
    for kind in kinds:
        hints = get_type_hints(kind)
        own = {f.name: settings[f.name] for f in fields(kind) if f.init and f.name in settings}
        for f in fields(kind):
            if f.name not in own and f.default is MISSING and f.default_factory is MISSING:
                raise InputError(f"--{f.name} is missing: {f.metadata['help']}")
        own = check_types(own, hints)
        try:
            instances.append(kind(**own))
        except InputError:
            raise
        except (TypeError, ValueError) as error:
            raise InputError(f"these settings do not go together: {error}") from None
    return instances


def build_with_data(arguments: Sequence[str], kind: type) -> tuple[Any, DataArguments]:
    """Arguments of a command on a data set: an instance of `kind`, and the data set of the `recipe` that it names.

    Raises:
        InputError: as of `build_arguments` and `read_recipe`; a recipe without a data set.
    """
    kinds = (kind, DataArguments)
    args, _ = build_arguments(override({}, arguments, *kinds), *kinds)
    recipe = read_recipe(args.recipe)
    if "dataset" not in recipe:
        raise InputError(f"{args.recipe} names no dataset; known settings of it: dataset, data_dir, data")
    of_data = {f.name: recipe[f.name] for f in fields(DataArguments) if f.name in recipe}
    args, data_args = build_arguments(override(of_data, arguments, *kinds), *kinds)
    return args, data_args


def describe(*kinds: type) -> str:
    """Names, defaults and help of the arguments that dataclasses of ours declare, for `--help`."""
    lines = []
    for own, f in ((kind, f) for kind in kinds for f in fields(kind)):
        ours = (base for base in own.__mro__ if not base.__module__.startswith("transformers."))
        if not any(f.name in getattr(base, "__annotations__", {}) for base in ours):
            continue
        default = "" if f.default is MISSING else f" ({f.default})"
        lines.append(f"  --{f.name}{default}: {f.metadata['help']}")
    return "\n".join(lines)
