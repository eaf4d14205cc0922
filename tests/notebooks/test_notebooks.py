"""Notebooks: stripped of outputs, and they run from the first cell to the last without a network."""

import json
import os
import sys
from pathlib import Path

import pytest

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


def execute(name: str, tmp_path: Path, monkeypatch) -> dict[str, str]:
    """cell id → everything that it printed or showed."""
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
    return {cell["id"]: json.dumps(cell["outputs"]) for cell in notebook.cells if cell["cell_type"] == "code"}


@pytest.mark.slow
def test_quickstart(tmp_path, monkeypatch):
    pytest.importorskip("captum")
    shown = execute("quickstart", tmp_path, monkeypatch)
    assert "'yes': 0." in shown["ask"] and "stdout" in shown["few-shot"]
    assert "image/png" in shown["load"] and "image/png" in shown["explain"]


@pytest.mark.slow
def test_finetune(tmp_path, monkeypatch):
    shown = execute("finetune", tmp_path, monkeypatch)
    assert "training and" in shown["train"] and "score it: python eval.py" in shown["train"]
    assert "exact_match|v1" in shown["report"] and "'blank_image': 0." in shown["report"]
