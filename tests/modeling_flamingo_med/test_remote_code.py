"""A checkpoint carries its code: it loads in a fresh process with the package, without it, and by the pipeline."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers.dynamic_module_utils import get_relative_imports

from tests import ROOT
from tests.conftest import QUESTIONS

CODE = ("modeling_flamingo_med", "processing")  # where the files that ship stand

# As where the two packages are not installed, whatever the environment of the tests is.
NOT_INSTALLED = """
import sys
from transformers import AutoModel

sys.modules["modeling_flamingo_med"] = sys.modules["processing"] = None
try:
    AutoModel.from_pretrained(sys.argv[1])
    raise AssertionError("the code was run without being trusted")
except ValueError as error:
    assert "trust_remote_code=True" in str(error)
"""

# Whoever has loaded a checkpoint by its code may go on with the package: neither disturbs the other.
INSTALLED = """
import sys
from transformers import AutoModel

model = AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True)
assert type(model).__module__.startswith("transformers_modules."), type(model)
import modeling_flamingo_med
"""

TRUSTED_TOO = """
options = {"trust_remote_code": True}
check(again)
"""

LOAD_AND_SAVE = """
import sys
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForImageTextToText, AutoProcessor, pipeline

source, again, where, *options = sys.argv[1:]
options = {"trust_remote_code": True} if options else {}
expected = load_file(source + "/../expected.safetensors")
logits = expected.pop("logits")


def check(source):
    for kind in (AutoModelForImageTextToText, AutoModel):
        model = kind.from_pretrained(source, **options).eval()
        assert type(model).__module__.startswith(where), type(model)
        with torch.no_grad():
            torch.testing.assert_close(model(**expected).logits, logits)
    processor = AutoProcessor.from_pretrained(source, **options)
    assert type(processor).__module__.startswith(where.replace("modeling_flamingo_med", "processing")), processor
    image, question = Image.new("RGB", (20, 30), "red"), "Is the heart enlarged?"
    inputs = processor(images=image, text=question)
    assert model(**inputs).logits.shape[:2] == inputs["input_ids"].shape
    tokens = model.generate(**inputs, max_new_tokens=4, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    pipe = pipeline("image-text-to-text", model=source, **options)
    answered = pipe(images=image, text=question, return_full_text=False, max_new_tokens=4)
    assert answered[0]["generated_text"] == processor.decode(tokens, skip_special_tokens=True), answered
    return model, processor


model, processor = check(source)
model.save_pretrained(again)
processor.save_pretrained(again)
check(again)
"""


@pytest.fixture
def checkpoint(make_model, processor, images, tmp_path) -> Path:
    """A folder with a model and its processor, and beside it inputs with the logits that belong to them."""
    model = make_model(num_labels=2)
    folder = tmp_path / "checkpoint"
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    inputs = processor(images=images, text=QUESTIONS)
    with torch.no_grad():
        save_file({**inputs, "logits": model(**inputs).logits}, tmp_path / "expected.safetensors")
    return folder


def fresh(script: str, *arguments, **environment: str) -> str:
    """Run a script in a process of its own, which must not fail; returns what it printed."""
    settings = {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]), **environment}
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        env={**os.environ, **settings},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


def imports(path: Path) -> list[ast.ImportFrom | ast.Import]:
    return [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Import | ast.ImportFrom)]


def test_the_code_is_whole_and_stands_alone(checkpoint):
    """The rules of remote code: one relative dot, no subpackage, nothing of ours but what lies beside it."""
    files = sorted(checkpoint.glob("*.py"))
    ours = sorted([file.name for room in CODE for file in (ROOT / room).glob("*_flamingo_med.py")])
    assert [file.name for file in files] == ours
    for file in files:
        relative = {node.module for node in imports(file) if isinstance(node, ast.ImportFrom) and node.level}
        assert relative == set(get_relative_imports(file)), file  # found by a pattern, in docstrings too
        assert all((checkpoint / f"{module}.py").is_file() for module in relative), file
        for node in imports(file):
            names = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            if not getattr(node, "level", 0):
                assert not {"processing", "modeling_flamingo_med"} & {name.split(".")[0] for name in names}, file
            else:
                assert node.level == 1 and "." not in node.module
    model = "modeling_flamingo_med.FlamingoMedForConditionalGeneration"
    assert json.loads((checkpoint / "config.json").read_text())["auto_map"] == {
        "AutoConfig": "configuration_flamingo_med.FlamingoMedConfig",
        "AutoModel": model,
        "AutoModelForImageTextToText": model,
        "AutoModelForMultimodalLM": model,
    }
    processor = {"AutoProcessor": "processing_flamingo_med.FlamingoMedProcessor"}
    assert json.loads((checkpoint / "processor_config.json").read_text())["auto_map"] == processor


@pytest.mark.parametrize("installed", [False, True])
def test_loads_in_a_fresh_process(checkpoint, tmp_path, installed):
    if installed:
        script, where, options = INSTALLED + LOAD_AND_SAVE + TRUSTED_TOO, "modeling_flamingo_med.", []
    else:
        script, where, options = NOT_INSTALLED + LOAD_AND_SAVE, "transformers_modules.", ["trust_remote_code"]
    fresh(script, checkpoint, tmp_path / "again", where, *options, HF_HOME=str(tmp_path / "home"))
    for file in checkpoint.glob("*.py"):
        assert (tmp_path / "again" / file.name).read_text() == file.read_text()
    first, again = (json.loads((f / "config.json").read_text()) for f in (checkpoint, tmp_path / "again"))
    assert first["auto_map"] == again["auto_map"]
