"""Where a result came from: what one types, and the commit of our own checkout, never of somebody else's."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from flamingo_med.common.provenance import COMMANDS, provenance
from tests import ROOT


@pytest.mark.parametrize(
    ("script", "program"),
    [
        ("/somewhere/bin/flamingo-med", "flamingo-med"),
        (str(COMMANDS / "main.py"), "flamingo-med"),
        (str(COMMANDS / "train.py"), "python -m flamingo_med.cli.train"),
        ("train.py", "python train.py"),
    ],
)
def test_the_command_is_what_one_types(script, program, monkeypatch):
    monkeypatch.setattr(sys, "argv", [script, "phantom", "--output_dir", "my run"])
    assert provenance()["command"] == f"{program} phantom --output_dir 'my run'"


def copy_of_the_package(folder: Path) -> Path:
    """An installation, as of a wheel, below a folder."""
    subprocess.run(["cp", "-r", *(ROOT / name for name in ("flamingo_med", "processing")), folder], check=True)
    return folder


def commit_there(folder: Path) -> str | None:
    code = (
        "import json; from flamingo_med.common.provenance import provenance; print(json.dumps(provenance()['commit']))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_the_commit_is_that_of_our_own_checkout_only(tmp_path):
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@example.org"]
    (tmp_path / "theirs.py").write_text("")
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "theirs"]):
        subprocess.run([*git, *command], check=True)
    folder = copy_of_the_package(tmp_path)
    assert commit_there(folder) is None
    for command in (["add", "flamingo_med", "processing"], ["commit", "-qm", "ours"]):
        subprocess.run([*git, *command], check=True)
    assert len(commit_there(folder).removesuffix("-dirty")) == 40
