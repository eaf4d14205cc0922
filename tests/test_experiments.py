"""benchmarks/experiments.py: trains and scores what is not there, once, and compares with the reference."""

import shutil
import sys
from contextlib import redirect_stdout
from importlib import import_module

import pytest

from benchmarks import experiments
from processing.errors import run
from tests.test_doors import FEW, ROOT


@pytest.fixture
def group(tmp_path, monkeypatch, capsys):
    """group(…): the group phantom with few images, all in this process; returns the exit code and what was printed."""
    monkeypatch.chdir(ROOT)
    called = []

    def call(script, *arguments):
        called.append(script)
        monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
        with redirect_stdout(sys.stderr):
            import_module(script.removesuffix(".py")).main()

    def command(*arguments, epochs=1):
        few = [part.replace("--", "--settings.") for part in FEW]
        few += ["--settings.data_dir", str(tmp_path / "data"), "--settings.num_train_epochs", str(epochs)]
        words = ["experiments.py", "--group", "phantom", "--output_dir", str(tmp_path / "runs"), *few, *arguments]
        monkeypatch.setattr(sys, "argv", words)
        code = 0
        called.clear()
        try:
            run(experiments.main)
        except SystemExit as end:
            code = end.code
        captured = capsys.readouterr()
        return code, captured.out, captured.err, list(called)

    monkeypatch.setattr(experiments, "call", call)
    return command


@pytest.mark.slow
def test_a_group(group, tmp_path):
    both = ["--only", "[reference, seed 1]"]
    code, first, _, called = group("--only", "[reference]")
    assert (code, called) == (0, ["train.py", "eval.py"])
    code, output, _, called = group(*both)
    assert (code, called) == (0, ["train.py", "eval.py"])  # of seed 1 alone
    reference, seed = (
        [cell.strip() for cell in line.strip().split("|")[1:-1]] for line in output.splitlines() if "[" in line
    )
    assert (reference[0], seed[0]) == ("reference", "seed 1")
    assert reference[-2] == "-" and seed[-2].count(",") == 1  # the reference is compared with nothing
    assert "|".join(reference) in first.replace(" | ", "|")

    assert group(*both)[1:4:2] == (output, [])
    shutil.rmtree(tmp_path / "runs" / "phantom" / "seed-1" / "eval")
    assert group(*both)[1:4:2] == (output, ["eval.py"])

    code, _, error, called = group(*both, epochs=2)
    assert (code, called) == (2, []) and "reference was trained with other settings" in error
    code, _, error, called = group("--only", "[sed 1]")
    assert (code, called) == (2, []) and "did you mean seed 1?" in error
