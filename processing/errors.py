"""What a user can mend is one sentence and exit code 2; everything else keeps its traceback."""

import sys
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from typing import Any, get_args


class InputError(ValueError):
    """A mistake in what the user gave: its message names the file, the value and the way out, in one sentence."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Ending of an error message about an unknown name: the closest known one, or all of them.

    >>> nearest("learning_rat", ["learning_rate", "seed"])
    'did you mean learning_rate?'
    """
    known = sorted(known)
    close = get_close_matches(str(name), known, n=1)
    return f"did you mean {close[0]}?" if close else f"known: {', '.join(known)}"


def check_keys(given: Iterable[str], known: Iterable[str], what: str) -> None:
    """Refuse the first given name that is not known, and name the nearest known one."""
    known = list(known)
    for name in given:
        if name not in known:
            raise InputError(f"unknown {what} {name!r}; {nearest(name, known)}")


def check_types(settings: dict[str, Any], hints: dict[str, Any]) -> dict[str, Any]:
    """The settings, each of a type that its annotation allows; whole numbers may stand for floats."""
    return {name: _checked(name, value, hints[name]) for name, value in settings.items()}


def _checked(name: str, value: Any, hint: Any) -> Any:
    allowed = _flat(hint)
    if float in allowed and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    plain = {bool, int, float, str, dict, list, type(None)}
    if set(allowed) <= plain and type(value) not in allowed:
        names = " or ".join("nothing" if kind is type(None) else kind.__name__ for kind in allowed)
        raise InputError(f"{name} is {value!r}, but must be {names}")
    return value


def _flat(hint: Any) -> list[type]:
    """int | None → int, NoneType; list[str] → list."""
    if isinstance(hint, type) and not get_args(hint):
        return [hint]
    origin = getattr(hint, "__origin__", None)
    if isinstance(origin, type):
        return [origin]
    return [kind for part in get_args(hint) for kind in _flat(part)]


def run(main: Callable[[], None]) -> None:
    """Call a command's `main`; on an `InputError` print its sentence and exit with code 2."""
    try:
        main()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
