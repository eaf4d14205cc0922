"""flamingo-med itself: help on every level, what a process imports before it is needed, unknown subcommands."""

import json
import runpy
import subprocess
import sys
import time

import pytest

from flamingo_med import __version__
from flamingo_med.cli.main import COMMANDS
from tests import ROOT
from tests.commands import call_apart, shell

# What a process has imported and printed after each step that a user may end with, in the order of their weight; a
# process for each step would take minutes.
STEPS = """
import json, sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO


def tell(step, **facts):
    print(json.dumps({"step": step, "imported": [*sys.modules], **facts}), file=sys.__stdout__)


from flamingo_med.cli.main import COMMANDS, dispatch, run


def call(*arguments):
    with redirect_stdout(StringIO()) as output, redirect_stderr(StringIO()) as errors:
        try:
            run(lambda: dispatch([*arguments]))
        except SystemExit:
            pass
    return output.getvalue(), errors.getvalue()


call("--help")
tell("after the help")
output, _ = call("ask", "--model", sys.argv[1], "--image", "docs/phantom.png", "--question", "Is there a nodule?")
tell("after a question", output=output)
for name in COMMANDS:
    tell(name, errors=call(name, "--help")[1])
"""


@pytest.fixture(scope="module")
def steps(run_folder) -> dict[str, dict]:
    """Step → what is told of it, and what the process wrote to its standard error outside of any command."""
    command = [sys.executable, "-c", STEPS, run_folder]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    told = [json.loads(line) for line in done.stdout.splitlines()]
    return {**{step["step"]: step for step in told}, "beside": {"errors": done.stderr}}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_help_of_one_screen(name, command):
    shown = command(name, "--help")
    assert shown.startswith(f"usage: flamingo-med {name} ")
    assert len(shown.splitlines()) <= 45 and max(map(len, shown.splitlines())) <= 100
    assert command(name, "-h") == shown
    assert command(name, "--model", "x", "--help") == command(name, "--seed=1", "-h") == shown


@pytest.mark.parametrize("name", COMMANDS)
def test_help_all_shows_all_that_help_shows(name, command):
    shown, everything = command(name, "--help"), command(name, "--help-all")
    settings = [line.split()[0] for line in shown.splitlines() if line.startswith("  --")]
    assert all(f"\n  {setting}" in everything for setting in settings)
    assert len(everything) > len(shown) if "--help-all" in shown else everything == shown


def test_help_of_the_program_lists_the_commands(command):
    shown = command("--help")
    assert command() == command("-h") == shown
    assert set(COMMANDS) <= set(shown.split())
    assert len(shown.splitlines()) <= 45 and max(map(len, shown.splitlines())) <= 100
    assert command("--version") == f"flamingo-med {__version__}\n"


def test_every_file_of_a_command_is_listed():
    files = {path.stem.replace("_", "-") for path in (ROOT / "flamingo_med/cli").glob("*.py")}
    assert files - {"--init--", "main", "parser", "arguments"} == set(COMMANDS)


def test_an_unknown_command_is_one_sentence(command):
    sentence = "error: there is no command 'trian'; did you mean train?\n"
    assert command("trian", code=2) == shell("trian", code=2) == sentence


def test_no_library_warns_in_any_help(steps):
    beside = steps["beside"]["errors"]
    assert [line for line in beside.splitlines() if "Loading weights" not in line] == []
    assert {name: steps[name]["errors"] for name in COMMANDS} == dict.fromkeys(COMMANDS, "")


def test_the_help_imports_no_torch(steps):
    assert {"torch", "transformers", "numpy", "datasets"}.isdisjoint(steps["after the help"]["imported"])


def test_a_question_imports_neither_extras_nor_what_draws_trains_or_scores(steps):
    assert "confidence" in steps["after a question"]["output"]
    others = {"peft", "bitsandbytes", "gradio", "captum", "sklearn", "matplotlib", "transformers.trainer"}
    assert others.isdisjoint(steps["after a question"]["imported"])


def test_the_help_comes_within_a_second():
    seconds = []
    for _ in range(3):  # another process may be in the way
        start = time.perf_counter()
        shell("--help")
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 1


@pytest.mark.parametrize(("script", "name"), [("train", "train"), ("eval", "evaluate"), ("demo", "demo")])
def test_the_scripts_at_the_top_are_the_commands(script, name, monkeypatch):
    monkeypatch.setattr(sys, "argv", [f"{script}.py", "--help"])
    shown, _ = call_apart(lambda: runpy.run_path(str(ROOT / f"{script}.py"), run_name="__main__"))
    assert shown.startswith(f"usage: flamingo-med {name} ")
