"""Vectors of answers: which states they are the mean of, whatever the batch; prototypes by hand."""

import numpy as np
import pytest
import torch

from flamingo_med.inference.embedding import embed_answers, prototype_rows, prototypes
from processing.datasets.rows import make_row, to_dataset
from processing.errors import InputError

ROWS = [
    {"image_id": "a", "question": "Is there a pleural effusion?"},
    {"image_id": "b", "question": "On which side is the nodule?"},
    {"image_id": "a", "question": "Is the heart enlarged?"},
]
ANSWERS = ["yes", "left left left", ""]


@pytest.fixture
def rows(images, tmp_path):
    for name, image in zip("ab", images, strict=False):
        image.save(tmp_path / f"{name}.png")
    return [{**row, "image": str(tmp_path / f"{row['image_id']}.png"), "answer": "never read"} for row in ROWS]


@pytest.mark.parametrize(("vision", "text"), [("clip", "gpt2"), ("dinov2", "llama")])
@pytest.mark.parametrize("pool_prompt", [False, True])
def test_a_vector_is_the_mean_of_the_states_before_the_output_layer(
    make_model, processor, rows, vision, text, pool_prompt
):
    model = make_model(vision, text)
    found = embed_answers(model, processor, rows, ANSWERS, pool_prompt=pool_prompt)
    assert found.shape == (3, 32)
    for row, answer, vector in zip(rows, ANSWERS, found, strict=True):
        inputs = processor(images=row["image"], text=row["question"], answers=answer)
        taken = torch.ones_like(inputs["input_ids"][0], dtype=torch.bool)
        if not pool_prompt:
            taken = inputs["labels"][0] != -100
            words = processor.decode(inputs["input_ids"][0][taken], skip_special_tokens=True)
            assert words.strip() == answer
        seen = []
        hook = model.get_output_embeddings().register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0]))
        inputs.pop("labels")
        with torch.no_grad():
            model(**inputs)
        hook.remove()
        np.testing.assert_allclose(vector, seen[0][0][taken].mean(0).numpy(), atol=1e-5)


def test_vectors_do_not_depend_on_the_batch(make_model, processor, rows):
    model = make_model().train()
    alone = embed_answers(model, processor, rows, ANSWERS, batch_size=1)
    np.testing.assert_allclose(embed_answers(model, processor, rows, ANSWERS, batch_size=2), alone, atol=1e-5)
    assert model.training
    blank = embed_answers(model, processor, rows, ["no"] * 3, blank_images=True)
    np.testing.assert_allclose(
        blank[0], embed_answers(model, processor, rows[:1], ["no"], blank_images=True)[0], atol=1e-5
    )
    assert np.abs(blank - embed_answers(model, processor, rows, ["no"] * 3)).max(1).min() > 1e-4
    swapped = embed_answers(model, processor, rows[::-1], ANSWERS[::-1])[::-1]
    np.testing.assert_allclose(swapped, alone, atol=1e-5)
    assert np.abs(alone - embed_answers(model, processor, rows, ["no", "right", "no"])).min(1).max() > 1e-4


def test_what_cannot_be_embedded(make_model, processor, rows):
    with pytest.raises(ValueError, match="1 answers to 3 questions"):
        embed_answers(make_model(), processor, rows, ["yes"])
    with pytest.raises(InputError, match="batch_size is at least 1"):
        embed_answers(make_model(), processor, rows, ANSWERS, batch_size=0)


def test_prototypes():
    answers, vectors = prototypes(["Yes", "no", " yes "], np.array([[1.0, 0.0], [5.0, 5.0], [3.0, 2.0]]))
    assert answers == ["no", "yes"]
    assert vectors.tolist() == [[5.0, 5.0], [2.0, 1.0]]


def test_prototype_rows(monkeypatch):
    """At most so many rows of each of the most frequent answers, the same whatever the order of the rows."""
    monkeypatch.setattr("flamingo_med.inference.embedding.MOST_ANSWERS", 2)
    monkeypatch.setattr("flamingo_med.inference.embedding.ROWS_AN_ANSWER", 3)
    answers = ["yes", "No", " Yes", "left", "no", "yes", "YES", "", "no", "yes"]
    rows = to_dataset(
        [make_row(id=str(i), image="-", image_id="-", question="?", answer=answer) for i, answer in enumerate(answers)]
    )
    chosen = prototype_rows(rows)
    assert sorted(answers[i].strip().lower() for i in chosen) == ["no"] * 3 + ["yes"] * 3
    turned = rows.select(reversed(range(10)))
    assert {turned["id"][i] for i in prototype_rows(turned)} == {rows["id"][i] for i in chosen}
