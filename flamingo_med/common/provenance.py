"""What a run or a score came from: the command, the code, the versions of the libraries."""

import hashlib
import shlex
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import torch

COMMANDS = Path(__file__).parents[1] / "cli"
PACKAGES = ("flamingo-med", "torch", "transformers", "datasets", "accelerate", "tokenizers", "pillow")


def provenance() -> dict:
    """{"command", "commit", "versions"}; the commit ends in "-dirty" where files differ from it, and is None where
    this package was not run from a checkout of its own."""
    return {
        "command": shlex.join([*_program(Path(sys.argv[0])), *sys.argv[1:]]),
        "commit": _commit(),
        "versions": {"python": sys.version.split()[0], **{name: version(name) for name in PACKAGES}},
    }


def _program(script: Path) -> list[str]:
    """What one types to start what was started."""
    if script.name == "flamingo-med" or script == COMMANDS / "main.py":
        return ["flamingo-med"]
    return (
        ["python", "-m", f"flamingo_med.cli.{script.stem}"] if script.parent == COMMANDS else ["python", str(script)]
    )


def hash_weights(module: torch.nn.Module) -> str:
    """sha256 of all weights, their names, types and shapes."""
    digest = hashlib.sha256()
    for name, weight in sorted(module.state_dict().items()):
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        digest.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _commit() -> str | None:
    """The commit of the checkout that holds this file; somebody else's repository around an installation is none."""
    here = Path(__file__)
    git = ["git", "-C", str(here.parent)]
    try:
        for command in (
            ["ls-files", "--error-unmatch", here.name],
            ["describe", "--always", "--dirty", "--abbrev=40"],
        ):
            said = subprocess.run([*git, *command], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return said.strip()
