"""The Hub: making a repository ready, uploading a model's folder, and one sentence for what goes wrong."""

from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import CommitInfo, constants, create_branch, create_repo, upload_folder
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from processing.errors import InputError

# OSError: offline, or no token; an upload wraps what stopped it in a RuntimeError.
HUB_ERRORS = (HTTPError, HFValidationError, OSError, RuntimeError)

MODEL_FILES = ("*.safetensors", "*.json", "*.jinja", "*.txt", "*.model", "*.py", "*.yaml", "README.md")
# Checkpoints and evaluations, which may tell of patients; the state of a training; what tells of rows.
NOT_OF_THE_MODEL = ("*/*", "trainer_state.json", "overlap.json", "not_finite-*.json")


@contextmanager
def hub_errors(what: str) -> Iterator[None]:
    """Errors of the Hub's client as an InputError: `what`, and the reason."""
    try:
        yield
    except HUB_ERRORS as error:
        raise InputError(f"{what}: {reason(error)}") from None


def reason(error: BaseException) -> str:
    """Why something of the Hub was not to be had, and the way out; of another error, its first line.

    Args:
        error: of the Hub's client, or what a library has made of it.
    """
    causes = [error]
    while causes[-1].__cause__ is not None:
        causes.append(causes[-1].__cause__)
    cause = next((cause for cause in causes if isinstance(cause, HTTPError | OfflineModeIsEnabled)), None)
    status = cause.response.status_code if isinstance(cause, HfHubHTTPError) else None
    if isinstance(cause, OfflineModeIsEnabled):
        return "it is not at hand, and HF_HUB_OFFLINE is set"
    if isinstance(cause, RevisionNotFoundError):
        return "the repository has no such revision"
    if isinstance(cause, RepositoryNotFoundError):
        return "there is no such repository, or the token may not see it"
    if status == 401:
        return "there is no token that the Hub accepts; run `hf auth login`, or set HF_TOKEN"
    if status == 403:
        return "the token has no right to it; take one that has, or another name"
    if cause is not None and status is None:
        return f"{constants.ENDPOINT} cannot be reached"
    return str(error).strip().partition("\n")[0]


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
