"""Folders that commands write to: their names by default, and one writer at a time."""

import re
from pathlib import Path

from filelock import FileLock, Timeout

from processing.errors import InputError
from processing.recipe import DataArguments, SplitArguments


def results_folder(args: SplitArguments, kind: str, data_args: DataArguments) -> Path:
    """Where the results of a kind, such as eval, go: output_dir, by default a folder beneath the model, or in runs/
    for one of the Hub."""
    if args.output_dir:
        return Path(args.output_dir)
    without = {"without": Path(data_args.without).stem} if data_args.without else {}
    options = "".join(f"-{name}={value}" for name, value in sorted((data_args.data | without).items()))
    options = re.sub(r"[^\w.=-]+", "_", options)  # mappings and paths, in the name of a folder
    revision = f"@{args.revision.replace('/', '--')}" if args.revision else ""
    beneath = args.model if Path(args.model).is_dir() else f"runs/{args.model.replace('/', '--')}{revision}"
    return Path(beneath, kind, f"{data_args.dataset}-{args.split}{options}")


def reserve(folder: str | Path, *, first_process: bool = True) -> FileLock:
    """Make a folder, and keep other commands out of it until this one ends, however it ends.

    Args:
        folder: the folder.
        first_process: of several processes of one command only the first reserves it.

    Raises:
        InputError: another process writes to it, or nobody may.
    """
    lock = FileLock(Path(folder, ".lock"))
    if first_process:
        try:
            Path(folder).mkdir(parents=True, exist_ok=True)
            lock.acquire(blocking=False)
        except Timeout:
            raise InputError(f"another process is writing to {folder}; choose another --output_dir") from None
        except OSError as error:
            raise InputError(f"the results cannot be written to {folder}: {error.strerror}") from None
    return lock
