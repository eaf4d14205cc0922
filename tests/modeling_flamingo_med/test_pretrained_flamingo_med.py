"""Checkpoints without their backbones, on several devices, quantized, and with adapters."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    BitsAndBytesConfig,
    CLIPConfig,
    CLIPModel,
    LlamaConfig,
    ResNetConfig,
)

from modeling_flamingo_med import FlamingoMedForConditionalGeneration
from tests.conftest import QUESTIONS, SMALL, TEXT, VISION, same_weights


@pytest.fixture
def batch(processor, images):
    return processor(images=images, text=QUESTIONS, answers=["yes", "no", "left"])


@pytest.fixture
def backbones(processor, tmp_path):
    """Folders of a pretrained CLIP and of a pretrained decoder that does not know our tokens."""
    torch.manual_seed(0)
    vision = {**VISION["clip"].to_dict(), "projection_dim": 16}
    CLIPModel(CLIPConfig(vision_config=vision, projection_dim=16)).save_pretrained(tmp_path / "clip")
    text = type(TEXT["llama"])(**{**TEXT["llama"].to_dict(), "vocab_size": processor.token_ids["vocab_size"] - 4})
    AutoModelForCausalLM.from_config(text).save_pretrained(tmp_path / "llama")
    return str(tmp_path / "clip"), str(tmp_path / "llama")


@pytest.mark.parametrize("train_embeddings", ["all", "new", "none"])
@pytest.mark.parametrize("select", ["full", "pooled"])
def test_without_backbones(processor, backbones, batch, tmp_path, train_embeddings, select):
    torch.manual_seed(0)
    model = FlamingoMedForConditionalGeneration.from_vision_text_pretrained(
        *backbones,
        **processor.token_ids,
        **SMALL,
        cross_attn_gate_init=0.5,
        train_embeddings=train_embeddings,
        vision_feature_select=select,
        num_labels=3,
    )
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)
    model.train()(**batch, class_labels=torch.tensor([0, 1, 2])).loss.backward()
    optimizer.step()
    model.generation_config.max_new_tokens = 7
    model.eval().save_pretrained(tmp_path / "ours", save_backbones=False)
    assert model.config.backbones_saved
    names = set(load_file(tmp_path / "ours" / "model.safetensors"))
    learned = {name for name, p in model.named_parameters() if p.requires_grad}
    resized = {"language_model.model.embed_tokens.weight", "language_model.lm_head.weight"}
    assert names == learned | (resized if train_embeddings == "none" else set())
    saved = json.loads((tmp_path / "ours" / "config.json").read_text())
    assert saved["backbones"]["vision"] == {"name": backbones[0], "revision": None}

    for kind in (FlamingoMedForConditionalGeneration, AutoModel, AutoModelForImageTextToText):
        loaded = kind.from_pretrained(tmp_path / "ours")
        with torch.no_grad():
            torch.testing.assert_close(loaded(**batch).logits, model(**batch).logits)
            torch.testing.assert_close(loaded(**batch).class_logits, model(**batch).class_logits)
        if train_embeddings != "new":  # where rows of the vocabulary stand that are never used
            assert same_weights(loaded, model)
        assert {name for name, p in loaded.named_parameters() if p.requires_grad} == learned
        assert loaded.generation_config.max_new_tokens == 7
    loaded.save_pretrained(tmp_path / "whole")  # whole again, it needs the backbones no more
    for folder in backbones:
        for file in (tmp_path / folder).iterdir():
            file.unlink()
    whole = AutoModel.from_pretrained(tmp_path / "whole")
    torch.testing.assert_close(whole(**batch).logits, model(**batch).logits)
    with pytest.raises(OSError, match="saved without its backbones and needs .*clip and .*llama"):
        AutoModel.from_pretrained(tmp_path / "ours")


def trained(model, batch):
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)
    model.train()(**batch).loss.backward()
    optimizer.step()
    return model.eval()


@pytest.mark.parametrize("case", ["frozen later", "all frozen", "merged adapter"])
def test_whatever_differs_from_the_backbones_is_saved(processor, backbones, batch, tmp_path, case):
    torch.manual_seed(0)
    options = {**processor.token_ids, **SMALL, "cross_attn_gate_init": 0.5}
    model = FlamingoMedForConditionalGeneration.from_vision_text_pretrained(*backbones, **options, freeze_text=False)
    if case == "merged adapter":
        peft = pytest.importorskip("peft")
        config = peft.LoraConfig(target_modules=["q_proj"], init_lora_weights=False)
        model = peft.get_peft_model(model, config).merge_and_unload().eval()
    else:
        trained(model, batch)
        model.requires_grad_(case != "all frozen")
    if case == "frozen later":
        model.save_pretrained(tmp_path / "first")
        model = FlamingoMedForConditionalGeneration.from_pretrained(tmp_path / "first", freeze_text=True)
    model.save_pretrained(tmp_path / "ours", save_backbones=False)
    loaded = FlamingoMedForConditionalGeneration.from_pretrained(tmp_path / "ours")
    with torch.no_grad():
        torch.testing.assert_close(loaded(**batch).logits, model(**batch).logits)
        assert same_weights(loaded, model)


def test_running_statistics_are_saved(processor, batch, tmp_path):
    torch.manual_seed(0)
    vision = ResNetConfig(embedding_size=8, hidden_sizes=[8, 32], depths=[1, 1], layer_type="basic")
    AutoModel.from_config(vision).save_pretrained(tmp_path / "resnet")
    AutoModelForCausalLM.from_config(TEXT["gpt2"]).save_pretrained(tmp_path / "gpt2")
    ids = {**processor.token_ids, "vocab_size": TEXT["gpt2"].vocab_size}
    model = FlamingoMedForConditionalGeneration.from_vision_text_pretrained(
        str(tmp_path / "resnet"), str(tmp_path / "gpt2"), **ids, **SMALL, freeze_vision=False, cross_attn_gate_init=0.5
    )
    trained(model, batch).save_pretrained(tmp_path / "ours", save_backbones=False)
    loaded = FlamingoMedForConditionalGeneration.from_pretrained(tmp_path / "ours")
    with torch.no_grad():
        torch.testing.assert_close(loaded(**batch).logits, model(**batch).logits)
        assert same_weights(loaded, model)


def test_stages_may_train_other_embeddings(make_model, batch, tmp_path):
    trained(make_model(), batch).save_pretrained(tmp_path / "all")
    first = FlamingoMedForConditionalGeneration.from_pretrained(tmp_path / "all")
    second = FlamingoMedForConditionalGeneration.from_pretrained(tmp_path / "all", train_embeddings="new")
    with torch.no_grad():
        torch.testing.assert_close(second(**batch).logits, first(**batch).logits)
    second.save_pretrained(tmp_path / "new")
    with pytest.raises(ValueError, match="was saved with its new tokens apart"):
        FlamingoMedForConditionalGeneration.from_pretrained(tmp_path / "new", train_embeddings="all")
    with pytest.raises(ValueError, match="the vocabulary cannot be resized"):
        second.resize_token_embeddings(400)


def test_settings_at_loading(make_model, tmp_path):
    make_model().save_pretrained(tmp_path)
    loaded, info = FlamingoMedForConditionalGeneration.from_pretrained(
        tmp_path, num_labels=3, cross_attn_latest_only=False, output_loading_info=True
    )
    assert loaded.config.num_labels == 3 and not loaded.config.cross_attn_latest_only
    assert {name.split(".")[0] for name in info["missing_keys"]} == {"classifier"}
    for name in ("generation_config.json", "manifest.json"):
        (tmp_path / name).unlink()
    FlamingoMedForConditionalGeneration.from_pretrained(tmp_path)


@torch.no_grad()
def test_another_precision_at_loading(make_model, processor, images, batch, tmp_path):
    model = make_model(num_labels=2)
    model.save_pretrained(tmp_path)
    expected = model(**batch).logits
    for options in ({"dtype": torch.bfloat16}, {"dtype": "bfloat16", "device_map": "cpu"}):
        loaded = AutoModelForImageTextToText.from_pretrained(tmp_path, **options)
        assert {p.dtype for p in loaded.parameters()} == {torch.bfloat16} and loaded.dtype == torch.bfloat16
        inputs = {**batch, "pixel_values": batch["pixel_values"].bfloat16()}
        torch.testing.assert_close(loaded(**inputs).logits.float(), expected, atol=0.1, rtol=0.1)
        assert (
            len(loaded.generate(**processor(images=images, text=QUESTIONS).to(torch.bfloat16), max_new_tokens=4)) == 3
        )
    loaded.save_pretrained(tmp_path / "half")
    for dtype, kept in (("auto", torch.bfloat16), (torch.float32, torch.float32)):
        assert AutoModelForImageTextToText.from_pretrained(tmp_path / "half", dtype=dtype).dtype == kept


def test_random_backbones_must_be_saved(make_model, tmp_path):
    with pytest.raises(ValueError, match="the vision part began with random weights"):
        make_model().save_pretrained(tmp_path, save_backbones=False)


@torch.no_grad()
def test_spread_over_devices(make_model, processor, images, batch, tmp_path):
    model = make_model(num_labels=3)
    model.save_pretrained(tmp_path / "model", max_shard_size="50KB")
    assert len(list((tmp_path / "model").glob("*.safetensors"))) > 1
    expected = model(**batch)
    prompt = processor(images=images, text=QUESTIONS)
    for device_map in ("auto", {"": "cpu"}, "half on disk"):
        options = {"device_map": device_map}
        if device_map == "half on disk":
            layers = {f"language_model.transformer.h.{i}": "cpu" if i == 0 else "disk" for i in range(3)}
            parts = dict.fromkeys(("vision_encoder", "resampler", "classifier", "cross_attn.0"), "cpu")
            rest = dict.fromkeys(("transformer.wte", "transformer.wpe", "transformer.ln_f", "lm_head"), "cpu")
            placed = {f"language_model.{name}": device for name, device in rest.items()}
            options = {"device_map": {**parts, **layers, **placed, "cross_attn.1": "disk"}}
            options["offload_folder"] = str(tmp_path / "offload")
        loaded = FlamingoMedForConditionalGeneration.from_pretrained(tmp_path / "model", **options)
        torch.testing.assert_close(loaded(**batch).logits, expected.logits)
        tokens = loaded.generate(**prompt, max_new_tokens=5, do_sample=False)
        assert torch.equal(tokens, model.generate(**prompt, max_new_tokens=5, do_sample=False))


def test_lora(make_model, batch, tmp_path):
    """The recipe of docs/model.md: adapters everywhere; gates, which start closed, new tokens and head as a whole."""
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)

    def start():
        return make_model(cross_attn_gate_init=0.0, train_embeddings="new", num_labels=3)

    config = peft.LoraConfig(
        r=2,
        lora_dropout=0.5,
        target_modules=["c_attn", "to_q", "to_kv", "to_out"],
        modules_to_save=["attn_gate", "ff_gate", "new_tokens", "classifier"],
    )
    model = peft.get_peft_model(start(), config)
    learning = {name for name, p in model.named_parameters() if p.requires_grad}
    for part in ("language_model.transformer.h.1", "cross_attn.0.attn.to_q", "resampler.layers.0.attn.to_kv"):
        assert any(part in name and "lora_A" in name for name in learning), part

    model.train()
    dropouts = [m for name, m in model.named_modules() if name.endswith("lora_dropout.default")]
    assert dropouts and all(m.training for m in dropouts)
    assert not any(m.training for name, m in model.named_modules() if name.endswith("attn_dropout"))
    before = model.eval()(**batch).logits
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.05)
    for _ in range(3):
        optimizer.zero_grad()
        model.train()(**batch, class_labels=torch.tensor([0, 1, 2])).loss.backward()
        optimizer.step()
    for name in ("cross_attn.1.attn_gate", "new_tokens", "classifier"):
        assert any(name in key and p.grad is not None and p.grad.any() for key, p in model.named_parameters()), name
    with torch.no_grad():
        learned = model.eval()(**batch).logits
        assert (learned - before).abs().max() > 1e-3
        other = {**batch, "pixel_values": batch["pixel_values"].flip(0)}
        assert (model(**other).logits - learned).abs().max() > 1e-5  # it looks
        model.save_pretrained(tmp_path)
        again = peft.PeftModel.from_pretrained(start(), tmp_path).eval()
        torch.testing.assert_close(again(**batch).logits, learned)
        merged = again.merge_and_unload()
        assert isinstance(merged, FlamingoMedForConditionalGeneration)
        torch.testing.assert_close(merged(**batch).logits, learned, atol=1e-4, rtol=1e-4)


def test_whole_layers_learn_beside_adapters(make_model, batch):
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(target_modules=["c_attn"], modules_to_save=["cross_attn.0", "cross_attn.1"])
    model = peft.get_peft_model(make_model(), config).train()
    model(**batch).loss.backward()
    copies = [p for name, p in model.named_parameters() if "modules_to_save" in name]
    assert copies and all(p.grad is not None for p in copies)


@pytest.mark.parametrize("bits", [4, 8])
def test_quantized(processor, images, batch, tmp_path, bits):
    pytest.importorskip("bitsandbytes")
    torch.manual_seed(0)
    text = LlamaConfig(hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4)
    model = FlamingoMedForConditionalGeneration.from_vision_text_pretrained(
        VISION["clip"], text, **processor.token_ids, **SMALL, cross_attn_gate_init=0.5
    ).eval()
    model.save_pretrained(tmp_path)
    quantization = BitsAndBytesConfig(
        load_in_4bit=bits == 4,
        load_in_8bit=bits == 8,
        llm_int8_skip_modules=["vision_encoder", "resampler", "cross_attn", "lm_head"],
    )
    small = FlamingoMedForConditionalGeneration.from_pretrained(tmp_path, quantization_config=quantization)
    assert small.parameter_summary().splitlines()[-1].split()[1] == f"{model.num_parameters():,}"
    kinds = {name.split(".")[0]: type(m).__module__ for name, m in small.named_modules() if name.endswith("proj")}
    assert kinds["language_model"].startswith("bitsandbytes")
    assert not any(type(m).__module__.startswith("bitsandbytes") for m in small.cross_attn.modules())
    with torch.no_grad():
        torch.testing.assert_close(small(**batch).loss.float(), model(**batch).loss, atol=0.3, rtol=0.1)
    assert len(small.generate(**processor(images=images, text=QUESTIONS), max_new_tokens=4, do_sample=False)) == 3
