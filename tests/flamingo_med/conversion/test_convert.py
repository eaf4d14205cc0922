"""Checkpoints of other Flamingos: the converted model answers as the other does, and nothing is lost in silence."""

import json
import re

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    CLIPVisionModel,
    GPT2Config,
    IdeficsConfig,
    IdeficsForVisionText2Text,
    LlamaConfig,
    MptConfig,
    OPTConfig,
    set_seed,
)

from flamingo_med.inference.answering import answer_questions
from flamingo_med.training.trainer import FlamingoMedTrainer, FlamingoMedTrainingArguments
from modeling_flamingo_med.backbones_flamingo_med import find_decoder_layers
from processing.errors import InputError
from tests.conftest import same_weights
from tests.flamingo_med.conversion.other_flamingos import (
    HEAD_DIM,
    LATENTS,
    WIDTH,
    gate,
    gated_weights,
    logits_with,
    resample,
    resampler_weights,
    write_clip,
    write_decoder,
    write_tokenizer,
)

LAYERS = 4
WIDE = {"hidden_size": 48, "num_hidden_layers": LAYERS, "num_attention_heads": 4}
DECODERS = {  # configuration, and where its layers lie in its state dict
    "gpt2": (lambda: GPT2Config(n_embd=48, n_layer=LAYERS, n_head=4, n_positions=128), "transformer.h"),
    "opt": (lambda: OPTConfig(**WIDE, ffn_dim=64, word_embed_proj_dim=48), "model.decoder.layers"),
    "llama": (lambda: LlamaConfig(**WIDE, intermediate_size=64), "model.layers"),
    "mpt": (lambda: MptConfig(d_model=48, n_heads=4, n_layers=LAYERS, expansion_ratio=2), "transformer.blocks"),
}
LUCIDRAINS, MINI = ("ff", "attn_gate", "ff_gate"), ("ffw", "alpha_attn", "alpha_ffw")
PROMPTS = ["Look:<image>Is it?<image>Why is the", "<image>On which side<image>is the"]


@pytest.fixture
def clip(tmp_path):
    return write_clip(tmp_path / "clip")


@pytest.fixture
def decoder(tmp_path):
    """decoder("gpt2"): folder of a tiny random decoder with a tokenizer of its own."""
    return lambda name, spare=0: write_decoder(tmp_path / name, DECODERS[name][0](), spare)


@pytest.fixture
def convert(tmp_path, command):
    """convert(source, "--text", …): convert, load what was written, and tell what was printed."""

    def call(source, *arguments):
        target = tmp_path / "target"
        output = command("convert", source, target, *arguments)
        model = AutoModelForImageTextToText.from_pretrained(target)
        return model.eval(), AutoProcessor.from_pretrained(target), output

    return call


@pytest.fixture
def refusal(tmp_path, command):
    """refusal(source, "--text", …): what is said of a checkpoint that is not converted."""
    return lambda source, *arguments: command("convert", source, tmp_path / "target", *arguments, code=2)


@pytest.fixture
def two_images_a_row(images):
    return [[images[0], images[1]], [images[2], images[0]]]


def patches_of(clip, pixels, first=0):
    """What CLIP makes of the images (b n c h w): (b n p d), from the token `first` on."""
    encoder = CLIPVisionModel.from_pretrained(clip).eval()
    return encoder(pixels.flatten(0, 1)).last_hidden_state[:, first:].unflatten(0, pixels.shape[:2])


def assert_same(model, inputs, expected):
    """Equal to 1e-4, and not because the images were not seen."""
    real = inputs["attention_mask"].bool()
    torch.testing.assert_close(model(**inputs).logits[real], expected[real], atol=1e-4, rtol=1e-4)
    blank = {**inputs, "pixel_values": torch.zeros_like(inputs["pixel_values"])}
    assert (model(**blank).logits[real] - expected[real]).abs().max() > 1e-2


# flamingo-pytorch


class Blocks(nn.Module):
    """The two blocks of flamingo-pytorch around CLIP and a decoder."""

    def __init__(self, width, media, every, latest=True):
        flamingo_pytorch = pytest.importorskip("flamingo_pytorch")
        super().__init__()
        size = {"dim_head": HEAD_DIM, "heads": 2}
        self.look = flamingo_pytorch.PerceiverResampler(dim=media, depth=2, num_latents=LATENTS, **size)
        self.gated = nn.ModuleList(
            flamingo_pytorch.GatedCrossAttentionBlock(dim=width, only_attend_immediate_media=latest, **size)
            for _ in range(LAYERS // every)
        )
        for block in self.gated:
            nn.init.constant_(block.attn_gate, 0.5)
            nn.init.constant_(block.ff_gate, 0.3)


@pytest.mark.parametrize(("every", "latest"), [(1, True), (2, True), (2, False)])
@torch.no_grad()
def test_flamingo_pytorch(clip, tmp_path, convert, two_images_a_row, every, latest):
    set_seed(0)
    text = write_decoder(tmp_path / "gpt2", GPT2Config(n_embd=WIDTH, n_layer=LAYERS, n_head=4, n_positions=128))
    peer = Blocks(WIDTH, WIDTH, every, latest)
    torch.save(peer.state_dict(), tmp_path / "model.pt")
    setting = ["--config.cross_attn_latest_only", str(latest).lower()]
    model, processor, output = convert(tmp_path / "model.pt", "--vision", clip, "--text", text, *setting)
    assert model.config.resampler_max_images == 4
    assert "flamingo-pytorch" in output

    inputs = processor(images=two_images_a_row, text=PROMPTS)
    media = peer.look(patches_of(clip, inputs["pixel_values"]))
    gpt2 = AutoModelForCausalLM.from_pretrained(text)
    gpt2.resize_token_embeddings(len(processor.tokenizer), mean_resizing=False)
    # Where a token sees all images before it, those before the first image see all images of the peer.
    for row in range(2) if latest else [1]:
        ids = inputs["input_ids"][row : row + 1, -int(inputs["attention_mask"][row].sum()) :]
        is_image = ids == model.config.image_token_id
        before = {
            i * every: lambda x, block=block, row=row, is_image=is_image: block(x, media[row : row + 1], is_image)
            for i, block in enumerate(peer.gated)
        }
        gpt2.get_input_embeddings().weight.copy_(model.get_input_embeddings().weight)
        expected = logits_with(gpt2, gpt2.transformer.h, before, ids)
        single = processor(images=two_images_a_row[row], text=PROMPTS[row])
        assert_same(model, single, expected)


@torch.no_grad()
def test_images_have_their_number_in_the_row(clip, tmp_path, convert, images):
    """…which rows that are packed, or that share several images, would lose."""
    text = write_decoder(tmp_path / "gpt2", GPT2Config(n_embd=WIDTH, n_layer=LAYERS, n_head=4, n_positions=128))
    torch.save(Blocks(WIDTH, WIDTH, 1).state_dict(), tmp_path / "model.pt")
    model, processor, _ = convert(tmp_path / "model.pt", "--vision", clip, "--text", text)
    inputs = processor(images=[images[0], images[0]], text="<image> or <image>?")
    first, second = model.encode_images(inputs["pixel_values"])[0]
    assert not torch.allclose(first, second)
    with pytest.raises(ValueError, match="cannot share them"):
        model(**{**inputs, "image_indices": torch.tensor([[0, 0]])})
    with pytest.raises(ValueError, match="cannot be packed"):
        model(**inputs, sequence_ids=torch.zeros_like(inputs["input_ids"]))
    with pytest.raises(ValueError, match="resampler_max_images is 4, got 5 in a row"):
        model.encode_images(inputs["pixel_values"][:, :1].expand(-1, 5, -1, -1, -1))
    arguments = FlamingoMedTrainingArguments(output_dir=tmp_path / "run", use_cpu=True, packing=True)
    with pytest.raises(InputError, match="rows cannot be packed: --packing false"):
        FlamingoMedTrainer(model, arguments, processor)


# OpenFlamingo and Med-Flamingo


def open_flamingo_weights(text, name, every, version=2):
    """What an OpenFlamingo of this decoder saves; version 1 lists the gated layers twice."""
    set_seed(0)
    model = AutoModelForCausalLM.from_pretrained(text)
    path = DECODERS[name][1]
    weights = resampler_weights("perceiver.")
    for i in range(every - 1, LAYERS, every):
        layer = gated_weights("", 48, *LUCIDRAINS)
        prefixes = [f"lang_encoder.{path}.{i}.gated_cross_attn_layer."]
        prefixes += [f"lang_encoder.gated_cross_attn_layers.{i}."] if version == 1 else []
        weights |= {f"{prefix}{key}": weight for prefix in prefixes for key, weight in layer.items()}
    tokenizer = open_flamingo_tokenizer(text)
    embedding = next(key for key, p in model.named_parameters() if p is model.get_input_embeddings().weight)
    weights[f"lang_encoder.{embedding}"] = torch.randn(len(tokenizer), 48)
    return weights


def open_flamingo_tokenizer(text):
    tokenizer = AutoTokenizer.from_pretrained(text)
    tokenizer.add_special_tokens({"extra_special_tokens": ["<|endofchunk|>", "<image>"]})
    tokenizer.add_special_tokens({"pad_token": "<PAD>"})
    return tokenizer


@pytest.mark.parametrize(
    ("name", "every", "version"), [("llama", 2, 1), ("llama", 4, 2), ("mpt", 2, 2), ("opt", 1, 2), ("gpt2", 3, 2)]
)
@torch.no_grad()
def test_open_flamingo(clip, decoder, tmp_path, convert, two_images_a_row, name, every, version):
    text = decoder(name, spare=16 if name == "mpt" else 0)  # as MPT-7B has them
    weights = open_flamingo_weights(text, name, every, version)
    nested = {"epoch": 3, "model_state_dict": {f"module.{key}": weight for key, weight in weights.items()}}
    torch.save(nested if version == 1 else weights, tmp_path / "model.pt")
    model, processor, output = convert(tmp_path / "model.pt", "--vision", clip, "--text", text)
    assert model.config.cross_attn_every_n_layers == (every if every < LAYERS - 1 else LAYERS)
    assert model.config.cross_attn_first_layer == every - 1

    tokenizer = open_flamingo_tokenizer(text)
    prompt = processor.render("Is it?", examples=[("Why?", "no")])
    assert prompt == "<image>Question:Why? Short answer:no<|endofchunk|><image>Question:Is it? Short answer:"
    assert processor.render("") == "<image>Output:"
    assert processor.tokenizer(prompt)["input_ids"] == tokenizer(prompt)["input_ids"]

    layers = f"lang_encoder.{DECODERS[name][1]}"
    peer = AutoModelForCausalLM.from_pretrained(text)
    peer.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    peer.get_input_embeddings().weight.copy_(next(w for key, w in weights.items() if "embed" in key or "wte" in key))
    untied = not peer.config.tie_word_embeddings
    assert ("mean of the other rows" in output) == untied
    if untied:  # the peer draws them anew each time that it is loaded
        peer.lm_head.weight[-3:] = peer.lm_head.weight[:-3].mean(0)
    for row in range(2):
        single = processor(images=two_images_a_row[row], text=PROMPTS[row])
        ids = tokenizer(PROMPTS[row], return_tensors="pt")["input_ids"]
        assert torch.equal(single["input_ids"], ids)
        is_image = ids == tokenizer.convert_tokens_to_ids("<image>")
        media = resample(patches_of(clip, single["pixel_values"], first=1)[0], weights, "perceiver.")[None]
        before = {
            i: lambda x, i=i, media=media, is_image=is_image: gate(
                x, media, is_image, weights, f"{layers}.{i}.gated_cross_attn_layer.", LUCIDRAINS
            )
            for i in range(every - 1, LAYERS, every)
        }
        assert_same(model, single, logits_with(peer, find_decoder_layers(peer), before, ids))
    rows = [{"image": image, "image_id": str(i), "question": "Is it?"} for i, image in enumerate(two_images_a_row[0])]
    assert len(answer_questions(model, processor, rows)) == 2

    model.save_pretrained(tmp_path / "small", save_backbones=False)
    assert same_weights(AutoModelForImageTextToText.from_pretrained(tmp_path / "small"), model)


def test_med_flamingo_has_its_prompt(clip, decoder, tmp_path, convert):
    text = decoder("llama")
    torch.save(open_flamingo_weights(text, "llama", 4), tmp_path / "model.pt")
    _, processor, _ = convert(tmp_path / "model.pt", "--vision", clip, "--text", text, "--prompt", "med_flamingo")
    prompt = processor.render("Is it?", examples=[("Why?", "yes.")])
    assert prompt.startswith("You are a helpful medical assistant.")
    assert prompt.endswith(" <image>Question: Why? Answer: yes.<|endofchunk|><image>Question: Is it? Answer:")


# flamingo-mini


def flamingo_mini(text, name, clip, whole, tied):
    """Weights and configuration of a flamingo-mini; the whole of it, or what was trained."""
    set_seed(0)
    decoder = AutoModelForCausalLM.from_pretrained(text)
    decoder.resize_token_embeddings(decoder.config.vocab_size + 1)
    path = DECODERS[name][1]
    root = {"gpt2": "transformer.", "opt": "model."}[name]
    layers = f"flamingo.lm.{path.removeprefix(root)}"
    weights = resampler_weights("flamingo.resampler.", split=True)
    weights["flamingo.resampler.time_pos_emb"] = torch.randn(4, 1, WIDTH)
    for i in range(0, LAYERS, 2):
        weights |= gated_weights(f"{layers}.{i}.xattn_block.", 48, *MINI)
    for key, weight in decoder.state_dict().items():
        number = key.removeprefix(f"{path}.").split(".")[0] if key.startswith(path) else ""
        if number and int(number) % 2 == 0:
            key = key.replace(f".{number}.", f".{number}.lm_block.", 1)
        key = "lm_head.weight" if key == "lm_head.weight" else f"lm.{key.removeprefix(root)}"
        if whole or "wte" in key or "embed_tokens" in key:
            weights[f"flamingo.{key}"] = weight.clone()
    if whole:
        weights["flamingo.lm.h.0.lm_block.attn.masked_bias"] = torch.tensor(-1e4)
        encoder = CLIPVisionModel.from_pretrained(clip).state_dict()
        weights |= {f"flamingo.vision_encoder.vision_model.{key}": w.clone() for key, w in encoder.items()}
        if not tied:
            weights["flamingo.lm_head.weight"] = torch.randn_like(weights["flamingo.lm_head.weight"])
    config = {"lm": text, "clip_model_type": clip, "resampler_act": "sqrelu", "xattn_act": "relu", "xattn_every": 2}
    return weights, config, layers


@pytest.mark.parametrize(
    ("name", "whole", "tied"),
    [("gpt2", True, True), ("gpt2", True, False), ("gpt2", False, True), ("opt", True, True)],
)
@torch.no_grad()
def test_flamingo_mini(clip, decoder, tmp_path, convert, two_images_a_row, name, whole, tied):
    text = decoder(name)
    weights, config, layers = flamingo_mini(text, name, clip, whole, tied)
    source = tmp_path / "mini"
    source.mkdir()
    save_file(weights, source / "model.safetensors")
    (source / "config.json").write_text(json.dumps(config))
    model, processor, output = convert(source)
    assert model.config.text_config.tie_word_embeddings == tied
    assert ("left: 1 that the model computes itself" in output) == whole

    tokenizer = AutoTokenizer.from_pretrained(text)
    tokenizer.add_tokens("<EOC>")
    assert processor.render("a heart") == "<image>a heart"
    assert processor.tokenizer("<image>a heart<EOC>")["input_ids"] == tokenizer("<image>a heart<EOC>")["input_ids"]
    assert processor.tokenizer.eos_token == "<EOC>"

    peer = AutoModelForCausalLM.from_pretrained(text)
    peer.resize_token_embeddings(peer.config.vocab_size + 1)
    peer.get_input_embeddings().weight.copy_(next(w for key, w in weights.items() if "wte" in key or "embed_t" in key))
    if not tied:
        peer.lm_head.weight = nn.Parameter(weights["flamingo.lm_head.weight"])
    for row in range(2):
        single = processor(images=two_images_a_row[row], text=PROMPTS[row])
        ids = tokenizer(PROMPTS[row], return_tensors="pt")["input_ids"]
        assert torch.equal(single["input_ids"], ids)
        is_image = ids == tokenizer("<")["input_ids"][0]
        patches = patches_of(clip, single["pixel_values"])[0] + weights["flamingo.resampler.time_pos_emb"][0]
        media = resample(patches, weights, "flamingo.resampler.", "sqrelu")[None]
        before = {
            i: lambda x, i=i, media=media, is_image=is_image: gate(
                x, media, is_image, weights, f"{layers}.{i}.xattn_block.", MINI, "relu"
            )
            for i in range(0, LAYERS, 2)
        }
        assert_same(model, single, logits_with(peer, find_decoder_layers(peer), before, ids))


def test_flamingo_mini_text_that_would_be_misread_is_refused(clip, decoder, tmp_path, convert, images):
    weights, config, _ = flamingo_mini(decoder("gpt2"), "gpt2", clip, whole=True, tied=True)
    save_file(weights, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(config))
    _, processor, _ = convert(tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="reads 2 <image> in a text with 1 of them"):
        processor(images=images[0], text="x<5?")
    with pytest.raises(ValueError, match="reads 2 <image> in a text with 1 of them"):
        processor.tokenize([processor.render("x?")], ["x<5"])
    with pytest.raises(ValueError, match="reads 0 <image> in a text with 1 of them"):
        processor(images=images[0], text="Look: <image>")
    processor(images=images[0], text="x <5?")


# IDEFICS


def write_idefics(folder, **changes):
    """A tiny IDEFICS with a tokenizer that has its tokens."""
    tokenizer = write_tokenizer(folder)
    added = ["<fake_token_around_image>", "<image>"]
    tokenizer.add_special_tokens({"extra_special_tokens": added, "pad_token": "<|endoftext|>"})
    tokenizer.save_pretrained(folder)
    perceiver = {"use_resampler": True, "resampler_n_latents": LATENTS, "resampler_depth": 2, "resampler_n_heads": 2}
    perceiver |= {"resampler_head_dim": 12, "qk_layer_norms_perceiver": changes.get("qk_layer_norms", False)}
    vision = {"embed_dim": WIDTH, "image_size": 32, "intermediate_size": 64, "patch_size": 8, "num_hidden_layers": 2}
    config = IdeficsConfig(
        **{
            **WIDE,
            "intermediate_size": 100,
            "vocab_size": len(tokenizer) - 2,
            "additional_vocab_size": 2,
            "cross_layer_interval": 2,
            "use_resampler": True,
            "alpha_initializer": "ones",
            "initializer_range": 0.2,
            "vision_config": {**vision, "num_attention_heads": 4},
            "perceiver_config": perceiver,
            **changes,
        }
    )
    set_seed(0)
    model = IdeficsForVisionText2Text(config).eval()
    for name, p in model.named_parameters():
        if "norm" in name:
            nn.init.normal_(p, 1.0, 0.1)
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize(
    "changes",
    [{}, {"qk_layer_norms": True, "rms_norm_eps": 1e-2}, {"tie_word_embeddings": True, "hidden_act": "gelu"}],
)
@torch.no_grad()
def test_idefics(tmp_path, convert, two_images_a_row, changes):
    peer = write_idefics(tmp_path / "idefics", **changes)
    model, processor, _ = convert(tmp_path / "idefics")
    image = "<fake_token_around_image><image><fake_token_around_image>"
    assert processor.render("Is it?") == f"User:{image}Is it?\nAssistant:"
    assert processor.render("Is it?", num_images=2).count("<fake_token_around_image>") == 3
    answer = processor.tokenize_answers(["yes"])[0]
    assert processor.tokenizer.convert_ids_to_tokens(answer) == ["Ġyes", "<|endoftext|>"]
    for row in range(2):
        text = PROMPTS[row].replace("<image>", image)
        single = processor(images=two_images_a_row[row], text=text)
        number = (single["input_ids"] == model.config.image_token_id).cumsum(-1)
        sees = number.unsqueeze(-1) == torch.arange(1, 3)
        assert_same(model, single, peer(**single, image_attention_mask=sees).logits)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_resampler": False}, "has no resampler"),
        ({"alpha_type": "vector"}, "gates of alpha_type 'vector'"),
    ],
)
def test_idefics_of_another_architecture_is_refused(tmp_path, refusal, changes, message):
    write_idefics(tmp_path / "idefics", **changes)
    assert message in refusal(tmp_path / "idefics")


# What cannot be converted


@pytest.fixture
def refused(clip, decoder, tmp_path, refusal):
    """refused(change): what is said of an OpenFlamingo whose weights `change` has spoilt."""
    text = decoder("llama")

    def call(change, *arguments):
        weights = open_flamingo_weights(text, "llama", 2)
        change(weights)
        save_file(weights, tmp_path / "model.safetensors")
        return refusal(tmp_path / "model.safetensors", "--vision", clip, "--text", text, *arguments)

    return call


GATED = "lang_encoder.model.layers.1.gated_cross_attn_layer."


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.update({"perceiver.frame_embs": torch.ones(2)}), "perceiver.frame_embs in .* no counterpart"),
        (lambda w: w.update({f"{GATED}attn.to_q.bias": torch.ones(2)}), "to_q.bias in .* finds no place"),
        (lambda w: w.update({"lang_encoder.foo": torch.ones(2)}), "lang_encoder.foo in .* finds no place"),
        (lambda w: w.pop(f"{GATED}ff_gate"), "lacks the weights of cross_attn.0.ff_gate.alpha"),
        (lambda w: w.pop("perceiver.latents"), "lacks the weights of resampler.latents"),
        (lambda w: w.pop("perceiver.layers.1.1.0.bias"), "lacks the weights of resampler.layers.1.ff.0.bias"),
        (lambda w: w.pop("lang_encoder.model.embed_tokens.weight"), "lacks the weights of .*embed_tokens.weight"),
        (lambda w: w.update({f"{GATED}attn_gate": torch.ones(48)}), r"attn_gate in .* is \(48,\), but .* is \(1,\)"),
        (
            lambda w: w.update({"lang_encoder.gated_cross_attn_layers.1.ff_gate": torch.ones(1)}),
            "should be the same weight but differ",
        ),
        (
            lambda w: w.update({"lang_encoder.model.embed_tokens.weight": torch.ones(400, 48)}),
            "400 rows for them; --text names another decoder",
        ),
    ],
)
def test_no_weight_is_lost_or_made_up(refused, tmp_path, change, message):
    assert re.search(message, refused(change))
    assert not (tmp_path / "target").exists()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (["--config.cross_attn_head_dim", "48"], "heads of width 48 do not divide the 128 of .*to_q.weight"),
        (["--config.head_dim", "48"], "unknown setting of the model 'head_dim'"),
        (["--config.cross_attn_head_dim", "wide"], "cross_attn_head_dim is 'wide', but must be int"),
        (["--prompt", "med"], "unknown prompt 'med'"),
        (["--config.vision_feature_select", "cls"], "cannot be converted: vision_feature_select is one of"),
        (["--config.image_token_id", "3"], "cannot be converted: .*multiple values for .*'image_token_id'"),
        (["--config.num_labels", "3"], "lacks the weights of classifier"),
    ],
)
def test_settings_that_no_weight_tells(refused, setting, message):
    assert re.search(message, refused(lambda w: None, *setting))


def test_sources_that_are_none(clip, tmp_path, refusal):
    folder = tmp_path / "source"
    assert re.search("no checkpoint at .*source; give", refusal(folder))
    folder.mkdir()
    assert re.search("holds no weights", refusal(folder))
    (folder / "a.pt").write_bytes(b"")
    assert re.search("a.pt cannot be read as weights", refusal(folder))
    torch.save(nn.Linear(2, 2), folder / "a.pt")
    assert re.search("a.pt is damaged or holds more than weights", refusal(folder))
    torch.save([1], folder / "a.pt")
    assert re.search("a.pt is not a state dict", refusal(folder))
    torch.save({"b.weight": torch.ones(1), "a.weight": torch.ones(1)}, folder / "a.pt")
    assert re.search("is no checkpoint of flamingo-mini, .*: its first weight is a.weight", refusal(folder))
    torch.save({}, folder / "b.pt")
    assert re.search("several checkpoints, a.pt, b.pt; name one", refusal(folder))
    torch.save(
        {"token_emb.weight": torch.ones(1), "perceiver_resampler.media_pos_emb": torch.ones(1)}, folder / "a.pt"
    )
    assert re.search("is a FlamingoPaLM", refusal(folder / "a.pt"))
    torch.save({"look.media_pos_emb": torch.ones(1)}, folder / "a.pt")
    assert re.search("which image encoder it was trained with; add --vision", refusal(folder / "a.pt"))
    assert re.search(
        "--text is .*, but there is no", refusal(folder / "a.pt", "--vision", clip, "--text", tmp_path / "nothing")
    )


def test_a_target_that_cannot_be(clip, decoder, tmp_path, command):
    text = decoder("llama")
    torch.save(open_flamingo_weights(text, "llama", 2), tmp_path / "model.pt")
    (tmp_path / "file").write_text("")
    arguments = [tmp_path / "model.pt", tmp_path / "file" / "target", "--vision", clip, "--text", text]
    message = command("convert", *arguments, code=2)
    assert re.search("nothing can be written to .*target: (Not a directory|File exists)", message)


def test_source_and_target_are_needed_and_the_target_is_empty(tmp_path, command):
    assert "required: TARGET" in command("convert", "model.pt", code=2)
    (tmp_path / "full").write_text("")
    assert "not an empty folder" in command("convert", "model.pt", tmp_path, code=2)
