"""Stored image features: each image is encoded once and for all, and training on them is training on pixels."""

import json
import pickle

import pytest
import torch
from transformers import ResNetConfig

from flamingo_med.inference.answering import answer_questions, load_model
from flamingo_med.inference.features import ImageFeatures, fingerprint
from flamingo_med.training.trainer import FlamingoMedTrainer, FlamingoMedTrainingArguments
from modeling_flamingo_med import FlamingoMedForConditionalGeneration
from processing.collator import FlamingoMedCollator
from processing.datasets import load_split
from processing.errors import InputError
from tests.conftest import SMALL, TEXT
from tests.modeling_flamingo_med.damages import DAMAGES, damage
from tests.modeling_flamingo_med.test_generation_flamingo_med import count_calls


@pytest.fixture
def rows(tmp_path):
    folder = str(tmp_path / "phantom")
    return load_split("phantom", "train", folder, train_images=10, image_size=64, questions_per_image=3)


def store(model, processor, rows, root):
    features = ImageFeatures(model, processor, root)
    features.add_rows(model, processor, rows, progress=False)
    return features


def test_same_as_from_pixels(make_model, processor, rows, tmp_path):
    model = make_model()
    features = store(model, processor, rows, tmp_path / "store")
    assert len(features) == len(set(rows["image_id"]))
    for packed in (False, True):
        options = {"answers": True, "packed": packed}
        stored = FlamingoMedCollator(processor, features=features, **options)(list(rows))
        assert "pixel_values" not in stored
        pixels = FlamingoMedCollator(processor, **options)(list(rows))
        torch.testing.assert_close(model(**stored).loss, model(**pixels).loss)
    plain = answer_questions(model, processor, rows, batch_size=7)
    assert [a.text for a in answer_questions(model, processor, rows, features=features)] == [a.text for a in plain]


def test_nothing_is_computed_twice(make_model, processor, rows, tmp_path):
    model = make_model()
    encoded = count_calls(model.vision_encoder)
    store(model, processor, rows, tmp_path / "store")
    assert encoded == [1]  # ten images at once
    again = store(model, processor, rows, tmp_path / "store")
    copies = [{"path": None, "bytes": open(image["path"], "rb").read()} for image in rows["image"]]  # noqa: SIM115
    again.add(model, processor, copies, progress=False)  # the same bytes from elsewhere
    assert encoded == [1]
    worker = pickle.loads(pickle.dumps(again))
    assert torch.equal(worker[rows[0]["image"]], again[copies[0]])
    with pytest.raises(KeyError):
        again[{"path": None, "bytes": b"another image"}]


def test_a_changed_encoder_or_size_is_another_store(make_model, processor, rows, tmp_path):
    model = make_model()
    folders = {ImageFeatures(model, processor, tmp_path).folder}
    with torch.no_grad():
        next(model.vision_encoder.parameters()).add_(1e-3)
    folders.add(ImageFeatures(model, processor, tmp_path).folder)
    folders.add(ImageFeatures(make_model(vision_feature_select="patch"), processor, tmp_path).folder)
    other = pickle.loads(pickle.dumps(processor))
    other.image_processor.size = {"height": 64, "width": 64}
    folders.add(ImageFeatures(make_model(), other, tmp_path).folder)
    assert len(folders) == 4


def test_a_saved_model_finds_what_its_training_has_stored(make_model, processor, tmp_path):
    model = make_model()
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loaded = load_model(str(tmp_path))
    assert fingerprint(*loaded) == fingerprint(model, processor)


def test_two_that_add_at_once_keep_what_the_other_adds(make_model, processor, rows, tmp_path):
    model = make_model()
    first, second = (ImageFeatures(model, processor, tmp_path) for _ in range(2))
    ids = rows.unique("image_id")
    parts = [rows.filter(lambda row, half=half: row["image_id"] in half) for half in (ids[:4], ids[4:])]
    first.add_rows(model, processor, parts[0], progress=False)
    second.add_rows(model, processor, parts[1], progress=False)  # does not know of the first
    both, expected = ImageFeatures(model, processor, tmp_path), store(model, processor, rows, tmp_path / "alone")
    assert len(both) == len(ids)
    for image in rows["image"]:
        torch.testing.assert_close(both[image], expected[image])


def test_a_changed_file_is_encoded_again(make_model, processor, rows, tmp_path):
    model = make_model()
    features = store(model, processor, rows, tmp_path / "store")
    first, other = rows[0]["image"], rows[3]["image"]
    expected = features[other]
    with open(other["path"], "rb") as source, open(first["path"], "wb") as target:
        target.write(source.read())
    assert torch.equal(features[first], expected)


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("name", ["manifest.json", "00000.safetensors"])
def test_what_is_damaged_is_told_and_computed_again(make_model, processor, rows, tmp_path, caplog, name, how):
    model = make_model()
    before = store(model, processor, rows, tmp_path / "store")
    expected = [before[image].clone() for image in rows["image"]]
    damage(before.folder / name, how)
    encoded = count_calls(model.vision_encoder)
    after = store(model, processor, rows, tmp_path / "store")
    assert str(before.folder / name) in caplog.text and "computed again" in caplog.text and encoded == [1]
    for image, features in zip(rows["image"], expected, strict=True):
        torch.testing.assert_close(after[image], features)
    caplog.clear()
    store(model, processor, rows, tmp_path / "store")
    assert not caplog.text and encoded == [1]  # all is well again


def test_an_older_folder_is_used_with_a_notice(make_model, processor, rows, tmp_path, caplog):
    model = make_model()
    before = store(model, processor, rows, tmp_path / "store")
    (before.folder / "manifest.json").unlink()
    index = {"index": before.index, "contents": before.contents}
    (before.folder / "index.json").write_text(json.dumps(index))
    encoded = count_calls(model.vision_encoder)
    store(model, processor, rows, tmp_path / "store")
    assert "has no manifest.json" in caplog.text and encoded == [0]
    damage(before.folder / "index.json", "cut")
    store(model, processor, rows, tmp_path / "store")
    assert f"{before.folder} cannot be used" in caplog.text and encoded == [1]


def test_a_folder_that_cannot_be_written_to_is_named(make_model, processor, rows, tmp_path):
    (tmp_path / "store").write_text("")
    with pytest.raises(InputError, match=f"the image features cannot be written to {tmp_path / 'store'}"):
        store(make_model(), processor, rows, tmp_path / "store")


def test_batch_norm_of_a_new_encoder_does_not_mix_images(processor, rows, tmp_path):
    encoder = ResNetConfig(embedding_size=8, hidden_sizes=[8, 32], depths=[1, 1], layer_type="basic")
    model = FlamingoMedForConditionalGeneration.from_vision_text_pretrained(
        encoder, TEXT["gpt2"], **processor.token_ids, **SMALL
    )
    before = {name: buffer.clone() for name, buffer in model.vision_encoder.named_buffers()}
    features = store(model, processor, rows, tmp_path / "store")
    alone = store(model, processor, rows.select([0]), tmp_path / "alone")
    torch.testing.assert_close(features[rows[0]["image"]], alone[rows[0]["image"]], rtol=1e-4, atol=1e-5)
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.vision_encoder.named_buffers())


@pytest.mark.parametrize("augmentation", [{}, {"rotation": 5}])
def test_trainer_uses_them_where_it_may(make_model, processor, rows, tmp_path, own_cache, augmentation):
    losses = []
    for store_features in (True, False):
        model = make_model()
        encoded = count_calls(model.vision_encoder)
        args = FlamingoMedTrainingArguments(
            output_dir=str(tmp_path),
            report_to="none",
            use_cpu=True,
            disable_tqdm=True,
            save_strategy="no",
            max_steps=4,
            logging_steps=1,
            per_device_train_batch_size=8,
            store_features=store_features,
            augmentation=augmentation,
        )
        trainer = FlamingoMedTrainer(model, args, processor, train_dataset=rows, eval_dataset=rows.select(range(6)))
        trainer.train()
        trainer.evaluate()
        losses.append([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
        if store_features and not augmentation:
            assert encoded == [3]  # one image of each data set, to see whether it fits, and then all
        else:
            assert encoded[0] >= 6
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert FlamingoMedTrainer(make_model(freeze_vision=False), args, processor, train_dataset=rows).features is None
