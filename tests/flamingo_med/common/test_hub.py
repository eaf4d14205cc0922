"""HubMixin and pulling with the Hub's real client, against the stand-in of `hub_server.py`."""

import json
import os
import shlex
import time
from pathlib import Path

import datasets
import huggingface_hub
import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModel, AutoModelForCausalLM

from modeling_flamingo_med import FlamingoMedForConditionalGeneration
from processing.datasets import load_split
from tests import ROOT
from tests.commands import FEW, python
from tests.conftest import QUESTIONS, SMALL, TEXT, VISION
from tests.flamingo_med.common.hub_server import HubServer

TOKEN = "hf_alice"


@pytest.fixture
def hub():
    with HubServer({TOKEN: "alice"}) as server:
        yield server


@pytest.fixture
def process(hub, tmp_path):
    """process("train", …): Python in a process for which the stand-in is the Hub; returns what it printed."""

    def call(*arguments, **environment: str) -> str:
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        settings = {**hub.environment(tmp_path / "home", TOKEN), "PYTHONPATH": path, **environment}
        return python(*arguments, env={**os.environ, **settings})

    return call


@pytest.fixture
def client(hub, tmp_path, monkeypatch, command):
    """client("train", …): a command in this process, whose client of the Hub talks to the stand-in."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "home"))
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", hub.url)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # the client waits for a network to come back

    def call(*arguments, code: int = 0, endpoint: str = hub.url, token: str = TOKEN) -> str:
        file = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", endpoint)
        monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", file)
        monkeypatch.setattr(huggingface_hub.hf_api.api, "endpoint", endpoint)
        monkeypatch.setenv("HF_TOKEN", token)
        return command(*arguments, code=code)

    return call


def training(tmp_path, *arguments) -> list:
    data = ["--data_dir", tmp_path / "data", *FEW, "--output_dir", tmp_path / "run"]
    return ["train", "phantom", *data, "--push_to_hub", "--hub_model_id", "alice/run", *arguments]


ROOMS = ("modeling_flamingo_med", "processing")
CODE = {path.name for room in ROOMS for path in (ROOT / room).glob("*_flamingo_med.py")}
MODEL = {"config.json", "generation_config.json", "model.safetensors", *CODE}
PROCESSOR = {"chat_template.jinja", "processor_config.json", "tokenizer.json", "tokenizer_config.json"}
OF_A_CHECKPOINT = {"manifest.json", "trained_images.txt", "run.json"}
OF_THE_RUN = {"README.md", "recipe.yaml", "run.json", "summary.json"}


@pytest.mark.slow
def test_a_run_is_pushed(hub, process, tmp_path):
    """Checkpoints in the background, whole ones; a push that breaks off is resumed, one that fails ends nothing."""
    hub.drops += ["PUT /lfs/"]
    hub.refusals += ["/commit/"]
    options = ["--num_train_epochs", "3", "--hub_strategy", "checkpoint", "--hub_private_repo", "true"]
    output = process("-m", "flamingo_med.cli.main", *training(tmp_path, *options))
    assert output.count("could not be pushed to alice/run: the token has no right") == 1
    assert f"pushed: {hub.url}/alice/run/commit/" in output and "Retrying" in output
    assert not hub.drops and not hub.refusals

    repository = hub.repositories["model", "alice/run"]
    assert repository.private
    pushed = [message.removeprefix("Training in progress, ") for message in repository.messages]
    steps = sorted({int(message.split()[1].strip(",")) for message in pushed if message.startswith("step")})
    assert len(steps) == 3
    wanted = [name for step in steps for name in (f"step {step}", f"step {step}, checkpoint")]
    assert pushed == ["initial commit", *wanted[1:], "End of training"]
    of_training = {"optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"}
    checkpoint = {f"last-checkpoint/{name}" for name in MODEL | PROCESSOR | OF_A_CHECKPOINT | of_training}
    *_, last, end = repository.commits.values()
    assert set(last) == {".gitattributes"} | MODEL | PROCESSOR | OF_A_CHECKPOINT | checkpoint
    assert set(end) == set(last) | OF_THE_RUN
    files = hub.files("model", "alice/run")
    for name in MODEL | PROCESSOR | OF_A_CHECKPOINT | OF_THE_RUN:
        assert files[name] == (tmp_path / "run" / name).read_bytes()
    assert json.loads(files["last-checkpoint/trainer_state.json"])["global_step"] == steps[-1]


def test_a_run_that_cannot_be_pushed_is_finished(hub, client, tmp_path):
    hub.refusals += ["/commit/"]
    options = ["--num_train_epochs", "1", "--hub_strategy", "end", "--hub_revision", "draft"]
    output = client(*training(tmp_path, *options), code=2)
    error = output.splitlines()[-1]
    assert error.startswith(
        f"error: the finished run is in {tmp_path / 'run'}, but not on the Hub; push it by `flamingo-med"
    )
    assert error.endswith(": the token has no right to it; take one that has, or another name")
    assert (tmp_path / "run" / "recipe.yaml").is_file()
    assert set(hub.files("model", "alice/run", "draft")) == {".gitattributes"}

    program, *arguments = shlex.split(error.split("`")[1])
    assert program == "flamingo-med"
    assert "published: " in client(*arguments)
    weights = (tmp_path / "run" / "model.safetensors").read_bytes()
    assert hub.files("model", "alice/run", "draft")["model.safetensors"] == weights
    assert set(hub.files("model", "alice/run")) == {".gitattributes"}
    ask = ["ask", "--model", "alice/run", "--image", "docs/phantom.png", "--question", "Is there a nodule?"]
    assert "answer" in client(*ask, "--revision", "draft")
    assert "no image-text-to-text model at alice/run" in client(*ask, code=2)
    assert "the repository has no such revision" in client(*ask, "--revision", "none", code=2)
    sent = [path for method, path, _ in hub.requests if method == "PUT"]
    assert len(sent) == len(set(sent)) == 1  # what was there already was not sent again


NOWHERE = "http://127.0.0.1:9"  # the port of discard, where nothing listens


@pytest.mark.parametrize(
    ("options", "settings", "message"),
    [
        (
            [],
            {"token": "hf_other"},
            "alice/run cannot be made ready on the Hub, as --push_to_hub asks: there is no token",
        ),
        ([], {"token": ""}, "run `hf auth login`, or set HF_TOKEN"),
        ([], {"endpoint": NOWHERE}, f"{NOWHERE} cannot be reached"),
        (["--hub_model_id", "bob/run"], {}, "the token has no right to it"),
        (["--hub_model_id", "alice/a run"], {}, "'alice/a run'"),
        (["--hub_token", TOKEN], {}, "hub_token is a secret, not a setting"),
    ],
)
def test_a_push_that_cannot_be_is_told_before_training(client, tmp_path, options, settings, message):
    output = client(*training(tmp_path, *options), code=2, **settings)
    errors = [line for line in output.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and message in errors[0] and TOKEN not in output
    assert not list((tmp_path / "run").glob("checkpoint-*"))


@pytest.mark.parametrize(
    ("arguments", "settings", "message"),
    [
        (["model", "docs", "alice/run"], {}, "no model at docs; give the output_dir"),
        (["metric", "exact_mach", "alice/run"], {}, "did you mean exact_match?"),
        (["metric", "intervals", "alice/run"], {}, "unknown metric 'intervals'"),
        (["metric", "exact_match", "bob/run"], {}, "exact_match was not published as bob/run: the token has no right"),
        (["metric", "exact_match", "alice/run"], {"endpoint": NOWHERE}, f"{NOWHERE} cannot be reached"),
        (["dataset", "mimic_cxr", "alice/run"], {}, "only phantom is ours to give away"),
        (["dataset", "phantom", "alice/run", "--data.sed", "1"], {}, "did you mean seed?"),
        (["dataset", "phantom"], {}, "required: REPOSITORY"),
        (["modle", "docs", "alice/run"], {}, "did you mean model?"),
    ],
)
def test_mistakes_of_publishing_are_one_sentence(hub, client, arguments, settings, message):
    output = client("publish", *arguments, code=2, **settings)
    assert output.startswith("error: ") and output.count("\n") == 1 and message in output
    assert not hub.repositories


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "there is no such repository, or the token may not see it"),
        ({"token": "hf_other"}, "there is no token that the Hub accepts; run `hf auth login`, or set HF_TOKEN"),
        ({"endpoint": NOWHERE}, f"{NOWHERE} cannot be reached"),
    ],
)
def test_models_that_cannot_be_pulled_are_one_sentence(client, tmp_path, settings, message):
    ask = ["ask", "--image", "docs/phantom.png", "--question", "Is there a nodule?"]
    output = client(*ask, "--model", "alice/none", code=2, **settings)
    assert output == f"error: no image-text-to-text model at alice/none (folder or Hub id): {message}\n"
    output = client(*training(tmp_path, "--init_from", "alice/none"), code=2, **settings)
    assert output.splitlines()[-1].startswith("error: ") and output.endswith(f": {message}\n")


# A user without our packages: models by branch and tag, without backbones and with an adapter, data set and metric.
PULL = """
import sys
sys.modules["modeling_flamingo_med"] = sys.modules["processing"] = None

import datasets, evaluate, huggingface_hub, torch
from peft import PeftModel
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForImageTextToText, AutoProcessor, pipeline

huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE = 4096  # that a download may be resumed amid so small a file
inputs = load_file(sys.argv[1])
logits = {name: inputs.pop(name) for name in ("first", "second", "part", "adapted")}


def load(name="alice/model", **options):
    return AutoModelForImageTextToText.from_pretrained(name, trust_remote_code=True, **options)


def same(model, name):
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(**inputs).logits, logits[name])


same(load(), "second")
same(load(revision="draft"), "first")
same(load("alice/part"), "part")
same(PeftModel.from_pretrained(load(revision="first"), "alice/adapter"), "adapted")
pipe = pipeline("image-text-to-text", model="alice/model", trust_remote_code=True)
assert pipe(images=Image.new("RGB", (20, 30)), text="Is it large?", return_full_text=False, max_new_tokens=4)
metric = evaluate.load("alice/exact")
assert metric.compute(predictions=["Yes ", "no"], references=["yes", "yes"]) == {"exact_match": 0.5}
rows = datasets.load_dataset("alice/phantom")
assert rows["test"][0]["image"].size == (128, 128)
rows["test"].select_columns(["id", "question", "answer"]).to_json(sys.argv[2])
if not huggingface_hub.is_offline_mode():
    for token in ("hf_other", False):
        try:
            load(token=token, force_download=True)
            raise AssertionError("a private model was given away")
        except OSError:
            pass
    load().push_to_hub("alice/again")
    AutoProcessor.from_pretrained("alice/model", trust_remote_code=True).push_to_hub("alice/again")
"""


@pytest.fixture
def published(make_model, processor, images, tmp_path) -> Path:
    """Models in the folders first (in shards), second, part (without its backbones), adapter; what they answer."""
    peft = pytest.importorskip("peft")
    models = {"first": make_model(), "second": make_model(cross_attn_gate_init=0.3)}
    AutoModel.from_config(VISION["clip"]).save_pretrained(tmp_path / "clip")
    AutoModelForCausalLM.from_config(TEXT["gpt2"]).save_pretrained(tmp_path / "gpt2")
    ids = {**processor.token_ids, "vocab_size": TEXT["gpt2"].vocab_size}
    models["part"] = FlamingoMedForConditionalGeneration.from_vision_text_pretrained(
        str(tmp_path / "clip"), str(tmp_path / "gpt2"), **ids, **SMALL, cross_attn_gate_init=0.5
    ).eval()
    for name, model in models.items():
        model.save_pretrained(tmp_path / name, max_shard_size="100KB", save_backbones=name != "part")
        processor.save_pretrained(tmp_path / name)
    inputs = processor(images=images, text=QUESTIONS)
    with torch.no_grad():
        logits = {name: model(**inputs).logits for name, model in models.items()}
        config = peft.LoraConfig(target_modules=["to_q"], init_lora_weights=False)
        adapted = peft.get_peft_model(models["first"], config).eval()
        adapted.save_pretrained(tmp_path / "adapter")
        save_file({**inputs, **logits, "adapted": adapted(**inputs).logits}, tmp_path / "expected.safetensors")
    return tmp_path


@pytest.mark.slow
def test_what_is_published_is_pulled(hub, client, process, published):
    """With a token, over a connection that breaks off, from the cache without any, and pushed again."""
    for arguments in (
        ["dataset", "phantom", "alice/phantom", *FEW],
        ["metric", "exact_match", "alice/exact"],
        ["model", published / "first", "alice/model", "--private", "--revision", "draft"],
        ["model", published / "second", "alice/model"],
        ["model", published / "part", "alice/part"],
    ):
        assert f"published: {hub.url}" in client("publish", *arguments)
    huggingface_hub.create_tag("alice/model", tag="first", revision="draft")
    huggingface_hub.create_repo("alice/adapter")
    huggingface_hub.upload_folder(repo_id="alice/adapter", folder_path=published / "adapter")
    assert hub.repositories["model", "alice/model"].private
    assert hub.repositories["space", "alice/exact"].sdk == "static"
    card = hub.files("dataset", "alice/phantom")["README.md"].decode()
    assert "license: apache-2.0" in card and "features:" in card and "train_images 30" in card
    shards = [name for name in hub.files("model", "alice/model", "first") if name.endswith(".safetensors")]
    assert len(shards) > 1

    hub.drops += [f"/{shards[0]}"]
    arguments = [published / "expected.safetensors", published / "rows.json"]
    assert "Trying to resume" in process("-c", PULL, *arguments)
    assert any(path.endswith(shards[0]) and start for _, path, start in hub.requests)
    assert set(hub.files("model", "alice/again")) >= MODEL | PROCESSOR
    rows = load_split("phantom", "test", str(published), test_images=10)
    pulled = [json.loads(line) for line in (published / "rows.json").read_text().splitlines()]
    assert pulled == [{name: row[name] for name in ("id", "question", "answer")} for row in rows]
    process("-c", PULL, *arguments, HF_HUB_OFFLINE="1", HF_ENDPOINT=NOWHERE, HF_TOKEN="")


def test_a_model_pushed_again_leaves_nothing_old_behind(hub, client, published):
    """Weights in fewer shards than before: those of before would be read along."""
    for name in ("first", "part"):
        client("publish", "model", published / name, "alice/model")
    weights = {name for name in hub.files("model", "alice/model") if name.endswith(".safetensors")}
    assert weights == {path.name for path in (published / "part").glob("*.safetensors")}
