"""Augmentation: small changes, the same for the same seed, left stays left, and only in training."""

import numpy as np
import pytest
from PIL import Image

from flamingo_med.training.trainer import FlamingoMedTrainer, FlamingoMedTrainingArguments
from processing.augmentation import Augmentation
from processing.collator import FlamingoMedTrainingCollator
from processing.datasets import load_split
from processing.errors import InputError

STRONG = Augmentation(rotation=30, crop=0.3, contrast=0.5, exposure=0.5)


@pytest.fixture
def marked():
    """Grey, with a bright mark at the left and a dark one above it."""
    pixels = np.full((90, 120, 3), 100, np.uint8)
    pixels[35:55, 15:40] = 250
    pixels[5:25, 50:70] = 0
    return Image.fromarray(pixels)


def test_left_stays_left_and_up_stays_up(marked):
    for seed in range(200):
        pixels = np.asarray(STRONG(marked, str(seed))).astype(float)[..., 0]
        bright = pixels > (pixels.max() + np.median(pixels)) / 2
        _, columns = bright.nonzero()
        assert columns.mean() < 55, seed
        middle = pixels[10:80, 45:75]  # without the corners that a rotation leaves black
        dark = middle < np.median(pixels) / 2
        assert not dark.any() or dark.nonzero()[0].mean() < 35, seed


def test_the_same_seed_gives_the_same_image(marked):
    first = STRONG(marked, "0/1/a")
    assert np.array_equal(first, STRONG(marked, "0/1/a"))
    assert first.size == marked.size
    assert not np.array_equal(first, STRONG(marked, "0/2/a"))
    assert np.array_equal(Augmentation()(marked, "0"), marked)


@pytest.mark.parametrize("name", ["rotation", "crop", "contrast", "exposure"])
def test_each_changes_something_alone(marked, name):
    changed = Augmentation(**{name: 0.3 if name != "rotation" else 10})(marked, "seed")
    assert not np.array_equal(changed, marked)


def test_only_in_training(make_model, processor, tmp_path):
    folder = str(tmp_path / "phantom")
    rows = load_split("phantom", "train", folder, train_images=6, image_size=64, questions_per_image=2)
    args = FlamingoMedTrainingArguments(
        output_dir=str(tmp_path),
        report_to="none",
        use_cpu=True,
        augmentation={"rotation": 10, "contrast": 0.2},
        per_device_train_batch_size=len(rows),
        disable_tqdm=True,
        save_strategy="no",
        num_train_epochs=2,
    )
    trainer = FlamingoMedTrainer(make_model(), args, processor, train_dataset=rows, eval_dataset=rows)
    seen = {"train": [], "eval": []}

    def remember(encoder, args):
        seen["train" if trainer.model.training else "eval"].append(args[0].clone())

    trainer.model.vision_encoder.register_forward_pre_hook(remember)
    trainer.train()
    trainer.evaluate()
    plain = trainer.data_collator(list(rows))["pixel_values"].squeeze(1)
    first, second = (np.sort(pixels.sum((1, 2, 3)).numpy()) for pixels in seen["train"])
    assert not np.allclose(first, second)  # another look in every epoch
    for pixels in seen["eval"]:
        for image in pixels:
            assert any(np.allclose(image, other) for other in plain)
    collate = FlamingoMedTrainingCollator(
        processor, augmentation=Augmentation(rotation=10, contrast=0.2), seed=args.seed
    )
    again = np.sort(collate([{**row, "epoch": 1} for row in rows])["pixel_values"].sum((1, 2, 3, 4)).numpy())
    assert np.allclose(again, second)  # whatever came before: resuming changes nothing


@pytest.mark.parametrize(
    ("augmentation", "message"),
    [
        ({"flip": 1}, "unknown setting 'flip'"),
        ({"rotation": 90}, "augmentation.rotation must be from 0 to 30.0, not 90.0"),
        ({"crop": "much"}, "crop is 'much', but must be float"),
    ],
)
def test_mistakes(augmentation, message, tmp_path):
    with pytest.raises(InputError, match=message):
        FlamingoMedTrainingArguments(output_dir=str(tmp_path), augmentation=augmentation)
