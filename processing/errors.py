"""InputError: what a user can fix, in one sentence; and the checks of names, types, paths and disks that raise it."""

import errno
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args

# Names in recipes, on the command line and in saved files that are not what they were.
RENAMED = {
    "without": "exclude",
    "learn_questions": "train_on_questions",
    "own": "custom",
    "sharded": "parquet_shards",
}


# Number of an error → what is wrong with the disk.
FAULTS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the share of the disk is used up",
    errno.EROFS: "the disk is read-only",
    errno.EACCES: "there is no right to write",
    errno.EPERM: "there is no right to write",
}
AGAIN = "make room or choose another folder, and run the same again; what is done is kept"


class InputError(ValueError):
    """A mistake in what the user gave: its message names the file, the value and the way out, in one sentence."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Ending of an error message about an unknown name: the closest known one, or all of them.

    >>> nearest("learning_rat", ["learning_rate", "seed"])
    'did you mean learning_rate?'
    """
    known = sorted(known)
    if RENAMED.get(name) in known:
        return f"it is now called {RENAMED[name]}"
    close = get_close_matches(str(name), known, n=1)
    return f"did you mean {close[0]}?" if close else f"known: {', '.join(known)}"


def check_keys(given: Iterable[str], known: Iterable[str], what: str) -> None:
    """Refuse the first given name that is not known, and name the nearest known one."""
    known = list(known)
    for name in given:
        if name not in known:
            raise InputError(f"unknown {what} {name!r}; {nearest(name, known)}")


def check_renamed(settings: dict[str, Any], path: object) -> dict[str, Any]:
    """The settings in a file, none of which has a name that is no longer in use."""
    for name in settings:
        if name in RENAMED:
            raise InputError(f"{path}: the setting {name} is now called {RENAMED[name]}; rename it there")
    return settings


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
        raise InputError(f"{name} is {value!r:.100}, but must be {names}")
    return value


def _flat(hint: Any) -> list[type]:
    """int | None → int, NoneType; list[str] → list."""
    if isinstance(hint, type) and not get_args(hint):
        return [hint]
    origin = getattr(hint, "__origin__", None)
    if isinstance(origin, type):
        return [origin]
    return [kind for part in get_args(hint) for kind in _flat(part)]


def check_path(setting: str, place: object, way_out: str = "") -> None:
    """Refuse a path at which there is nothing, at once; whatever is no path may be the id of something on the Hub.

    A path begins with /, . or ~, or with the name of a folder that is here, or has another form than ORG/NAME.

    Args:
        setting: where it was given: --model.
        place: a path or Hub id; anything but a text is let pass.
        way_out: what else the message says.

    Raises:
        InputError: names the setting and the first folder that is missing.
    """
    if not isinstance(place, str) or not place or os.path.exists(place):
        return
    organisation, slash, name = place.rstrip("/").partition("/")
    known = slash and os.path.isdir(organisation or "/")
    if not (known or place.startswith((".", "~")) or place.endswith("/") or "/" in name or "\\" in place):
        return
    missing = place.rstrip("/")
    while not os.path.lexists(parent := os.path.dirname(missing) or "."):
        missing = parent
    message = f"{setting} is {place}, but there is no {missing}"
    siblings = os.listdir(parent) if os.path.isdir(parent) else []
    if place.startswith("~") and os.path.exists(home := os.path.expanduser(place)):
        message += f"; write {home}"
    elif close := get_close_matches(os.path.basename(missing), siblings, n=1):
        message += f"; did you mean {os.path.join(os.path.dirname(missing), close[0])}?"
    elif known and organisation and "/" not in name:
        message += f"; it would be on the Hub if {organisation} were not a folder here"
    raise InputError(f"{message}; {way_out}" if way_out else message)


def one_line(error: BaseException) -> str:
    """What an error of another library says, in one line; its kind where it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__


def reason(error: BaseException) -> str:
    """Why something of the Hub was not to be had, and the way out; of another error, its first line.

    Args:
        error: of the Hub's client, or what a library has made of it.
    """
    from huggingface_hub import constants  # here: this module must import within milliseconds
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HTTPError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    causes = [error]
    while causes[-1].__cause__ is not None:
        causes.append(causes[-1].__cause__)
    cause = next((cause for cause in causes if isinstance(cause, HTTPError | OfflineModeIsEnabled)), None)
    status = cause.response.status_code if isinstance(cause, HfHubHTTPError) else None
    if isinstance(cause, OfflineModeIsEnabled):
        return "it is not at hand, and HF_HUB_OFFLINE is set"
    if isinstance(cause, RevisionNotFoundError):
        return "the repository has no such revision"
    if isinstance(cause, RepositoryNotFoundError):
        return "there is no such repository, or the token may not see it"
    if status == 401:
        return "there is no token that the Hub accepts; run `hf auth login`, or set HF_TOKEN"
    if status == 403:
        return "the token has no right to it; take one that has, or another name"
    if "trust_remote_code" in str(error):
        return "it brings code of its own, which is run by --trust_remote_code true only, where a command has that"
    if cause is not None and status is None:
        return f"{constants.ENDPOINT} cannot be reached"
    return str(error).strip().partition("\n")[0]


@contextmanager
def disk_errors(folder: str | Path, way_out: str = AGAIN) -> Iterator[None]:
    """Say in one sentence that a folder cannot be written.

    Args:
        folder: what is written in the block lies in it.
        way_out: ending of the sentence.

    Raises:
        InputError: the disk is full or read-only, or the user may not write; names the folder, or what else could not
            be written.
    """
    try:
        yield
    except Exception as error:  # safetensors, torch and pyarrow have errors of their own
        fault = disk_fault(error)
        if fault is None:
            raise
        path = getattr(error, "filename", None)
        place = path if isinstance(path, str) and not Path(path).is_relative_to(folder) else folder
        raise InputError(f"{fault}: {place} could not be written; {way_out}") from None


def disk_fault(error: BaseException) -> str | None:
    """What is wrong with the disk, by an error of whatever has written; None if the error is another one."""
    if isinstance(error, OSError) and error.errno in FAULTS:
        return FAULTS[error.errno]
    if "inline_container" in str(error):  # torch's writer of zip files
        return FAULTS[errno.ENOSPC]
    found = re.search(r"(?:os error|errno) (\d+)", str(error))  # safetensors and pyarrow
    return FAULTS.get(int(found[1])) if found else None
