"""The Hub: making a repository ready, uploading a model's folder, and one sentence for what goes wrong."""

from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import CommitInfo, create_branch, create_repo, upload_folder
from huggingface_hub.errors import (
    HFValidationError,
    HTTPError,
)

from processing.errors import InputError, reason

# OSError: offline, or no token; an upload wraps what stopped it in a RuntimeError.
HUB_ERRORS = (HTTPError, HFValidationError, OSError, RuntimeError)

MODEL_FILES = ("*.safetensors", "*.json", "*.jinja", "*.txt", "*.model", "*.py", "*.yaml", "README.md")
# Checkpoints and evaluations, which may tell of patients; the state of a training; row-level data.
NOT_OF_THE_MODEL = ("*/*", "trainer_state.json", "overlap.json", "not_finite-*.json")


@contextmanager
def hub_errors(what: str) -> Iterator[None]:
    """Errors of the Hub's client as an InputError: `what`, and the reason."""
    try:
        yield
    except HUB_ERRORS as error:
        raise InputError(f"{what}: {reason(error)}") from None


def make_repository(
    repo_id: str, kind: str = "model", private: bool | None = None, revision: str | None = None, **kwargs
) -> str:
    """Create a repository, and the branch `revision` in it, as far as they are not there; returns its full id."""
    repo_id = create_repo(repo_id, repo_type=kind, private=private, exist_ok=True, **kwargs).repo_id
    if revision is not None:
        create_branch(repo_id, branch=revision, repo_type=kind, exist_ok=True)
    return repo_id


def upload_model(
    folder: str | Path, repo_id: str, message: str, revision: str | None = None, run_as_future: bool = False
) -> CommitInfo | Future:
    """Upload what is the model's in the folder of a run or checkpoint, in one commit.

    What the repository has already is not sent again; weights in other shards than these leave it.
    """
    return upload_folder(
        repo_id=repo_id,
        folder_path=folder,
        commit_message=message,
        revision=revision,
        allow_patterns=list(MODEL_FILES),
        ignore_patterns=list(NOT_OF_THE_MODEL),
        delete_patterns=["model*.safetensors*"],
        run_as_future=run_as_future,
    )
