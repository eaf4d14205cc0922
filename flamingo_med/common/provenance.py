"""What a run or a score came from: the command, the code, the versions of the libraries."""

import hashlib
import shlex
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import torch

PACKAGES = ("flamingo-med", "torch", "transformers", "datasets", "accelerate", "tokenizers", "pillow")


def provenance() -> dict:
    """{"command", "commit", "versions"}; the commit ends in "-dirty" where files differ from it, None without git."""
    return {
        "command": shlex.join(["python", *sys.argv]),
        "commit": _commit(),
        "versions": {"python": sys.version.split()[0], **{name: version(name) for name in PACKAGES}},
    }


def hash_weights(module: torch.nn.Module) -> str:
    """sha256 of all weights, their names, types and shapes."""
    digest = hashlib.sha256()
    for name, weight in sorted(module.state_dict().items()):
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        digest.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _commit() -> str | None:
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
