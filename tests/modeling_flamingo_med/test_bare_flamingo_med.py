"""What trainers, adapters and pipelines of others expect of a model: base model, features, embeddings, options."""

import numpy as np
import pytest
import torch
from transformers import (
    AutoModel,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    CompileConfig,
    ResNetConfig,
    Trainer,
    TrainingArguments,
)

from modeling_flamingo_med import FlamingoMedForConditionalGeneration, FlamingoMedModel
from tests.conftest import QUESTIONS, SMALL, TEXT

ANSWERS = ["yes", "no", "left"]
AUTO = (AutoModel, AutoModelForImageTextToText, AutoModelForMultimodalLM)


@pytest.fixture
def prompt(processor, images):
    return processor(images=images, text=QUESTIONS)


@pytest.mark.parametrize("text", TEXT)
@torch.no_grad()
def test_base_model_is_the_same_without_heads(make_model, prompt, tmp_path, text):
    model = make_model(text=text, num_labels=3)
    whole = model(**prompt, output_hidden_states=True)
    bare = model.base_model(**prompt)
    assert torch.equal(bare.last_hidden_state, whole.hidden_states[-1])
    assert len(model.base_model(**prompt, output_cross_attentions=True).cross_attentions) == len(model.cross_attn)
    assert model.base_model.get_input_embeddings() is model.get_input_embeddings()
    assert model.get_decoder() is model.language_model.base_model
    model.forward = None  # what wraps the model's own forward does not reach the base model's
    assert torch.equal(model.base_model(**prompt).last_hidden_state, bare.last_hidden_state)
    del model.forward

    model.save_pretrained(tmp_path)
    loaded, info = FlamingoMedModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert not loaded.can_generate()
    torch.testing.assert_close(loaded.eval()(**prompt).last_hidden_state, bare.last_hidden_state)
    for kind in AUTO:
        assert (
            type(kind.from_pretrained(pretrained_model_name_or_path=tmp_path)) is FlamingoMedForConditionalGeneration
        )


@torch.no_grad()
def test_image_features(make_model, prompt):
    model = make_model()
    pixels = prompt["pixel_values"]
    outputs = model.get_image_features(pixels, output_hidden_states=True)
    assert torch.equal(outputs.pooler_output, model.encode_images(pixels))
    assert torch.equal(outputs.last_hidden_state, outputs.hidden_states[-1])
    assert isinstance(model.get_image_features(pixels, return_dict=False), tuple)


@pytest.mark.parametrize("text", TEXT)
@torch.no_grad()
def test_embeddings_in_the_place_of_ids(make_model, prompt, text):
    model = make_model(text=text, num_labels=3)
    embeddings = model.get_input_embeddings()(prompt["input_ids"])
    rest = {name: value for name, value in prompt.items() if name != "input_ids"}
    whole, same = model(**prompt), model(inputs_embeds=embeddings, **rest)
    assert torch.equal(same.logits, whole.logits)
    assert torch.equal(same.class_logits, whole.class_logits)
    options = {"max_new_tokens": 5, "do_sample": False}
    expected = model.generate(**prompt, **options)[:, prompt["input_ids"].shape[1] :]
    for others in ({}, {"use_cache": False}, {"cache_implementation": "static"}):
        assert torch.equal(model.generate(inputs_embeds=embeddings, **rest, **options, **others), expected)
    with pytest.raises(ValueError, match="give input_ids or inputs_embeds"):
        model(**rest)


@torch.no_grad()
def test_options_of_the_configuration_and_of_the_call(make_model, prompt):
    model = make_model()
    assert [type(model(**prompt, return_dict=wanted)) is tuple for wanted in (None, True, False)] == [
        False,
        False,
        True,
    ]
    model.config.output_hidden_states = True
    assert len(model(**prompt).hidden_states) == 4
    assert model(**prompt, output_hidden_states=False).hidden_states is None
    model.set_attn_implementation("eager")
    model.config.output_attentions = True
    assert len(model(**prompt).attentions) == 3


@pytest.mark.parametrize("text", TEXT)
@torch.no_grad()
def test_attention_of_each_part_is_chosen_at_loading(make_model, prompt, tmp_path, text):
    make_model(text=text).save_pretrained(tmp_path)
    for kind in AUTO:
        eager = kind.from_pretrained(tmp_path, attn_implementation="eager")
        assert len(eager(**prompt, output_attentions=True).attentions) == 3
        chosen = kind.from_pretrained(tmp_path, attn_implementation={"text_config": "eager", "vision_config": "sdpa"})
        assert chosen.language_model.config._attn_implementation == "eager"
        assert chosen.vision_encoder.config._attn_implementation == "sdpa"


@torch.no_grad()
def test_pixels_take_the_precision_of_the_encoder(make_model, processor, prompt):
    make_model().to(torch.bfloat16).generate(**prompt, max_new_tokens=2)
    resnet = ResNetConfig(embedding_size=8, hidden_sizes=[8, 32], depths=[1, 1], layer_type="basic")
    model = FlamingoMedForConditionalGeneration.from_vision_text_pretrained(
        resnet, TEXT["gpt2"], **processor.token_ids, **SMALL
    )
    model = model.eval().to(torch.bfloat16)
    stored = model.image_features(prompt["pixel_values"].flatten(0, 1)).float()
    features = stored[:, None, None]
    rest = {name: value for name, value in prompt.items() if name != "pixel_values"}
    torch.testing.assert_close(model(image_features=features, **rest).logits, model(**prompt).logits)


def test_what_would_be_wrong_in_silence_is_refused(make_model, prompt):
    model = make_model()
    words = prompt["input_ids"].masked_fill(prompt["input_ids"] == model.config.image_token_id, 5)
    for call in (model, model.generate):
        with pytest.raises(ValueError, match="1 images in a row, but no <image> token"):
            call(input_ids=words, pixel_values=prompt["pixel_values"])
    for option in ({"guidance_scale": 2.0}, {"output_cross_attentions": True}):
        with pytest.raises(ValueError, match=f"{next(iter(option))} cannot be used here: "):
            model.generate(**prompt, **option)


@pytest.mark.parametrize("text", TEXT)
def test_a_static_cache_is_compiled_once(make_model, prompt, text):
    compiled = CompileConfig(backend="eager", fullgraph=True, dynamic=False)
    compiled._compile_all_devices = True
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    options = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False}
    model = make_model(text=text, resampler_depth=1)
    tokens = model.generate(**prompt, **options, cache_implementation="static", compile_config=compiled)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    assert torch.equal(tokens, model.generate(**prompt, **options))


@pytest.mark.parametrize("vision", ["clip", "dinov2"])  # parts of the second have other names in checkpoints
def test_the_trainer_of_transformers(make_model, processor, images, tmp_path, vision):
    shapes = []

    def collate(rows):
        chosen = ([values[row] for row in rows] for values in (images, QUESTIONS, ANSWERS))
        return processor(**dict(zip(("images", "text", "answers"), chosen, strict=True)))

    def token_accuracy(prediction):
        logits = prediction.predictions
        logits = logits[0] if isinstance(logits, tuple) else logits
        shapes.append((logits.shape[:2], prediction.label_ids.shape))
        labels = prediction.label_ids[:, 1:]
        return {"token_accuracy": np.mean((logits[:, :-1].argmax(-1) == labels)[labels != -100])}

    arguments = TrainingArguments(
        str(tmp_path),
        per_device_train_batch_size=3,
        num_train_epochs=2,
        learning_rate=0.01,
        eval_strategy="epoch",
        save_strategy="epoch",
        load_best_model_at_end=True,
        remove_unused_columns=False,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
    )
    model = make_model(vision=vision, num_labels=3, freeze_vision=False)
    trainer = Trainer(
        model, arguments, collate, train_dataset=[0, 1, 2], eval_dataset=[0, 1, 2], compute_metrics=token_accuracy
    )
    trainer.train()
    assert trainer.label_names == ["labels"]
    assert all(logits == labels for logits, labels in shapes)
    best = {name: weight.clone() for name, weight in model.state_dict().items()}
    assert trainer.evaluate()["eval_loss"] == pytest.approx(trainer.state.best_metric, rel=1e-4)
    for weight in model.parameters():
        weight.data.add_(1.0)
    trainer._load_best_model()
    assert [name for name, weight in model.state_dict().items() if not torch.equal(weight, best[name])] == []


@pytest.mark.parametrize("settings", [{"trainable_token_indices": [1, 2, 320]}, {"modules_to_save": ["lm_head"]}])
def test_adapters_of_tied_embeddings(make_model, processor, images, tmp_path, settings):
    peft = pytest.importorskip("peft")
    batch = processor(images=images, text=QUESTIONS, answers=ANSWERS)
    config = peft.LoraConfig(
        r=2, target_modules=["c_attn"], task_type="CAUSAL_LM", ensure_weight_tying=True, **settings
    )
    model = peft.get_peft_model(make_model(), config)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.05)
    model.train()(**batch).loss.backward()
    optimizer.step()
    with torch.no_grad():
        expected = model.eval()(**batch).logits
        assert (expected - make_model()(**batch).logits).abs().max() > 0.1
        model.save_pretrained(tmp_path / "adapter")
        again = peft.PeftModel.from_pretrained(make_model(), tmp_path / "adapter").eval()
        torch.testing.assert_close(again(**batch).logits, expected)
        merged = again.merge_and_unload()
        torch.testing.assert_close(merged(**batch).logits, expected, atol=1e-4, rtol=1e-4)
        merged.save_pretrained(tmp_path / "merged")
        loaded = FlamingoMedForConditionalGeneration.from_pretrained(tmp_path / "merged").eval()
        torch.testing.assert_close(loaded(**batch).logits, expected, atol=1e-4, rtol=1e-4)


def test_statistics_of_frozen_layers_do_not_move(processor, images):
    peft = pytest.importorskip("peft")
    resnet = ResNetConfig(embedding_size=8, hidden_sizes=[8, 32], depths=[1, 1], layer_type="basic")
    batch = processor(images=images, text=QUESTIONS, answers=ANSWERS)

    def moves(wrap) -> bool:
        model = FlamingoMedForConditionalGeneration.from_vision_text_pretrained(
            resnet, TEXT["gpt2"], **processor.token_ids, **SMALL, freeze_vision=False
        )
        before = {name: value.clone() for name, value in model.vision_encoder.named_buffers()}
        wrap(model).train()(**batch)
        return any(not torch.equal(value, before[name]) for name, value in model.vision_encoder.named_buffers())

    assert moves(lambda model: model)
    assert not moves(lambda model: peft.get_peft_model(model, peft.LoraConfig(target_modules=["c_attn"])))
    assert not moves(lambda model: model.requires_grad_(False))
