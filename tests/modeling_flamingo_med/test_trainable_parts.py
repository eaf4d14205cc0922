"""What learns and what it costs: embeddings, gradients, precision, attention implementations, compilation."""

import pytest
import torch
from transformers import AttentionInterface, LlamaConfig
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from modeling_flamingo_med import FlamingoMedConfig, FlamingoMedForConditionalGeneration
from modeling_flamingo_med.modeling_flamingo_med import labelled_positions
from tests.conftest import QUESTIONS, SMALL, TEXT, VISION, same_weights


@pytest.fixture
def batch(processor, images):
    return processor(images=images, text=QUESTIONS, answers=["yes", "no", "left"])


def step(model, batch, **options):
    """One step of AdamW; returns the weights before."""
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01, weight_decay=0.5)
    model.train()(**batch).loss.backward()
    optimizer.step()
    return before


@pytest.mark.parametrize("text", ["gpt2", "llama"])  # with tied and with separate output layer
def test_only_new_rows_learn(make_model, processor, batch, tmp_path, text):
    model = make_model(text=text, train_embeddings="new")
    start = processor.token_ids["vocab_size"] - 4
    assert model.config.first_new_token_id >= start
    with torch.no_grad():
        all_rows = make_model(text=text)
        torch.testing.assert_close(model(**batch).logits, all_rows(**batch).logits)  # as they start
    before = step(model, batch)
    rows = dict(model.named_parameters())
    assert not torch.equal(rows["new_tokens.rows"], before["new_tokens.rows"])
    if text == "llama":
        assert not torch.equal(rows["new_tokens.output_rows"], before["new_tokens.output_rows"])
    assert all(torch.equal(p, before[name]) for name, p in rows.items() if name.startswith("language_model"))

    model.eval().save_pretrained(tmp_path)
    loaded = FlamingoMedForConditionalGeneration.from_pretrained(tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(loaded(**batch).logits, model(**batch).logits)
        assert same_weights(loaded, model)
    with pytest.raises(ValueError, match="train_embeddings='new' needs freeze_text"):
        make_model(train_embeddings="new", freeze_text=False)


def test_new_rows_learn_as_whole_embeddings_do(make_model, batch):
    gradients = []
    for train_embeddings in ("all", "new"):
        model = make_model(train_embeddings=train_embeddings).train()
        model(**batch).loss.backward()
        gradients.append(model)
    start = gradients[1].config.first_new_token_id
    whole = gradients[0].get_input_embeddings().weight.grad[start:]
    torch.testing.assert_close(gradients[1].new_tokens.rows.grad, whole)


def test_no_gradient_work_below_the_first_cross_attention(make_model, batch):
    model = make_model(train_embeddings="none").train()
    needs = {}
    parts = {"tokens": model.get_input_embeddings(), "vision": model.vision_encoder, "first": model.cross_attn[0]}
    for name, part in parts.items():
        part.register_forward_hook(
            lambda module, args, output, name=name: needs.__setitem__(
                name, (output if isinstance(output, torch.Tensor) else output.last_hidden_state).requires_grad
            )
        )
    model(**batch).loss.backward()
    assert needs == {"tokens": False, "vision": False, "first": True}
    assert {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None} == {
        "resampler",
        "cross_attn",
    }


def test_logits_of_all_positions_or_where_labels_are(make_model, batch):
    model = make_model()
    whole, t = model(**batch), batch["input_ids"].shape[1]
    assert whole.logits.shape[:2] == (3, t)
    positions = labelled_positions(batch["labels"])
    few = model(**batch, logits_to_keep=positions)
    assert few.logits.shape[:2] == (3, len(positions)) and len(positions) < t
    torch.testing.assert_close(few.logits, whole.logits[:, positions])
    torch.testing.assert_close(few.loss, whole.loss)
    torch.testing.assert_close(model(**batch, logits_to_keep=t - int(positions[0])).loss, whole.loss)


@pytest.mark.parametrize("text", TEXT)
def test_eager_and_sdpa_agree(processor, images, batch, tmp_path, make_model, text):
    make_model(text=text, num_labels=3).save_pretrained(tmp_path)
    losses, gradients = [], []
    for implementation in ("eager", "sdpa"):
        model = FlamingoMedForConditionalGeneration.from_pretrained(tmp_path, attn_implementation=implementation)
        assert model.language_model.config._attn_implementation == implementation
        loss = model(**batch, class_labels=torch.tensor([0, 1, 2])).loss
        loss.backward()
        losses.append(loss)
        gradients.append(model.resampler.latents.grad)
    torch.testing.assert_close(*losses)
    torch.testing.assert_close(*gradients)


@torch.no_grad()
def test_attention_out(make_model, processor, images):
    model = make_model()
    prompt = "Before any image <image> Question: and now? <EOQ> Answer:"
    inputs = processor(images=[[images[0]], [images[1], images[2]]], text=[prompt, f"{prompt} <image>"])
    plain, outputs = model(**inputs), model(**inputs, output_cross_attentions=True)
    assert (plain.cross_attentions, plain.resampler_attentions) == (None, None)
    torch.testing.assert_close(outputs.logits, plain.logits)
    assert not any(attention._forward_hooks for attention in model.attentions())
    (b, t), (n, latents, heads) = inputs["input_ids"].shape, (2, 4, 2)
    assert [tuple(m.shape) for m in outputs.cross_attentions] == [(b, heads, t, n * latents)] * len(model.cross_attn)
    assert [tuple(m.shape) for m in outputs.resampler_attentions] == [(b * n, heads, latents, 17 + latents)] * 2
    for maps in outputs.resampler_attentions:
        torch.testing.assert_close(maps.sum(-1), torch.ones(b * n, heads, latents))
    sees = (inputs["input_ids"] == model.config.image_token_id).cumsum(-1)
    for maps in outputs.cross_attentions:
        torch.testing.assert_close(maps.sum(-1), (sees > 0).float().unsqueeze(1).expand(b, heads, t))
        first, second = maps[:, :, :, :latents].sum(-1), maps[:, :, :, latents:].sum(-1)
        assert (first[(sees != 1).unsqueeze(1).expand_as(first)] == 0).all()
        assert (second[(sees != 2).unsqueeze(1).expand_as(second)] == 0).all()


def test_a_registered_attention_reaches_resampler_and_cross_attention(make_model, batch):
    masks = []

    def counting(module, query, key, value, attention_mask, **kwargs):
        masks.append(attention_mask)
        return ALL_ATTENTION_FUNCTIONS["sdpa"](module, query, key, value, attention_mask, **kwargs)

    AttentionInterface.register("counting", counting)
    model = make_model()
    with torch.no_grad():
        expected = model(**batch).loss
        model.set_attn_implementation({"": "counting"})  # the encoder and the decoder keep theirs
        assert model.language_model.config._attn_implementation == "sdpa"
        torch.testing.assert_close(model(**batch).loss, expected)
    assert len(masks) == len(model.resampler.layers) + len(model.cross_attn)
    b, t = batch["input_ids"].shape
    assert [None if mask is None else (mask.dtype, tuple(mask.shape)) for mask in masks] == [
        *[None] * len(model.resampler.layers),
        *[(torch.bool, (b, 1, t, 4))] * len(model.cross_attn),
    ]


@pytest.mark.parametrize("implementation", ["flash_attention_2", "flex_attention"])
def test_attention_that_takes_no_such_mask_is_refused(make_model, tmp_path, implementation):
    model = make_model()
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="FlamingoMedForConditionalGeneration does not support"):
        model.set_attn_implementation({"": implementation})
    with pytest.raises(ValueError, match="does not support"):
        FlamingoMedForConditionalGeneration.from_pretrained(tmp_path, attn_implementation=implementation)


def test_bf16(make_model, batch, tmp_path):
    model = make_model(num_labels=3)
    full = model(**batch).loss
    with torch.autocast("cpu", torch.bfloat16):
        mixed = model.train()(**batch, class_labels=torch.tensor([0, 1, 2])).loss
    mixed.backward()
    model.save_pretrained(tmp_path)
    low = FlamingoMedForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert {p.dtype for p in low.parameters()} == {torch.bfloat16}
    batch["pixel_values"] = batch["pixel_values"].bfloat16()
    torch.testing.assert_close(low(**batch).loss.float(), full, atol=0.1, rtol=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("text", TEXT)
def test_compiles_to_one_graph(make_model, batch, text):
    model = make_model(text=text, num_labels=3, resampler_depth=1)
    prompt = {name: value for name, value in batch.items() if name != "labels"}
    with torch.no_grad():
        expected = model(**prompt, use_cache=False)
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")(**prompt, use_cache=False)
    torch.testing.assert_close(compiled.logits, expected.logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(compiled.class_logits, expected.class_logits, atol=1e-4, rtol=1e-4)
    check_compiled_gradients(model, batch, "aot_eager")


@pytest.mark.slow
def test_inductor_learns_the_same(make_model, batch):
    check_compiled_gradients(make_model(text="llama", num_labels=3, resampler_depth=1), batch, "inductor")


def check_compiled_gradients(model, batch, backend):
    """The compiled model's loss and gradients are the model's own."""
    torch.compiler.reset()
    batch = {**batch, "class_labels": torch.tensor([0, 1, 2])}
    expected = model(**batch).loss
    loss = torch.compile(model, fullgraph=True, backend=backend)(**batch).loss
    torch.testing.assert_close(loss, expected, atol=1e-4, rtol=1e-4)
    loss.backward()
    compiled = model.resampler.latents.grad.clone()
    model.zero_grad()
    expected.backward()
    torch.testing.assert_close(compiled, model.resampler.latents.grad, atol=1e-4, rtol=1e-3)


def test_billions_of_parameters_on_the_meta_device(processor):
    text = LlamaConfig(vocab_size=32_004)  # Llama 2 7B, and our four tokens
    ids = {name: number for name, number in processor.token_ids.items() if name != "vocab_size"}
    config = FlamingoMedConfig(
        vision_config=VISION["clip"], text_config=text, **ids, **{**SMALL, "cross_attn_every_n_layers": 4}
    )
    with torch.device("meta"):
        model = FlamingoMedForConditionalGeneration(config)
    assert all(p.is_meta for p in model.parameters())
    *parts, whole = [line.split() for line in model.parameter_summary().splitlines()[1:]]
    numbers = {name: [int(n.replace(",", "")) for n in row] for name, *row in [*parts, whole]}
    embeddings = 2 * 4 * 4096
    assert numbers["language_model"][0] == 6_738_415_616 + embeddings
    assert numbers["language_model"][1] == 2 * 32_004 * 4096
    width, inner, media = 4096, 16, 32
    gated = 2 * width + 2 * inner * width + 2 * inner * media + 2 * width + 2 * 4 * width**2 + 2
    assert numbers["cross_attn"][0] == 8 * gated
    for total, trainable, frozen in numbers.values():
        assert total == trainable + frozen
    assert numbers["all"][0] == sum(numbers[name][0] for name in numbers if name != "all")
