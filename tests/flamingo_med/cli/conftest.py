"""A tiny run and its evaluation, made once for all tests of the commands that one process runs."""

import json

import pytest

from tests.commands import FEW, call


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory):
    """A finished tiny run on phantom."""
    folder = tmp_path_factory.mktemp("run")
    data = ["--data_dir", folder / "data", *FEW]
    output = call("train", "phantom", "--output_dir", folder / "run", *data, "--num_train_epochs", "1")
    assert "cross_attn" in output and "score it: flamingo-med evaluate" in output
    assert "overlap of train and validation: disjoint by image" in output
    assert json.loads((folder / "run" / "overlap.json").read_text())["shared"]["image_id"]["rows_b"] == 0
    assert "Not evaluated yet" in (folder / "run" / "README.md").read_text("utf-8")
    return folder / "run"


@pytest.fixture(scope="session")
def evaluation(run_folder):
    """Where the tiny run was evaluated on its test split, and what was printed."""
    output = call("evaluate", "--model", run_folder, "--split", "test")
    (folder,) = (run_folder / "eval").iterdir()
    return folder, output
