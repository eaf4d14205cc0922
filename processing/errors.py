"""What a user can mend is one sentence and exit code 2; everything else keeps its traceback."""

import sys
from collections.abc import Callable, Iterable
from difflib import get_close_matches


class InputError(ValueError):
    """A mistake in what the user gave: its message names the file, the value and the way out, in one sentence."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Ending of an error message about an unknown name: the closest known one, or all of them.

    >>> nearest("learning_rat", ["learning_rate", "seed"])
    'did you mean learning_rate?'
    """
    known = sorted(known)
    close = get_close_matches(name, known, n=1)
    return f"did you mean {close[0]}?" if close else f"known: {', '.join(known)}"


def check_keys(given: Iterable[str], known: Iterable[str], what: str) -> None:
    """Refuse the first given name that is not known, and name the nearest known one."""
    known = list(known)
    for name in given:
        if name not in known:
            raise InputError(f"unknown {what} {name!r}; {nearest(name, known)}")


def run(main: Callable[[], None]) -> None:
    """Call a command's `main`; on an `InputError` print its sentence and exit with code 2."""
    try:
        main()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
