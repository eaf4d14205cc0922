"""Folders that commands write to: one writer at a time."""

from pathlib import Path

from filelock import FileLock, Timeout

from processing.errors import InputError


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
