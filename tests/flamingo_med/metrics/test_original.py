"""Scores of the original project: golden values by hand of strings and of small vectors."""

import math

import numpy as np
import pytest

from flamingo_med.metrics.original import Original, bleu1, cosines, embedding_match, exact, score, signature


@pytest.mark.parametrize(
    ("prediction", "reference", "value"),
    [
        ("left lung", "left lung", 1.0),
        ("lung", "lung", 1.0),
        ("left", "left lung", math.exp(-1)),
        ("the left lung", "left lung", 2 / 3),
        ("lung lung", "lung", 0.5),
        ("Left lung", "left lung", 0.5),  # capitals count
        ("lung.", "lung", 0.0),  # so does punctuation
        ("ödem", "ödem", 1.0),
        ("", "", 0.0),  # not computable
        ("", "lung", 0.0),
        ("lung", "", 0.0),
    ],
)
def test_bleu1(prediction, reference, value):
    assert bleu1(prediction, reference) == pytest.approx(value)
    assert score(prediction, [reference, "?"]) == {"original_bleu1": pytest.approx(value)}


def test_exact():
    assert exact(" Yes", ["no", "yes"]) == 1.0
    assert exact("yes.", "yes") == 0.0
    assert exact("", "") == 1.0


PROTOTYPES = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
ANSWERS = ["left lung", "no", "Heart "]


def test_embedding_match():
    vectors = [[5.0, 1.0], [0.1, 0.2], [-3.0, 1.0], [1.0, 0.5], [0.0, 9.0]]
    references = ["lung", "normal", ["liver", "the heart"], "right lung", "yes"]
    # lung is in left lung; no is in normal; heart in the heart; right lung and left lung are not in each other.
    assert embedding_match(vectors, PROTOTYPES, ANSWERS, references) == [1.0, 1.0, 1.0, 0.0, 0.0]


def test_embedding_match_does_not_look_at_lengths():
    assert embedding_match([[0.6, 0.7]], PROTOTYPES * [[100.0], [1.0], [1.0]], ANSWERS, ["no"]) == [1.0]


def test_cosines():
    found = cosines(
        [[1.0, 0.0], [1.0, 1.0], [2.0, 0.0], [0.0, 0.0]], [[3.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [1.0, 0.0]]
    )
    assert found == pytest.approx([1.0, 0.5**0.5, -1.0, 0.0])


def test_metric(tmp_path):
    found = Original(cache_dir=str(tmp_path)).compute(
        predictions=["left lung", "no"],
        references=["Left lung", "yes"],
        prediction_vectors=[[1.0, 0.1], [0.0, 1.0]],
        reference_vectors=[[1.0, 0.1], [1.0, 0.0]],
        prototypes=PROTOTYPES,
        prototype_answers=ANSWERS,
        class_logits=[[0.1, 2.0], [3.0, 0.0]],
        class_labels=[1, 1],
    )
    assert found == {
        "original_exact": 0.5,
        "original_bleu1": 0.25,
        "original_embedding_match": 0.5,
        "original_cosine": pytest.approx(0.5),
        "original_class_accuracy": 0.5,
    }
    assert set(Original(cache_dir=str(tmp_path)).compute(predictions=["a"], references=["a"])) == {
        "original_exact",
        "original_bleu1",
    }


def test_signature_says_what_was_pooled():
    assert signature("original_cosine").endswith("|mean|pool:answer|prototypes:train")
    assert signature("original_cosine", as_original=True).endswith("|pool:prompt+answer|prototypes:evaluated")
    assert signature("original_bleu1", as_original=True) == signature("original_bleu1")
