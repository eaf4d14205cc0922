"""The model: what the paper promises of it, on tiny random decoders and encoders."""

import copy

import pytest
import torch
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    CLIPConfig,
    CLIPModel,
    GPT2LMHeadModel,
)

from modeling_flamingo_med import (
    FlamingoMedConfig,
    FlamingoMedForConditionalGeneration,
    FlamingoMedGatedCrossAttention,
    FlamingoMedPerceiverResampler,
)
from tests.conftest import QUESTIONS, SMALL, TEXT, VISION, same_weights

ALL = [(vision, text) for vision in VISION for text in TEXT]


@pytest.mark.parametrize("text", TEXT)
def test_left_and_right_padding_change_nothing(make_model, processor, images, text):
    model = make_model(text=text)
    answers = ["yes", "no", "left lower lobe"]
    batch = processor(images=images, text=QUESTIONS, answers=answers)  # padded on the right
    losses, counts = [], []
    for image, question, answer in zip(images, QUESTIONS, answers, strict=True):
        single = processor(images=image, text=question, answers=answer)
        losses.append(model(**single).loss)
        counts.append((single["labels"] != -100).sum())
    expected = sum(loss * n for loss, n in zip(losses, counts, strict=True)) / sum(counts)
    torch.testing.assert_close(model(**batch).loss, expected)

    generated = model.generate(**processor(images=images, text=QUESTIONS), max_new_tokens=8, do_sample=False)
    for row, image, question in zip(generated, images, QUESTIONS, strict=True):
        single = processor(images=image, text=question)
        alone = model.generate(**single, max_new_tokens=8, do_sample=False)[0, single["input_ids"].shape[1] :]
        assert row[-8:][: len(alone)].tolist() == alone.tolist()


@pytest.mark.parametrize("text", TEXT)
@pytest.mark.parametrize("num_beams", [1, 3])
def test_cached_generation_is_uncached_generation(make_model, processor, images, text, num_beams):
    model = make_model(text=text)
    inputs = processor(images=images, text=QUESTIONS)
    options = {"max_new_tokens": 8, "do_sample": False, "num_beams": num_beams}
    cached = model.generate(**inputs, **options, use_cache=True)
    assert torch.equal(cached, model.generate(**inputs, **options, use_cache=False))


def test_latents_and_key_values_replace_pixel_values(make_model, processor, images):
    model = make_model()
    inputs = processor(images=images, text=QUESTIONS)
    with torch.no_grad():
        whole = model(**inputs)
        pixels = inputs.pop("pixel_values")
        latents = model.encode_images(pixels)
        key_values = model.project_image_latents(latents)
        assert torch.equal(model(image_latents=latents, **inputs).logits, whole.logits)
        assert torch.equal(model(image_key_values=key_values, **inputs).logits, whole.logits)
        assert torch.equal(whole.image_key_values, key_values)
    with pytest.raises(ValueError, match=r"\(b n c h w\).*\(3, 3, 32, 32\)"):
        model.encode_images(pixels[:, 0])
    with pytest.raises(ValueError, match=r"images of 2 rows for input_ids \(3, "):
        model(image_latents=latents[:2], **inputs)


def test_rows_that_share_images(make_model, processor, images):
    model = make_model()
    rows = [images[0], images[1], images[0]]
    separate = processor(images=rows, text=QUESTIONS, answers=["yes", "no", "left"])
    shared = {**separate, "pixel_values": separate["pixel_values"][:2], "image_indices": torch.tensor([[0], [1], [0]])}
    torch.testing.assert_close(model(**shared).loss, model(**separate).loss)


def test_loss_is_that_of_answer_tokens(make_model, processor, images):
    model = make_model()
    inputs = processor(images=images, text=QUESTIONS, answers=["yes", "no", "left"])
    labels = inputs["labels"]
    with torch.no_grad():
        loss = model(**inputs).loss
        logits = model(**{k: v for k, v in inputs.items() if k != "labels"}).logits
    expected = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize(("vision", "text"), ALL)
def test_save_and_load(make_model, processor, images, tmp_path, vision, text):
    model = make_model(vision, text)
    model.save_pretrained(tmp_path)
    inputs = processor(images=images, text=QUESTIONS)
    for auto_class in (AutoModel, AutoModelForImageTextToText, FlamingoMedForConditionalGeneration):
        loaded = auto_class.from_pretrained(tmp_path)
        assert isinstance(loaded, FlamingoMedForConditionalGeneration)
        with torch.no_grad():
            torch.testing.assert_close(loaded(**inputs).logits, model(**inputs).logits)
        assert same_weights(loaded, model)
    learning = {name for name, p in model.named_parameters() if p.requires_grad}
    assert {name for name, p in loaded.named_parameters() if p.requires_grad} == learning
    assert loaded.generation_config.eos_token_id == processor.tokenizer.eos_token_id


def test_copies_do_not_share_gates(make_model, processor, images):
    model = make_model()
    inputs = processor(images=images, text=QUESTIONS)
    clone = copy.deepcopy(model)
    with torch.no_grad():
        before = model(**inputs).logits
        for layer in clone.cross_attn:
            layer.attn_gate.alpha.zero_()
        assert not torch.equal(clone(**inputs).logits, before)
        assert torch.equal(model(**inputs).logits, before)


def test_parts_come_from_local_folders(processor, images, tmp_path):
    text_config = copy.deepcopy(TEXT["gpt2"])
    text_config.vocab_size = processor.token_ids["vocab_size"] - 4
    GPT2LMHeadModel(text_config).save_pretrained(tmp_path / "gpt2")
    clip = CLIPModel(CLIPConfig(vision_config=VISION["clip"].to_dict(), projection_dim=16))
    clip.save_pretrained(tmp_path / "clip")
    model = FlamingoMedForConditionalGeneration.from_vision_text_pretrained(
        str(tmp_path / "clip"), str(tmp_path / "gpt2"), **processor.token_ids, **SMALL
    ).eval()
    embeddings = AutoModelForCausalLM.from_pretrained(tmp_path / "gpt2").get_input_embeddings().weight
    assert torch.equal(model.get_input_embeddings().weight[:-4], embeddings)
    weight = "vision_model.encoder.layers.0.mlp.fc1.weight"
    theirs = dict(clip.named_parameters())[weight]
    assert any(torch.equal(theirs, p) for p in model.vision_encoder.parameters() if p.shape == theirs.shape)

    model.save_pretrained(tmp_path / "whole")
    inputs = processor(images=images, text=QUESTIONS)
    for folder in ("clip", "gpt2"):
        for file in (tmp_path / folder).iterdir():
            file.unlink()
    loaded = AutoModel.from_pretrained(tmp_path / "whole")
    torch.testing.assert_close(loaded(**inputs).logits, model(**inputs).logits)
    assert same_weights(loaded, model)


def test_parts_of_another_precision(processor, images, tmp_path):
    config = copy.deepcopy(TEXT["llama"])
    config.vocab_size = 300
    AutoModelForCausalLM.from_config(config).to(torch.bfloat16).save_pretrained(tmp_path)
    model = FlamingoMedForConditionalGeneration.from_vision_text_pretrained(
        VISION["clip"], str(tmp_path), **processor.token_ids, **SMALL
    )
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    model(**processor(images=images, text=QUESTIONS))


def test_frozen_parts(make_model):
    model = make_model().train()
    learning = {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad}
    assert learning == {"resampler", "cross_attn", "language_model"}
    in_language_model = [n for n, p in model.language_model.named_parameters() if p.requires_grad]
    assert in_language_model == ["transformer.wte.weight"]
    assert model.training
    assert not model.vision_encoder.training
    assert not model.language_model.training
    assert not any(p.requires_grad for p in make_model(train_embeddings="none").language_model.parameters())
    assert all(p.requires_grad for p in make_model(freeze_text=False, freeze_vision=False).parameters())


def test_parameter_summary_adds_up(make_model):
    model = make_model()
    *parts, whole = [line.split() for line in model.parameter_summary().splitlines()[1:]]
    for column in (1, 2):
        assert sum(int(p[column].replace(",", "")) for p in parts) == int(whole[column].replace(",", ""))


def test_the_two_blocks_alone():
    settings = {**SMALL, "resampler_num_positions": 50, "cross_attn_gate_init": 1.0}
    config = FlamingoMedConfig(vision_config=VISION["clip"], text_config=TEXT["gpt2"], **settings)
    resampler = FlamingoMedPerceiverResampler(config)
    latents = resampler(torch.randn(3, 1, 50, 32))
    assert latents.shape == (3, 4, 32)
    gated = FlamingoMedGatedCrossAttention(config)
    key_values = gated.attn.key_values(latents)
    x = torch.randn(3, 5, 32)
    nothing = torch.zeros(3, 1, 5, 4, dtype=torch.bool)
    torch.testing.assert_close(gated(x, key_values, nothing), gated(x, None, None))
    assert not torch.equal(gated(x, key_values, ~nothing), gated(x, None, None))
