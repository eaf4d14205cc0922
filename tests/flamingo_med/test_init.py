"""`import flamingo_med`: quick, registers the Auto classes, offers what it says, and names what is in its way."""

import subprocess
import sys

import pytest

import flamingo_med
from tests import ROOT


def python(code: str, folder=ROOT, **environment: str) -> subprocess.CompletedProcess:
    """Run code in a process of its own, with our packages behind the folder on the path."""
    command = [sys.executable, "-c", code]
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, env={"PYTHONPATH": str(ROOT)} | environment
    )


def test_every_name_it_offers_is_there():
    assert {"train", "evaluate", "explain", "load_model", "FlamingoMedTrainer"} <= set(flamingo_med.__all__)
    assert all(getattr(flamingo_med, name) is not None for name in flamingo_med.__all__)
    assert set(flamingo_med.__all__) <= set(dir(flamingo_med))
    with pytest.raises(AttributeError, match="has no attribute 'trane'"):
        _ = flamingo_med.trane


@pytest.mark.parametrize("module", ["flamingo_med", "modeling_flamingo_med"])
@pytest.mark.parametrize("first", [True, False])
def test_the_auto_classes_know_ours_whichever_is_imported_first(module, first):
    imports = [f"import {module}", "from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor"]
    code = [
        *(imports if first else imports[::-1]),
        "config = AutoConfig.for_model('flamingo_med', image_token_id=0)",
        "from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING as models",
        "from transformers.models.auto.processing_auto import PROCESSOR_MAPPING as processors",
        "print(models[type(config)].__name__, processors[type(config)].__name__)",
    ]
    done = python("\n".join(code))
    assert done.stdout.split() == ["FlamingoMedForConditionalGeneration", "FlamingoMedProcessor"], done.stderr[-2000:]


def test_it_takes_no_longer_than_transformers():
    done = python(
        "import sys, flamingo_med; print([name for name in ('torch', 'transformers') if name in sys.modules])"
    )
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize("module", ["flamingo_med", "modeling_flamingo_med"])
def test_another_module_called_processing_is_named(module, tmp_path):
    (tmp_path / "processing.py").write_text("rows = 3\n")
    last = python(f"import {module}", tmp_path).stderr.splitlines()[-1]
    assert last.startswith("ImportError: ") and f"{tmp_path}/processing.py is in the way" in last
