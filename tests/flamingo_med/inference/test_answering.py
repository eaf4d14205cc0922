"""Answers and their confidence."""

import copy
import math
from types import SimpleNamespace

import pytest
import torch
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2Processor,
    BlipImageProcessorPil,
    CLIPImageProcessorPil,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    MptConfig,
    OPTConfig,
    pipeline,
    set_seed,
)

from flamingo_med.inference.answering import answer_questions, load_model
from flamingo_med.inference.backends import INSTRUCTION, Answer, FlamingoMedBackend, context_length, make_backend
from processing.errors import InputError
from tests.conftest import QUESTIONS, TEXT, VISION


@pytest.fixture
def rows(images):
    return [
        {"image": images[i % 3], "image_id": str(i % 3), "question": QUESTIONS[i % 2], "answer": "yes"}
        for i in range(7)
    ]


CANDIDATES = [["yes", "no"], [], ["left", "right", "yes"], [], ["no", "yes"], ["yes"], ["yes", "no"]]
SHUFFLED = [1, 2, 0, 4, 5, 3, 4]
HEAD = {"id2label": {0: "left", 1: "no", 2: "yes"}, "problem_type": "single_label_classification"}


@pytest.mark.parametrize("how", [{}, {"images_from": SHUFFLED}, {"blank_images": True}])
def test_answers_do_not_depend_on_the_batch(make_model, processor, rows, how, monkeypatch):
    model = make_model(**HEAD)
    model.generation_config.max_new_tokens = 6
    expected = answer_questions(model, processor, rows, candidates=CANDIDATES, batch_size=1, **how)
    for batch_size, alike in ((3, 32), (64, 2), ("auto", 3)):
        monkeypatch.setattr("flamingo_med.inference.backends.ALIKE", alike)
        answers = answer_questions(model, processor, rows, candidates=CANDIDATES, batch_size=batch_size, **how)
        for answer, same in zip(answers, expected, strict=True):
            assert (answer.text, answer.classes) == (same.text, same.classes)
            assert answer.confidence == pytest.approx(same.confidence, abs=1e-5)
            assert answer.class_confidence == pytest.approx(same.class_confidence, abs=1e-5)
            assert answer.candidates == (same.candidates and pytest.approx(same.candidates, abs=1e-4))


def test_what_does_not_fit_is_halved(make_model, processor, rows, monkeypatch):
    sizes, answer = [], FlamingoMedBackend.answer

    def small(self, batch, candidates):
        sizes.append(len(candidates))
        if len(candidates) > limit:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")
        return answer(self, batch, candidates)

    model, limit = make_model(), 2
    expected = [a.text for a in answer_questions(model, processor, rows)]
    monkeypatch.setattr(FlamingoMedBackend, "answer", small)
    assert [a.text for a in answer_questions(model, processor, rows, batch_size=6)] == expected
    assert sizes == [6, 3, 1, 1, 1, 1, 1, 1, 1]
    limit = 0
    with pytest.raises(InputError, match="not even one question fits"):
        answer_questions(model, processor, rows)


def test_the_batch_is_bounded_by_the_memory_of_a_cpu(make_model, processor, rows, monkeypatch):
    sizes, answer = [], FlamingoMedBackend.answer

    def watched(self, batch, candidates):
        sizes.append(len(candidates))
        return answer(self, batch, candidates)

    monkeypatch.setattr(FlamingoMedBackend, "answer", watched)
    answer_questions(make_model(), processor, rows)
    assert sizes == [7]
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=1))
    answer_questions(make_model(), processor, rows)
    assert sizes[1:] == [1] * 7


@pytest.mark.parametrize("batch_size", [0, -3])
def test_no_batch(make_model, processor, rows, batch_size):
    with pytest.raises(InputError, match=f"at least 1 or auto, got {batch_size}"):
        answer_questions(make_model(), processor, rows, batch_size=batch_size)


def test_images_of_other_rows(make_model, processor, rows):
    """The question of the row, about the image of another."""
    model = make_model()
    moved = [{**row, "image": rows[j]["image"], "image_id": "x"} for row, j in zip(rows, SHUFFLED, strict=True)]
    expected = [answer_questions(model, processor, [row])[0] for row in moved]
    answers = answer_questions(model, processor, rows, images_from=SHUFFLED)
    assert [a.confidence for a in answers] == pytest.approx([a.confidence for a in expected], abs=1e-5)
    own = [a.confidence for a in answer_questions(model, processor, rows)]
    assert [a.confidence for a in answers] != pytest.approx(own, abs=1e-5)


def test_the_head_classifies(make_model, processor, rows):
    model = make_model(**HEAD)
    (answer,) = answer_questions(model, processor, rows[:1])
    with torch.no_grad():
        inputs = processor(images=rows[0]["image"], text=rows[0]["question"])
        probabilities = model(**inputs).class_logits.softmax(-1)[0]
    assert answer.classes == [HEAD["id2label"][int(probabilities.argmax())]]
    assert answer.class_confidence == pytest.approx(probabilities.max().item(), abs=1e-5)

    model.config.problem_type = "multi_label_classification"
    (answer,) = answer_questions(model, processor, rows[:1])
    with torch.no_grad():
        holds = model(**inputs).class_logits.sigmoid()[0]
    assert answer.classes == [name for i, name in HEAD["id2label"].items() if holds[i] > 0.5]
    assert answer.class_confidence == pytest.approx(torch.maximum(holds, 1 - holds).prod().item(), abs=1e-5)


def test_candidates_are_scored(make_model, processor, rows):
    model = make_model()
    answers = answer_questions(model, processor, rows, candidates=CANDIDATES)
    assert [list(a.candidates or {}) for a in answers] == CANDIDATES
    inputs = processor(images=rows[2]["image"], text=rows[2]["question"])
    alone = model.score_answers(processor.tokenize_answers(CANDIDATES[2]), **inputs)[0].tolist()
    assert list(answers[2].candidates.values()) == pytest.approx(alone, abs=1e-4)
    assert answers[1].candidate_confidence() is None


def test_confidence_among_candidates():
    candidates = {"Yes": math.log(0.3), "no": math.log(0.1)}
    assert Answer(" yes ", 0.9, candidates=candidates).candidate_confidence() == pytest.approx(0.75)
    assert Answer("maybe", 0.9, candidates=candidates).candidate_confidence() == 0.0
    flat = Answer("yes", 0.9, candidates=candidates).candidate_confidence(temperature=1e6)
    assert flat == pytest.approx(1 / len(candidates), abs=1e-3)


TEMPLATE = """{% for message in messages %}USER: {% for block in message.content %}
{%- if block.type == "image" %}<image> {% else %}{{ block.text }}{% endif %}{% endfor %}{% endfor %} ASSISTANT:"""


def write_llava(folder, tokenizer):
    """LLaVA, which has a chat template."""
    tokens = {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None}
    config = LlavaConfig(
        vision_config=VISION["clip"],
        text_config=LlamaConfig(**{**TEXT["llama"].to_dict(), **tokens, "pad_token_id": tokenizer.pad_token_id}),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        initializer_range=0.2,
    )
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    image_processor = CLIPImageProcessorPil(size={"height": 32, "width": 32}, do_center_crop=False)
    settings = {"patch_size": 8, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    LlavaProcessor(image_processor, tokenizer, chat_template=TEMPLATE, **settings).save_pretrained(folder)


def write_blip2(folder, tokenizer):
    """BLIP-2, which has none."""
    layers = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    tokens = {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id, "bos_token_id": 0}
    text = {"hidden_size": 32, "ffn_dim": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "init_std": 0.2}
    config = Blip2Config(
        vision_config={**layers, "image_size": 32, "patch_size": 8},
        qformer_config={**layers, "encoder_hidden_size": 32, "vocab_size": 100, "initializer_range": 0.2},
        text_config=OPTConfig(
            **text, **tokens, word_embed_proj_dim=32, max_position_embeddings=256, pad_token_id=tokenizer.pad_token_id
        ),
        num_query_tokens=4,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    Blip2ForConditionalGeneration(config).save_pretrained(folder)
    image_processor = BlipImageProcessorPil(size={"height": 32, "width": 32})
    Blip2Processor(image_processor, tokenizer, num_query_tokens=4).save_pretrained(folder)


@pytest.mark.parametrize("write", [write_llava, write_blip2])
def test_other_models_of_the_hub(write, processor, rows, tmp_path):
    set_seed(0)
    write(tmp_path, copy.deepcopy(processor.tokenizer))
    model, other = load_model(str(tmp_path))
    expected = answer_questions(model, other, rows, batch_size=1)
    assert all(0 < answer.confidence < 1 for answer in expected)
    for batch_size in (3, "auto"):
        answers = answer_questions(model, other, rows, batch_size=batch_size, candidates=CANDIDATES)
        assert [a.text for a in answers] == [a.text for a in expected]
        assert [a.confidence for a in answers] == pytest.approx([a.confidence for a in expected], abs=1e-5)
    blank = answer_questions(model, other, rows, blank_images=True)
    assert len({a.confidence for a in blank[::2]}) == 1 and blank[0].confidence != expected[0].confidence
    asked = other.batch_decode(make_backend(model, other).inputs(rows[:1], False)["input_ids"])[0]
    assert f"{rows[0]['question']}\n{INSTRUCTION}" in asked and asked.startswith("USER: ") == (write is write_llava)


def test_confidence_is_the_geometric_mean_of_token_probabilities(make_model, processor, rows):
    model = make_model()
    model.generation_config.max_new_tokens = 5
    (answer,) = answer_questions(model, processor, rows[:1])
    inputs = processor(images=rows[0]["image"], text=rows[0]["question"])
    ids, start = inputs["input_ids"], inputs["input_ids"].shape[1]
    ids = model.generate(**inputs, do_sample=False)
    with torch.no_grad():
        probabilities = model(input_ids=ids, pixel_values=inputs["pixel_values"]).logits.softmax(-1)
    steps = [probabilities[0, t - 1, ids[0, t]].item() for t in range(start, ids.shape[1])]
    assert answer.confidence == pytest.approx(torch.tensor(steps).log().mean().exp().item(), rel=1e-4)
    model.generation_config.num_beams = 3  # a checkpoint may say so
    assert answer_questions(model, processor, rows[:1]) == [answer]


def test_context_length():
    assert context_length(MptConfig(max_seq_len=77)) == 77
    assert context_length(OPTConfig(max_position_embeddings=88)) == 88


def test_blank_images_of_studies_do_not_depend_on_the_batch(make_model, processor, rows):
    model = make_model(resampler_max_frames=2)
    rows = [{**row, "image": row["image"], "image_id": f"{n}"} for n, row in enumerate(rows)]
    rows[0]["more_images"] = [rows[1]["image"]]
    together = answer_questions(model, processor, rows, blank_images=True)
    alone = answer_questions(model, processor, rows, blank_images=True, batch_size=1)
    assert [a.text for a in together] == [a.text for a in alone]
    assert [a.confidence for a in together] == pytest.approx([a.confidence for a in alone], abs=1e-5)


def test_blank_images_are_all_the_same(make_model, processor, rows):
    model = make_model()
    model.generation_config.max_new_tokens = 6
    answers = answer_questions(model, processor, rows, blank_images=True)
    assert {a.text for a in answers[::2]} == {answers[0].text}  # one question, three images
    assert {a.confidence for a in answers[::2]} != {
        a.confidence for a in answer_questions(model, processor, rows)[::2]
    }


def test_model_stays_in_the_mode_it_was_in(make_model, processor, rows):
    model = make_model().train()
    answer_questions(model, processor, rows[:1])
    assert model.training


def test_pipeline_answers_as_we_do(make_model, processor, images, tmp_path):
    model = make_model()
    model.generation_config.max_new_tokens = 6
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    pipe = pipeline("image-text-to-text", model=str(tmp_path))
    (output,) = pipe(images=images[0], text=QUESTIONS[0], return_full_text=False)
    loaded, loaded_processor = load_model(str(tmp_path))
    row = {"image": images[0], "image_id": "0", "question": QUESTIONS[0]}
    (answer,) = answer_questions(loaded, loaded_processor, [row])
    assert output["generated_text"].strip() == answer.text


def test_no_model(tmp_path):
    with pytest.raises(InputError, match="model is .*nothing, but there is no"):
        load_model(str(tmp_path / "nothing"))
    with pytest.raises(InputError, match="no image-text-to-text model at"):
        load_model(str(tmp_path))
