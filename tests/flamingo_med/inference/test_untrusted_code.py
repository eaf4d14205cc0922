"""A checkpoint's own code is never run unless it is trusted, and nobody is asked whether it is."""

import builtins
import json
import shutil

import pytest

from flamingo_med.inference.answering import load_model
from processing.errors import InputError
from tests.commands import call

CODE = """
from pathlib import Path
Path({mark!r}).write_text("run")
from transformers import PretrainedConfig, PreTrainedModel, ProcessorMixin


class Config(PretrainedConfig):
    model_type = "foreign"


class Model(PreTrainedModel):
    config_class = Config


class Processor(ProcessorMixin):
    pass
"""


@pytest.fixture
def mark(tmp_path, monkeypatch):
    """A file that the foreign code writes when it is run."""
    monkeypatch.setattr(builtins, "input", lambda *_: pytest.fail("somebody was asked"))
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    return tmp_path / "mark"


@pytest.fixture
def foreign(tmp_path, mark):
    """A folder whose model, processor and tokenizer are classes of its own."""
    folder = tmp_path / "foreign"
    folder.mkdir()
    (folder / "code.py").write_text(CODE.format(mark=str(mark)))
    maps = {"AutoConfig": "code.Config", "AutoModelForImageTextToText": "code.Model"}
    (folder / "config.json").write_text(json.dumps({"model_type": "foreign", "auto_map": maps}))
    names = {"processor_config.json": "AutoProcessor", "tokenizer_config.json": "AutoTokenizer"}
    for name, kind in names.items():
        (folder / name).write_text(json.dumps({"auto_map": {kind: "code.Processor"}}))
    return folder


@pytest.mark.parametrize(
    "arguments",
    [
        ["ask", "--image", "docs/phantom.png", "--question", "Is there a nodule?", "--model"],
        ["evaluate", "--recipe", "phantom", "--model"],
        ["explain", "--recipe", "phantom", "--model"],
        ["demo", "--port", "17861", "--model"],
        ["explain-classifier", "--image", "docs/phantom.png", "--output_dir", "x", "--model", "x", "--classifier"],
        ["train", "phantom", "--output_dir", "x", "--init_from"],
        ["train", "phantom", "--output_dir", "x", "--tokenizer", "gpt2", "--vision", "x", "--text"],
    ],
)
def test_foreign_code_is_not_run(arguments, foreign, mark, tmp_path, monkeypatch):
    few = ["--data.train_images", "4", "--data.validation_images", "4", "--data.test_images", "4"]
    takes_data = arguments[0] in ("evaluate", "explain", "train")
    image = (tmp_path / "image.png").absolute()
    shutil.copy("docs/phantom.png", image)
    monkeypatch.chdir(tmp_path)
    arguments = [str(image) if argument.endswith(".png") else argument for argument in arguments]
    output = call(*arguments, foreign, *(few if takes_data else []), code=2)
    error = output.splitlines()[-1]
    assert error.startswith("error: ") and not mark.exists()
    assert "train" in arguments or "--trust_remote_code true" in error


def test_trusted_code_is_run(foreign, mark):
    with pytest.raises(InputError, match="no image-text-to-text model at"):  # it has no weights
        load_model(str(foreign), trust_remote_code=True)
    assert mark.exists()


@pytest.mark.parametrize("trust", [False, True])
def test_ours_is_loaded_by_this_package_and_not_by_its_code(make_model, processor, tmp_path, mark, trust):
    for part in (make_model(), processor):
        part.save_pretrained(tmp_path / "ours")
    for file in (tmp_path / "ours").glob("*.py"):
        file.write_text(CODE.format(mark=str(mark)))
    (tmp_path / "ours" / "manifest.json").unlink()  # which would refuse the changed files
    model, loaded = load_model(str(tmp_path / "ours"), trust_remote_code=trust)
    assert type(model) is type(make_model()) and type(loaded) is type(processor)
    assert not mark.exists()
