"""Settings: a YAML recipe, overridden from the command line, into argument dataclasses."""

import re
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, get_type_hints

import yaml

from processing.errors import InputError, check_keys, check_renamed, check_types, nearest, one_line

RECIPES = Path(__file__).parents[1] / "recipes"

# Far above what any recipe needs. Aliases make a small text large: nine levels of nine of them are 387 million values.
MOST_VALUES = 10_000
DEEPEST = 32

# What yaml raises on texts that are not YAML, or not what they look like: 2024-99-99, a number of 5000 digits.
YAML_ERRORS = (yaml.YAMLError, ValueError, RecursionError)


class _Loader(yaml.SafeLoader):
    """YAML in which 1e-4 is a number, and yes and no are words (YAML 1.1 wants 1.0e-4, and takes no for false), and
    which holds at most `MOST_VALUES` values once its aliases are written out."""

    def get_single_node(self) -> yaml.Node | None:
        """The whole text, before any value is made of it."""
        node = super().get_single_node()
        if node is not None and _written_out(node, {}) > MOST_VALUES:
            raise yaml.YAMLError(f"more than {MOST_VALUES} values, with what its aliases (*name) stand for")
        return node


def _written_out(node: yaml.Node, known: dict[int, float]) -> float:
    """Number of values in a node where each alias is written out; infinite where one stands within what it names."""
    if id(node) not in known:
        known[id(node)] = float("inf")  # until it is counted
        inner = node.value if isinstance(node, yaml.CollectionNode) else ()
        parts = [part for entry in inner for part in (entry if isinstance(entry, tuple) else (entry,))]
        known[id(node)] = 1 + sum(_written_out(part, known) for part in parts)
    return known[id(node)]


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool" or first in "tTfF"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


# Of texts that are not YAML, tags whose text does not fit them (!!int x), dates that are none, and endless nesting.
YAML_ERRORS = (yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError, RecursionError)


def packaged_recipes() -> dict[str, Path]:
    """Name → file of every recipe that comes with the package, sorted by name."""
    return {path.stem: path for path in sorted(RECIPES.glob("*.yaml"))}


def read_recipe(recipe: str | Path) -> dict[str, Any]:
    """The settings of a recipe.

    Args:
        recipe: path of a YAML file, or the name of a packaged recipe.

    Raises:
        InputError: neither, or the file holds something else than a YAML mapping.

    >>> read_recipe("phantom")["dataset"]
    'phantom'
    """
    packaged = packaged_recipes()
    path = packaged.get(str(recipe), Path(recipe))
    if not path.is_file():
        known = nearest(str(recipe), packaged)
        raise InputError(f"no recipe at {recipe}, and none of that name in the package; {known}")
    return check_renamed(read_mapping(path), path)


def read_mapping(path: str | Path) -> dict[str, Any]:
    """The settings in a YAML file, in which yes and no are words.

    Raises:
        InputError: it holds something else than a YAML mapping, or what `_check_values` refuses.
    """
    try:
        settings = yaml.load(Path(path).read_text(encoding="utf-8"), _Loader)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    except RecursionError:
        raise InputError(f"{path} is nested deeper than {DEEPEST} mappings and lists") from None
    except YAML_ERRORS as error:
        raise InputError(f"{path} is not YAML: {one_line(error)}") from None
    if not isinstance(settings, dict):
        raise InputError(f"{path} holds no settings; write them as name: value, one a line")
    _check_values(settings, str(path))
    return settings


def _check_values(value: Any, where: str, depth: int = 0) -> None:
    """Refuse values that could not be written down again: nested deeper than `DEEPEST`, or texts that are not Unicode.

    Raises:
        InputError: names where the value stands.
    """
    if depth > DEEPEST:
        raise InputError(f"{where} is nested deeper than {DEEPEST} mappings and lists")
    if isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value):
        raise InputError(f"{where} is {value!a}, which holds half a character (a surrogate); write it as UTF-8")
    inner = (part for pair in value.items() for part in pair) if isinstance(value, dict) else value
    if isinstance(value, dict | list):
        for part in inner:
            _check_values(part, where, depth + 1)


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
        except YAML_ERRORS:
            value = text
        _check_values(value, name)
        *path, last = name[2:].split(".")
        if len(path) > DEEPEST:
            raise InputError(f"{name[:40]}… enters {len(path)} mappings, one in the other; {DEEPEST} is the most")
        target = settings
        for key in path:
            target = target.setdefault(key, {})
            if not isinstance(target, dict):
                raise InputError(f"{name}: {key} is {target!r}, not a mapping that could be entered")
        target[last] = value
    return settings


def merge(settings: dict[str, Any], overrides: dict[str, Any]) -> dict[str, Any]:
    """Settings changed by others; mappings are entered.

    >>> merge({"seed": 0, "data": {"scheme": "official", "seed": 0}}, {"data": {"seed": 1}})
    {'seed': 0, 'data': {'scheme': 'official', 'seed': 1}}
    """
    merged = deepcopy(settings)
    for name, value in overrides.items():
        inner = merged.get(name)
        both = isinstance(value, dict) and isinstance(inner, dict)
        merged[name] = merge(inner, value) if both else str(value) if isinstance(value, Path) else value
    return merged


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
        except ImportError as error:  # such as of deepspeed
            raise InputError(f"a library that these settings need is not installed: {one_line(error)}") from None
        except Exception as error:  # of whatever kind: nothing but these settings has led to it
            raise InputError(f"these settings do not go together: {one_line(error)}") from None
    return instances
