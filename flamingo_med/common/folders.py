"""Folders that commands write to: one writer at a time, and a full or read-only disk as one sentence."""

import errno
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from safetensors import SafetensorError

from processing.errors import InputError

FAULTS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the share of the disk is used up",
    errno.EROFS: "the disk is read-only",
    errno.EACCES: "there is no right to write",
    errno.EPERM: "there is no right to write",
}
AGAIN = "make room or choose another folder, and run the same again; what is done is kept"


def lock_folder(folder: str | Path, *, first_process: bool = True) -> FileLock:
    """Make a folder, and keep other commands out of it until this one ends, however it ends.

    Args:
        folder: the folder.
        first_process: of several processes of one command only the first takes the lock.

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
    except (OSError, RuntimeError, SafetensorError) as error:
        fault = disk_fault(error)
        if fault is None:
            raise
        path = getattr(error, "filename", None)
        place = path if isinstance(path, str) and not Path(path).is_relative_to(folder) else folder
        raise InputError(f"{fault}: {place} could not be written; {way_out}") from None


@contextmanager
def whole_folder(folder: str | Path) -> Iterator[Path]:
    """An empty folder that takes the place of `folder`, which is empty or not there, once the block has filled it.

    Raises:
        InputError: as of `disk_errors`, or there is no such place; nothing of it is left then.
    """
    folder = Path(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"nothing can be written to {folder}: {error.strerror}") from None
    beside = {"dir": folder.parent, "prefix": f".{folder.name}.part-"}
    with disk_errors(folder), tempfile.TemporaryDirectory(**beside) as temporary:
        part = Path(temporary, folder.name)
        part.mkdir()
        yield part
        os.replace(part, folder)


def disk_fault(error: BaseException) -> str | None:
    """What is wrong with the disk, by an error of whatever has written; None if the error is another one."""
    if isinstance(error, OSError) and error.errno in FAULTS:
        return FAULTS[error.errno]
    if "inline_container" in str(error):  # torch's writer of zip files
        return FAULTS[errno.ENOSPC]
    found = re.search(r"(?:os error|errno) (\d+)", str(error))  # safetensors and pyarrow
    return FAULTS.get(int(found[1])) if found else None
