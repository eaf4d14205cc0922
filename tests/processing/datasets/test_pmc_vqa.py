"""PMC-VQA in both versions of its layout: the answer is the right choice's text; validation by image."""

import csv

import pytest
from PIL import Image

from processing.datasets import FEATURES, SPLITS, load_split
from processing.errors import InputError

VERSION_1 = ["Figure_path", "Question", "Answer", "Choice A", "Choice B", "Choice C", "Choice D", "Answer_label"]
VERSION_2 = ["index", "Figure_path", "Caption", "Question", *VERSION_1[3:7], "Answer", "split"]


def write(path, header, *rows):
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def row_1(number, letter="B"):
    choices = [f" A:Diffuse {number}", "B:Focal, uptake", "C: None", "D:Unknown "]
    return [f"PMC{number}_F1.jpg", f"What is the pattern {number}?", "Focal, uptake", *choices, letter]


@pytest.fixture
def pmc(tmp_path):
    (tmp_path / "images").mkdir()
    for number in range(12):
        Image.new("L", (4, 4), number).save(tmp_path / "images" / f"PMC{number}_F1.jpg")
    write(tmp_path / "train.csv", VERSION_1, *(row_1(number) for number in range(10)), row_1(0, "A"))
    write(tmp_path / "test.csv", VERSION_1, row_1(10, "C"))
    write(
        tmp_path / "test_2.csv", VERSION_2, [7, "PMC11_F1.jpg", "A caption.", "Why?", "a", "b", "c", "d", "D", "test"]
    )
    return tmp_path


def test_version_1(pmc):
    rows = load_split("pmc_vqa", "train", str(pmc), validation_fraction=0.0)
    assert rows.features == FEATURES and len(rows) == 11
    assert rows["answer"][:] == ["Focal, uptake"] * 10 + ["Diffuse 0"]
    assert rows[0]["image_id"] == rows[10]["image_id"] == "PMC0_F1"
    assert rows["image"][0]["path"] == str(pmc / "images" / "PMC0_F1.jpg")
    assert load_split("pmc_vqa", "test", str(pmc))["answers"][:] == [["None"]]


def test_version_2(pmc):
    (row,) = load_split("pmc_vqa", "test", str(pmc), version=2)
    assert (row["id"], row["question"], row["answer"], row["image_id"]) == ("test_2-1", "Why?", "d", "PMC11_F1")


def test_choices(pmc):
    (row,) = load_split("pmc_vqa", "test", str(pmc), choices=True)
    assert row["question"] == "What is the pattern 10? A: Diffuse 10 B: Focal, uptake C: None D: Unknown"
    assert row["answers"] == ["None", "C"]


def test_validation_is_carved_by_image(pmc):
    splits = {split: load_split("pmc_vqa", split, str(pmc), validation_fraction=0.3) for split in SPLITS}
    images = {split: set(rows["image_id"]) for split, rows in splits.items()}
    assert [len(images[split]) for split in SPLITS] == [7, 3, 1]
    assert not images["train"] & images["validation"]
    again = load_split("pmc_vqa", "validation", str(pmc), validation_fraction=0.3, seed=1)
    assert set(again["image_id"]) != images["validation"]


def test_mistakes(pmc):
    with pytest.raises(InputError, match="version of pmc_vqa is 1 or 2, not 3"):
        load_split("pmc_vqa", "train", str(pmc), version=3)
    with pytest.raises(InputError, match="no train_2.csv of PMC-VQA in"):
        load_split("pmc_vqa", "train", str(pmc), version=2)
    with pytest.raises(InputError, match="validation_fraction must be at least 0 and below 1"):
        load_split("pmc_vqa", "train", str(pmc), validation_fraction=1.0)
    write(pmc / "test.csv", VERSION_1, row_1(10, "E"))
    with pytest.raises(InputError, match="row test-1 of PMC-VQA has the answer label 'E'; it is one of A, B, C, D"):
        load_split("pmc_vqa", "test", str(pmc))
    write(pmc / "test.csv", VERSION_1, row_1(99))
    with pytest.raises(InputError, match="1 of 1 images are missing .*PMC99_F1.jpg"):
        load_split("pmc_vqa", "test", str(pmc))
    write(pmc / "test.csv", [name.replace("Question", "question") for name in VERSION_1], row_1(10))
    with pytest.raises(InputError, match="test.csv has no column 'Question'; did you mean question"):
        load_split("pmc_vqa", "test", str(pmc))
    write(pmc / "test.csv", VERSION_1)
    with pytest.raises(InputError, match="test.csv holds no rows"):
        load_split("pmc_vqa", "test", str(pmc))
