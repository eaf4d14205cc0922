"""MIMIC-CXR-VQA in its published layout, on the images of the synthetic MIMIC-CXR tree."""

import json

import pytest

from processing.datasets import FEATURES, class_names, load_split
from processing.datasets.mimic_cxr import study_folder
from processing.errors import InputError
from tests.processing.datasets.mimic_cxr_tree import dicom_id, write_tree


def entry(question, answer, **changes):
    return {
        "split": "train",
        "idx": 0,
        "subject_id": "10000001",
        "study_id": "50000001",
        "image_id": dicom_id(2),
        "image_path": f"p10/p10000001/s50000001/{dicom_id(2)}.jpg",
        "question": question,
        "semantic_type": "verify",
        "content_type": "presence",
        "template": "is there any ${category}?",
        "template_program": "program_1",
        "template_arguments": {},
        "answer": answer,
        **changes,
    }


@pytest.fixture
def questions(tmp_path):
    write_tree(tmp_path / "jpg")
    folder = tmp_path / "questions" / "MIMIC-Ext-MIMIC-CXR-VQA" / "dataset"
    folder.mkdir(parents=True)
    entries = [
        entry("Is there any effusion?", ["no"]),
        entry("List all findings.", ["edema", "lung opacity"], semantic_type="query", content_type="attribute"),
        entry("List all devices.", [], semantic_type="query"),
    ]
    (folder / "train.json").write_text(json.dumps(entries))
    (folder / "valid.json").write_text(json.dumps(entries[:1]))
    return tmp_path


def load(tmp_path, split="train"):
    return load_split("mimic_cxr_vqa", split, str(tmp_path / "questions"), images_dir=str(tmp_path / "jpg"))


def test_rows(questions):
    rows = load(questions)
    assert rows.features == FEATURES
    assert rows["answer"][:] == ["no", "edema, lung opacity", "none"]
    assert rows["label"][:] == [["no"], ["edema", "lung opacity"], []]
    assert rows["answer_type"][:] == ["closed", "open", "open"]
    assert rows["question_type"][:] == ["verify", "query", "query"]
    assert (rows[0]["id"], rows[0]["image_id"], rows[0]["group"]) == ("train-0", dicom_id(2), "p10000001")
    path = study_folder(questions / "jpg", "10000001", "50000001") / f"{dicom_id(2)}.jpg"
    assert rows[0]["image"]["path"] == str(path)
    assert class_names(rows) == ["edema", "lung opacity", "no"]
    assert len(load(questions, "validation")) == 1


def test_mistakes(questions):
    path = next(questions.rglob("train.json"))
    with pytest.raises(InputError, match="no test.json of MIMIC-CXR-VQA in .* or three levels beneath"):
        load(questions, "test")
    with pytest.raises(InputError, match="1 of 1 images are missing .looked in .*questions/files"):
        load_split("mimic_cxr_vqa", "train", str(questions / "questions"))
    path.write_text(json.dumps([entry("secret?", "yes")]))
    with pytest.raises(InputError, match="the answer of question 1 in .*train.json is not a list") as error:
        load(questions)
    assert "secret" not in str(error.value)
    path.write_text(json.dumps([{"question": "secret?"}]))
    with pytest.raises(InputError, match="question 1 in .*train.json lacks the key 'subject_id'"):
        load(questions)
