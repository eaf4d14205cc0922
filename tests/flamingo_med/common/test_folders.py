"""A disk that cannot be written is told from other errors, whoever has met it."""

import errno
from pathlib import Path

import pytest
import torch
from PIL import Image

from flamingo_med.common.folders import whole_folder
from processing.errors import InputError, disk_errors, disk_fault
from processing.files import write_json


@pytest.mark.parametrize(
    "write",
    [
        lambda path: path.write_text("x" * 10**6),
        lambda path: torch.save({"a": torch.zeros(10**6)}, path),
        lambda path: Image.new("L", (999, 999)).save(path, "PNG"),
    ],
)
def test_writers_of_all_kinds(write):
    full = Path("/dev/full")  # which takes no byte
    if not full.exists():
        pytest.skip("there is no /dev/full")
    with pytest.raises(InputError, match="the disk is full: runs/a could not be written; make room"):  # noqa: SIM117
        with disk_errors("runs/a"):
            write(full)


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full"),
        (OSError(errno.EROFS, "Read-only file system"), "the disk is read-only"),
        (PermissionError(errno.EACCES, "Permission denied"), "there is no right to write"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), "the disk is full"),
        (RuntimeError("[enforce fail at inline_container.cc:664]"), "the disk is full"),
        (OSError("Error writing bytes. Detail: [errno 28] No space left on device"), "the disk is full"),
        (FileNotFoundError(errno.ENOENT, "No such file"), None),
        (RuntimeError("size mismatch"), None),
    ],
)
def test_faults(error, fault):
    assert disk_fault(error) == fault


@pytest.mark.parametrize("exists", [False, True])
def test_a_folder_is_whole_or_not_there(tmp_path, exists):
    folder = tmp_path / "deep" / "folder"
    if exists:
        folder.mkdir(parents=True)
    with pytest.raises(InputError, match="the disk is full: .*deep/folder could not"), whole_folder(folder) as part:
        (part / "a").touch()
        raise OSError(errno.ENOSPC, "No space left on device")
    assert list(folder.parent.iterdir()) == ([folder] if exists else [])
    with whole_folder(folder) as part:
        (part / "a").touch()
    assert [path.name for path in folder.iterdir()] == ["a"] and list(folder.parent.iterdir()) == [folder]


def test_other_errors_stay_what_they_are():
    with pytest.raises(RuntimeError, match="size mismatch"), disk_errors("runs/a"):
        raise RuntimeError("size mismatch")


def test_what_lies_elsewhere_is_named():
    error = OSError(errno.EROFS, "Read-only file system", "/cache/features")
    with pytest.raises(InputError, match="the disk is read-only: /cache/features could not"), disk_errors("runs/a"):
        raise error


def test_nothing_is_left_of_a_file_that_could_not_be_written(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError):
        write_json(tmp_path / "a.json", {})
    assert list(tmp_path.iterdir()) == []
