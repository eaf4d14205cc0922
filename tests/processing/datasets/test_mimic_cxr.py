"""MIMIC-CXR on a synthetic tree in PhysioNet's layout: sections, views, labels, what is dropped."""

import shutil

import pytest

from processing.datasets import FEATURES, SPLITS, class_names, load_split
from processing.datasets.mimic_cxr import LABELS, read_sections, study_folder
from processing.errors import InputError
from processing.images import read_image
from tests.processing.datasets.mimic_cxr_tree import STUDIES, dicom_id, write_table, write_tree


@pytest.fixture
def tree(tmp_path):
    return write_tree(tmp_path / "mimic")


def load(tree, split="train", **options):
    return load_split("mimic_cxr", split, str(tree), **options)


def test_a_row(tree):
    rows = load(tree)
    assert rows.features == FEATURES
    path = study_folder(tree, "10000001", "50000001") / f"{dicom_id(2)}.jpg"
    assert rows[0] == {
        "id": dicom_id(2),
        "image": {"path": str(path), "bytes": None},
        "more_images": [],
        "image_id": dicom_id(2),
        "question": "",
        "answer": "The lungs are clear. No effusion or pneumothorax since ___.",
        "answers": ["The lungs are clear. No effusion or pneumothorax since ___."],
        "answer_type": "open",
        "question_type": "report",
        "label": ["No Finding"],
        "boxes": [],
        "organ": "",
        "group": "p10000001",
    }
    assert read_image(rows[0]["image"]).size == (8, 8)
    assert str(path).endswith("files/p10/p10000001/s50000001/00000002-00000002-00000002-00000002-00000002.jpg")


@pytest.mark.parametrize(
    ("options", "ids", "dropped"),
    [
        ({}, [2, 4, 3], "5 of 7 excluded (3 without findings, 2 without a frontal image)"),
        (
            {"sections": "impression"},
            [2, 4, 3, 6],
            "4 of 7 excluded (2 without impression, 2 without a frontal image)",
        ),
        (
            {"sections": "both"},
            [2, 4, 3],
            "5 of 7 excluded (1 without findings, 2 without findings and impression, 2 without a frontal image)",
        ),
    ],
)
def test_sections(tree, caplog, options, ids, dropped):
    assert load(tree, **options)["id"][:] == [dicom_id(number) for number in ids]
    assert f"mimic_cxr train, studies: {dropped}" in caplog.text


def test_both_sections_stand_under_their_headings(tree):
    answers = load(tree, sections="both")["answer"]
    assert answers[1] == "FINDINGS: Small left effusion. IMPRESSION: 1. Effusion. 2. Naïve, 37°C."


def test_a_study_is_one_row_with_a_frontal_and_a_lateral_image(tree):
    rows = load(tree, views="study")
    assert rows["id"][:] == rows["image_id"][:] == ["s50000001", "s50000002"]
    names = [[image["path"][-40:-4][-8:] for image in (row["image"], *row["more_images"])] for row in rows]
    assert names == [["00000002", "00000001"], ["00000004", "00000005"]]  # PA before AP, then the lateral one
    assert load(tree, "test", views="study")[0]["more_images"] == []


def test_labels(tree):
    assert load(tree)["label"][:] == [["No Finding"], *[["Pleural Effusion", "Support Devices"]] * 2]
    positive = load(tree, uncertain="positive")
    assert positive["label"][1] == ["Edema", "Pleural Effusion", "Support Devices"]
    assert class_names(positive) == ["Edema", "No Finding", "Pleural Effusion", "Support Devices"]
    assert load(tree, sections="impression")["label"][3] is None  # not []: nobody labelled it


def test_official_split_by_patient(tree):
    splits = {split: load(tree, split) for split in SPLITS}
    assert [len(rows) for rows in splits.values()] == [3, 1, 1]
    assert splits["validation"]["answer"][:] == ["Final text."]
    groups = [set(rows["group"]) for rows in splits.values()]
    assert sum(map(len, groups)) == len(set.union(*groups))


def test_reports_in_a_folder_of_their_own(tree, tmp_path):
    for study in STUDIES:
        path = study_folder(tree, study.subject, study.study).with_suffix(".txt")
        moved = tmp_path / "reports" / path.relative_to(tree)
        moved.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(path, moved)
    assert len(load(tree, reports_dir=str(tmp_path / "reports"))) == 3
    with pytest.raises(InputError, match=r"s50000001\.txt cannot be read"):
        load(tree)


@pytest.mark.parametrize(
    ("report", "sections"),
    [
        (FULL := STUDIES[0].report, {"findings", "impression"}),
        ("", set()),
        ("No headings at all.", set()),
        ("FINDINGS AND IMPRESSION: Clear.", {"findings"}),
        ("CONCLUSION:\nClear.", {"impression"}),
        ("The FINDINGS: are not at the start of a line.", set()),
        ("FINDINGS: \r\n Clear.\r\nIMPRESSION: ___", {"findings"}),
    ],
)
def test_read_sections(report, sections):
    assert set(read_sections(report)) == sections


def test_the_findings_end_where_the_next_heading_starts():
    assert read_sections(FULL)["findings"].endswith("since ___.")
    assert read_sections("FINDINGS: Clear.\nRECOMMENDATION(S): None.") == {"findings": "Clear."}


def test_reports_are_never_printed_or_logged(tree, capsys, caplog):
    for options in ({}, {"sections": "both"}, {"views": "study"}):
        load(tree, **options)
    study_folder(tree, "11000004", "50000006").with_suffix(".txt").write_bytes(b"secret \xff\xfe words")
    with pytest.raises(InputError) as error:
        load(tree)
    said = capsys.readouterr()
    text = said.out + said.err + caplog.text + str(error.value)
    assert "UTF-8" in text
    assert not any(word in text for word in ("lungs", "effusion", "Effusion", "secret", "Unchanged"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sections": "finding"}, "did you mean findings"),
        ({"views": "lateral"}, "known: frontal, study"),
        ({"uncertain": "negativ"}, "did you mean negative"),
        ({"reports_dir": "nowhere"}, "no folder at nowhere"),
    ],
)
def test_wrong_options(tree, options, message):
    with pytest.raises(InputError, match=message):
        load(tree, **options)


def test_what_is_missing_is_named(tree):
    with pytest.raises(InputError, match="mimic_cxr needs --data_dir"):
        load_split("mimic_cxr", "train")
    image = study_folder(tree, "10000001", "50000001") / f"{dicom_id(2)}.jpg"
    image.unlink()
    with pytest.raises(InputError, match="1 of 3 images are missing, the first is .*00000002.jpg"):
        load(tree)
    write_table(tree, "chexpert", [["1", "2", *["1"] * len(LABELS)]], ["subject_id", "study_id", *LABELS])
    with pytest.raises(InputError, match="a CheXpert label of Atelectasis in .* is '1'; known: 1.0"):
        load(tree)
    write_table(tree, "chexpert", [["1", "2"]], "subject_id study_id")
    with pytest.raises(InputError, match=r"chexpert\.csv\.gz has no column 'Atelectasis'"):
        load(tree)
    table = tree / "mimic-cxr-2.0.0-split.csv.gz"
    header, body = table.read_bytes()[:10], table.read_bytes()[10:]
    for damaged in (b"not gzip", header + bytes(255 - byte for byte in body)):
        table.write_bytes(damaged)
        with pytest.raises(InputError, match=r"split\.csv\.gz cannot be read"):
            load(tree)
    table.unlink()
    with pytest.raises(InputError, match=r"no table mimic-cxr-\*-split\.csv\.gz or .* in .*mimic"):
        load(tree)
