"""PathVQA in its Hub schema: rows, and images that stay in their files."""

from pathlib import Path

import datasets
import pytest

from processing.datasets import FEATURES, SPLITS, load_split
from processing.errors import InputError
from processing.images import read_image
from tests.processing.datasets.hub_copy import write_hub_copy


@pytest.fixture
def hub_copy(tmp_path):
    questions, answers = ("what is\tthis?", "is it a cell?", "is it?"), ("squamous  cells", "yes", "No")
    splits = {
        split: list(zip((number, number, 100), questions, answers, strict=True)) for number, split in enumerate(SPLITS)
    }
    return Path(write_hub_copy(tmp_path / "copy", splits))


def test_rows(hub_copy):
    rows = load_split("path_vqa", "validation", str(hub_copy))
    assert rows.features == FEATURES and rows.column_names == list(FEATURES)
    assert rows["id"][:] == ["validation-0", "validation-1", "validation-2"]
    assert rows["question"][0] == "what is this?"
    assert rows["answer_type"][:] == ["open", "closed", "closed"]
    assert rows["answers"][:] == [["squamous cells"], ["yes"], ["No"]]
    assert rows["image_id"][0] == rows["image_id"][1] != rows["image_id"][2]
    assert rows["group"][:] == rows["image_id"][:]
    assert [read_image(image).getpixel((0, 0)) for image in rows["image"]] == [(1, 0, 0), (1, 0, 0), (100, 0, 0)]
    assert set(load_split("path_vqa", "test", str(hub_copy))["image_id"]) & set(rows["image_id"]) == {
        rows["image_id"][2]
    }


def test_mistakes(hub_copy, tmp_path):
    with pytest.raises(InputError, match="PathVQA not found: .*empty holds no parquet; set data_dir to the Hub id"):
        (tmp_path / "empty").mkdir()
        load_split("path_vqa", "train", str(tmp_path / "empty"))
    path = hub_copy / "test-00000-of-00001.parquet"
    path.unlink()
    with pytest.raises(InputError, match="has no test split with the columns image, question, answer"):
        load_split("path_vqa", "test", str(hub_copy))


def test_a_row_without_an_image(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    schema = datasets.Features(
        {"image": datasets.Image(), "question": datasets.Value("string"), "answer": datasets.Value("string")}
    )
    rows = datasets.Dataset.from_dict({"image": [None], "question": ["a?"], "answer": ["b"]}, features=schema)
    (tmp_path / "copy").mkdir()
    rows.to_parquet(tmp_path / "copy" / "train.parquet")
    with pytest.raises(InputError, match="row train-0 of the PathVQA data set holds no image bytes"):
        load_split("path_vqa", "train", str(tmp_path / "copy"))
