"""Notebooks: stripped of outputs, and they run from the first cell to the last without a network."""

import ast
import base64
import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests import ROOT

NOTEBOOKS = ROOT / "notebooks"
NAMES = ("quickstart", "finetune")


def test_all_are_here():
    assert {path.stem for path in NOTEBOOKS.glob("*.ipynb")} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_outputs_are_stripped(name):
    notebook = json.loads((NOTEBOOKS / f"{name}.ipynb").read_text(encoding="utf-8"))
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert code and all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    assert notebook["metadata"].keys() == {"kernelspec", "language_info"}


def execute(name: str, tmp_path: Path, monkeypatch) -> dict[str, list[dict]]:
    """cell id → its outputs: what it printed, and the value that it ends in."""
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    # A kernel of this very interpreter, whatever kernels the user has.
    spec = {
        "argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "display_name": "Python 3",
    }
    kernel = tmp_path / "jupyter" / "kernels" / "python3"
    kernel.mkdir(parents=True)
    (kernel / "kernel.json").write_text(json.dumps({**spec, "language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "jupyter"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    paths = [str(NOTEBOOKS.parent), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    nbformat.validate(notebook)
    resources = {"metadata": {"path": str(NOTEBOOKS)}}
    nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3", resources=resources).execute()
    return {cell["id"]: cell["outputs"] for cell in notebook.cells if cell["cell_type"] == "code"}


def value(outputs: list[dict]) -> Any:
    """The Python value that a cell ends in."""
    return ast.literal_eval(outputs[-1]["data"]["text/plain"])


def picture(outputs: list[dict]) -> Image.Image:
    """The picture that a cell ends in."""
    return Image.open(io.BytesIO(base64.b64decode(outputs[-1]["data"]["image/png"]))).convert("RGB")


def has_colours(image: Image.Image) -> bool:
    """Whether there is more to see than greys: curves, or a map."""
    pixels = np.asarray(image, dtype=int)
    return (pixels.max(-1) - pixels.min(-1) > 40).mean() > 0.001


@pytest.mark.slow
def test_quickstart(tmp_path, monkeypatch):
    pytest.importorskip("captum")
    outputs = execute("quickstart", tmp_path, monkeypatch)
    assert has_colours(picture(outputs["train"])) and has_colours(picture(outputs["explain"]))
    assert picture(outputs["load"]).size == (384, 384)
    probabilities = value(outputs["ask"])
    assert probabilities.keys() == {"yes", "no"} and sum(probabilities.values()) == pytest.approx(1)
    assert outputs["ask"][0]["text"].startswith("Is there a pleural effusion? ")
    answers = value(outputs["few-shot"])
    assert len(answers["examples"]) == 2 and answers["with examples"] and answers["without examples"]


@pytest.mark.slow
def test_finetune(tmp_path, monkeypatch):
    outputs = execute("finetune", tmp_path, monkeypatch)
    assert len(value(outputs["table"])) == 5
    assert has_colours(picture(outputs["train"]))
    scores = value(outputs["scores"])
    assert scores.keys() >= {"model", "blank_image", "shuffled_image", "majority", "question_only", "image_lookup"}
    assert all(0 <= score["low"] <= score["value"] <= score["high"] <= 1 for score in scores.values())
    assert scores["majority"]["value"] > 0.1  # the answers of the table are those of its test split
    answers = value(outputs["answers"])
    assert len(answers) == 5 and all(row["model"] and 0 < row["confidence"] <= 1 for row in answers)
