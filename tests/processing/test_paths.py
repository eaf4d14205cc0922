"""What looks like a path and is not there is told at once, and never looked for on the Hub."""

import pytest

from processing.errors import InputError, check_path
from tests.commands import call


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working directory with the folder runs/phantom."""
    (tmp_path / "runs" / "phantom").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("something was looked for on the Hub"))
    return tmp_path


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("runs/fantom", "--model is runs/fantom, but there is no runs/fantom; did you mean runs/phantom?"),
        ("runs/x", "--model is runs/x, but there is no runs/x; it would be on the Hub if runs were not a folder here"),
        ("./x", "there is no ./x"),
        ("../x/y", "there is no ../x"),
        ("/nowhere/at/all", "--model is /nowhere/at/all, but there is no /nowhere"),
        ("rums/phantom/checkpoint-5", "there is no rums; did you mean runs?"),
        ("x/", "there is no x"),
        ("C:\\runs\\x", "there is no C:"),
        ("~/none", "there is no ~"),
    ],
)
def test_paths_that_are_not_there(place, message, here):
    with pytest.raises(InputError) as error:
        check_path("--model", place)
    assert message in str(error.value)


def test_home_is_written_out(here, monkeypatch):
    monkeypatch.setenv("HOME", str(here))
    with pytest.raises(InputError, match=f"write {here}/runs"):
        check_path("--model", "~/runs")


@pytest.mark.parametrize("place", ["runs/phantom", "runs", "gpt2", "openai/clip-vit-base-patch32", "", None, {}])
def test_what_may_be_on_the_hub_or_is_there(place, here):
    check_path("--model", place)


@pytest.mark.parametrize(
    "arguments",
    [
        ["ask", "--image", "x.png", "--question", "Is it?", "--model"],
        ["evaluate", "--recipe", "phantom", "--model"],
        ["evaluate", "--recipe", "phantom", "--model", "org/name", "--sentence_encoder"],
        ["evaluate", "--recipe", "phantom", "--dataset", "slake", "--model", "org/name", "--data_dir"],
        ["explain", "--recipe", "phantom", "--model", "org/name", "--repeats", "[{}]"],
        ["demo", "--model"],
        ["compare-maps", "--recipe", "phantom", "--output_dir", "x", "--models", "[org/name, {}]"],
        ["explain-classifier", "--classifier", "x", "--image", "x", "--output_dir", "x", "--model"],
        ["explain-classifier", "--image", "x", "--output_dir", "x", "--model", "org/name", "--classifier"],
        ["train", "phantom", "--init_from"],
        ["train", "phantom", "--vision"],
        ["train", "phantom", "--tokenizer"],
        ["train", "phantom", "--text"],
        ["train", "vqa_rad", "--data_dir"],
        ["train", "phantom", "--dataset", "path_vqa", "--data_dir"],
        ["train", "phantom", "--dataset", "pmc_vqa", "--data_dir"],
        ["tokenizer", "--recipe", "phantom", "--vocab_size", "300", "--output_dir", "x", "--extend"],
        ["convert", "x", "y", "--text"],
    ],
)
def test_every_setting_that_takes_a_path(arguments, here):
    listed = "{}" in arguments[-1]
    words = [*arguments[:-1], arguments[-1].format("runs/typo")] if listed else [*arguments, "runs/typo"]
    setting = arguments[-2 if listed else -1].lstrip("-")
    (error,) = call(*words, code=2).splitlines()
    assert error.startswith("error: ") and f"{setting} is runs/typo, but there is no runs/typo" in error
