"""Answers and their confidence."""

import pytest
import torch
from transformers import pipeline

from processing.answering import answer_questions, load_model
from processing.errors import InputError
from tests.conftest import QUESTIONS


@pytest.fixture
def rows(images):
    return [
        {"image": images[i % 3], "image_id": str(i % 3), "question": QUESTIONS[i % 2], "answer": "yes"}
        for i in range(7)
    ]


def test_answers_do_not_depend_on_the_batch(make_model, processor, rows):
    model = make_model()
    model.generation_config.max_new_tokens = 6
    expected = [answer_questions(model, processor, [row])[0] for row in rows]
    for batch_size in (2, 64):
        answers = answer_questions(model, processor, rows, batch_size=batch_size)
        assert [a.text for a in answers] == [a.text for a in expected]
        assert [a.confidence for a in answers] == pytest.approx([a.confidence for a in expected], abs=1e-5)


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
    with pytest.raises(InputError, match="no model of ours at .*nothing"):
        load_model(str(tmp_path / "nothing"))
