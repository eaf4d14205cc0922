"""Normalised exact match and token F1: each rule's awkward case, worked out by hand."""

import pytest

from flamingo_med.metrics.normalized_match import NormalizedMatch, normalize, score


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The Left  lung.", "left lung"),
        ("a nodule", "nodule"),
        ("hepatitis A", "hepatitis a"),  # a name, not an article
        ("an aneurysm of the aorta", "aneurysm of aorta"),
        ("A", "a"),
        ("the", ""),
        ("none", "0"),
        ("None of the above", "0 of above"),
        ("two", "2"),
        ("one-sided", "1 sided"),
        ("1,000 mL", "1000 ml"),
        ("1,000,000", "1000000"),
        ("1,5", "1 5"),  # no thousands
        ("left,right", "left right"),
        ("2.5 cm.", "2.5 cm"),
        ("< 5 mm", "< 5 mm"),
        ("FLAIR+", "flair+"),
        ("Crohn's", "crohns"),
        ("Crohn’s", "crohns"),
        ("x-ray/CT", "x ray ct"),
        ("“big”…", "big"),
        ("5 µm", "5 μm"),  # the keyboard's sign becomes the letter
        ("Ödem", "ödem"),
        ("胸水。", "胸水"),
        ("?!", ""),
        ("", ""),
    ],
)
def test_normalize(text, normal):
    assert normalize(text) == normal
    assert normalize(normal) == normal


@pytest.mark.parametrize(
    ("prediction", "references", "exact", "f1"),
    [
        ("The left lung.", "left lung", 1.0, 1.0),
        ("left lung", "right lung", 0.0, 0.5),
        ("in the left lung", "left lung", 0.0, 0.8),  # 2 of 3 and 2 of 2
        ("lung lung", "lung", 0.0, 2 / 3),  # repetition costs
        ("yes", "no", 0.0, 0.0),
        ("", "", 1.0, 1.0),
        ("the", "?", 1.0, 1.0),  # empty after normalisation
        ("", "no", 0.0, 0.0),
        ("no", "", 0.0, 0.0),
        ("none", ["0", "nothing"], 1.0, 1.0),
        ("left lung", ["lung", "left upper lung"], 0.0, 0.8),  # 2/3 of the one, 4/5 of the other
        ("left lung", [], 0.0, 0.0),
        ("hepatitis", "hepatitis A", 0.0, 2 / 3),
    ],
)
def test_score(prediction, references, exact, f1):
    assert score(prediction, references) == {"normalized_exact_match": exact, "token_f1": pytest.approx(f1)}


def test_metric_is_the_mean_over_rows(tmp_path):
    found = NormalizedMatch(cache_dir=str(tmp_path)).compute(
        predictions=["the lung", "left lung"], references=[["lung"], ["right lung", "heart"]]
    )
    assert found == {"normalized_exact_match": 0.5, "token_f1": 0.75}
