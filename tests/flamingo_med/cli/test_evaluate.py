"""flamingo-med evaluate: the files it writes, evaluations that are killed or shared by processes, blind splits."""

import json
import shutil
import subprocess
import sys
import time

import pytest
from filelock import FileLock

from tests import ROOT
from tests.commands import FEW, python


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


def test_a_run_is_scored_and_scored_again_the_same(run_folder, evaluation, command):
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


@pytest.mark.slow
def test_a_killed_evaluation_goes_on(run_folder, evaluation, tmp_path, command):
    """Killed while it answers the blanked images; what was written last is cut in two."""
    arguments = ["--model", run_folder, "--split", "test", "--output_dir", tmp_path, "--batch_size", "1"]
    program = [sys.executable, "-m", "flamingo_med.cli.main", "evaluate", *map(str, arguments)]
    process = subprocess.Popen(program, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
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
    assert f"model: resumes, {count} of {count} answers are there" in output
    assert f"blank_image: resumes, {there} of {count} answers are there" in output
    assert_same(tmp_path, evaluation[0])


@pytest.mark.slow
def test_two_processes_train_on_a_stream_and_evaluate_as_one_does(tmp_path, command):
    """Shards are written, then trained on by two processes, with augmented images; each then answers its share of the
    test split, and the numbers are those of one."""
    for split in ("train", "validation", "test"):
        arguments = ["--recipe", "phantom", "--data_dir", tmp_path / "data", *FEW, "--split", split]
        arguments += ["--output_dir", tmp_path / "shards", "--rows_per_shard", "50"]
        command("shards", *arguments)
    training = ["train", "phantom", "--use_cpu", "--dataset", "parquet_shards", "--data_dir", tmp_path / "shards"]
    training += ["--streaming", "--max_steps", "4", "--augmentation.rotation", "7", "--output_dir", tmp_path / "run"]
    for name in ("eval", "save"):
        training += [f"--{name}_strategy", "steps", f"--{name}_steps", "4"]
    evaluation = ["evaluate", "--model", tmp_path / "run", "--output_dir"]
    commands = [training, [*evaluation, tmp_path / "two"]]
    output = python("-m", "tests.flamingo_med.cli.two_processes", json.dumps(commands, default=str))
    assert "shards of training" in output and "2 process(es) of " in output
    assert "2 processes" in output and output.count("written: ") == 1
    assert "all (n=" in command(*evaluation, tmp_path / "one")
    assert_same(tmp_path / "two", tmp_path / "one")


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


def test_rows_that_cannot_be_asked_are_told_at_once(run_folder, tmp_path, command, monkeypatch):
    monkeypatch.setattr("flamingo_med.inference.backends.generate", lambda *_: pytest.fail("a question was asked"))
    shutil.copy(ROOT / "docs/phantom.png", tmp_path)
    questions = ["Is there a nodule?"] * 300 + ["why " * 400]
    for split, texts in (("train", questions[:2]), ("test", questions)):
        lines = [json.dumps({"image": "phantom.png", "question": text, "answer": "no"}) for text in texts]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(lines))
    arguments = ["--model", run_folder, "--dataset", "custom", "--data", "{}", "--data_dir", tmp_path]
    for _ in range(2):
        output = command("evaluate", *arguments, "--output_dir", tmp_path / "eval", code=2)
        assert "error: 1 of 301 rows of custom test cannot be read by the model" in output
        assert "  row test-301: a text of" in output


def test_an_evaluation_in_use_is_refused(run_folder, tmp_path, command):
    with FileLock(tmp_path / ".lock"):
        message = command("evaluate", "--model", run_folder, "--output_dir", tmp_path, code=2)
    assert f"another process is writing to {tmp_path}" in message
    message = command("evaluate", "--model", run_folder, "--output_dir", "README.md", code=2)
    assert "cannot be written to README.md" in message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "nowhere"], "nowhere"),
        (["--recipe", "phantom"], "model"),
        (["--model", "x", "--batch_size", "many"], "batch_size is at least 1 or auto, got many"),
        (["--model", "x", "--batch_size", "0"], "batch_size is at least 1 or auto, got 0"),
    ],
)
def test_mistakes_are_one_sentence(arguments, message, command):
    (error,) = command("evaluate", *arguments, code=2).splitlines()
    assert error.startswith("error: ") and message in error
