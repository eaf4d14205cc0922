"""MIMIC-CXR on a synthetic tree in PhysioNet's layout: sections, views, labels, what is left out and counted."""

import pytest

from processing.collator import FlamingoMedCollator
from processing.datasets import FEATURES, class_names, load_split
from processing.datasets.mimic_cxr import read_section
from processing.errors import InputError
from tests.mimic_cxr_tree import JOINT, REPORT, write_tree


@pytest.fixture
def tree(tmp_path):
    return write_tree(tmp_path)


def by_id(rows):
    return {row["id"]: row for row in rows}


def test_frontal_images_with_findings(tree, caplog):
    rows = load_split("mimic_cxr", "train", str(tree))
    assert rows.features == FEATURES
    assert list(by_id(rows)) == ["a1", "b2", "b1", "f1"]  # PA before AP; no lateral; none without findings
    first = by_id(rows)["a1"]
    assert first["image"]["path"] == str(tree / "files/p10/p10000032/s50414267/a1.jpg")
    assert (first["question"], first["answer"]) == ("", "There is no effusion. Heart: normal.")
    assert (first["group"], first["question_type"], first["more_images"]) == ("10000032", "report", [])
    assert by_id(rows)["b1"]["answer"] == "Größe des Herzens: normal, 心."
    assert by_id(rows)["f1"]["answer"] == "The lungs are clear."
    assert (
        "mimic_cxr train: left out 3 of 6: 1 studies without a frontal image, 2 studies without findings"
        in caplog.text
    )
    assert "effusion" not in caplog.text  # no report text in logs
    assert len(load_split("mimic_cxr", "validation", str(tree))) == 1
    assert [row["id"] for row in load_split("mimic_cxr", "test", str(tree))] == ["h2"]


def test_sections(tree):
    answers = {row["id"]: row["answer"] for row in load_split("mimic_cxr", "train", str(tree), sections="impression")}
    assert answers == {"a1": "No acute process.", "d1": "Small left effusion.", "f1": "The lungs are clear."}
    both = {row["id"]: row["answer"] for row in load_split("mimic_cxr", "train", str(tree), sections="both")}
    assert both["a1"] == "There is no effusion. Heart: normal. No acute process."
    assert both["f1"] == "The lungs are clear."
    assert both["d1"] == "Small left effusion."
    assert read_section(REPORT.format(findings="a: b", impression="c"), "findings") == "a: b"
    assert read_section("no headings at all", "both") == ""
    assert read_section(JOINT, "findings") == read_section(JOINT, "impression")


def test_studies(tree, processor, make_model):
    rows = load_split("mimic_cxr", "train", str(tree), views="study")
    views = {row["id"]: [row["image_id"], *(image["path"][-6:-4] for image in row["more_images"])] for row in rows}
    assert views == {"50414267": ["a1", "a2"], "53189527": ["b2", "b3"], "50578979": ["f1"]}
    batch = FlamingoMedCollator(processor, answers=True)(list(rows))
    assert batch["pixel_values"].shape == (3, 1, 2, 3, 32, 32)
    assert batch["frame_mask"].tolist() == [[[True, True]], [[True, True]], [[True, False]]]
    make_model(resampler_max_frames=2)(**batch).loss.backward()


def test_labels(tree):
    labels = {row["id"]: row["label"] for row in load_split("mimic_cxr", "train", str(tree))}
    assert labels == {"a1": ["No Finding"], "b1": ["Atelectasis"], "b2": ["Atelectasis"], "f1": []}
    rows = load_split("mimic_cxr", "train", str(tree), uncertain="positive")
    assert by_id(rows)["b1"]["label"] == ["Atelectasis", "Cardiomegaly"]
    assert class_names(rows) == ["Atelectasis", "Cardiomegaly", "No Finding"]


def test_mistakes(tree, tmp_path_factory):
    for options, message in (
        ({"sections": "finding"}, "unknown sections 'finding' of mimic_cxr; did you mean findings?"),
        ({"views": "lateral"}, "unknown views 'lateral'"),
        ({"uncertain": "ignore"}, "unknown uncertain 'ignore'"),
        ({"reports_dir": "nowhere"}, "there is no report nowhere/files/p10/p10000032/s50414267.txt"),
    ):
        with pytest.raises(InputError, match=message):
            load_split("mimic_cxr", "train", str(tree), **options)
    with pytest.raises(InputError, match=r"holds no \*split.csv\*; get access at https://physionet.org"):
        load_split("mimic_cxr", "train", str(tmp_path_factory.mktemp("empty")))
    (tree / "files/p10/p10000032/s50414267/a1.jpg").unlink()
    with pytest.raises(InputError, match="1 of 4 images are missing, the first is .*a1.jpg"):
        load_split("mimic_cxr", "train", str(tree))
