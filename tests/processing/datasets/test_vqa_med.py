"""VQA-Med: the three editions in their archives' layouts, then the counts of the real files of 2019."""

from collections import Counter

import pytest
from PIL import Image

from processing.datasets import FEATURES, class_names, count_unseen, load_split
from processing.errors import InputError


def write(path, *lines, images=(), folder="images", suffix=".jpg"):
    """A text file, and its images in a folder beside it."""
    (path.parent / folder).mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    for name in images:
        Image.new("L", (4, 4), len(name)).save(path.parent / folder / f"{name}{suffix}")


@pytest.fixture
def edition_2019(tmp_path):
    train, validation = tmp_path / "ImageClef-2019-VQA-Med-Training", tmp_path / "ImageClef-2019-VQA-Med-Validation"
    questions = {
        "Modality": "synpic1|is this a t1 weighted image?|no",
        "Plane": "synpic1|which plane?|axial",
        "Organ": "synpic2|which organ  system?|lung, mediastinum,\tpleura",
        "Abnormality": "synpic2|what is abnormal?|sjögren's (avm)",
    }
    write(train / "All_QA_Pairs_train.txt", *questions.values(), images=["synpic1", "synpic2"], folder="Train_images")
    (train / "QAPairsByCategory").mkdir()
    for number, (name, line) in enumerate(questions.items(), start=1):
        (train / "QAPairsByCategory" / f"C{number}_{name}_train.txt").write_text(line, encoding="utf-8")
    write(validation / "All_QA_Pairs_val.txt", "synpic3|which plane?|coronal", images=["synpic3"], folder="Val_images")
    return tmp_path


TEST_2019 = ("synpic4|modality|ct or mri?|CT#ct scan", "synpic5|plane|which plane?|axial")


def test_2019(edition_2019):
    path = edition_2019 / "ImageClef-2019-VQA-Med-Training" / "All_QA_Pairs_train.txt"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n").replace(b"which plane", "which\u2028plane".encode()))
    rows = load_split("vqa_med_2019", "train", str(edition_2019))
    assert rows.features == FEATURES and rows["question"][1] == "which plane?"
    assert rows["question_type"][:] == ["modality", "plane", "organ", "abnormality"]
    assert rows["answer_type"][:] == ["closed", "open", "open", "open"]
    assert rows[2] == {
        "id": "All_QA_Pairs_train-3",
        "image": {
            "path": str(edition_2019 / "ImageClef-2019-VQA-Med-Training" / "Train_images" / "synpic2.jpg"),
            "bytes": None,
        },
        "more_images": [],
        "image_id": "synpic2",
        "question": "which organ system?",
        "answer": "lung, mediastinum, pleura",
        "answers": ["lung, mediastinum, pleura"],
        "answer_type": "open",
        "question_type": "organ",
        "organ": "lung, mediastinum, pleura",
        "label": ["lung, mediastinum, pleura"],
        "boxes": [],
        "group": "synpic2",
    }
    assert rows["organ"][:] == ["", "", "lung, mediastinum, pleura", "lung, mediastinum, pleura"]  # of the image
    names = class_names(rows)
    assert names == ["axial", "lung, mediastinum, pleura", "no", "sjögren's (avm)"]
    assert count_unseen(load_split("vqa_med_2019", "validation", str(edition_2019)), names) == 1
    assert count_unseen(rows, names) == 0


def test_2019_test_file_has_a_category_and_alternatives(edition_2019):
    folder = edition_2019 / "VQAMed2019Test"
    write(folder / "VQAMed2019_Test_Questions_w_Ref_Answers.txt", *TEST_2019, images=["synpic4", "synpic5"])
    rows = load_split("vqa_med_2019", "test", str(edition_2019))
    assert rows["answers"][:] == [["CT", "ct scan"], ["axial"]]
    assert rows["answer"][:] == ["CT", "axial"]
    assert rows["organ"][:] == ["", ""]
    assert rows["label"][:] == [["ct"], ["axial"]]
    assert rows["question_type"][:] == ["modality", "plane"]


def test_2019_test_answers_are_accepted_without_their_parentheses(edition_2019):
    lines = ("synpic4|abnormality|what?|(fungus with) septic emboli#mass", "synpic5|plane|which?|axial (ct)")
    path = edition_2019 / "VQAMed2019Test" / "VQAMed2019_Test_Questions_w_Ref_Answers.txt"
    write(path, *lines, images=["synpic4", "synpic5"])
    rows = load_split("vqa_med_2019", "test", str(edition_2019))
    assert rows["answers"][:] == [["(fungus with) septic emboli", "mass", "septic emboli"], ["axial (ct)", "axial"]]
    assert rows["answer"][:] == ["(fungus with) septic emboli", "axial (ct)"]


@pytest.mark.parametrize(
    "lines", [["synpic4|modality|ct or mri?", "synpic5|plane|which?"], ["synpic4|a?", "synpic5|b?"]]
)
def test_2019_blind_test_file(edition_2019, caplog, lines):
    write(edition_2019 / "t" / "VQAMed2019_Test_Questions.txt", *lines, images=["synpic4", "synpic5"])
    rows = load_split("vqa_med_2019", "test", str(edition_2019))
    assert rows["answers"][:] == [[], []] and rows["label"][:] == [None, None]
    assert rows["answer"][:] == rows["answer_type"][:] == ["", ""]
    assert rows["question"][0] in ("ct or mri?", "a?")
    assert "2 of 2 questions have no answer" in caplog.text


@pytest.fixture
def edition_2020(tmp_path):
    """2020's train and validation sets, which the 2021 edition trains on, and its test set."""
    root = tmp_path / "VQA-Med-2020-Task1-VQAnswering-TrainVal-Sets"
    write(
        root / "VQAMed2020-VQAnswering-TrainingSet" / "VQAnswering_2020_Train_QA_pairs.txt",
        "synpic1|what is abnormal?|cyst",
        "synpic2|is this normal?|no",
        images=["synpic1", "synpic2"],
        folder="VQAnswering_2020_Train_images",
    )
    write(
        root / "VQAMed2020-VQAnswering-ValidationSet" / "VQAnswering_2020_Val_QA_Pairs.txt",
        "synpic3|what is abnormal?|tumour",
        images=["synpic3"],
        folder="VQAnswering_2020_Val_images",
    )
    test = tmp_path / "VQA-TestSet-ReferenceAnswers-VQAMed2020-Task1"
    write(
        test / "VQAMed2020-Task1-VQAnswering-Test-Questions.txt",
        "synpic4|what is abnormal?",
        "synpic5|is this normal?",
        images=["synpic4", "synpic5"],
        folder="Task1-2020-VQAnswering-Test-Images",
    )
    answers = ["synpic5|yes", "synpic4|lipoma|lipoma|fatty tumour"]  # in an order of their own
    write(test / "VQAMed2020-Task1-VQAnswering-Test-ReferenceAnswers.txt", *answers)
    return tmp_path


def test_2020(edition_2020):
    splits = {s: load_split("vqa_med_2020", s, str(edition_2020)) for s in ("train", "validation", "test")}
    assert [len(rows) for rows in splits.values()] == [2, 1, 2]
    assert splits["test"]["answers"][:] == [["lipoma", "fatty tumour"], ["yes"]]
    assert splits["train"]["question_type"][:] == ["abnormality"] * 2
    assert splits["train"]["answer_type"][:] == ["open", "closed"]


def test_2021(edition_2020):
    new = edition_2020 / "VQA-Med-2021-Tasks-1-2-NewValidationSets"
    write(
        new / "VQA-Med-2021-VQAnswering-Task1-New-ValidationSet.txt", "synpic6|what is wrong?|mass", images=["synpic6"]
    )
    test = edition_2020 / "Task1-VQA-2021-TestSet-w-GroundTruth"
    write(test / "Task1-VQA-2021-TestSet-Questions.txt", "synpic7|what is wrong?", images=["synpic7"])
    write(test / "Task1-VQA-2021-TestSet-ReferenceAnswers.txt", "synpic7|a|b|c")
    splits = {s: load_split("vqa_med_2021", s, str(edition_2020)) for s in ("train", "validation", "test")}
    assert splits["train"]["image_id"][:] == ["synpic1", "synpic2", "synpic3"]
    assert splits["validation"]["answer"][:] == ["mass"]
    assert splits["test"]["answers"][:] == [["a", "b", "c"]]
    assert len(set(splits["train"]["id"])) == 3


def test_2021_label_files(tmp_path):
    for split in ("train", "val", "test"):
        write(tmp_path / split / "label.txt", f"{split}1.jpg|what is wrong?|a|b", images=[f"{split}1"], folder=".")
    rows = load_split("vqa_med_2021", "validation", str(tmp_path))
    assert (rows["image_id"][0], rows["answers"][0]) == ("val1", ["a", "b"])
    assert load_split("vqa_med_2021", "train", str(tmp_path))["image_id"][:] == ["train1"]
    assert load_split("vqa_med_2021", "test", str(tmp_path))["image_id"][:] == ["test1"]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["synpic1|q?|a", "synpic1"], "line 2 of .*train.txt is not written image|question|answer"),
        (["synpic1|q?"], "line 1 of .*train.txt has no answer"),
        (["synpic1|q?|"], "line 1 of .*train.txt has no answer"),
        (["|q?|a"], "line 1 of .*train.txt is not written"),
        (["synpic9|q?|a", "synpic1|q?|a"], "1 of 2 images are missing .looked in .*Training., the first is .*synpic9"),
    ],
)
def test_broken_lines(edition_2019, lines, message):
    write(edition_2019 / "ImageClef-2019-VQA-Med-Training" / "All_QA_Pairs_train.txt", *lines)
    with pytest.raises(InputError, match=message.replace("|", r"\|")):
        load_split("vqa_med_2019", "train", str(edition_2019))


def test_other_mistakes(edition_2019, edition_2020, tmp_path):
    path = edition_2019 / "ImageClef-2019-VQA-Med-Training" / "All_QA_Pairs_train.txt"
    path.write_bytes("synpic1|q?|sjögren".encode("latin-1"))
    with pytest.raises(InputError, match="All_QA_Pairs_train.txt cannot be read as UTF-8 text"):
        load_split("vqa_med_2019", "train", str(edition_2019))
    with pytest.raises(InputError, match=r"no \*Test_Questions_w_Ref_Answers.txt or .*or beneath; unpack .* https"):
        load_split("vqa_med_2019", "test", str(edition_2019))
    with pytest.raises(InputError, match="no folder at .*nowhere"):
        load_split("vqa_med_2021", "train", str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match="vqa_med_2020 needs --data_dir"):
        load_split("vqa_med_2020", "train")
    answers = next(edition_2020.rglob("*ReferenceAnswers.txt"))
    answers.write_text("synpic4|a\nsynpic4|b\n")
    with pytest.raises(InputError, match="line 2 of .*ReferenceAnswers.txt answers an image again"):
        load_split("vqa_med_2020", "test", str(edition_2020))


def test_real_2019(shared_data):
    data_dir = str(shared_data / "vqa_med_2019")
    train, validation = (load_split("vqa_med_2019", split, data_dir) for split in ("train", "validation"))
    assert (len(train), len(validation)) == (12792, 2000)
    assert (len(set(train["image_id"])), len(set(validation["image_id"]))) == (3200, 500)
    assert Counter(train["question_type"]) == {"modality": 3200, "plane": 3200, "organ": 3200, "abnormality": 3192}
    assert Counter(validation["question_type"]) == dict.fromkeys(("modality", "plane", "organ", "abnormality"), 500)
    assert Counter(train["answer_type"]) == {"open": 11498, "closed": 1294}
    assert not any("\xa0" in answer for answer in train["answer"])  # 57 lines of the file hold one
    assert all(len(answers) == 1 for answers in train["answers"])
    names = class_names(train)
    assert len(names) == len(set(train["answer"])) == 1551
    assert count_unseen(validation, names) == 155
