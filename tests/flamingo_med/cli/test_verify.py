"""flamingo-med verify, and damaged models told by the commands that load them."""

import shutil

import pytest

from tests.commands import FEW
from tests.modeling_flamingo_med.damages import DAMAGES, damage


@pytest.fixture
def copy(run_folder, tmp_path):
    """The tiny run, to be damaged."""
    shutil.copytree(run_folder, tmp_path / "run")
    return tmp_path / "run"


def test_a_finished_run_and_its_checkpoint_are_what_they_were(run_folder, command):
    (checkpoint,) = run_folder.glob("checkpoint-*")
    for folder in (run_folder, checkpoint):
        said = command("verify", folder)
        assert f"{folder}: all " in said and "the end of its training; written by 1 process(es)" in said


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_file_is_named(copy, command, how):
    damage(copy / "model.safetensors", how)
    for words in (["verify", copy], ["evaluate", "--model", copy]):
        said = command(*words, code=2)
        assert said.splitlines()[-1].startswith(f"error: {copy / 'model.safetensors'} ")
    second = ["train", "phantom", "--init_from", copy, "--output_dir", copy.parent / "second"]
    assert f"{copy / 'model.safetensors'} " in command(*second, "--data_dir", copy.parent, *FEW, code=2)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "chat_template.jinja", "trained_images.txt"])
def test_every_file_counts(copy, command, name):
    damage(copy / name, "emptied")
    question = ["ask", "--model", copy, "--image", "docs/phantom.png", "--question", "Is there a nodule?"]
    for words in (["verify", copy], question):
        said = command(*words, code=2)
        assert f"error: {copy / name} has 0 bytes, where manifest.json says" in said


def test_a_checkpoint_without_the_state_of_its_training_is_a_model(copy, command):
    (checkpoint,) = copy.glob("checkpoint-*")
    damage(checkpoint / "optimizer.pt", "cut")
    assert "optimizer.pt has" in command("verify", checkpoint, code=2)
    for pattern in ("*.pt", "*.pth", "trainer_state.json"):
        for path in checkpoint.glob(pattern):
            path.unlink()
    assert "without the state of its training" in command("verify", checkpoint)


def test_a_folder_without_a_manifest(tmp_path, command):
    assert f"{tmp_path} has no manifest.json; give" in command("verify", tmp_path, code=2)
