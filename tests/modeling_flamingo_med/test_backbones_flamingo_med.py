"""Every kind of decoder and image encoder: what the model promises holds whatever it is joined from."""

import pytest
import torch
import transformers
from huggingface_hub.errors import StrictDataclassFieldValidationError
from packaging.version import Version
from transformers import (
    BertConfig,
    BioGptConfig,
    BloomConfig,
    CLIPVisionConfig,
    Dinov2Config,
    Dinov2WithRegistersConfig,
    GemmaConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    MptConfig,
    OPTConfig,
    PhiConfig,
    Qwen2Config,
    Qwen3Config,
    ResNetConfig,
    SiglipVisionConfig,
    ViTConfig,
)

from modeling_flamingo_med import FlamingoMedConfig, FlamingoMedForConditionalGeneration
from modeling_flamingo_med.backbones_flamingo_med import find_decoder_layers
from tests.conftest import QUESTIONS, SMALL, TEXT, VISION, same_weights

WIDE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
DECODERS = {
    "gpt2": GPT2Config(n_embd=32, n_layer=3, n_head=4),
    "opt": OPTConfig(hidden_size=32, ffn_dim=64, num_hidden_layers=3, num_attention_heads=4, word_embed_proj_dim=32),
    "opt_projected": OPTConfig(
        hidden_size=32,
        ffn_dim=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        word_embed_proj_dim=16,
        do_layer_norm_before=False,
    ),
    "llama": LlamaConfig(**WIDE),
    "qwen2": Qwen2Config(**WIDE, num_key_value_heads=2),
    "qwen3": Qwen3Config(**WIDE, num_key_value_heads=2, head_dim=8),
    "mistral": MistralConfig(**WIDE, num_key_value_heads=2),
    "gemma": GemmaConfig(**WIDE, num_key_value_heads=1, head_dim=8),
    "phi": PhiConfig(**WIDE),
    "mpt": MptConfig(d_model=32, n_heads=4, n_layers=3, expansion_ratio=2),
    "gpt_neox": GPTNeoXConfig(**WIDE),
    "biogpt": BioGptConfig(**WIDE),
}
IMAGES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
IMAGES |= {"image_size": 32, "patch_size": 8}
ENCODERS = {  # configuration, tokens of an image of 32 pixels, of which patches
    "clip": (CLIPVisionConfig(**IMAGES), 17, 16),
    "clip_l14": (CLIPVisionConfig(**{**IMAGES, "image_size": 28, "patch_size": 14}), 5, 4),
    "siglip": (SiglipVisionConfig(**IMAGES), 16, 16),
    "dinov2": (Dinov2Config(**IMAGES), 17, 16),
    "dinov2_with_registers": (Dinov2WithRegistersConfig(**IMAGES, num_register_tokens=3), 20, 16),
    "vit": (ViTConfig(**IMAGES), 17, 16),
    "resnet": (ResNetConfig(embedding_size=8, hidden_sizes=[8, 32], depths=[1, 1], layer_type="basic"), 16, 16),
}


@pytest.fixture
def decoder_model(processor):
    def make(name: str, **config) -> FlamingoMedForConditionalGeneration:
        torch.manual_seed(0)
        config = {**SMALL, "cross_attn_gate_init": 0.5, **config}
        return FlamingoMedForConditionalGeneration.from_vision_text_pretrained(
            VISION["clip"], DECODERS[name], **processor.token_ids, **config
        ).eval()

    return make


@pytest.fixture
def encoder_model(processor):
    def make(name: str, **config) -> FlamingoMedForConditionalGeneration:
        torch.manual_seed(0)
        return FlamingoMedForConditionalGeneration.from_vision_text_pretrained(
            ENCODERS[name][0], TEXT["gpt2"], **processor.token_ids, **SMALL, cross_attn_gate_init=0.5, **config
        ).eval()

    return make


@pytest.mark.parametrize("name", DECODERS)
@torch.no_grad()
def test_closed_gates_are_the_plain_decoder_and_open_ones_see(decoder_model, processor, images, name):
    inputs = processor(images=images, text=QUESTIONS)
    others = processor(images=images[::-1], text=QUESTIONS)["pixel_values"]
    tokens = {key: inputs[key] for key in ("input_ids", "attention_mask")}
    tokens["position_ids"] = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    closed = decoder_model(name, cross_attn_gate_init=0.0)
    assert torch.equal(closed(**inputs).logits, closed.language_model(**tokens).logits)

    model = decoder_model(name)
    real = inputs["attention_mask"].bool()
    seen, other = model(**inputs).logits[real], model(**{**inputs, "pixel_values": others}).logits[real]
    assert not torch.equal(seen, model.language_model(**tokens).logits[real])
    assert (seen - other).abs().max() > 1e-3
    assert model(**inputs).logits.shape[-1] == processor.token_ids["vocab_size"]


@pytest.mark.parametrize("name", DECODERS)
@torch.no_grad()
def test_decoder_is_causal(decoder_model, processor, images, name):
    """Assembling a model from parts must not lose the decoder's causal mask: labels would leak into the loss."""
    model = decoder_model(name)
    inputs = processor(images=images[:1], text=QUESTIONS[0])
    changed = {**inputs, "input_ids": inputs["input_ids"].clone()}
    changed["input_ids"][0, -1] = 5
    assert torch.equal(model(**inputs).logits[0, :-1], model(**changed).logits[0, :-1])


@pytest.mark.parametrize("name", DECODERS)
def test_cache_changes_nothing_and_rows_neither(decoder_model, processor, images, name):
    model = decoder_model(name)
    batch = processor(images=images, text=QUESTIONS)
    options = {"max_new_tokens": 6, "do_sample": False, "output_scores": True, "return_dict_in_generate": True}
    cached = model.generate(**batch, **options, use_cache=True)
    uncached = model.generate(**batch, **options, use_cache=False)
    assert torch.equal(cached.sequences, uncached.sequences)
    torch.testing.assert_close(cached.scores, uncached.scores, atol=1e-4, rtol=1e-4)
    for row, image, question in zip(cached.sequences, images, QUESTIONS, strict=True):
        alone = model.generate(**processor(images=image, text=question), max_new_tokens=6, do_sample=False)
        length = len(processor(images=image, text=question)["input_ids"][0])
        written = alone[0, length:].tolist()
        assert row[-cached.sequences.shape[1] + batch["input_ids"].shape[1] :][: len(written)].tolist() == written


@pytest.mark.parametrize("name", DECODERS)
def test_gradient_checkpointing_and_no_dropout_in_frozen_decoders(decoder_model, processor, images, name):
    if name == "mpt" and Version(transformers.__version__) < Version("5.23"):
        pytest.skip("says in backbones_flamingo_med.py why not")
    inputs = processor(images=images, text=QUESTIONS, answers=["yes", "no", "left"])
    gradients, calls = [], []
    for checkpointing in (False, True):
        model = decoder_model(name)
        with torch.no_grad():
            still = model(**inputs).loss
        if checkpointing:
            model.gradient_checkpointing_enable()
        model.train()
        called = []
        layers = find_decoder_layers(model.language_model)[1], model.cross_attn[1], model.resampler.layers[0]
        for number, layer in enumerate(layers):
            command = next(m for m in layer.modules() if isinstance(m, torch.nn.LayerNorm | torch.nn.Linear))
            command.register_forward_hook(lambda *_, number=number, called=called: called.append(number))
        loss = model(**inputs).loss
        torch.testing.assert_close(loss, still)
        loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.requires_grad})
        calls.append([called.count(number) for number in range(3)])
    assert calls[0] == [1, 1, 1]
    assert all(count >= 2 for count in calls[1])  # computed again for backward
    assert gradients[0].keys() == gradients[1].keys()
    for key, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][key], gradient)


@pytest.mark.parametrize("name", ["gpt2", "opt", "biogpt"])
@torch.no_grad()
def test_an_unfrozen_decoder_has_its_dropout_again(decoder_model, processor, images, name):
    model = decoder_model(name)
    inputs = processor(images=images, text=QUESTIONS, answers=["yes", "no", "left"])
    still = model(**inputs).loss
    torch.testing.assert_close(model.train()(**inputs).loss, still)
    model.config.freeze_text = False
    losses = [model.train()(**inputs).loss for _ in range(2)]
    assert not torch.isclose(*losses)
    layer = find_decoder_layers(model.language_model)[0]
    if name != "gpt2":  # its dropout is in modules
        assert layer.dropout == find_decoder_layers(decoder_model(name, freeze_text=False).language_model)[0].dropout
        assert layer.dropout > 0
    torch.testing.assert_close(model.eval()(**inputs).loss, still)
    model.config.freeze_text = True
    torch.testing.assert_close(model.train()(**inputs).loss, still)


@pytest.mark.parametrize("name", DECODERS)
@torch.no_grad()
def test_new_tokens_and_scored_candidates(decoder_model, processor, images, name):
    model = decoder_model(name, train_embeddings="new")
    inputs = processor(images=images, text=QUESTIONS)
    torch.testing.assert_close(model(**inputs).logits, decoder_model(name)(**inputs).logits)
    candidates = ["no", "left lower lobe"]
    scores = model.score_answers(processor.tokenize_answers(candidates), **inputs)
    for column, answer in enumerate(candidates):
        batch = processor(images=images[:1], text=QUESTIONS[0], answers=answer)
        expected = -model(**batch).loss * (batch["labels"] != -100).sum()
        torch.testing.assert_close(scores[0, column], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", DECODERS)
def test_round_trip(decoder_model, processor, images, tmp_path, name):
    model = decoder_model(name)
    model.save_pretrained(tmp_path)
    inputs = processor(images=images, text=QUESTIONS)
    loaded = FlamingoMedForConditionalGeneration.from_pretrained(tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(loaded(**inputs).logits, model(**inputs).logits)
        assert same_weights(loaded, model)


@pytest.mark.parametrize("name", ENCODERS)
@torch.no_grad()
def test_encoders(encoder_model, processor, images, name):
    _, tokens, patches = ENCODERS[name]
    size = {"height": 28, "width": 28} if name == "clip_l14" else {"height": 32, "width": 32}
    inputs = processor(images=images, text=QUESTIONS, size=size)
    others = processor(images=images[::-1], text=QUESTIONS, size=size)["pixel_values"]
    for select, count in (("full", tokens), ("patch", patches), ("pooled", 1)):
        model = encoder_model(name, vision_feature_select=select)
        outputs = model(**inputs, output_cross_attentions=True)
        assert outputs.resampler_attentions[0].shape[-1] == count + SMALL["resampler_num_latents"]
        assert not torch.equal(model(**{**inputs, "pixel_values": others}).logits, outputs.logits)
    if name != "resnet":
        model = encoder_model(name, vision_feature_layer=-2)
        assert not torch.equal(model(**inputs).logits, encoder_model(name)(**inputs).logits)


def test_clip_pooled_is_its_projected_vector(encoder_model, processor, images):
    model = encoder_model("clip", vision_feature_select="pooled")
    pixels = processor(images=images, text=QUESTIONS)["pixel_values"]
    projected = model.vision_encoder(pixels.squeeze(1)).image_embeds
    assert projected.shape == (3, model.config.vision_config.projection_dim)
    assert model.resampler.latents.shape[1] == model.config.vision_config.projection_dim
    seen = []
    model.resampler.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    model.encode_images(pixels)
    assert torch.equal(seen[0][:, 0, 0], projected)


@pytest.mark.parametrize("name", ["clip", "siglip", "dinov2", "dinov2_with_registers", "vit"])
@torch.no_grad()
def test_other_image_sizes(encoder_model, processor, images, name):
    model = encoder_model(name, vision_feature_select="patch")
    inputs = processor(images=images, text=QUESTIONS, size={"height": 48, "width": 40})
    assert inputs["pixel_values"].shape[-2:] == (48, 40)
    outputs = model(**inputs, output_cross_attentions=True)
    assert outputs.resampler_attentions[0].shape[-1] == 6 * 5 + SMALL["resampler_num_latents"]


def test_what_encoders_cannot(encoder_model, processor, images):
    inputs = processor(images=images, text=QUESTIONS)
    with pytest.raises(ValueError, match="vision_feature_layer -9 is not among the encoder's 3 hidden states"):
        encoder_model("clip", vision_feature_layer=-9)(**inputs)
    with pytest.raises(ValueError, match=r"resampler_num_positions is 9, got 17: \(3, 1, 17, 32\)"):
        encoder_model("clip", resampler_num_positions=9)(**inputs)
    with pytest.raises(ValueError, match="vision_feature_select is one of full, patch, pooled, got 'cls'"):
        encoder_model("clip", vision_feature_select="cls")
    with pytest.raises(ValueError, match="not of layer -2"):
        encoder_model("clip", vision_feature_select="pooled", vision_feature_layer=-2)


def test_settings_of_the_layers(decoder_model):
    layers = decoder_model("gpt2", cross_attn_first_layer=1, cross_attn_every_n_layers=1).cross_attn
    assert len(layers) == 2
    for settings, message in (
        ({"cross_attn_first_layer": 3}, "cross_attn_first_layer is one of the decoder's 3, got 3"),
        ({"resampler_act": "sqrelu"}, "resampler_act is an activation of transformers, .* got 'sqrelu'"),
        ({"cross_attn_act": "swiglu"}, "cross_attn_act is an activation of transformers, .* got 'swiglu'"),
    ):
        with pytest.raises(ValueError, match=message):
            decoder_model("gpt2", **settings)
    with pytest.raises(StrictDataclassFieldValidationError, match="'resampler_depth' expected int, got str"):
        decoder_model("gpt2", resampler_depth="6")


@pytest.mark.parametrize("name", ["gpt2", "mpt"])
def test_layers_of_other_flamingos_do_all_that_ours_do(decoder_model, processor, images, name):
    """Gated feed-forward, norms of queries and keys, RMSNorm: cache, checkpointing, saving, closed gates."""
    settings = {
        "resampler_act": "relu",
        "resampler_qk_norm": True,
        "resampler_ff_mult": 2.5,
        "resampler_max_images": 2,
        "cross_attn_first_layer": 1,
        "cross_attn_act": "silu",
        "cross_attn_gated_ff": True,
        "cross_attn_qk_norm": True,
        "cross_attn_rms_norm_eps": 1e-6,
    }
    model = decoder_model(name, **settings)
    batch = processor(images=images, text=QUESTIONS)
    options = {"max_new_tokens": 6, "do_sample": False}
    assert torch.equal(model.generate(**batch, **options), model.generate(**batch, **options, use_cache=False))
    model.train()
    model(**processor(images=images, text=QUESTIONS, answers=["yes", "no", "left"])).loss.backward()
    ours = [*model.resampler.named_parameters(), *model.cross_attn.named_parameters()]
    assert [key for key, p in ours if p.grad is None or not p.grad.any()] == []
    closed = decoder_model(name, **settings, cross_attn_gate_init=0.0)
    tokens = {key: batch[key] for key in ("input_ids", "attention_mask")}
    tokens["position_ids"] = (batch["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    with torch.no_grad():
        assert torch.equal(closed(**batch).logits, closed.language_model(**tokens).logits)


def test_decoders_that_would_not_see_the_image_are_refused(processor):
    with pytest.raises(ValueError, match="BloomForCausalLM does not hand"):
        FlamingoMedForConditionalGeneration.from_vision_text_pretrained(
            VISION["clip"], BloomConfig(hidden_size=32, n_layer=2, n_head=4), **processor.token_ids, **SMALL
        )
    bert = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    with pytest.raises(ValueError, match="BertLMHeadModel looks ahead"):
        FlamingoMedForConditionalGeneration.from_vision_text_pretrained(
            VISION["clip"], BertConfig(**bert), **processor.token_ids, **SMALL
        )
    with pytest.raises(ValueError, match="image_token_id is missing"):
        FlamingoMedForConditionalGeneration(FlamingoMedConfig(vision_config=VISION["clip"], text_config=TEXT["gpt2"]))
