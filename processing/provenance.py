"""What a run or a score came from: the command, the code, the versions of the libraries."""

import shlex
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

PACKAGES = ("flamingo-med", "torch", "transformers", "datasets", "accelerate", "tokenizers", "pillow")


def provenance() -> dict:
    """{"command", "commit", "versions"}; the commit ends in "-dirty" where files differ from it, None without git."""
    return {
        "command": shlex.join(["python", *sys.argv]),
        "commit": _commit(),
        "versions": {"python": sys.version.split()[0], **{name: version(name) for name in PACKAGES}},
    }


def _commit() -> str | None:
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
