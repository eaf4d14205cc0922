"""A disk that is full or read-only: one sentence that names the folder, results are printed, and a rerun completes."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.commands import FEW

ONLY_THE_MODEL = shutil.ignore_patterns("checkpoint-*", "eval", "explain", ".lock", "v1-*")
PAGE = 4096  # bytes, of which a tmpfs gives whole ones


class Disk:
    """A small disk of its own.

    Args:
        folder: where it is mounted.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def fill(self, left: int) -> None:
        """Leave so many bytes."""
        self.free()
        with (self.folder / "filler").open("wb") as file:
            file.write(bytes(shutil.disk_usage(self.folder).free - left))

    def free(self) -> None:
        """Make room again."""
        (self.folder / "filler").unlink(missing_ok=True)

    def make_read_only(self) -> None:
        """As a disk that holds models for everybody."""
        subprocess.run(["mount", "-o", "remount,ro", self.folder], check=True)


@pytest.fixture
def disk(tmp_path):
    """A disk of 24 MiB; skips where none can be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", folder]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no disk can be mounted here")
    yield Disk(folder)
    subprocess.run(["umount", "--lazy", folder], check=True)


def last_line(output: str) -> str:
    return output.splitlines()[-1]


def test_an_evaluation_goes_on_when_there_is_room(run_folder, disk, command):
    arguments = ["evaluate", "--model", run_folder, "--output_dir", disk.folder / "eval"]
    disk.fill(left=2 * PAGE)
    output = command(*arguments, code=2)
    assert last_line(output).startswith(f"error: the disk is full: {disk.folder}/eval/partial could not be written")
    disk.fill(left=20 * PAGE)
    output = command(*arguments, code=2)
    assert "model: resumes, " in output and "all (n=" in output
    assert last_line(output).startswith(f"error: the disk is full: {disk.folder}/eval could not be written")
    disk.free()
    output = command(*arguments)
    assert "shuffled_image: resumes, " in output and f"written: {disk.folder}/eval/metrics.json" in output
    assert not (disk.folder / "eval" / "partial").exists()
    assert not list((disk.folder / "eval").rglob(".*.json*.*"))  # nor what could not be written whole


def test_a_model_that_nobody_may_change_is_evaluated(run_folder, disk, command, tmp_path):
    shutil.copytree(run_folder, disk.folder / "run", ignore=ONLY_THE_MODEL)
    disk.make_read_only()
    output = command("evaluate", "--model", disk.folder / "run", "--output_dir", tmp_path / "eval")
    assert "all (n=" in output and f"written: {tmp_path}/eval/metrics.json" in output
    assert f"the model card is as it was: the card cannot be written to {disk.folder}/run/README.md" in output
    output = command("evaluate", "--model", disk.folder / "run", code=2)
    assert f"error: the results cannot be written to {disk.folder}/run/eval" in output
    output = command("card", disk.folder / "run", code=2)
    assert f"error: the card cannot be written to {disk.folder}/run/README.md: Read-only" in output


@pytest.mark.parametrize(
    ("words", "printed"),
    [
        ("consistency --model RUN --output_dir DISK", "consistency|v1"),
        ("explain --model RUN --limit 2 --methods [attention] --output_dir DISK", "2 of "),
        ("compare-maps --models [RUN] --limit 1 --method attention --output_dir DISK", "side by side"),
        ("tokenizer --recipe RUN/recipe.yaml --vocab_size 300 --output_dir DISK/new", "tokens per word"),
        (
            "overlap --a phantom --b phantom --b_split train --output DISK/x "
            "--a_data.train_images 4 --b_data.train_images 4",
            "images, by id",
        ),
    ],
)
def test_what_was_found_is_printed(words, printed, run_folder, disk, command):
    words = words.replace("RUN", str(run_folder)).replace("DISK", str(disk.folder)).split()
    disk.fill(left=0)
    output = command(*words, code=2)
    assert f"error: the disk is full: {disk.folder}" in last_line(output)
    assert printed in output
    disk.free()
    assert f"written: {disk.folder}" in command(*words)


def test_a_calibration_is_printed(run_folder, disk, command):
    validation = ["evaluate", "--model", disk.folder / "run", "--split", "validation"]
    shutil.copytree(run_folder, disk.folder / "run", ignore=ONLY_THE_MODEL)
    command(*validation, "--output_dir", disk.folder / "validation")
    disk.fill(left=0)
    arguments = ["calibrate", disk.folder / "validation" / "predictions.jsonl"]
    output = command(*arguments, code=2)
    assert "of the rows that the temperatures were fitted on" in output
    assert last_line(output).startswith(f"error: the disk is full: {disk.folder}/run could not be written")
    disk.free()
    assert f"written: {disk.folder}/run/calibration.json" in command(*arguments)


def test_images_are_drawn_whole_or_not_at_all(disk, command, tmp_path):
    arguments = ["train", "phantom", "--data_dir", disk.folder, *FEW, "--max_steps", "1"]
    disk.fill(left=10 * PAGE)
    output = command(*arguments, "--output_dir", tmp_path / "run", code=2)
    assert last_line(output).startswith(f"error: the disk is full: {disk.folder} could not be written; make room, or")
    assert [path.name for path in disk.folder.iterdir()] == ["filler"]
    disk.free()
    command(*arguments, "--output_dir", tmp_path / "run")
