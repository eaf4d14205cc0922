"""Training: it learns, it is deterministic, every row counts once an epoch."""

import json
from collections import Counter
from itertools import chain

import pytest
import torch
from datasets import Dataset, Features, concatenate_datasets
from safetensors.torch import load_file

from flamingo_med.training.sampler import ImageGroupedBatchSampler
from flamingo_med.training.starting_point import ModelArguments, continue_from
from flamingo_med.training.trainer import FlamingoMedTrainer, FlamingoMedTrainingArguments
from modeling_flamingo_med import FlamingoMedForConditionalGeneration
from modeling_flamingo_med.classification_flamingo_med import classification_loss
from processing.collator import FlamingoMedCollator
from processing.datasets import FEATURES, class_names, count_unseen, load_split
from processing.errors import InputError
from tests.commands import python


@pytest.fixture(scope="session")
def phantom(tmp_path_factory):
    """Forty small phantom images with their questions."""
    folder = str(tmp_path_factory.mktemp("phantom"))
    return load_split("phantom", "train", folder, train_images=40, image_size=64, questions_per_image=4)


def train(model, processor, rows, folder, **arguments):
    arguments = {"max_steps": 6, "per_device_train_batch_size": 8, "learning_rate": 1e-2, **arguments}
    arguments = {"save_strategy": "no", **arguments}
    args = FlamingoMedTrainingArguments(
        output_dir=str(folder), report_to="none", use_cpu=True, disable_tqdm=True, **arguments
    )
    trainer = FlamingoMedTrainer(model, args, processor, train_dataset=rows, eval_dataset=rows.select(range(12)))
    trainer.train()
    return trainer


def test_one_step_lowers_the_loss(make_model, processor, phantom):
    model = make_model(freeze_vision=False, freeze_text=False).train()
    batch = FlamingoMedCollator(processor, answers=True)([phantom[i] for i in range(16)])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = model(**batch).loss
    before.backward()
    optimizer.step()
    model.eval()
    assert model(**batch).loss < before


def test_same_seed_same_weights(make_model, processor, phantom, tmp_path):
    models = [make_model(freeze_text=False) for _ in range(2)]
    start = {name: p.clone() for name, p in models[0].named_parameters()}
    for model in models:
        train(model, processor, phantom, tmp_path)
    first, second = (dict(model.named_parameters()) for model in models)
    assert all(torch.equal(first[name], second[name]) for name in first)
    changed = {name.split(".")[0] for name in first if not torch.equal(first[name], start[name])}
    assert changed == {"resampler", "cross_attn", "language_model"}  # and the frozen image encoder is as it was


def test_evaluation_answers_questions(make_model, processor, phantom, tmp_path):
    trainer = train(make_model(), processor, phantom, tmp_path, max_steps=1)
    metrics = trainer.evaluate()
    answers = trainer.answer(trainer.eval_dataset)
    hits = [a.text.lower() == row["answer"] for a, row in zip(answers, trainer.eval_dataset, strict=True)]
    assert metrics["eval_exact_match"] == sum(hits) / len(hits)
    assert metrics["eval_loss"] > 0
    assert trainer.model.generation_config.max_new_tokens is None  # what the arguments ask for is passed on


def test_loss_does_not_depend_on_accumulation(make_model, processor, phantom, tmp_path):
    losses = []
    for size, steps in ((8, 1), (4, 2), (2, 4)):
        trainer = train(
            make_model(),
            processor,
            phantom,
            tmp_path,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=steps,
            max_steps=3,
            logging_steps=1,
        )
        losses.append([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
    for other in losses[1:]:
        assert other == pytest.approx(losses[0], abs=2e-3)


@pytest.mark.parametrize("lengths", [None, [len(str(i)) for i in range(50)]])
def test_sampler_covers_every_row_once_with_images_together(lengths):
    image_ids = [f"image-{i % 7}" for i in range(50)]
    sampler = ImageGroupedBatchSampler(image_ids, batch_size=10, seed=1, lengths=lengths)
    orders = []
    for epoch in range(3):
        sampler.set_epoch(epoch)
        batches = list(sampler)
        order, epochs = zip(*chain(*batches), strict=True)
        assert len(batches) == len(sampler) == 5 and set(epochs) == {epoch}
        assert sorted(order) == list(range(50))
        within = [Counter(image_ids[row] for row, _ in batch) for batch in batches]
        assert sum(map(len, within)) <= 7 + 4  # seven images, of which four end in another batch than they begin in
        orders.append(order)
    assert orders[0] != orders[1] != orders[2]
    sampler.set_epoch(0)
    assert tuple(row for batch in sampler for row, _ in batch) == orders[0]


@pytest.mark.parametrize("num_rows", [3, 24, 25, 27, 29])
@pytest.mark.parametrize("num_processes", [1, 2, 3])
def test_processes_share_the_steps_of_one(num_rows, num_processes):
    """No row is left out or repeated, and each step has the rows that one process would have in it."""
    image_ids = [str(i // 4) for i in range(num_rows)]
    whole = list(ImageGroupedBatchSampler(image_ids, batch_size=12))
    shares = [
        list(
            ImageGroupedBatchSampler(
                image_ids, batch_size=12 // num_processes, process_index=i, num_processes=num_processes
            )
        )
        for i in range(num_processes)
    ]
    steps = [list(chain(*parts)) for parts in zip(*shares, strict=True)]
    assert all(part for share in shares for part in share)
    assert list(chain(*steps)) == list(chain(*whole))
    if num_rows % 12 == 0 or num_rows % 12 >= num_processes:
        assert steps == whole


def test_similar_lengths_come_together():
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 100, (1000,), generator=generator).tolist()
    image_ids = [str(row // 2) for row in range(1000)]

    def padding(**options) -> float:
        batches = ImageGroupedBatchSampler(image_ids, batch_size=10, **options)
        padded = sum(len(batch) * max(lengths[row] for row, _ in batch) for batch in batches)
        return padded / sum(lengths)

    assert padding(lengths=lengths) < 1.5 < 1.7 < padding()


@pytest.mark.parametrize("problem_type", ["single_label_classification", "multi_label_classification"])
def test_head_learns_from_the_rows_labels(make_model, processor, phantom, tmp_path, problem_type):
    names = class_names(phantom)
    model = make_model(id2label=dict(enumerate(names)), problem_type=problem_type, classification_dropout=0.0)
    losses = []
    for steps in (0, 30):
        if steps:
            trainer = train(model, processor, phantom, tmp_path, max_steps=steps, learning_rate=3e-3)
        batch = FlamingoMedCollator(
            processor,
            answers=True,
            label2id=model.config.label2id,
            multi_label=problem_type == "multi_label_classification",
        )([phantom[i] for i in range(12)])
        with torch.no_grad():
            logits = model.eval()(**batch).class_logits
        multi_label = problem_type == "multi_label_classification"
        losses.append(classification_loss(logits, batch["class_labels"], multi_label=multi_label))
    assert losses[1] < 0.8 * losses[0]
    assert trainer.evaluate()["eval_loss"] > 0


def test_what_does_not_go_with_a_head(make_model, processor, phantom, tmp_path):
    model = make_model(id2label=dict(enumerate(class_names(phantom))))
    with pytest.raises(InputError, match="train_on_questions leaves no prompt"):
        train(model, processor, phantom, tmp_path, train_on_questions=True)
    with pytest.raises(InputError, match="label_smoothing_factor is for other models"):
        train(model, processor, phantom, tmp_path, label_smoothing_factor=0.1)


def test_head_does_not_depend_on_accumulation(make_model, processor, phantom, tmp_path):
    losses = []
    for batch, steps in ((12, 1), (3, 4)):
        model = make_model(id2label=dict(enumerate(class_names(phantom))), classification_dropout=0.0)
        options = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": steps, "logging_steps": 1}
        trainer = train(model, processor, phantom, tmp_path / str(batch), max_steps=2, **options)
        losses.append([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_classes_of_a_batch(processor, phantom):
    labels = [["b"], [], None, ["never seen"], ["a", "b"]]
    rows = [{**phantom[i], "label": label} for i, label in enumerate(labels)]
    collate = FlamingoMedCollator(processor, answers=True, label2id={"a": 0, "b": 1})
    assert collate(rows)["class_labels"].tolist() == [1, -100, -100, -100, 0]
    collate = FlamingoMedCollator(processor, answers=True, label2id={"a": 0, "b": 1}, multi_label=True)
    assert collate(rows)["class_labels"].tolist() == [[0, 1], [0, 0], [-100, -100], [0, 0], [1, 1]]
    assert "class_labels" not in FlamingoMedCollator(processor, answers=True)(rows)
    seen = phantom.select(range(5)).remove_columns("label").add_column("label", labels)
    assert class_names(seen) == ["a", "b", "never seen"]
    assert count_unseen(seen, ["a", "b"]) == 1


def test_early_stopping(make_model, processor, phantom, tmp_path):
    args = {"eval_strategy": "steps", "eval_steps": 1, "metric_for_best_model": "loss", "max_steps": 20}
    args |= {"early_stopping_patience": 2, "learning_rate": 0.0}
    trainer = train(make_model(), processor, phantom, tmp_path, **args, load_best_model_at_end=False)
    assert trainer.state.global_step == 3  # the first is the best, and two are no better
    with pytest.raises(InputError, match="early_stopping_patience needs metric_for_best_model"):
        train(make_model(), processor, phantom, tmp_path, early_stopping_patience=2)


def test_images_that_do_not_fit_are_told_before_training(make_model, processor, phantom, tmp_path):
    with pytest.raises(InputError, match="do not fit the model: resampler_num_positions is 4, got"):
        train(make_model(resampler_num_positions=4), processor, phantom, tmp_path)
    study = [*[[]] * (len(phantom) - 1), [phantom[0]["image"]]]
    column = Dataset.from_dict({"more_images": study}, features=Features(more_images=FEATURES["more_images"]))
    studies = concatenate_datasets([phantom.remove_columns("more_images"), column], axis=1)
    with pytest.raises(InputError, match="do not fit the model: resampler_max_frames is 1, got 2 frames"):
        train(make_model(), processor, studies, tmp_path)


@pytest.mark.parametrize("freeze_vision", [True, False])
def test_rows_that_cannot_be_read_are_told_before_training(
    make_model, processor, phantom, tmp_path, freeze_vision, monkeypatch
):
    monkeypatch.setattr(FlamingoMedTrainer, "train", lambda self: pytest.fail("the training began"))
    (tmp_path / "cut.png").write_bytes(b"no image")
    cut = {"path": str(tmp_path / "cut.png"), "bytes": None}
    texts = phantom.map(lambda row, i: {"question": "Is <EOC>?" if i == 17 else row["question"]}, with_indices=True)
    images = phantom.map(lambda row, i: {"image": cut if i in (20, 30) else row["image"]}, with_indices=True)
    for rows, expected in ((texts, [17]), (images, [20, 30])):
        with pytest.raises(InputError, match="rows of the train split cannot be read by the model") as error:
            train(make_model(freeze_vision=freeze_vision), processor, rows, tmp_path)
        lines = str(error.value).splitlines()[1:]
        assert [line.partition(":")[0] for line in lines] == [f"  row {rows[i]['id']}" for i in expected]
    with pytest.raises(InputError, match="an answer of up to 500 does not fit the decoder's 128"):
        train(make_model(), processor, phantom, tmp_path, max_new_tokens=500)


def test_gates_are_logged_and_decay_spares_them(make_model, processor, phantom, tmp_path):
    trainer = train(make_model(), processor, phantom, tmp_path, logging_steps=1, max_steps=1)
    logs = trainer.state.log_history[0]
    assert logs["gate_attn_1"] == pytest.approx(trainer.model.cross_attn[1].attn_gate.alpha.tanh().item(), abs=1e-6)
    decayed = trainer.get_decay_parameter_names(trainer.model)
    assert "cross_attn.0.attn.to_q.weight" in decayed
    assert not any(name.startswith("resampler.") or "gate" in name or "norm" in name for name in decayed)


def test_a_loss_that_is_no_number_names_its_rows(make_model, processor, phantom, tmp_path):
    model = make_model()
    with torch.no_grad():
        model.resampler.latents.fill_(torch.nan)
    with pytest.raises(InputError, match="the loss of step 0 is nan; the ids of its rows are in .*not_finite-0.json"):
        train(model, processor, phantom, tmp_path)
    written = json.loads((tmp_path / "not_finite-0.json").read_text())
    assert len(written["row_ids"]) == 8 and set(written["row_ids"]) <= set(phantom["id"])


def test_a_head_that_comes_with_a_later_stage_learns(make_model, processor, phantom, tmp_path):
    make_model().save_pretrained(tmp_path / "first")
    names = class_names(phantom)
    model = FlamingoMedForConditionalGeneration.from_pretrained(tmp_path / "first", id2label=dict(enumerate(names)))
    assert model.config.label2id == {name: i for i, name in enumerate(names)}
    before = model.classifier.out.weight.clone()
    train(model, processor, phantom, tmp_path, max_steps=2)
    assert not torch.equal(model.classifier.out.weight, before)


def test_a_head_for_other_classes_begins_anew(make_model, processor, tmp_path):
    head = {"problem_type": "single_label_classification"}
    first = make_model(id2label={0: "a", 1: "b"}, **head)
    first.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    args = ModelArguments(init_from=str(tmp_path), model=head)
    for classes, goes_on in (("ab", True), ("cd", False)):
        model, _ = continue_from(args, {"label": [[name] for name in classes]})
        assert torch.equal(model.classifier.out.weight, first.classifier.out.weight) == goes_on
        assert [*model.config.label2id] == [*classes]
    with pytest.raises(InputError, match="1 rows of the train split have several classes"):
        continue_from(args, {"label": [["a"], ["a", "b"], None]})


def test_a_part_whose_weights_have_other_names_in_a_checkpoint_goes_on(make_model, processor, phantom, tmp_path):

    model = make_model("dinov2", freeze_vision=False)
    train(model, processor, phantom, tmp_path, max_steps=2, save_strategy="steps", save_steps=2)
    model.cpu()
    assert any(name not in load_file(tmp_path / "checkpoint-2/model.safetensors") for name in model.state_dict())
    other = make_model("dinov2", freeze_vision=False)
    trainer = train(other, processor, phantom, tmp_path / "other", max_steps=1)
    trainer._load_from_checkpoint(str(tmp_path / "checkpoint-2"))
    for name, weight in other.state_dict().items():
        assert torch.equal(weight, model.state_dict()[name]), name


@pytest.mark.slow
def test_weights_split_over_two_processes():
    """FSDP2, see `tests/modeling_flamingo_med/sharded_model.py`."""
    launch = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "-m"]
    output = python(*launch, "tests.modeling_flamingo_med.sharded_model")
    assert "process 0: 49 gradients" in output and "process 1: 49 gradients" in output
