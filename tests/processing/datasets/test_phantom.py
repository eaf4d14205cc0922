"""The `phantom` data set: same pixels everywhere, balanced questions, boxes where the findings are."""

import hashlib
from collections import Counter, defaultdict
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageChops

from processing.datasets import FEATURES, load_split, phantom_sheet
from processing.datasets.phantom import VERSION
from processing.datasets.phantom_drawing import draw
from processing.datasets.phantom_patients import sample_scene
from processing.errors import InputError
from tests import ROOT

IMAGES = 200
GOLDEN = {
    ("train", 0): "0fafdb310bcea2b944e3e28bd6d8bcf78d2fb3e06598f569d027fc531b5e919d",
    ("train", 3): "fcedd547acc2eb2d160c6f2a33c94ac81c368e8999756b75294d3433e1ffba60",
    ("train", 6): "b921b9cd88bd7ea6d88250ee87aa8abd5bf91da1c4d750324c53fe808140215e",
    ("validation", 14): "716241984cb46fa57e420a42528a3dc1573e9722b5b34e2978f4a556e821baf8",
    ("test", 5): "12f30bed8e54a141f42b15d8e139ae1e6065b0cca441efbfad6a3e62886128fb",
}


def sha256(pixels: np.ndarray) -> str:
    return hashlib.sha256(pixels.tobytes()).hexdigest()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("phantom")


@pytest.fixture(scope="module")
def rows(folder):
    return load_split("phantom", "test", str(folder), test_images=IMAGES, image_size=64)


@pytest.fixture(scope="module")
def scenes():
    return [sample_scene(0, "test", index) for index in range(40)]


def test_rows(rows):
    assert rows.features == FEATURES
    assert len(set(rows["id"])) == len(rows) > 6 * IMAGES
    assert rows[0]["id"] == "test-00000-0" and rows[0]["group"] == rows[0]["image_id"] == "test-00000"
    for row in rows:
        assert row["answers"] == [row["answer"]]
        assert row["answer_type"] == ("closed" if row["answer"] in ("yes", "no") else "open")
        with Image.open(row["image"]["path"]) as image:
            assert image.mode == "L" and image.size == (64, 64)


@pytest.mark.parametrize("split, index", GOLDEN)
def test_golden_pixels(split, index):
    pixels, _ = draw(sample_scene(0, split, index), 128)
    assert sha256(pixels) == GOLDEN[split, index]


def test_same_rows_again_elsewhere(rows, tmp_path):
    again = load_split("phantom", "test", str(tmp_path), test_images=IMAGES, image_size=64)
    for column in set(FEATURES) - {"image"}:
        assert again[column] == rows[column]
    for first, second in zip(rows["image"], again["image"], strict=True):
        assert sha256(np.asarray(Image.open(first["path"]))) == sha256(np.asarray(Image.open(second["path"])))


def test_splits_and_seeds_share_no_image():
    patients = [(seed, split, i) for seed in (0, 1) for split in ("train", "validation", "test") for i in range(15)]
    assert len({sha256(draw(sample_scene(*patient), 64)[0]) for patient in patients}) == len(patients)


@pytest.mark.parametrize("limit", [3, 8])
def test_only_the_image_tells_the_answer(folder, limit):
    rows = load_split("phantom", "test", str(folder), test_images=IMAGES, image_size=64, questions_per_image=limit)
    answers = defaultdict(Counter)
    for row in rows:
        answers[row["question"]][row["answer"]] += 1
    for question, counts in answers.items():
        assert len(set(counts.values())) == 1 and len(counts) >= 2, question
    assert sum(max(counts.values()) for counts in answers.values()) / len(rows) <= 0.5
    assert max(Counter(rows["image_id"]).values()) <= limit


def test_mixture_of_questions(rows):
    assert 0.55 <= Counter(rows["answer_type"])["closed"] / len(rows) <= 0.65
    assert set(rows["question_type"]) == {"presence", "side", "place", "count", "size", "view", "modality"}


def test_each_image_is_asked_a_question_once(rows):
    asked = Counter(zip(rows["image_id"], rows["question"], strict=True))
    assert max(asked.values()) == 1


def test_boxes_belong_to_the_question(rows):
    for row in rows:
        labels = {box["label"] for box in row["boxes"]}
        assert len(labels) <= 1
        if row["question_type"] == "presence":
            assert bool(labels) == (row["answer"] == "yes")
        elif row["question_type"] == "count":
            assert len(row["boxes"]) == int(row["answer"])
        else:
            assert len(row["boxes"]) == (row["question_type"] in ("side", "place", "size"))


@pytest.mark.parametrize("size", [64, 200])
def test_removing_a_finding_changes_its_box(scenes, size):
    for scene in scenes:
        pixels, boxes = draw(scene, size)
        for finding, (x0, y0, x1, y1) in zip(scene.findings, boxes, strict=True):
            assert 0 <= x0 < x1 <= size and 0 <= y0 < y1 <= size
            others = tuple(other for other in scene.findings if other != finding)
            change = np.abs(pixels.astype(int) - draw(replace(scene, findings=others), size)[0])
            command = change[int(y0) : int(y1), int(x0) : int(x1)]
            assert command.sum() > 0.9 * change.sum() > 0, (scene.view, finding)
            assert command.max() > 25, (scene.view, finding)


def test_left_of_the_patient_is_right_in_the_image(rows):
    seen = Counter()
    for row in rows:
        if row["question_type"] == "side" and row["answer_type"] == "open":
            x0, _, x1, _ = row["boxes"][0]["box"]
            if row["boxes"][0]["label"] == "pacemaker":
                continue  # its lead crosses the midline
            assert ((x0 + x1) / 2 > 32) == (row["answer"] == "left")
            seen[row["boxes"][0]["label"]] += 1
    assert set(seen) == {"effusion", "pneumothorax", "nodule"}


def test_half_drawn_folder_is_ignored(tmp_path):
    options = {"validation_images": 20, "image_size": 64}
    whole = tmp_path / f"v{VERSION}-seed0-validation-20x64px"
    half = tmp_path / f"{whole.name}.part-killed"
    (half / "images").mkdir(parents=True)
    (half / "images" / "00000.png").write_bytes(b"half")
    rows = load_split("phantom", "validation", str(tmp_path), **options)
    assert all(Image.open(image["path"]).size == (64, 64) for image in rows["image"])
    assert sorted(tmp_path.iterdir()) == [whole, half]


@pytest.mark.parametrize(
    "option, value",
    [("image_size", 8), ("image_size", 4096), ("train_images", -1), ("test_images", 0), ("questions_per_image", 0)],
)
def test_bad_options(tmp_path, option, value):
    with pytest.raises(InputError, match=f"{option} of phantom must be a whole number from .* not {value}"):
        load_split("phantom", "train", str(tmp_path), **{option: value})
    assert not any(tmp_path.iterdir())


def test_the_sheet_in_docs_is_what_is_drawn():
    with Image.open(ROOT / "docs" / "phantom_sheet.png") as kept:
        assert np.array_equal(np.asarray(phantom_sheet.draw_sheet()), np.asarray(kept))


def test_the_example_image_is_held_out(tmp_path):
    rows = load_split("phantom", "test", str(tmp_path), test_images=6)
    path = next(row["image"]["path"] for row in rows if row["image_id"] == "test-00005")
    with Image.open(path) as drawn, Image.open(ROOT / "docs/phantom.png") as example:
        assert ImageChops.difference(drawn, example).getbbox() is None
