"""The published data sets in their published layouts, on tiny imitations; and VQA-Med 2019's real counts."""

import csv
import io
import json
import zipfile
from collections import Counter

import datasets
import pytest
from PIL import Image

from processing.datasets import FEATURES, REGISTRY, class_names, count_unseen, load_split
from processing.errors import InputError


def picture(path, number=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (number, 0, 0)).save(path)


def rows_of(name, split, folder, **options):
    rows = load_split(name, split, str(folder), **options)
    assert rows.features == FEATURES
    return list(rows)


@pytest.fixture
def vqa_med_2019(tmp_path):
    """Training, validation and test archive, as unpacked."""
    train = tmp_path / "ImageClef-2019-VQA-Med-Training"
    test = tmp_path / "VQAMed2019Test"
    for number in range(1, 4):
        picture(train / "Train_images" / f"synpic{number}.jpg", number)
    picture(test / "VQAMed2019_Test_Images" / "synpic9.jpg", 9)
    (train / "train_ImageIDs.txt").write_text("synpic1\nsynpic2\nsynpic3\n")
    lines = [
        "synpic1|what plane is this?|axial",
        "synpic1|is this a ct scan?|yes",
        "synpic2|what is abnormal?|côté | ",
    ]
    (train / "All_QA_Pairs_train.txt").write_text("\n".join([*lines, ""]), encoding="utf-8")
    (train / "QAPairsByCategory").mkdir()
    for name, line in zip(("C2_Plane_train", "C1_Modality_train", "C4_Abnormality_train"), lines, strict=True):
        (train / "QAPairsByCategory" / f"{name}.txt").write_text(line + "\n", encoding="utf-8")
    (test / "VQAMed2019_Test_Questions.txt").write_text("synpic9|organ|which organ?\n")
    (test / "VQAMed2019_Test_Questions_w_Ref_Answers.txt").write_text(
        "synpic9|organ|which organ?|lung, mediastinum#lung\nsynpic9|modality|is it ct?|no\n"
    )
    return tmp_path


def test_vqa_med_2019(vqa_med_2019):
    first, second, third = rows_of("vqa_med_2019", "train", vqa_med_2019)
    assert (first["id"], second["id"], first["image_id"]) == ("synpic1-1", "synpic1-2", "synpic1")
    assert [row["question_type"] for row in (first, second, third)] == ["plane", "modality", "abnormality"]
    assert (first["answer_type"], second["answer_type"]) == ("open", "closed")
    assert (third["answer"], third["answers"], third["label"]) == ("côté", ["côté"], ["côté"])
    organ, modality = rows_of("vqa_med_2019", "test", vqa_med_2019)  # the file with answers, not the blind one
    assert (organ["question_type"], organ["answers"]) == ("organ", ["lung, mediastinum", "lung"])
    assert (modality["question"], modality["answers"]) == ("is it ct?", ["no"])
    with pytest.raises(InputError, match="vqa_med_2019 needs one question file of the validation split .* found none"):
        load_split("vqa_med_2019", "validation", str(vqa_med_2019))


def test_classes_come_from_train_only(vqa_med_2019):
    train = load_split("vqa_med_2019", "train", str(vqa_med_2019))
    test = load_split("vqa_med_2019", "test", str(vqa_med_2019))
    assert class_names(train) == ["axial", "côté", "yes"]
    assert count_unseen(test, class_names(train)) == 2
    assert [row["answer"] for row in test] == ["lung, mediastinum", "no"]  # kept, to be generated


def test_vqa_med_blind_test(vqa_med_2019):
    (vqa_med_2019 / "VQAMed2019Test" / "VQAMed2019_Test_Questions_w_Ref_Answers.txt").unlink()
    (row,) = rows_of("vqa_med_2019", "test", vqa_med_2019)
    assert (row["question"], row["answer"], row["answers"], row["label"]) == ("which organ?", "", [], [])


def test_vqa_med_2021(tmp_path):
    for number in range(1, 4):
        picture(tmp_path / "images" / f"synpic{number}.jpg")
    (tmp_path / "Train").mkdir()
    (tmp_path / "Train" / "label.txt").write_text("synpic1|what is abnormal?|a cyst (renal)|renal cyst\n")
    (tmp_path / "Task1-VQA-2021-TestSet-Questions.txt").write_text("synpic2|what is wrong?\nsynpic3|and here?\n")
    (tmp_path / "Task1-VQA-2021-TestSet-ReferenceAnswers.txt").write_text("synpic2|mass|tumor\nsynpic3|gout\n")
    (row,) = rows_of("vqa_med_2021", "train", tmp_path)
    assert (row["answers"], row["question_type"]) == (["a cyst (renal)", "renal cyst"], "abnormality")
    assert [row["answers"] for row in rows_of("vqa_med_2021", "test", tmp_path)] == [["mass", "tumor"], ["gout"]]
    assert rows_of("vqa_med_2020", "train", tmp_path)[0]["answer"] == "a cyst (renal)"


def test_vqa_med_mistakes(vqa_med_2019, tmp_path_factory):
    path = vqa_med_2019 / "ImageClef-2019-VQA-Med-Training" / "All_QA_Pairs_train.txt"
    for line, message in (
        ("synpic1|what?|a\nsynpic1", r"line 2 of .* is not `image id\|question\|answer`: it has 1 fields"),
        ("synpic77|what?|a", "line 1 of .* is about synpic77, but .* has no such image"),
    ):
        path.write_text(line)
        with pytest.raises(InputError, match=message):
            load_split("vqa_med_2019", "train", str(vqa_med_2019))
    with pytest.raises(InputError, match="vqa_med_2019 needs a data_dir: get it from https://zenodo.org"):
        load_split("vqa_med_2019", "train")
    with pytest.raises(InputError, match=r"holds no \*.txt; get it from https://github.com/abachaa/VQA-Med-2020"):
        load_split("vqa_med_2020", "train", str(tmp_path_factory.mktemp("empty")))


def test_vqa_med_2019_real_counts(shared_data):
    folder = str(shared_data / "vqa_med_2019")
    for split, count, images in (("train", 12792, 3200), ("validation", 2000, 500)):
        rows = load_split("vqa_med_2019", split, folder)
        assert (len(rows), len(set(rows["image_id"]))) == (count, images)
        assert len(set(rows["id"])) == count
        assert set(Counter(rows["question_type"])) == {"modality", "plane", "organ", "abnormality"}


@pytest.mark.parametrize("zipped", [False, True])
def test_slake(tmp_path, monkeypatch, zipped):
    monkeypatch.setattr(datasets.config, "EXTRACTED_DATASETS_PATH", str(tmp_path / "cache"))
    picture(tmp_path / "imgs" / "xmlab1" / "source.jpg")
    (tmp_path / "imgs" / "xmlab1" / "detection.json").write_text('[{"Liver": [1, 2, 3, 4]}, {"Spleen": [0, 0, 2, 2]}]')
    entry = {
        "img_name": "xmlab1/source.jpg",
        "answer_type": "OPEN",
        "content_type": "Position",
        "qid": 7,
        "q_lang": "en",
    }
    questions = [
        {**entry, "question": "Which organ is left of the liver? ", "answer": "Stomach"},
        {**entry, "question": "左边是什么?", "answer": "胃", "q_lang": "zh"},
    ]
    for name in ("train.json", "validate.json", "test.json"):
        (tmp_path / name).write_text(json.dumps(questions), encoding="utf-8")
    if zipped:
        with zipfile.ZipFile(tmp_path / "imgs.zip", "w") as archive:
            for path in sorted((tmp_path / "imgs").rglob("*.*")):
                archive.write(path, path.relative_to(tmp_path))
                path.unlink()
        (tmp_path / "imgs" / "xmlab1").rmdir()
        (tmp_path / "imgs").rmdir()
    (row,) = rows_of("slake", "validation", tmp_path)
    assert (row["id"], row["image_id"], row["question_type"]) == ("7", "xmlab1", "position")
    assert row["boxes"] == [{"label": "Liver", "box": [1, 2, 4, 6]}]
    (tmp_path / "train.json").write_text('[{"q_lang": "en"}]')
    with pytest.raises(InputError, match="a question in .*train.json lacks the key"):
        load_split("slake", "train", str(tmp_path))


def test_path_vqa(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, "JPEG")
    schema = datasets.Features(
        {"image": datasets.Image(), "question": datasets.Value("string"), "answer": datasets.Value("string")}
    )
    (tmp_path / "copy" / "data").mkdir(parents=True)
    for split in ("train", "validation", "test"):
        image = {"path": None, "bytes": buffer.getvalue()}
        columns = {"image": [image], "question": [f"is it {split}?"], "answer": ["yes"]}
        path = tmp_path / "copy" / "data" / f"{split}-00000-of-00001.parquet"
        datasets.Dataset.from_dict(columns, features=schema).to_parquet(path)
    (row,) = rows_of("path_vqa", "test", tmp_path / "copy")
    assert (row["question"], row["answer_type"], row["id"]) == ("is it test?", "closed", "test-0")


@pytest.mark.parametrize("version", [1, 2])
def test_pmc_vqa(tmp_path, version):
    suffix = "" if version == 1 else "_2"
    header = ["Figure_path", "Caption", "Question", "Choice A", "Choice B", "Choice C", "Choice D", "Answer"]
    for part, count in (("train", 10), ("test", 1)):
        with (tmp_path / f"{part}{suffix}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(header)
            for number in range(count):
                picture(tmp_path / "figures" / f"PMC1_{part}{number}.jpg")
                choices = [" A:a nerve ", " B:a vein", "C:an artery", "D: both"]
                writer.writerow(
                    [
                        f"PMC1_{part}{number}.jpg",
                        "caption",
                        "What is shown?",
                        *choices,
                        "a vein" if version == 1 else "B",
                    ]
                )
    (row,) = rows_of("pmc_vqa", "test", tmp_path, version=version)
    assert (row["answer"], row["question_type"], row["label"]) == ("a vein", "multiple choice", [])
    parts = [
        rows_of("pmc_vqa", part, tmp_path, version=version, validation_fraction=0.2)
        for part in ("train", "validation")
    ]
    assert [len(part) for part in parts] == [8, 2]
    assert not {row["image_id"] for row in parts[0]} & {row["image_id"] for row in parts[1]}


def test_mimic_cxr_vqa(tmp_path):
    picture(tmp_path / "jpg" / "p10" / "p10000032" / "s50414267" / "a1.jpg")
    entry = {
        "split": "train",
        "idx": 0,
        "subject_id": 10000032,
        "study_id": 50414267,
        "image_id": "a1",
        "image_path": "p10/p10000032/s50414267/a1.jpg",
        "question": "Is there an effusion?",
        "semantic_type": "verify",
        "content_type": "presence",
        "template": "Is there ${attribute}?",
        "answer": ["no"],
    }
    several = {**entry, "idx": 1, "semantic_type": "query", "answer": ["effusion", "edema"]}
    nothing = {**several, "idx": 2, "answer": []}
    (tmp_path / "dataset").mkdir()
    (tmp_path / "dataset" / "train.json").write_text(json.dumps([entry, several, nothing]))
    first, second, third = rows_of("mimic_cxr_vqa", "train", tmp_path, images_dir=str(tmp_path / "jpg"))
    assert (first["id"], first["answer_type"], first["group"], first["label"]) == (
        "train-0",
        "closed",
        "10000032",
        ["no"],
    )
    assert (second["answer"], second["label"], second["answer_type"]) == (
        "effusion, edema",
        ["effusion", "edema"],
        "open",
    )
    assert (third["answer"], third["label"]) == ("none", [])
    with pytest.raises(InputError, match="1 of 1 images are missing, the first is .*files/p10"):
        load_split("mimic_cxr_vqa", "train", str(tmp_path))


@pytest.mark.parametrize("name", sorted(set(REGISTRY) - {"phantom"}))
def test_nothing_there(name, tmp_path):
    with pytest.raises(InputError, match=r"holds no|does not load"):
        load_split(name, "train", str(tmp_path))
