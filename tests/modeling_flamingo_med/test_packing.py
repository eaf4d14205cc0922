"""Packed batches: the loss, its gradients and the classes of padded ones, with every decoder."""

import pytest
import torch

from modeling_flamingo_med import FlamingoMedForConditionalGeneration
from modeling_flamingo_med.cross_attention_flamingo_med import packed_mask
from processing.collator import FlamingoMedCollator
from tests.conftest import QUESTIONS, SMALL, VISION
from tests.modeling_flamingo_med.test_backbones_flamingo_med import DECODERS


@pytest.fixture
def rows(images):
    """Five questions about two images, of different lengths."""
    answers = ["yes", "no", "left lower lobe and lingula", "right", "no"]
    questions = [*QUESTIONS, "", "?"]
    return [
        {"image": images[n % 2], "image_id": str(n % 2), "question": q, "answer": a, "label": [a]}
        for n, (q, a) in enumerate(zip(questions, answers, strict=True))
    ]


def collate(processor, rows, **options):
    names = {name: n for n, name in enumerate(sorted({row["answer"] for row in rows}))}
    names = {} if options.get("train_on_questions") else names  # which does not go with a head
    return FlamingoMedCollator(processor, answers=True, label2id=names, **options)(rows)


def test_shapes(processor, rows):
    padded, packed = collate(processor, rows), collate(processor, rows, packed=True)
    lengths = padded["attention_mask"].sum(1).tolist()
    assert packed["input_ids"].shape == (1, sum(lengths))
    assert packed["pixel_values"].shape == (1, 2, 3, 32, 32)
    assert packed["position_ids"][0].tolist() == [p for length in lengths for p in range(length)]
    assert packed["sequence_ids"][0].tolist() == [n for n, length in enumerate(lengths) for _ in range(length)]
    image = packed["latest_image"][0]
    assert set(image[packed["sequence_ids"][0] == 1].tolist()) == {2}


def test_no_sequence_sees_another():
    mask = packed_mask(torch.tensor([[0, 0, 1, 1]]), torch.float32)[0, 0]
    assert (mask == 0).int().tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1]]


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize(("use_image", "train_on_questions"), [(False, False), (True, False), (False, True)])
def test_packed_equals_padded(processor, rows, name, use_image, train_on_questions):
    torch.manual_seed(0)
    model = FlamingoMedForConditionalGeneration.from_vision_text_pretrained(
        VISION["clip"],
        DECODERS[name],
        **processor.token_ids,
        **SMALL,
        cross_attn_gate_init=0.5,
        num_labels=0 if train_on_questions else 5,
        use_image_embeddings=use_image,
    ).eval()
    results = []
    for packed in (False, True):
        outputs = model(**collate(processor, rows, packed=packed, train_on_questions=train_on_questions))
        outputs.loss.backward()
        gradients = {key: p.grad.clone() for key, p in model.named_parameters() if p.grad is not None}
        results.append((outputs.loss.detach(), outputs.class_logits, gradients))
        model.zero_grad()
    (loss, classes, gradients), (packed_loss, packed_classes, packed_gradients) = results
    torch.testing.assert_close(packed_loss, loss, atol=1e-5, rtol=1e-5)
    if not train_on_questions:
        torch.testing.assert_close(packed_classes, classes, atol=1e-4, rtol=1e-4)
    assert gradients.keys() == packed_gradients.keys()
    for key, gradient in gradients.items():
        torch.testing.assert_close(packed_gradients[key], gradient, atol=1e-4, rtol=1e-3)


def test_packed_rows_do_not_depend_on_each_other(make_model, processor, rows):
    model = make_model()
    batch = collate(processor, rows, packed=True)
    batch.pop("class_labels")
    labels = batch.pop("labels")
    changed = {**batch, "input_ids": batch["input_ids"].clone()}
    changed["input_ids"][0, batch["sequence_ids"][0] == 1] = 9
    changed["pixel_values"] = batch["pixel_values"].clone()
    changed["pixel_values"][:, 1] = 0
    with torch.no_grad():
        first, second = model(**batch).logits[0], model(**changed).logits[0]
    others = batch["sequence_ids"][0] % 2 == 0  # those about the first image
    torch.testing.assert_close(first[others], second[others])
    assert not torch.equal(first[~others], second[~others])
    assert labels.shape == batch["input_ids"].shape
