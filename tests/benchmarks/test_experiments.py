"""benchmarks/experiments.py: trains and scores what is not there, once, and compares with the reference."""

import json
import shutil
import sys

import pytest

from benchmarks import experiments
from flamingo_med.evaluation.tables import format_score
from tests import ROOT
from tests.commands import FEW, call, call_apart


@pytest.fixture
def group(tmp_path, monkeypatch):
    """group(…): the group phantom with few images, all in this process; returns the table, what was said beside it,
    and the names of the commands that were called."""
    monkeypatch.chdir(ROOT)
    called = []

    def command(name, *arguments):
        called.append(name)
        call(name, *arguments)

    def run_group(*arguments, epochs=1, code=0):
        few = [part.replace("--", "--settings.") for part in FEW]
        few += ["--settings.data_dir", str(tmp_path / "data"), "--settings.num_train_epochs", str(epochs)]
        words = ["experiments.py", "--group", "phantom", "--output_dir", str(tmp_path / "runs"), *few, *arguments]
        monkeypatch.setattr(sys, "argv", words)
        called.clear()
        output, errors = call_apart(experiments.main, code)
        return output, errors, list(called)

    monkeypatch.setattr(experiments, "call", command)
    return run_group


def lines_of(output):
    """Cells of the lines of the table, its two head lines apart."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in output.splitlines()[2:]]


@pytest.mark.slow
def test_a_group(group, tmp_path):
    both = ["--only", "[reference, 'reference, seed 1']"]
    output, _, called = group("--only", "[reference]")
    assert called == ["train", "evaluate"]
    (alone,) = lines_of(output)
    output, _, called = group(*both)
    assert called == ["train", "evaluate"]  # of seed 1 alone
    reference, seed, mean = lines_of(output)
    assert [line[0] for line in (reference, seed, mean)] == [
        "reference", "reference, seed 1", "reference, mean of 2 seeds",
    ]  # fmt: skip
    assert alone[-2] == mean[-2] == "-"  # the reference is the mean of its seeds
    assert reference[:-2] == alone[:-2] and reference[-2] != "-" != seed[-2]
    scores = json.loads((tmp_path / "runs/phantom/reference/eval/validation/metrics.json").read_text())["scores"]
    wanted = {(s["condition"], s["subset"]): format_score(s) for s in scores if s["metric"] == "exact_match"}
    cells = [("model", "closed"), ("model", "open"), ("model", "all"), ("blank_image", "all")]
    assert reference[1:5] == [wanted[cell] for cell in cells]
    value = [float(line[3].split()[0]) for line in (reference, seed, mean)]
    assert value[2] == pytest.approx((value[0] + value[1]) / 2, abs=1e-3)

    assert group(*both)[::2] == (output, [])
    shutil.rmtree(tmp_path / "runs/phantom/reference-seed-1/eval")
    assert group(*both)[::2] == (output, ["evaluate"])

    _, error, called = group(*both, epochs=2, code=2)
    assert not called and "reference was trained with other settings" in error
    with (tmp_path / "runs/phantom/reference/recipe.yaml").open("a") as recipe:
        recipe.write("exclude: shared.json\n")  # given when it was trained, and no more
    _, error, called = group(*both, code=2)
    assert not called and "reference was trained with other settings" in error
    _, error, called = group("--only", "[referense]", code=2)
    assert not called and "did you mean reference?" in error
