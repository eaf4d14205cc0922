"""Fixtures of all tests: real data where it is there, and a tiny model with its processor."""

import os
from pathlib import Path

import datasets
import pytest
import torch
from PIL import Image
from transformers import CLIPVisionConfig, Dinov2Config, GPT2Config, LlamaConfig, set_seed

from modeling_flamingo_med import FlamingoMedForConditionalGeneration, FlamingoMedProcessor
from processing.tokenization import train_tokenizer
from tests import ROOT
from tests.commands import call

VISION = {
    "clip": CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, image_size=32, patch_size=8
    ),
    "dinov2": Dinov2Config(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, image_size=32, patch_size=8),
}
TEXT = {
    "gpt2": GPT2Config(n_embd=32, n_layer=3, n_head=4, n_positions=128),
    "llama": LlamaConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4),
}
SMALL = {
    "resampler_depth": 2,
    "resampler_num_latents": 4,
    "resampler_num_heads": 2,
    "resampler_head_dim": 8,
    "cross_attn_num_heads": 2,
    "cross_attn_head_dim": 8,
    "cross_attn_every_n_layers": 2,
    "initializer_range": 0.2,  # large, so that an image changes the logits by more than rounding does
}
QUESTIONS = ["Is there a pleural effusion?", "Is the heart enlarged?", "On which side is the nodule?"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take longest come first, so that no process waits for the other at the end."""
    longest = [
        *("test_demo_quality", "test_train", "test_checkpoints", "test_hub", "test_trainable_parts"),
        *("test_evaluate", "test_notebooks", "test_page_load", "test_demo_browser", "test_memory", "test_main"),
        *("test_trainer", "test_remote_code"),
    ]
    items.sort(key=lambda item: longest.index(item.path.stem) if item.path.stem in longest else len(longest))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with the real data sets: `data` in FLAMINGO_MED_SHARED, by default in `shared` beside the repository."""
    shared = Path(os.environ.get("FLAMINGO_MED_SHARED", ROOT.parent / "shared"))
    if not (shared / "data").is_dir():
        pytest.skip(f"no real data in {shared / 'data'}")
    return shared / "data"


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch) -> None:
    """Nothing of a test is left in the user's cache of `datasets`, nor found there."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets_cache")


@pytest.fixture
def command(monkeypatch):
    """command("evaluate", "--model", …): a command in this process, from the root; gives back what it printed."""
    monkeypatch.chdir(ROOT)
    return call


@pytest.fixture(scope="session")
def processor() -> FlamingoMedProcessor:
    """A processor with a tokenizer of a few hundred tokens and images of 32 pixels."""
    tokenizer = train_tokenizer([*QUESTIONS, "Question: Answer: yes no left right"] * 3, 320)
    return FlamingoMedProcessor.from_vision_text_pretrained(None, tokenizer, image_size=32)


@pytest.fixture
def make_model(processor):
    """make_model("clip", "gpt2", **config): random weights, gates open unless cross_attn_gate_init=0.0 is given."""

    def make(vision: str = "clip", text: str = "gpt2", **config) -> FlamingoMedForConditionalGeneration:
        set_seed(0)
        config = {**SMALL, "cross_attn_gate_init": 0.5, **config}
        return FlamingoMedForConditionalGeneration.from_vision_text_pretrained(
            VISION[vision], TEXT[text], **processor.token_ids, **config
        ).eval()

    return make


def same_weights(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    """Whether all weights are equal, bit by bit. Logits may differ in the last bits, as threads share the work."""
    first, second = first.state_dict(), second.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture
def images() -> list[Image.Image]:
    """Three different images of different shapes."""
    generator = torch.Generator().manual_seed(0)
    sizes = [(40, 30), (32, 32), (20, 50)]
    return [
        Image.fromarray(torch.randint(0, 255, size, generator=generator, dtype=torch.uint8).numpy()) for size in sizes
    ]
