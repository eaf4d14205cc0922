"""The folder of a run: damaged checkpoints, runs that are killed, what is another when they go on, a full disk."""

import json
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

from flamingo_med.training.checkpoints import UNFINISHED, begin_checkpoint, damage
from flamingo_med.training.identity import changes_since, seal
from processing.errors import InputError
from processing.files import write_json
from tests import ROOT
from tests.commands import FEW, call, python
from tests.flamingo_med.training.killed_runs import ENDS, FILES, MOMENTS, RECIPE, SAVES
from tests.modeling_flamingo_med import damages


@pytest.fixture
def checkpoint(tmp_path):
    """One with all that a run needs to go on, from before there were manifests."""
    save_file({"weight": torch.ones(1000)}, tmp_path / "model.safetensors")
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        torch.save({"state": torch.ones(1000)}, tmp_path / name)
    write_json(tmp_path / "trainer_state.json", {"global_step": 8})
    return tmp_path


def test_a_whole_checkpoint(checkpoint):
    assert damage(checkpoint) is None
    begin_checkpoint(checkpoint)
    assert damage(checkpoint) == UNFINISHED
    seal(checkpoint, checkpoint.parent, step=8, final=False, processes=1)
    assert damage(checkpoint) is None


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"])
def test_a_file_that_is_missing_or_cut_off(checkpoint, name):
    path = checkpoint / name
    path.write_bytes(path.read_bytes()[:-10])
    assert damage(checkpoint) == f"damaged {name}"
    path.unlink()
    assert damage(checkpoint) in (f"no {name}", "no optimizer", "no rng_state")


def test_weights_that_are_missing_or_cut_off(checkpoint):
    path = checkpoint / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    assert damage(checkpoint).startswith("model.safetensors has ")
    path.unlink()
    assert damage(checkpoint) == "no weights"


@pytest.mark.parametrize("how", damages.DAMAGES)
@pytest.mark.parametrize("name", ["optimizer.pt", "rng_state.pth", "trainer_state.json", "model.safetensors"])
def test_a_file_that_is_not_what_it_was(checkpoint, name, how):
    seal(checkpoint, checkpoint.parent, step=8, final=False, processes=1)
    damages.damage(checkpoint / name, how)
    assert damage(checkpoint).startswith(f"{name} ")


ORIGIN = {"settings": {"learning_rate": 1e-3, "seed": 0, "init_from": None}, "rows": {"train": 4, "validation": 2}}
ORIGIN["fingerprints"] = {"train": "aa", "validation": "bb", "images": "cc"}


@pytest.mark.parametrize(
    ("settings", "fingerprints", "said"),
    [
        ({}, {}, None),
        ({"output_dir": "elsewhere", "logging_steps": 3, "resume_from_checkpoint": True}, {}, None),
        (
            {"learning_rate": 1e-4, "packing": False},
            {},
            "learning_rate was 0.001 and is now 0.0001; packing was not s",
        ),
        ({"seed": 1}, {}, "seed was 0 and is now 1"),
        ({}, {"train": "dd"}, "the rows of train, 4 before and 4 now, are others .fingerprint aa, now dd."),
        ({}, {"images": "dd"}, "the images are others"),
    ],
)
def test_what_is_another_is_named_and_has_to_be_accepted(tmp_path, settings, fingerprints, said):
    write_json(tmp_path / "run.json", ORIGIN)
    now = {name: {**ORIGIN[name]} for name in ORIGIN}
    now["settings"] |= settings
    now["fingerprints"] |= fingerprints
    if said is None:
        assert changes_since(tmp_path, tmp_path, now, accept=False) == []
        return
    with pytest.raises(InputError, match=f"was trained otherwise: {said}.*--accept_changes true"):
        changes_since(tmp_path, tmp_path, now, accept=False)
    assert changes_since(tmp_path, tmp_path, now, accept=True)


def test_what_the_weights_do_not_fit_begins_another_run(tmp_path):
    write_json(tmp_path / "run.json", ORIGIN)
    now = {**ORIGIN, "settings": {**ORIGIN["settings"], "model": {"resampler_depth": 3}}}
    with pytest.raises(InputError, match="model was not set and is now .* begin another run with --init_from"):
        changes_since(tmp_path, tmp_path, now, accept=True)


@pytest.mark.slow
def test_a_run_that_is_killed_while_it_saves_goes_on_to_the_same_weights(tmp_path):
    output = python("-m", "tests.flamingo_med.training.killed_runs", tmp_path, "middle")
    for name in FILES:
        assert f"{name}: first -9, then 0, 5 steps now 5, same" in output
        assert f"resuming from {tmp_path / name / 'checkpoint-'}" in output


@pytest.mark.slow
@pytest.mark.campaign
def test_a_run_that_is_killed_at_its_end_trains_no_further(tmp_path):
    output = python("-m", "tests.flamingo_med.training.killed_runs", tmp_path, "ends")
    for kind, (_, last) in ENDS.items():
        for moment in [*MOMENTS, "checkpoint 8"] if "stopped" in kind else MOMENTS:
            assert f"{kind}, {moment}: first -9, then 0, {last} steps now {last}, same" in output


@pytest.fixture(scope="module")
def unfinished(tmp_path_factory):
    """A run of own rows whose tokenizer is trained on them, that was interrupted before step 8; and its arguments."""
    folder = tmp_path_factory.mktemp("unfinished")
    arguments = [*RECIPE[:-1], "8", "--data_dir", folder / "data", "--save_strategy", "steps", "--save_steps", "2"]
    arguments += ["--eval_strategy", "steps", "--eval_steps", "2", "--save_total_limit", "4"]
    arguments += ["--metric_for_best_model", "loss", "--greater_is_better", "true", "--load_best_model_at_end", "true"]
    call_train(folder / "run", arguments)
    for name in ("recipe.yaml", "manifest.json", "model.safetensors"):
        (folder / "run" / name).unlink()
    shutil.rmtree(folder / "run" / "checkpoint-8")
    return folder / "run", arguments


def call_train(folder, arguments, *more, code=0):
    return call("train", *arguments, "--output_dir", folder, *more, code=code)


@pytest.fixture
def run(unfinished, tmp_path):
    """run(...): the interrupted run, copied elsewhere, goes on with further arguments; run.folder is where."""
    folder, arguments = unfinished
    shutil.copytree(folder, tmp_path / "run")

    def go_on(*more, code=0):
        return call_train(tmp_path / "run", arguments, "--resume_from_checkpoint", "true", *more, code=code)

    go_on.folder = tmp_path / "run"
    return go_on


@pytest.mark.slow
def test_a_damaged_best_checkpoint_is_told_at_the_start(run):
    """Never the last weights under the best step's scores."""
    best = run.folder / "checkpoint-2"
    damages.damage(best / "model.safetensors", "cut")
    before = sorted(run.folder.iterdir())
    said = run(code=2)
    assert f"the best checkpoint so far, {best}, cannot be used (model.safetensors has" in said, said
    assert "--accept_changes true" in said and sorted(run.folder.iterdir()) == before
    said = run("--accept_changes", "true")
    assert "the best of the steps to come is kept" in said
    summary = json.loads((run.folder / "summary.json").read_text())
    assert summary["steps"] == 8 and summary["validation"]["step"] == 8
    kept = (run.folder / "checkpoint-8" / "model.safetensors").read_bytes()
    assert (run.folder / "model.safetensors").read_bytes() == kept


@pytest.mark.slow
def test_no_checkpoint_that_is_whole_is_refused_and_nothing_is_deleted(run):
    for name in ("checkpoint-2", "checkpoint-4"):
        damages.damage(run.folder / name / "optimizer.pt", "missing")
    damages.damage(run.folder / "checkpoint-6" / "config.json", "cut")
    before = sorted(run.folder.rglob("*"))
    said = run(code=2)
    for fault in ("checkpoint-6: config.json has", "checkpoint-4: optimizer.pt is missing", "nothing was changed"):
        assert fault in said
    assert sorted(run.folder.rglob("*")) == before


@pytest.mark.slow
def test_other_settings_and_data_are_told_and_the_tokenizer_stays(run):
    said = run("--data.train_images", "31", "--learning_rate", "1e-4", "--warmup_steps", "0", code=2)
    assert "learning_rate was 0.001 and is now 0.0001" in said and "the rows of train, " in said
    tokenizer = (run.folder / "checkpoint-6" / "tokenizer.json").read_text()
    said = run("--data.train_images", "31", "--accept_changes", "true")
    assert "accepted: the rows of train, " in said and "checkpoint-6" in said
    assert (run.folder / "tokenizer.json").read_text() == tokenizer
    assert json.loads((run.folder / "manifest.json").read_text())["step"] == 8
    refused = call("train", *RECIPE, "--output_dir", run.folder, code=2)
    assert "holds a finished run" in refused


@pytest.mark.slow
def test_another_number_of_processes_goes_on_from_the_last_checkpoint(run, unfinished):
    launch = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "-m", "flamingo_med.cli.train"]
    options = ["--output_dir", run.folder, "--resume_from_checkpoint", "true", "--use_cpu", "true"]
    said = python(*launch, *unfinished[1], *options)
    assert f"resuming from {run.folder / 'checkpoint-6'}" in said
    assert "was written by 1 process(es), and this run has 2" in said
    manifest = json.loads((run.folder / "checkpoint-8" / "manifest.json").read_text())
    assert manifest["processes"] == 2 and manifest["step"] == 8 and manifest["final"]
    assert {"rng_state_0.pth", "rng_state_1.pth"} <= manifest["training_files"].keys()
    for name in ("recipe.yaml", "manifest.json"):
        (run.folder / name).unlink()
    said = run()
    assert "was written by 2 process(es), and this run has 1" in said and "nothing is left to train" in said


@pytest.mark.slow
def test_a_stage_knows_the_images_of_those_before(run, tmp_path):
    run()
    first = set((run.folder / "trained_images.txt").read_text().split())
    assert len(first) == 30
    second = tmp_path / "second"
    arguments = [*FEW, "--data.seed", "1", "--data_dir", tmp_path / "data", "--max_steps", "1"]
    call("train", "phantom", "--init_from", run.folder, *arguments, "--output_dir", second)
    both = (second / "trained_images.txt").read_text().split()
    assert both == sorted(both) and len(both) == 60 and first < set(both)
    manifest = json.loads((second / "manifest.json").read_text())
    assert manifest["trained_images"] == {"count": 60, "complete": True}


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
