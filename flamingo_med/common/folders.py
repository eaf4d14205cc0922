"""Folders that commands write to: one writer at a time, and whole or not at all."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from processing.errors import InputError, disk_errors


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
