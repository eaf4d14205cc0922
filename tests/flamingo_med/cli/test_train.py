"""flamingo-med train: runs that are finished, unfinished or in use, stages, mistakes, trackers, several processes."""

import json
import shutil
import sqlite3
from importlib.util import find_spec

import pytest
import torch
import yaml
from filelock import FileLock
from transformers import AutoModelForImageTextToText

from flamingo_med.common.settings import packaged_recipes
from tests.commands import FEW, python, shell


def test_a_finished_run_is_not_overwritten(run_folder, command):
    before = {path: path.stat().st_mtime_ns for path in run_folder.rglob("*") if path.is_file()}
    output = command("train", "phantom", "--output_dir", run_folder, *FEW, code=2)
    assert "holds a finished run" in output
    assert before == {path: path.stat().st_mtime_ns for path in run_folder.rglob("*") if path.is_file()}


def test_an_unfinished_run_is_not_overwritten_but_resumed(tmp_path, command):
    arguments = ["train", "phantom", "--output_dir", tmp_path / "run", "--data_dir", tmp_path, *FEW]
    command(*arguments, "--num_train_epochs", "2")
    for name in ("recipe.yaml", "manifest.json"):  # as a run that was killed in its last save
        (tmp_path / "run" / name).unlink()
    newest = max((tmp_path / "run").glob("checkpoint-*"))
    shutil.copytree(newest, newest.with_name("checkpoint-99"))
    (newest.with_name("checkpoint-99") / "trainer_state.json").write_text("{")
    assert "holds an unfinished run" in command(*arguments, code=2)
    output = command(*arguments, "--num_train_epochs", "2", "--resume_from_checkpoint", "true")
    assert f"resuming from {newest}" in output and "checkpoint-99 is incomplete" in output
    assert (tmp_path / "run" / "recipe.yaml").exists()


def test_a_run_says_what_it_came_from(run_folder):
    run = json.loads((run_folder / "run.json").read_text())
    assert run["settings"]["num_train_epochs"] == 1
    assert run["overlap"].startswith("disjoint by image") and run["versions"]["torch"]
    assert len(run["fingerprints"]["train"]) == 16


def test_a_folder_in_use_is_refused(tmp_path, command):
    with FileLock(tmp_path / ".lock"):
        message = command("train", "phantom", "--output_dir", tmp_path, code=2)
    assert f"another process is writing to {tmp_path}" in message
    message = command("train", "phantom", "--output_dir", "README.md", code=2)
    assert "cannot be written to README.md" in message


def test_stages_chain(run_folder, tmp_path, command):
    arguments = ["train", "phantom", "--init_from", run_folder, "--data_dir", tmp_path, *FEW]
    short = ["--max_steps", "1", "--learning_rate", "0", "--output_dir", tmp_path / "second"]
    command(*arguments, *short, "--model.problem_type", "single_label_classification", "--model.freeze_text", "true")
    first, second = (AutoModelForImageTextToText.from_pretrained(f) for f in (run_folder, tmp_path / "second"))
    assert not first.config.num_labels and second.config.num_labels == second.classifier.out.out_features > 2
    weights = second.state_dict()
    assert all(
        torch.equal(weight, weights[name])
        for name, weight in first.state_dict().items()
        if "running" not in name and "num_batches" not in name
    )
    other = command(*arguments, "--model.resampler_depth", "3", "--output_dir", tmp_path / "third", code=2)
    assert f"model.resampler_depth of {run_folder} is 1, not 3" in other

    head = ["--model.problem_type", "single_label_classification", "--model.use_image_embeddings", "true"]
    arguments[3] = tmp_path / "second"
    command(*arguments, *short[:-1], tmp_path / "third", *head)
    third = AutoModelForImageTextToText.from_pretrained(tmp_path / "third")
    assert third.classifier.out.in_features > second.classifier.out.in_features


@pytest.mark.parametrize("recipe", packaged_recipes())
def test_recipes_are_resolved(recipe, command):
    printed = command("train", recipe, "--learning_rate", "3e-5", "--print_config")
    assert yaml.safe_load(printed)["learning_rate"] == 3e-5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none"], "no recipe at none, and none of that name in the package"),
        (["phantom", "--learning_rat", "1"], "did you mean learning_rate?"),
        (["phantom", "--model.resampler_dept", "1"], "did you mean resampler_depth?"),
        (["phantom", "--model.resampler_depth", "two"], "resampler_depth is 'two'"),
        (["phantom", "--model.image_token_id", "3"], "unknown setting of model"),
        (["phantom", "--data_dir", "README.md"], "cannot keep its images in README.md"),
        (["phantom", "--text.n_layers", "1"], "did you mean n_layer?"),
        (["phantom", "--data.test_image", "1"], "did you mean test_images?"),
        (["phantom", "--dataset", "fantom"], "did you mean phantom?"),
        (
            [
                "mimic_cxr",
                "--text",
                "{model_type: mpt}",
                "--tokenizer",
                "{vocab_size: 99}",
                "--vision",
                "{model_type: resnet}",
                "--estimate_memory",
                "64",
            ],
            "add --image_size",
        ),
        (["phantom", "--augmentation.rotatio", "7"], "did you mean rotation?"),
        (["phantom", "--streaming"], "only the data set parquet_shards can be streamed, not phantom"),
        (["vqa_rad", "--data_dir", "nowhere"], "https://osf.io/89kps/"),
        (["phantom", "--vision.model_type", "clipp"], "unknown model_type 'clipp'"),
        (["phantom", "--text", "no/such-model"], "got text no/such-model and tokenizer"),
        (["phantom", "--resume_from_checkpoint", "nowhere"], "no checkpoint at nowhere"),
        (["phantom", "--metric_for_best_model", "eval_accuracy"], "did you mean class_accuracy?"),
        (["phantom", "--metric_for_best_model", "class_accuracy", *FEW], "metric_for_best_model of these rows"),
        (["phantom", "--report_to", "flyt"], "did you mean flyte?"),
        (["phantom", "--per_device_train_batch_size", "0"], "per_device_train_batch_size is at least 1, got 0"),
        (["phantom", "--per_device_eval_batch_size", "-1"], "per_device_eval_batch_size is at least 1, got -1"),
        (["phantom", "--gradient_accumulation_steps", "0"], "gradient_accumulation_steps is at least 1, got 0"),
        (["phantom", "--data.split", "x"], "unknown option of phantom 'split'"),
        (["phantom", "--data.data_dir", "x"], "unknown option of phantom 'data_dir'"),
        (["phantom", "--text.n_embd", "1.5"], "a gpt2 cannot have these settings"),
        (["phantom", "--tokenizer.vocab_size", "many"], "vocab_size is 'many', but must be int"),
    ],
)
def test_mistakes_are_one_sentence(arguments, message, tmp_path, command):
    output = command("train", *arguments, "--output_dir", tmp_path / "run", code=2)
    errors = [line for line in output.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and message in errors[0]


@pytest.mark.parametrize("settings", [["--report_to", "wandb"], ["--deepspeed", "zero.json"]])
def test_what_is_not_installed_is_told_at_once(settings, tmp_path, command):
    if find_spec(settings[1] if settings[0] == "--report_to" else "deepspeed"):
        pytest.skip("it is installed")
    (error,) = command("train", "phantom", *settings, "--output_dir", tmp_path / "run", code=2).splitlines()
    assert error.startswith("error: ") and "not installed" in error


def test_a_part_that_is_not_there_is_one_sentence(tmp_path, command):
    arguments = ["phantom", "--vision", "no/such-model", *FEW, "--data_dir", tmp_path]
    assert "no/such-model" in command("train", *arguments, "--output_dir", tmp_path / "run", code=2)


DDP = [
    "-m",
    "accelerate.commands.launch",
    "--config_file",
    "flamingo_med/recipes/accelerate/ddp.yaml",
    "--num_processes",
    "2",
]
TWO_PROCESSES = [*DDP, "--mixed_precision", "no", "train.py", "phantom", "--use_cpu"]


@pytest.mark.slow
def test_two_processes_learn_what_one_learns(tmp_path, command):
    """Two processes have the loss curve of one with the same global batch, to 1e-4, and count every question once."""
    settings = ["--data_dir", tmp_path, *FEW, "--num_train_epochs", "2", "--logging_steps", "1"]
    settings += ["--save_total_limit", "2"]
    # Without what would differ: dropout, and batch norm, which would see another batch in each process.
    for name in ("resid", "attn", "embd"):
        settings += [f"--text.{name}_pdrop", "0"]
    settings += ["--model.freeze_vision", "true", "--learning_rate", "1e-2", "--warmup_steps", "0"]
    one, two = ([*settings, "--output_dir", tmp_path / name] for name in ("one", "two"))
    command("train", "phantom", "--use_cpu", *one, "--per_device_train_batch_size", "64")
    output = python(*TWO_PROCESSES, *two, "--per_device_train_batch_size", "32")
    assert "2 process(es) of 32 questions a step" in output
    logs = []
    for name in ("one", "two"):
        state = tmp_path / name / "checkpoint-8" / "trainer_state.json"
        logs.append(json.loads(state.read_text())["log_history"])
    for key in ("loss", "eval_loss", "eval_exact_match", "eval_exact_match_low"):
        curve, other = ([entry[key] for entry in log if key in entry] for log in logs)
        assert len(curve) == (8 if key == "loss" else 2)
        assert other == pytest.approx(curve, abs=1e-4)


@pytest.mark.slow
def test_trackers_get_what_is_logged(tmp_path, monkeypatch):
    """TensorBoard and trackio, which keeps a database on this machine."""
    pytest.importorskip("trackio")
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "tensorboard"))
    arguments = ["train", "phantom", "--output_dir", tmp_path / "run", "--data_dir", tmp_path, *FEW]
    arguments += ["--num_train_epochs", "1", "--logging_steps", "1", "--report_to", "[tensorboard, trackio]"]
    shell(*arguments, "--project", "flamingo-med-test")
    events = event_accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2, 3, 4]
    assert {"eval/exact_match", "eval/exact_match_low", "train/gate_attn_0"} <= set(events.Tags()["scalars"])
    (database,) = (tmp_path / "trackio").glob("flamingo-med-test*.db")
    with sqlite3.connect(database) as connection:
        logged = [json.loads(row) for (row,) in connection.execute("select metrics from metrics order by step")]
    assert len([entry for entry in logged if "train/loss" in entry]) == 4
