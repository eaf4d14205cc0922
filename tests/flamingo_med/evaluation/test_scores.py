"""Tidy scores of texts and classes, by hand: which data set gets which, in which subsets, and their intervals."""

import numpy as np
import pytest

from flamingo_med.evaluation.scores import score_classes, score_rows
from flamingo_med.inference.backends import Answer


def row(answer, answer_type="open", image="i", **more):
    return {"answers": [answer] if answer else [], "answer_type": answer_type, "image_id": image, **more}


def test_groups_by_organ():
    rows = [
        {"answers": ["a"], "answer_type": "open", "image_id": str(i), "organ": organ} for i, organ in enumerate("xxy")
    ]
    scores = {s["subset"]: s["value"] for s in score_rows(rows, {"model": ["a", "b", "a"]})}
    assert scores == {"all": pytest.approx(2 / 3), "open": pytest.approx(2 / 3), "organ=x": 0.5, "organ=y": 1.0}


def test_classes_are_scored_where_the_head_knows_them():
    labels = [["a"], ["b"], ["unseen"], None, ["a", "b"], ["a", "unseen"]]
    rows = [
        {"answers": ["-"], "answer_type": "open", "image_id": str(i), "label": label} for i, label in enumerate(labels)
    ]
    said = [["a"], ["a"], ["a"], ["a"], ["b", "a"], ["a"]]
    answers = [Answer("-", 0.5, classes) for classes in said]
    scores, unknown = score_classes(rows, {"model": answers}, ["a", "b"])
    assert unknown == 3
    assert (scores[0]["metric"], scores[0]["value"], scores[0]["n"]) == ("class_accuracy", pytest.approx(2 / 3), 3)
    assert scores[0]["signature"] == "class_accuracy|v1|all-classes-right"


def test_all_the_scores_of_a_head():
    """Of rows that it knows; right classes of 3 of 4; class a ranks (a, a | b, b) without a mistake, b with one."""
    rows = [row("-", image=str(i), label=[name]) for i, name in enumerate("aabb")] + [row("-", label=["unseen"])]
    logits = [[3.0, 0.0], [2.0, 0.5], [1.0, 0.2], [0.0, 2.0], [9.0, 9.0]]
    answers = [Answer("-", 0.5, ["ab"[int(np.argmax(some))]], 0.5, None, some) for some in logits]
    found, unknown = score_classes(rows, {"model": answers}, ["a", "b"])
    values = {(s["metric"], s["subset"]): s for s in found}
    assert unknown == 1
    assert values["class_accuracy", "all"]["value"] == 0.75
    assert values["class_macro_f1", "all"]["value"] == pytest.approx((2 * 2 / 5 + 2 * 1 / 3) / 2)
    assert values["class_auroc", "all"]["value"] == pytest.approx((1 + 3 / 4) / 2)
    assert (
        values["class_auroc", "all"]["signature"]
        == "class_auroc|v1|one-vs-rest|macro|classes:with-both|resamples:1000"
    )
    assert all(s["low"] <= s["value"] <= s["high"] and s["n"] == 4 for s in found)


def test_a_head_of_many_classes_has_no_auroc():
    rows = [row("-", image=str(i), label=[name]) for i, name in enumerate("ab")]
    answers = [Answer("-", 0.5, ["a"], 0.5)] * 2
    found, _ = score_classes(rows, {"model": answers}, ["a", "b"])
    assert {s["metric"] for s in found} == {"class_accuracy", "class_macro_f1"}
    assert score_classes(rows, {"model": answers}, ["c"]) == ([], 2)


def test_vqa_rad_has_both_groupings_and_recall_of_open_questions():
    rows = [
        row("yes", "closed", "1"),
        row("left", "closed", "2"),
        row("no", "open", "3"),
        row("the left lung", image="4"),
    ]
    said = ["yes", "right", "no", "left"]
    found = {(s["metric"], s["subset"]): s for s in score_rows(rows, {"model": said}, "vqa_rad")}
    exact = {subset: s["value"] for (metric, subset), s in found.items() if metric == "exact_match"}
    assert exact == {"all": 0.5, "closed": 0.5, "open": 0.5, "yes_no": 1.0, "not_yes_no": 0.0}
    recall = {subset: s["value"] for (metric, subset), s in found.items() if metric == "vqa_rad_recall"}
    assert recall == {"open": 0.75, "not_yes_no": 0.25}
    assert not {"imageclef_bleu", "rouge_l"} & {metric for metric, _ in found}
    assert "yes_no" not in {s["subset"] for s in score_rows(rows, {"model": said}, "custom")}


def test_vqa_med_has_the_official_scores_by_category():
    rows = [row("an x-ray", image="1", question_type="modality"), row("axial", image="2", question_type="plane")]
    scores = score_rows(rows, {"model": ["x-ray", "coronal"]}, "vqa_med_2019")
    found = {(s["metric"], s["subset"]): s["value"] for s in scores}
    assert found["exact_match", "all"] == 0.0
    for metric in ("imageclef_accuracy", "imageclef_bleu"):
        assert [found[metric, f"question_type={name}"] for name in ("modality", "plane")] == [1.0, 0.0]
        assert found[metric, "all"] == 0.5


def test_reports_have_the_bleu_of_all_rows_and_rouge_l():
    written = ["there is no pleural effusion today", "the heart is of normal size"]
    rows = [row(text, image=str(i)) for i, text in enumerate(written)]
    scores = score_rows(rows, {"model": [written[0], "the heart is large"], "majority": written}, "custom")
    found = {(s["metric"], s["condition"], s["subset"]): s for s in scores}
    matches, said, length = 6 + 3, 6 + 4, 6 + 6
    assert found["bleu_1", "model", "all"]["value"] == pytest.approx(matches / said * np.exp(1 - length / said))
    assert found["bleu_4", "majority", "all"]["value"] == pytest.approx(1.0)
    assert found["rouge_l", "model", "all"]["value"] == pytest.approx((1 + 2 * 3 / 10) / 2)
    assert ("bleu_1", "model", "open") not in found and ("rouge_l", "model", "open") in found
    assert all(s["low"] - 1e-9 <= s["value"] <= s["high"] + 1e-9 for s in scores)


def test_scores_of_embeddings_stand_beside_the_others():
    rows = [row("left", image="1"), row("", image="2"), row("yes", "closed", "3")]
    embedded = {"model": [{"original_cosine": 0.5}, {}, {"original_cosine": -0.5}]}
    scores = score_rows(rows, {"model": ["left", "x", "no"]}, "phantom", embedded)
    found = {s["subset"]: s for s in scores if s["metric"] == "original_cosine"}
    assert {subset: s["value"] for subset, s in found.items()} == {"all": 0.0, "closed": -0.5, "open": 0.5}
    assert found["all"]["signature"] == (
        "original_cosine|v1|mean|pool:answer|prototypes:train|rows-an-answer:8|answers:1000"
    )
