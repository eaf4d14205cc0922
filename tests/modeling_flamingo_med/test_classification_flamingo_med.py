"""The classification head: one pass with the answer, its losses, and no way for the answer to leak into it."""

import pytest
import torch
import torch.nn.functional as F

from modeling_flamingo_med import FlamingoMedConfig, FlamingoMedForConditionalGeneration
from modeling_flamingo_med.classification_flamingo_med import classification_loss, question_end
from tests.conftest import QUESTIONS, TEXT, VISION, same_weights

ANSWERS = ["yes", "no", "left lower lobe"]


@pytest.fixture
def batch(processor, images):
    return processor(images=images, text=QUESTIONS, answers=ANSWERS)


@pytest.mark.parametrize("text", ["gpt2", "llama"])
@pytest.mark.parametrize("use_image", [False, True])
@torch.no_grad()
def test_one_pass_gives_answer_and_classes(make_model, processor, images, batch, text, use_image):
    model = make_model(text=text, num_labels=5, use_image_embeddings=use_image)
    outputs = model(**batch, class_labels=torch.tensor([0, 4, 2]))
    assert outputs.class_logits.shape == (3, 5)
    assert outputs.hidden_states is None
    expected = F.cross_entropy(outputs.class_logits, torch.tensor([0, 4, 2]))
    torch.testing.assert_close(outputs.loss, model(**batch).loss + expected)
    prompt = model(**processor(images=images, text=QUESTIONS))  # padded on the left, and without answers
    torch.testing.assert_close(prompt.class_logits, outputs.class_logits)
    other = model(**processor(images=images[::-1], text=QUESTIONS))
    assert (other.class_logits - prompt.class_logits).abs().max() > 1e-4


@pytest.mark.parametrize("use_image", [False, True])
@torch.no_grad()
def test_the_answer_does_not_leak_into_the_head(make_model, processor, batch, use_image):
    model = make_model(num_labels=5, use_image_embeddings=use_image)
    logits = model(**batch).class_logits
    answered = batch["labels"] != -100
    for token in (model.config.eoq_token_id, model.config.image_token_id, 7):
        changed = batch["input_ids"].masked_fill(answered, token)
        if token == model.config.image_token_id:  # with an image for it, so that it is not refused
            changed = torch.where(answered & (answered.cumsum(1) > 1), batch["input_ids"], changed)
            pixels = batch["pixel_values"].repeat(1, 2, 1, 1, 1)
            images_of = {**batch, "pixel_values": pixels, "input_ids": changed}
            assert torch.equal(
                model(**images_of).class_logits, model(**{**batch, "pixel_values": pixels}).class_logits
            )
        else:
            assert torch.equal(model(**{**batch, "input_ids": changed}).class_logits, logits)


def test_where_the_head_reads():
    ids = torch.tensor([[9, 1, 5, 2, 3, 0], [1, 5, 5, 2, 5, 3], [9, 1, 2, 3, 3, 0]])  # 5 ends a question
    mask = torch.tensor([[1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 0]])
    labels = torch.tensor([[-100, -100, -100, 2, 3, -100], [-100, -100, -100, 2, 5, 3], [-100, -100, 2, 3, 3, -100]])
    # The third asks nothing: its prompt's last token.
    assert [part.tolist() for part in question_end(ids, mask, labels, None, 5)] == [[0, 1, 2], [2, 2, 1]]
    assert question_end(ids, mask, None, None, 5)[1].tolist() == [2, 4, 4]
    assert question_end(ids, mask, None, None, None)[1].tolist() == [4, 5, 4]  # a tokenizer without <EOQ>
    real = mask.bool()
    packed = ids[real][None], None, labels[real][None], torch.arange(3).repeat_interleave(mask.sum(1))[None]
    assert [part.tolist() for part in question_end(*packed, 5)] == [[0, 0, 0], [2, 5 + 2, 5 + 6 + 1]]
    assert question_end(packed[0], None, None, packed[3], 5)[1].tolist() == [2, 5 + 4, 5 + 6 + 4]


def test_losses():
    logits = torch.tensor([[2.0, 0.0, -1.0], [0.0, 1.0, 0.0]])
    single = classification_loss(logits, torch.tensor([0, -100]), multi_label=False)
    torch.testing.assert_close(single, -logits[0].log_softmax(-1)[0])  # an unknown class does not count
    smooth = classification_loss(logits, torch.tensor([0, 1]), multi_label=False, label_smoothing=0.2)
    torch.testing.assert_close(smooth, F.cross_entropy(logits, torch.tensor([0, 1]), label_smoothing=0.2))
    labels = torch.tensor([[1.0, 0.0, 1.0], [0.0, -100.0, 0.0]])
    several = classification_loss(logits, labels, multi_label=True)
    p = logits.sigmoid()
    by_hand = -(p[0, 0].log() + (1 - p[0, 1]).log() + p[0, 2].log() + (1 - p[1, 0]).log() + (1 - p[1, 2]).log()) / 5
    torch.testing.assert_close(several, by_hand)
    assert classification_loss(logits, torch.tensor([-100, -100]), multi_label=False) == 0
    with pytest.raises(ValueError, match=r"class_labels must be \(2,\), got \(2, 3\)"):
        classification_loss(logits, labels, multi_label=False)
    with pytest.raises(ValueError, match=r"class_labels must be \(2, 3\), got \(2,\)"):
        classification_loss(logits, torch.tensor([0, 1]), multi_label=True)


@torch.no_grad()
def test_several_labels_and_weights(make_model, batch):
    model = make_model(num_labels=3, problem_type="multi_label_classification", classification_loss_weight=0.5)
    labels = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0], [1.0, 1.0, -100.0]])
    outputs = model(**batch, class_labels=labels)
    expected = model(**batch).loss + 0.5 * classification_loss(outputs.class_logits, labels, multi_label=True)
    torch.testing.assert_close(outputs.loss, expected)


@torch.no_grad()
def test_accumulated_losses_add_up(make_model, processor, images):
    """Micro-batches with the numbers of all of them add up to the loss of all rows, however long their answers are."""
    model = make_model(num_labels=5)
    answers = ["yes", "no", "a much longer answer, which is nearly a report"]
    rows = [processor(images=i, text=q, answers=a) for i, q, a in zip(images, QUESTIONS, answers, strict=True)]
    classes = [torch.tensor([number]) for number in (0, -100, 4)]
    numbers = {
        "num_items_in_batch": sum((row["labels"] != -100).sum() for row in rows),
        "num_classes_in_batch": torch.tensor(2),
    }
    parts = [model(**row, class_labels=c, **numbers).loss for row, c in zip(rows, classes, strict=True)]
    whole = processor(images=images, text=QUESTIONS, answers=answers)
    torch.testing.assert_close(sum(parts), model(**whole, class_labels=torch.cat(classes)).loss)


@torch.no_grad()
def test_labels_of_another_style(make_model, processor, images):
    model = make_model(num_labels=5)
    batch = processor(images=images, text=QUESTIONS, answers=["yes"] * 3)
    logits = model(**batch).class_logits
    # An example's answer may be learned too: the head still reads the question behind it.
    example = [(images[0], "Is it left?", "no")]
    shots = processor(images=images, text=QUESTIONS, answers=["yes"] * 3, examples=example)
    expected = model(**shots).class_logits
    first = shots["input_ids"] == model.config.eoq_token_id
    shots["labels"][:, int(first[0].nonzero()[0]) + 2] = 7
    assert torch.equal(model(**shots).class_logits, expected)
    everything = {**batch, "labels": batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)}
    with pytest.raises(ValueError, match="a row has labels from its first token on"):
        model(**everything)
    nothing = {**batch, "labels": torch.full_like(batch["labels"], -100)}
    loss = model(**nothing, class_labels=torch.tensor([0, 1, 2])).loss
    torch.testing.assert_close(loss, F.cross_entropy(logits, torch.tensor([0, 1, 2])))
    assert model(**nothing).loss == 0


def test_head_learns_alone(make_model, processor, images):
    model = make_model(num_labels=3, train_embeddings="none").train()
    prompts = processor(images=images, text=QUESTIONS)
    loss = model(**prompts, class_labels=torch.tensor([0, 1, 2])).loss  # no labels: the classes' loss only
    loss.backward()
    assert model.classifier.out.weight.grad.abs().sum() > 0
    assert model.resampler.latents.grad.abs().sum() > 0


def test_head_is_saved_with_its_names(make_model, processor, images, tmp_path):
    names = {0: "axial", 1: "coronal", 2: "sagittal"}
    model = make_model(id2label=names)
    model.save_pretrained(tmp_path)
    loaded = FlamingoMedForConditionalGeneration.from_pretrained(tmp_path)
    assert loaded.config.id2label == names
    assert loaded.config.label2id == {"axial": 0, "coronal": 1, "sagittal": 2}
    assert loaded.config.problem_type == "single_label_classification"
    inputs = processor(images=images, text=QUESTIONS)
    with torch.no_grad():
        torch.testing.assert_close(loaded(**inputs).class_logits, model(**inputs).class_logits)
        assert same_weights(loaded, model)


def test_two_classes_without_names_are_saved(tmp_path):
    FlamingoMedConfig(num_labels=2).save_pretrained(tmp_path)
    assert FlamingoMedConfig.from_pretrained(tmp_path).id2label == {0: "LABEL_0", 1: "LABEL_1"}


def test_without_a_head(make_model, processor, images, tmp_path):
    config = FlamingoMedConfig(vision_config=VISION["clip"], text_config=TEXT["gpt2"])
    assert (config.num_labels, config.id2label) == (0, {})
    config.save_pretrained(tmp_path)
    assert FlamingoMedConfig.from_pretrained(tmp_path).num_labels == 0
    inputs = processor(images=images, text=QUESTIONS)
    for setting, message in (
        ({"problem_type": "regression", "num_labels": 2}, "problem_type is one of .*, got 'regression'"),
        ({"num_labels": 5, "id2label": {0: "a"}}, "num_labels is 5, but id2label names 1"),
        ({"classification_label_smoothing": 7.0}, "classification_label_smoothing is from 0 to 1, got 7.0"),
    ):
        with pytest.raises(ValueError, match=message):
            FlamingoMedConfig(vision_config=VISION["clip"], text_config=TEXT["gpt2"], **setting)
    with pytest.raises(ValueError, match="class_labels need a model with a head"):
        make_model()(**inputs, class_labels=torch.tensor([0, 1, 2]))
