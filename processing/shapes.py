"""Whether what a JSON file holds has the shape that our code reads, told by the name of the first wrong part."""

import json
import math
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints, is_typeddict

NAMES = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    dict: "a mapping",
    list: "a list",
}


def parse_json(text: str) -> Any:
    """As `json.loads`; whatever is wrong, numbers of thousands of digits and endless nesting too, is a ValueError."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def check_shape(value: Any, hint: Any, name: str) -> None:
    """Check a value, and what is within, against a type.

    Args:
        value: of JSON.
        hint: a `TypedDict` (other keys may be there too), list[…], dict[str, …], str, int, float (a finite number,
            whole ones too), bool, one of these or None, or Any.
        name: of the value, in the message.

    Raises:
        ValueError: a part is missing or of another type.

    >>> check_shape({"seed": [1, "x"]}, dict[str, list[int]], "settings")
    Traceback (most recent call last):
    ValueError: settings.seed[1] is not a whole number
    """
    kind, parts = get_origin(hint) or hint, get_args(hint)
    if kind is Any:
        return
    if kind is UnionType:
        if value is not None:
            check_shape(value, next(part for part in parts if part is not NoneType), name)
        return
    plain = dict if is_typeddict(kind) else kind
    if not _is(value, plain):
        raise ValueError(f"{name} is not {NAMES[plain]}")
    if is_typeddict(kind):
        for key in sorted(kind.__required_keys__ - value.keys()):
            raise ValueError(f"{name}.{key} is missing")
        for key, part in get_type_hints(kind).items():
            if key in value:
                check_shape(value[key], part, f"{name}.{key}")
    elif plain is list and parts:
        for i, part in enumerate(value):
            check_shape(part, parts[0], f"{name}[{i}]")
    elif plain is dict and parts:
        for key, part in value.items():
            check_shape(part, parts[1], f"{name}.{key}")


def is_text(value: Any) -> bool:
    """Whether it is a text that can be written: half of a surrogate pair, as JSON and YAML may hold, cannot."""
    try:
        return isinstance(value, str) and value.encode() is not None
    except UnicodeEncodeError:
        return False


def _is(value: Any, kind: type) -> bool:
    if kind is str:
        return is_text(value)
    if kind is float:
        try:
            return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        except OverflowError:  # a whole number beyond all floats
            return False
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
