"""The commands as a user runs them: in a process of their own, or, since that takes seconds to start, in this one."""

import subprocess
import sys
from pathlib import Path

from flamingo_med.cli.main import dispatch, run
from tests import ROOT

FEW = ["--data.train_images", "30", "--data.validation_images", "8", "--data.test_images", "10"]


def python(*arguments: str | Path, code: int = 0) -> str:
    """Run Python in a process of its own, from the root of the repository, check its exit code, and give back what it
    printed."""
    done = subprocess.run([sys.executable, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == code, done.stderr[-3000:]
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


def shell(*arguments: str | Path, code: int = 0) -> str:
    """shell("train", "phantom", …): the command `flamingo-med` in a process of its own."""
    return python("-m", "flamingo_med.cli.main", *arguments, code=code)


def call(capsys, *arguments: str | Path, code: int = 0) -> str:
    """The same in this process, which has imported everything already."""
    ended = 0
    try:
        run(lambda: dispatch([str(argument) for argument in arguments]))
    except SystemExit as end:
        ended = end.code or 0
    captured = capsys.readouterr()
    assert ended == code, captured.err
    return captured.out + captured.err
