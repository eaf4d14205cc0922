"""The folder of a run: damaged checkpoints, runs that are killed while they save, a disk that is full."""

import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

from flamingo_med.training.checkpoints import damage, log_changes
from processing.files import write_json
from tests import ROOT
from tests.commands import python
from tests.flamingo_med.training.killed_runs import FILES, RECIPE, SAVES


@pytest.fixture
def checkpoint(tmp_path):
    """One with all that a run needs to go on."""
    save_file({"weight": torch.ones(1000)}, tmp_path / "model.safetensors")
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        torch.save({"state": torch.ones(1000)}, tmp_path / name)
    write_json(tmp_path / "trainer_state.json", {"global_step": 8})
    return tmp_path


def test_a_whole_checkpoint(checkpoint):
    assert damage(checkpoint) is None
    assert damage(checkpoint, world_size=2) == "no rng_state_0.pth"


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"])
def test_a_file_that_is_missing_or_cut_off(checkpoint, name):
    path = checkpoint / name
    path.write_bytes(path.read_bytes()[:-10])
    assert damage(checkpoint) == f"damaged {name}"
    path.unlink()
    assert damage(checkpoint) in (f"no {name}", "no optimizer")


def test_weights_that_are_missing_or_cut_off(checkpoint):
    path = checkpoint / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    assert damage(checkpoint) == "damaged model.safetensors"
    path.unlink()
    assert damage(checkpoint) == "no weights"


def test_other_settings_are_named(tmp_path, caplog):
    write_json(tmp_path / "run.json", {"settings": {"learning_rate": 1e-3, "seed": 0}})
    log_changes(tmp_path, {"learning_rate": 1e-4, "seed": 0, "packing": False, "resume_from_checkpoint": True})
    expected = ["learning_rate was 0.001 and is now 0.0001", "packing was not set and is now False"]
    assert caplog.messages == expected


@pytest.mark.slow
def test_a_run_that_is_killed_while_it_saves_goes_on_to_the_same_weights(tmp_path):
    output = python("-m", "tests.flamingo_med.training.killed_runs", tmp_path)
    whole = (tmp_path / "whole" / "model.safetensors").read_bytes()
    for name in FILES:
        assert f"{name}: first -9, then 0" in output
        assert f"resuming from {tmp_path / name / 'checkpoint-'}" in output
        assert (tmp_path / name / "model.safetensors").read_bytes() == whole


@pytest.mark.slow
def test_a_full_disk(tmp_path):
    """The second checkpoint does not fit beside the first, which stays; nothing is left of the second."""
    mount = tmp_path / "disk"
    mount.mkdir()
    command = ["unshare", "--user", "--map-root-user", "--mount", "bash", "-c"]
    if shutil.which("unshare") is None or subprocess.run([*command, f"mount -t tmpfs tmpfs {mount}"]).returncode:
        pytest.skip("no file system can be mounted here")
    arguments = [*RECIPE, *SAVES, "--data_dir", tmp_path / "data", "--output_dir", mount / "run"]
    train = " ".join(map(str, [sys.executable, "-m", "flamingo_med.cli.main", "train", *arguments]))
    script = f"mount -t tmpfs -o size=20m tmpfs {mount}; {train}; echo code $?; ls {mount}/run"
    done = subprocess.run([*command, script], cwd=ROOT, capture_output=True, text=True)
    assert "code 2" in done.stdout and "Traceback" not in done.stderr
    assert "error: the disk is full" in done.stderr and "--resume_from_checkpoint true" in done.stderr
    assert [line for line in done.stdout.splitlines() if line.startswith("checkpoint-")] == ["checkpoint-2"]
