"""train.py and eval.py as a user runs them: the whole way through, and what a mistake gets."""

import json
import shutil
import sqlite3
import subprocess
import sys
import time

import pytest
import torch
import yaml
from filelock import FileLock
from PIL import Image, ImageChops
from transformers import AutoModelForImageTextToText

from processing.datasets import load_split
from tests import ROOT
from tests.commands import FEW, python, shell


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory):
    """A finished tiny run on phantom."""
    folder = tmp_path_factory.mktemp("run")
    data = ["--data_dir", folder / "data", *FEW]
    output = shell("train", "phantom", "--output_dir", folder / "run", *data, "--num_train_epochs", "1")
    assert "cross_attn" in output and "score it: flamingo-med evaluate" in output
    assert "overlap of train and validation: disjoint by image" in output
    assert json.loads((folder / "run" / "overlap.json").read_text())["shared"]["image_id"]["rows_b"] == 0
    assert "Not evaluated yet" in (folder / "run" / "README.md").read_text("utf-8")
    return folder / "run"


@pytest.fixture(scope="session")
def evaluation(run_folder):
    """Where the tiny run was evaluated on its test split, and what was printed."""
    output = shell("evaluate", "--model", run_folder, "--split", "test")
    (folder,) = (run_folder / "eval").iterdir()
    return folder, output


def read_evaluation(folder) -> tuple[dict, list[dict]]:
    """metrics.json and the lines of predictions.jsonl."""
    lines = (folder / "predictions.jsonl").read_text("utf-8").split("\n")
    return json.loads((folder / "metrics.json").read_text()), [json.loads(line) for line in lines[:-1]]


def assert_same(folder, other) -> None:
    """The same answers and scores, and confidences but for rounding."""
    (metrics, predictions), (others, expected) = read_evaluation(folder), read_evaluation(other)
    assert metrics["meta"]["fingerprints"] == others["meta"]["fingerprints"]
    for score, same in zip(metrics["scores"], others["scores"], strict=True):
        assert score == {**same, **{name: pytest.approx(same[name], abs=1e-5) for name in ("value", "low", "high")}}
    for line, same in zip(predictions, expected, strict=True):
        rounded = [name for name in same if name.endswith(("confidence", "cosine"))]
        approximate = {name: pytest.approx(same[name], abs=1e-5) for name in rounded}
        if "candidates" in same:
            approximate["candidates"] = pytest.approx(same["candidates"], abs=1e-4)
        assert line == {**same, **approximate}


def test_score_and_ask(run_folder, evaluation, command):
    folder, output = evaluation
    for word in ("closed (n=", "open (n=", "all (n=", "model", "blank_image", "shuffled_image", "majority"):
        assert word in output
    metrics, predictions = read_evaluation(folder)
    rows = {(row["metric"], row["subset"], row["condition"]): row for row in metrics["scores"]}
    of_all = rows["exact_match", "all", "model"]
    assert of_all["n"] == len(predictions)
    hits = [p["prediction"].lower() == p["answer"] for p in predictions]
    assert of_all["value"] == pytest.approx(sum(hits) / len(hits))
    assert of_all["low"] <= of_all["value"] <= of_all["high"]
    assert metrics["meta"]["versions"]["torch"] and len(metrics["meta"]["fingerprints"]["model"]) == 16
    assert metrics["meta"]["overlap"].startswith("disjoint by image")
    assert f"overlap of train and test: {metrics['meta']['overlap']}" in output
    closed = [p for p in predictions if p["answer_type"] == "closed"]
    assert all(0 <= p["candidate_confidence"] <= 1 and {"yes", "no"} == p["candidates"].keys() for p in closed)
    assert sorted(path.name for path in (folder / "report").iterdir()) == [
        "index.html", "reliability.png", "risk_coverage.png", "scores.png",
    ]  # fmt: skip
    assert not (folder / "partial").exists()
    card = (run_folder / "README.md").read_text("utf-8")
    assert "### phantom, test (test_images=10" in card and f"all (n={of_all['n']})" in card
    assert str(run_folder.parent) not in card and "not for clinical use" in card.lower()

    again = ["--output_dir", run_folder / "again", "--batch_size", "5"]
    command("evaluate", "--model", run_folder, "--split", "test", *again)
    assert_same(run_folder / "again", folder)

    question = ["--image", "docs/phantom.png", "--question", "Is there a lung nodule?"]
    output = command("ask", "--model", run_folder, *question)
    assert "answer" in output and "confidence" in output and "Not for clinical use" in output


@pytest.mark.slow
def test_a_killed_evaluation_goes_on(run_folder, evaluation, tmp_path, command):
    """Killed while it answers the blanked images; what was written last is cut in two."""
    arguments = ["--model", run_folder, "--split", "test", "--output_dir", tmp_path, "--batch_size", "1"]
    command = [sys.executable, "evaluate", *map(str, arguments)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    partial = tmp_path / "partial" / "blank_image-0.jsonl"
    while not partial.exists() or len(partial.read_bytes().splitlines()) < 10:
        assert process.poll() is None
        time.sleep(0.002)
    process.kill()
    process.wait()
    assert not (tmp_path / "metrics.json").exists()
    partial.write_bytes(partial.read_bytes()[:-7])
    there = len(partial.read_bytes().splitlines()) - 2  # the header and the half line
    output = command("evaluate", *arguments)
    count = len(read_evaluation(evaluation[0])[1])
    assert f"model: going on, {count} of {count} answers are there" in output
    assert f"blank_image: going on, {there} of {count} answers are there" in output
    assert_same(tmp_path, evaluation[0])


@pytest.mark.slow
def test_two_processes_evaluate(run_folder, evaluation, tmp_path):
    """Each answers its share, and the numbers are those of one."""
    launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no", "eval.py"]
    output = python(*launch, "--model", run_folder, "--split", "test", "--output_dir", tmp_path)
    assert "2 processes" in output and output.count("written: ") == 1
    assert_same(tmp_path, evaluation[0])


def test_a_blind_split_gets_predictions(run_folder, tmp_path, command):
    """ImageCLEF's layout, whose test files may come without answers."""
    for name, folder, line in (
        ("Training/All_QA_Pairs_train.txt", "Train_images", "synpic1|which plane?|axial"),
        ("Test/VQAMed2019_Test_Questions.txt", "VQAMed2019_Test_Images", "synpic2|which plane?"),
    ):
        images = (tmp_path / name).parent / folder
        images.mkdir(parents=True)
        (tmp_path / name).write_text(line + "\n")
        shutil.copy(ROOT / "docs/phantom.png", images / f"{line[:7]}.png")
    (tmp_path / "recipe.yaml").write_text(f"dataset: vqa_med_2019\ndata_dir: {tmp_path}\n")
    arguments = ["--model", run_folder, "--recipe", tmp_path / "recipe.yaml"]
    output = command("evaluate", *arguments, "--output_dir", tmp_path / "eval")
    assert "1 of 1 questions have no answers to score by; their predictions are written" in output
    metrics, (line,) = read_evaluation(tmp_path / "eval")
    assert metrics["scores"] == [] and line["prediction"] and "exact_match" not in line
    assert not (tmp_path / "eval" / "report").exists()
    assert (tmp_path / "eval" / "submission.txt").read_text() == f"synpic2|{line['prediction']}\n"


def test_an_evaluation_in_use_is_refused(run_folder, tmp_path, command):
    with FileLock(tmp_path / ".lock"):
        message = command("evaluate", "--model", run_folder, "--output_dir", tmp_path, code=2)
    assert f"another process is writing to {tmp_path}" in message
    message = command("evaluate", "--model", run_folder, "--output_dir", "README.md", code=2)
    assert "cannot be written to README.md" in message


def test_the_example_image_is_held_out(tmp_path):
    rows = load_split("phantom", "test", str(tmp_path), test_images=6)
    path = next(row["image"]["path"] for row in rows if row["image_id"] == "test-00005")
    with Image.open(path) as drawn, Image.open(ROOT / "docs/phantom.png") as example:
        assert ImageChops.difference(drawn, example).getbbox() is None


def test_a_finished_run_is_not_overwritten(run_folder):
    before = {path: path.stat().st_mtime_ns for path in run_folder.rglob("*") if path.is_file()}
    output = shell("train", "phantom", "--output_dir", run_folder, *FEW, code=2)
    assert "holds a finished run" in output
    assert before == {path: path.stat().st_mtime_ns for path in run_folder.rglob("*") if path.is_file()}


def test_an_unfinished_run_is_not_overwritten_but_resumed(tmp_path):
    arguments = [
        "train",
        "phantom",
        "--output_dir",
        tmp_path / "run",
        "--data_dir",
        tmp_path,
        *FEW,
    ]
    shell(*arguments, "--num_train_epochs", "2")
    (tmp_path / "run" / "recipe.yaml").unlink()  # as a run that was killed in its last save
    newest = max((tmp_path / "run").glob("checkpoint-*"))
    shutil.copytree(newest, newest.with_name("checkpoint-99"))
    (newest.with_name("checkpoint-99") / "trainer_state.json").write_text("{")
    assert "holds an unfinished run" in shell(*arguments, code=2)
    output = shell(*arguments, "--num_train_epochs", "2", "--resume_from_checkpoint", "true")
    assert f"going on from {newest}" in output and "checkpoint-99 is incomplete" in output
    assert (tmp_path / "run" / "recipe.yaml").exists()


def test_a_run_says_what_it_came_from(run_folder):
    run = json.loads((run_folder / "run.json").read_text())
    assert run["settings"]["num_train_epochs"] == 1
    assert run["overlap"].startswith("disjoint by image") and run["versions"]["torch"]
    assert len(run["fingerprints"]["train"]) == 16 and run["command"].startswith("python train.py recipes/phantom")


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


@pytest.mark.parametrize("recipe", sorted(path.name for path in (ROOT / "recipes").glob("*.yaml")))
def test_recipes_are_resolved(recipe, command):
    printed = command("train", f"recipes/{recipe}", "--learning_rate", "3e-5", "--print_config")
    assert yaml.safe_load(printed)["learning_rate"] == 3e-5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "none"], "no recipe at recipes/none.yaml"),
        (["train", "phantom", "--learning_rat", "1"], "did you mean learning_rate?"),
        (["train", "phantom", "--model.resampler_dept", "1"], "did you mean resampler_depth?"),
        (["train", "phantom", "--model.resampler_depth", "two"], "resampler_depth is 'two'"),
        (["train", "phantom", "--model.image_token_id", "3"], "unknown setting of model"),
        (["train", "phantom", "--data_dir", "README.md"], "cannot keep its images in README.md"),
        (["train", "phantom", "--text.n_layers", "1"], "did you mean n_layer?"),
        (["train", "phantom", "--data.test_image", "1"], "did you mean test_images?"),
        (["train", "phantom", "--dataset", "fantom"], "did you mean phantom?"),
        (
            [
                "train",
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
        (["train", "phantom", "--augmentation.rotatio", "7"], "did you mean rotation?"),
        (["train", "phantom", "--streaming"], "only the data set parquet_shards is streamed"),
        (["train", "vqa_rad", "--data_dir", "nowhere"], "https://osf.io/89kps/"),
        (["train", "phantom", "--vision.model_type", "clipp"], "unknown model_type 'clipp'"),
        (["train", "phantom", "--text", "no/such-model"], "got text no/such-model and tokenizer"),
        (["train", "phantom", "--resume_from_checkpoint", "nowhere"], "no checkpoint at nowhere"),
        (["evaluate", "--model", "nowhere"], "nowhere"),
        (["evaluate", "--recipe", "phantom"], "model"),
        (["evaluate", "aks"], "did you mean ask?"),
        (["evaluate", "--model", "x", "--batch_size", "many"], "batch_size is at least 1 or auto, got many"),
        (["evaluate", "--model", "x", "--batch_size", "0"], "batch_size is at least 1 or auto, got 0"),
        (
            ["evaluate", "ask", "--model", "nowhere", "--image", "x.png", "--question", "?"],
            "no image-text-to-text model at nowhere",
        ),
    ],
)
def test_mistakes_are_one_sentence(arguments, message, tmp_path, command):
    extra = ["--output_dir", tmp_path / "run"] if arguments[0] == "train" else []
    errors = [line for line in command(*arguments, *extra, code=2).splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and message in errors[0]


@pytest.mark.parametrize(
    ("image", "question", "message"),
    [
        ("none.png", "Is there a nodule?", "none.png"),
        ("README.md", "Is there a nodule?", "README.md"),
        ("docs/phantom.png", "What is <image>?", "special token '<image>'"),
        ("docs/phantom.png", "why " * 2000, "does not fit"),
        ("docs/phantom.png", "", "the question is empty"),
    ],
)
def test_bad_questions(run_folder, image, question, message, command):
    arguments = ["ask", "--model", run_folder, "--image", image, f"--question={question}"]
    assert message in command("evaluate", *arguments, code=2)


def test_a_question_in_another_alphabet(run_folder, command):
    question = "Чи є пневмоторакс? 有气胸吗?"
    arguments = ["ask", "--model", run_folder, "--image", "docs/phantom.png", "--question", question]
    assert question in command("evaluate", *arguments)


def test_a_mistake_ends_the_process_with_code_2(tmp_path):
    arguments = ["phantom", "--vision", "no/such-model", *FEW, "--data_dir", tmp_path]
    assert "no/such-model" in shell("train", *arguments, "--output_dir", tmp_path / "run", code=2)


def test_help(command):
    assert "--learning_rate" in command("train", "--help")
    assert "--split" in command("evaluate", "--help")


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


@pytest.mark.slow
def test_two_processes_share_a_stream(tmp_path):
    """Shards are written, then trained on by two processes, with augmented images, and the run is scored."""
    for split in ("train", "validation", "test"):
        arguments = ["--recipe", "phantom", "--data_dir", tmp_path / "data", *FEW, "--split", split]
        arguments += ["--output_dir", tmp_path / "shards", "--rows_per_shard", "50"]
        shell("shards", *arguments)
    arguments = ["--dataset", "parquet_shards", "--data_dir", tmp_path / "shards", "--streaming", "--max_steps", "4"]
    arguments += ["--eval_strategy", "steps", "--eval_steps", "4", "--save_strategy", "steps", "--save_steps", "4"]
    arguments += ["--augmentation.rotation", "7", "--output_dir", tmp_path / "run"]
    assert "shards of training" in python(*TWO_PROCESSES, *arguments)
    assert "all (n=" in shell("evaluate", "--model", tmp_path / "run")
