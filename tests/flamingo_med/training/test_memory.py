"""The memory estimate beside what a process really takes, and what changes it."""

import os
import re
from pathlib import Path

import pytest
import torch
from transformers import CLIPVisionConfig, GPT2Config

from flamingo_med.training.memory import LiveBytes, estimate_memory, example, format_memory, loss_of
from flamingo_med.training.trainer import FlamingoMedTrainingArguments
from tests.commands import python

VISION = CLIPVisionConfig(hidden_size=256, num_hidden_layers=2, num_attention_heads=4, patch_size=32)
TEXT = GPT2Config(n_embd=512, n_layer=4, n_head=8)
SHAPE = {"tokens": 32, "vocab_size": 10000, "image_size": 224}
MEASURE = "from tests.flamingo_med.training.test_memory import measure; print(measure())"


def arguments(**settings) -> FlamingoMedTrainingArguments:
    settings = {"per_device_train_batch_size": 16, "use_cpu": True, "max_new_tokens": 8, **settings}
    return FlamingoMedTrainingArguments(**settings)


def peak() -> int:
    """The most bytes that this process ever held. (`ru_maxrss` begins as that of the process that started it.)"""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", status)[1])


def measure() -> int:
    """Bytes that two steps take in this process, beside what it took before."""
    from modeling_flamingo_med import FlamingoMedForConditionalGeneration

    before = peak()
    names = ("image_token_id", "eoq_token_id", "eos_token_id", "pad_token_id")
    ids = {name: SHAPE["vocab_size"] + i for i, name in enumerate(names)}
    model = FlamingoMedForConditionalGeneration.from_vision_text_pretrained(
        VISION, TEXT, vocab_size=SHAPE["vocab_size"] + 4, **ids
    ).train()
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), fused=True)
    batch = example(model, arguments(), SHAPE["tokens"], SHAPE["image_size"])
    for _ in range(2):
        loss_of(model, batch, 16, 8).backward()
        optimizer.step()
        optimizer.zero_grad()
    return peak() - before


def test_live_bytes():
    with LiveBytes() as live:
        a = torch.zeros(1000)
        b = a + 1
        view = a[10:]
        assert live.now == live.peak == 8000
        del a, b
        assert live.now == 4000  # the view keeps its storage
        del view
        assert (live.now, live.peak) == (0, 8000)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells a process's peak")
def test_estimate_is_what_a_process_takes():
    """Within 10 %, where the C library gives back what is freed; gaps that it keeps are in none of the shapes."""
    estimate = estimate_memory(VISION, TEXT, arguments(), **SHAPE)
    estimate.pop("unit")
    output = python("-c", MEASURE, env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"})
    assert sum(estimate.values()) == pytest.approx(int(output.partition("\n")[0]), rel=0.1)


def test_what_changes_it():
    whole = estimate_memory(VISION, TEXT, arguments(), **SHAPE)
    half = estimate_memory(VISION, TEXT, arguments(bf16=True), **SHAPE)
    again = estimate_memory(VISION, TEXT, arguments(gradient_checkpointing=True), **SHAPE)
    asked = estimate_memory(VISION, TEXT, arguments(train_on_questions=True), **SHAPE)
    new = estimate_memory(VISION, TEXT, arguments(), train_embeddings="new", **SHAPE)
    assert half["activations"] < 0.75 * whole["activations"]
    assert asked["activations"] > 1.05 * whole["activations"]
    assert again["activations"] < 0.75 * whole["activations"]
    assert whole["gradients"] - new["gradients"] == pytest.approx(10000 * 512 * 4, rel=0.01)
    assert whole["optimizer"] == pytest.approx(2 * whole["gradients"], rel=0.01)
    table = format_memory(whole, arguments(), 32)
    assert "16 questions of 32 tokens, float32" in table and "FSDP, 8" in table
