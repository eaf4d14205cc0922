"""Augmentation: left stays left, the same under one seed in every process, and none in evaluation."""

import numpy as np
import pytest
import torch
from PIL import Image

from modeling_flamingo_med.sampler import EpochRows, ImageGroupedSampler
from modeling_flamingo_med.trainer import FlamingoMedTrainer, FlamingoMedTrainingArguments
from processing.augmentation import Augmentation
from processing.collator import FlamingoMedCollator, TrainingCollator
from processing.datasets import FEATURES, Dataset
from processing.errors import InputError

STRONGEST = {"rotation": 30, "crop": 0.5, "contrast": 0.9}
USUAL = {"rotation": 7, "crop": 0.1, "contrast": 0.1}


@pytest.fixture
def film() -> Image.Image:
    """Grey, with a red mark left of the middle and a blue one right of it."""
    pixels = np.full((100, 120, 3), 100, np.uint8)
    pixels[45:55, 40:50] = 250, 0, 0
    pixels[45:55, 70:80] = 0, 0, 250
    return Image.fromarray(pixels)


@pytest.mark.parametrize("strength", [{"rotation": 30}, {"crop": 0.5}, {"contrast": 0.9}, STRONGEST])
def test_left_and_right_stay(film, strength):
    change = Augmentation(**strength)
    seen = 0
    for key in range(300):
        red, _, blue = np.moveaxis(np.asarray(change(film, key)).astype(int), -1, 0)
        if (red > blue).any() and (blue > red).any():  # neither is cropped away
            assert np.nonzero(red > blue)[1].mean() < np.nonzero(blue > red)[1].mean()
            seen += 1
    assert seen > 250


def test_each_strength_does_its_own_part(film):
    pixels = np.asarray(film)
    assert np.asarray(Augmentation()(film, "a")).tolist() == pixels.tolist()
    turned = [Augmentation(rotation=30)(film, key) for key in range(20)]
    assert {image.size for image in turned} == {film.size} and all((np.asarray(i) != pixels).any() for i in turned)
    cropped = [Augmentation(crop=0.5)(film, key).size for key in range(200)]
    assert min(cropped) < (65, 55) and max(cropped) > (115, 95)
    assert all(60 <= width <= 120 and 50 <= height <= 100 for width, height in cropped)
    brightness = [np.asarray(Augmentation(contrast=0.5)(film, key)).mean() / pixels.mean() for key in range(200)]
    assert 0.45 < min(brightness) < 0.6 and 1.3 < max(brightness) < 1.55


def test_chance_depends_on_the_key_alone(film):
    change = Augmentation(**USUAL)
    torch.manual_seed(0), np.random.seed(0)
    first = np.asarray(change(film, 0, 1, "a"))
    np.testing.assert_array_equal(first, np.asarray(change(film, 0, 1, "a")))
    for other in ((1, 1, "a"), (0, 2, "a"), (0, 1, "b")):
        again = np.asarray(change(film, *other))
        assert again.shape != first.shape or (again != first).any()
    assert change(film, 0, 1, "a").size == (111, 93)  # on every machine


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rotation": 31}, "rotation of augmentation is 31.0, but must be from 0 to 30"),
        ({"crop": -0.1}, "crop of augmentation is -0.1"),
        ({"contrast": float("nan")}, "contrast of augmentation is nan"),
        ({"contrast": "much"}, "contrast is 'much', but must be float"),
        ({"flip": 0.5}, "unknown setting 'flip'"),
    ],
)
def test_mistakes(tmp_path, settings, message):
    with pytest.raises(InputError, match=message):
        FlamingoMedTrainingArguments(output_dir=str(tmp_path), augmentation=settings, report_to="none")


@pytest.fixture
def rows(film, tmp_path) -> Dataset:
    """Six images with two questions each."""
    film.save(tmp_path / "film.png")
    rows = [
        {
            **dict.fromkeys(FEATURES, ""),
            "id": str(i),
            "image": {"path": str(tmp_path / "film.png"), "bytes": None},
            "image_id": f"image {i // 2}",
            "question": "Is it?",
            "answer": "yes",
            "answers": ["yes"],
            "answer_type": "closed",
            "boxes": [],
        }
        for i in range(12)
    ]
    return Dataset.from_list(rows, features=FEATURES)


def test_each_image_of_a_batch_is_changed_once(processor, rows):
    collate = TrainingCollator(processor, Augmentation(**USUAL), seed=0)
    batch = collate([{**row, "epoch": 3} for row in rows])
    assert batch["pixel_values"].shape[0] == 6
    assert len({tuple(pixels.flatten().tolist()) for pixels in batch["pixel_values"]}) == 6  # each in its own way
    half = collate([{**rows[i], "epoch": 3} for i in (5, 2)])
    assert torch.equal(half["pixel_values"][0], batch["pixel_values"][2])
    plain = TrainingCollator(processor, Augmentation(), seed=0)([{**row, "epoch": 3} for row in rows])
    assert torch.equal(plain["pixel_values"], FlamingoMedCollator(processor, answers=True)(rows)["pixel_values"])


def make_trainer(make_model, processor, rows, folder, **arguments) -> FlamingoMedTrainer:
    args = FlamingoMedTrainingArguments(
        output_dir=str(folder),
        augmentation=USUAL,
        per_device_train_batch_size=4,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        **arguments,
    )
    return FlamingoMedTrainer(make_model(), args, processor, train_dataset=rows, eval_dataset=rows)


def batches(loader, epoch) -> list[torch.Tensor]:
    loader.set_epoch(epoch)
    return [batch["pixel_values"] for batch in loader]


def same(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    return all(a.shape == b.shape and torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_same_seed_same_images_whatever_the_workers(make_model, processor, rows, tmp_path):
    def loader(**arguments):
        return make_trainer(make_model, processor, rows, tmp_path, **arguments).get_train_dataloader()

    alone, workers = loader(), loader(dataloader_num_workers=2, dataloader_persistent_workers=True)
    first, second = batches(alone, 0), batches(alone, 1)
    assert same(first, batches(workers, 0)) and same(second, batches(workers, 1))  # workers that live on see the epoch
    assert same(second, batches(loader(), 1))  # and so does a run that begins in the middle
    assert not same(first, second)
    assert not same(first, batches(loader(seed=1), 0))


def test_evaluation_sees_images_as_they_are(make_model, processor, rows, tmp_path):
    trainer = make_trainer(make_model, processor, rows, tmp_path)
    plain = FlamingoMedCollator(processor, answers=True)(rows)["pixel_values"]
    for batch in trainer.get_eval_dataloader():
        assert all(torch.equal(pixels, plain[0]) for pixels in batch["pixel_values"])
    assert not isinstance(trainer.data_collator, TrainingCollator)
    seen = torch.cat(batches(trainer.get_train_dataloader(), 0))
    assert not any(torch.equal(pixels, plain[0]) for pixels in seen)


def test_rows_carry_the_epoch_of_the_sampler(rows):
    sampler = ImageGroupedSampler(rows["image_id"])
    sampler.set_epoch(7)
    index = next(iter(sampler))
    assert EpochRows(rows)[index] == {**rows[index[0]], "epoch": 7}
