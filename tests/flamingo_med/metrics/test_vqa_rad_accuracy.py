"""VQA-RAD's scores: LLaVA-Med's recall by hand, both groupings, and their sizes in the real test set."""

import pytest

from flamingo_med.metrics.vqa_rad_accuracy import VqaRad, groups, recall, score, words
from processing.datasets import load_split


@pytest.mark.parametrize(
    ("prediction", "reference", "value"),
    [
        ("left lung", "left lung", 1.0),
        ("It is in the left lung, as can be seen.", "left lung", 1.0),  # length costs nothing
        ("the left lung", "right lung", 0.5),
        ("lung lung lung", "right lung", 0.75),  # a shared word counts as often as the prediction says it
        ("lung", "right right lung", 1 / 3),
        ("x-ray", "X ray", 1.0),
        ("1,000", "1000", 1.0),
        ("none", "0", 1.0),
        ("two lesions", "2", 1.0),
        ("the", "a", 0.0),  # both sides empty are no match here
        ("", "", 0.0),
        ("", "lung", 0.0),
        ("Ödem", "ödem", 1.0),
    ],
)
def test_recall(prediction, reference, value):
    assert recall(prediction, reference) == pytest.approx(value)
    assert score(prediction, ["nothing like it", reference])["vqa_rad_recall"] == pytest.approx(value)


def test_words():
    assert words("The T2-weighted, (axial) image.") == ["t2", "weighted", "axial", "image"]
    assert words("T2-weighted - axial") == ["t2weighted", "axial"]


PREDICTIONS = ["Yes", "no", "ct", "left side"]
REFERENCES = ["yes", "yes", "mri", "right side"]
TYPES = ["closed", "open", "closed", "open"]


def test_both_groupings():
    assert groups(REFERENCES, TYPES) == {
        "all": [0, 1, 2, 3],
        "closed": [0, 2],
        "open": [1, 3],
        "yes_no": [0, 1],
        "not_yes_no": [2, 3],
    }
    assert groups([["No ", "none"], ["mri"]]) == {"all": [0, 1], "yes_no": [0], "not_yes_no": [1]}
    assert groups(["mri"], [""]) == {"all": [0], "not_yes_no": [0]}


def test_metric(tmp_path):
    found = VqaRad(cache_dir=str(tmp_path)).compute(predictions=PREDICTIONS, references=REFERENCES, answer_types=TYPES)
    assert found == {
        "accuracy_all": 0.25,
        "accuracy_closed": 0.5,
        "accuracy_open": 0.0,
        "accuracy_yes_no": 0.5,
        "accuracy_not_yes_no": 0.0,
        "recall_open": 0.25,
        "recall_not_yes_no": 0.25,
    }
    found = VqaRad(cache_dir=str(tmp_path)).compute(predictions=["no"], references=[["no"]])
    assert found == {"accuracy_all": 1.0, "accuracy_yes_no": 1.0}
    with pytest.raises(ValueError, match="1 answer types for 4 predictions"):
        VqaRad(cache_dir=str(tmp_path)).compute(predictions=PREDICTIONS, references=REFERENCES, answer_types=["open"])


def test_sizes_of_both_groupings_in_the_official_test_set(shared_data):
    test = load_split("vqa_rad", "test", str(shared_data / "vqa_rad"))
    sizes = {name: len(rows) for name, rows in groups(test["answers"], test["answer_type"]).items()}
    assert sizes == {"all": 451, "closed": 272, "open": 179, "yes_no": 251, "not_yes_no": 200}
