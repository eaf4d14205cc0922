"""The commands as a user runs them: in a process of their own, or, since that takes seconds to start, in this one."""

import logging
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

from flamingo_med.cli.main import dispatch, run
from tests import ROOT

FEW = ["--data.train_images", "30", "--data.validation_images", "8", "--data.test_images", "10"]


def python(*arguments: str | Path, code: int = 0, **options) -> str:
    """Run Python in a process of its own, from the root of the repository, check its exit code, and give back what it
    printed. Options are those of `subprocess.run`."""
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, **{"cwd": ROOT, **options})
    assert done.returncode == code, done.stderr[-3000:]
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


def shell(*arguments: str | Path, code: int = 0, **options) -> str:
    """shell("train", "phantom", …): the command `flamingo-med` in a process of its own."""
    return python("-m", "flamingo_med.cli.main", *arguments, code=code, **options)


def call(*arguments: str | Path, code: int = 0) -> str:
    """The same in this process, which has imported everything already, from whatever folder it is in."""
    output, errors = call_apart(lambda: dispatch([str(argument) for argument in arguments]), code)
    return output + errors


def call_apart(function: Callable[[], None], code: int = 0) -> tuple[str, str]:
    """What a function prints that ends as a command does, and what it prints as an error."""
    loggers = [logging.getLogger(name) for name in ("flamingo_med", "processing", "modeling_flamingo_med")]
    ended = 0
    with redirect_stdout(StringIO()) as output, redirect_stderr(StringIO()) as errors:
        try:
            run(function)
        except SystemExit as end:
            ended = end.code or 0
        finally:
            for logger in loggers:  # a command prints what they say; a test that calls a library reads it from caplog
                logger.handlers, logger.propagate = [], True
    assert ended == code, errors.getvalue()[-3000:]
    return output.getvalue(), errors.getvalue()
