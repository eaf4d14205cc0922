"""Counterfactual and rephrased questions: rules by example, the truth of phantom's, scores by hand, real counts."""

import json
from collections import Counter

import pytest

from flamingo_med.evaluation.consistency import (
    distinct_rows,
    format_consistency,
    head_agreement,
    paraphrases,
    score_pairs,
)
from flamingo_med.evaluation.counterfactuals import Pair, counterfactuals
from processing.datasets import load_split
from processing.datasets.phantom_patients import sample_scene
from processing.datasets.phantom_questions import NOUNS
from processing.datasets.vqa_rad import paraphrase_pairs
from processing.errors import InputError


def row(question, answer, question_type="", image_id="i", id="r"):
    return {
        "id": id,
        "image_id": image_id,
        "question": question,
        "answer": answer,
        "answers": [answer],
        "question_type": question_type,
    }


def changes(question, answer, dataset="", question_type=""):
    pairs = counterfactuals([row(question, answer, question_type)], dataset)
    return [(pair.kind, pair.changed["question"], pair.changed["answer"], pair.should_change) for pair in pairs]


@pytest.mark.parametrize(
    ("question", "answer", "changed", "truth"),
    [
        ("Is there a pneumothorax?", "Yes ", "Is there no pneumothorax?", "no"),
        ("is there an effusion", "no", "is there no effusion", "yes"),
        ("Are there any rib fractures?", "No", "Are there no rib fractures?", "yes"),
        ("Is there evidence of a mass?", "yes", "Is there no evidence of a mass?", "no"),
        ("Does this image show a lung nodule?", "yes", "Does this image show no lung nodule?", "no"),
        ("Can an effusion be seen?", "no", "Can no effusion be seen?", "yes"),
    ],
)
def test_negation(question, answer, changed, truth):
    assert changes(question, answer) == [("negation", changed, truth, True)]


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("Is there no evidence of a mass?", "yes"),
        ("Is there a mass?", "maybe"),
        ("Is there more than one lesion?", "no"),
        ("Is there anything wrong with the lungs?", "no"),
        ("Are there 2 kidneys?", "yes"),
        ("Are there >5 nodes?", "yes"),
        ("Are there at least 8 ribs?", "yes"),
        ("Is there a 2 cm mass?", "yes"),
        ("Is there fluid and fat stranding?", "no"),  # "no fluid and fat stranding" could be either
        ("Is there a lesion in the left lobe?", "-"),
        ("Is the effusion on the left?", "yes"),  # it may be on both sides
        ("", ""),
    ],
)
def test_what_is_not_certain_is_left_alone(question, answer):
    assert changes(question, answer) == []


def test_swapped_comparison():
    question = "Is the left lung brighter than the right side?"
    swapped = "Is the right lung brighter than the left side?"
    assert changes(question, "yes") == [("swapped_comparison", swapped, "no", True)]
    assert changes(question, "no") == []  # they may be alike
    assert changes("Is the left lung as white as the right?", "yes") == []


def test_either_or():
    assert changes("Is the mass small or large?", "Large") == [
        ("swapped_order", "Is the mass large or small?", "Large", False),
        ("neither_offered", "Is the mass small, large or neither?", "Large", False),
    ]
    assert changes("Is this an abscess or cancer?", "cancer") == []
    assert changes("Is contrast used or not?", "used") == []
    assert changes("Is the mass small or large?", "medium") == []


def test_phantom_rules():
    question = "Is the pneumothorax left-sided?"
    assert changes(question, "no", question_type="side") == []
    swapped = ("swapped_side", "Is the pneumothorax right-sided?", "yes", True)
    assert changes(question, "no", "phantom", "side") == [swapped]
    assert changes("Which zone of the lung contains the lung nodule?", "middle zone", "phantom", "place") == [
        ("none_of_the_above", f"Where is the lung nodule: {zones} or none of these?", truth, should_change)
        for zones, truth, should_change in [
            ("middle zone, lower zone", "middle zone", False),
            ("upper zone, lower zone", "none of these", True),
            ("upper zone, middle zone", "middle zone", False),
        ]
    ]


def test_absent_findings_are_of_the_same_image():
    rows = [
        row("Can a pneumothorax be seen?", "yes", "presence", "a", "1"),
        row("Is there a lung nodule?", "no", "presence", "a", "2"),
        row("Is there a cardiac pacemaker?", "no", "presence", "b", "3"),
        row("Is there cardiomegaly?", "no", "presence", "a", "4"),
    ]
    found = [pair for pair in counterfactuals(rows, "phantom") if pair.kind == "absent_finding"]
    assert [(pair.original["id"], pair.changed["question"]) for pair in found] == [("1", "Can a lung nodule be seen?")]
    assert found[0].changed["answers"] == ["no"] and found[0].should_change


def test_phantom_truth(tmp_path):
    """The scenes that the images are drawn from say the same as the rules."""
    rows = load_split("phantom", "test", str(tmp_path), test_images=60)
    pairs = counterfactuals(rows, "phantom")
    assert len({pair.changed["id"] for pair in pairs}) == len(pairs)
    labels = {noun: label for label, noun in NOUNS.items()}
    checked = Counter()
    for pair in pairs:
        scene = sample_scene(0, "test", int(pair.changed["image_id"].split("-")[1]))
        text, answer = pair.changed["question"], pair.changed["answer"]
        noun = next((noun for noun in labels if noun in text), None)
        there = [finding for finding in scene.findings if noun and finding.label == labels[noun]]
        if pair.kind == "absent_finding" or (pair.kind == "negation" and noun):
            checked[pair.kind] += 1
            assert (answer == "yes") == (bool(there) != (" no " in text))
        elif pair.kind == "swapped_side":
            checked[pair.kind] += 1
            assert (answer == "yes") == (there[0].side in text)
        elif pair.kind == "none_of_the_above":
            checked[pair.kind] += 1
            assert (answer == "none of these") == (there[0].zone not in text)
    assert len(checked) == 4 and min(checked.values()) >= 3


def test_scores_by_hand():
    first, second = row("Q1", "yes", image_id="a", id="1"), row("Q2", "no", image_id="b", id="2")
    flipped = [row("Q1'", "no", image_id="a", id="1'"), row("Q2'", "yes", image_id="b", id="2'")]
    pairs = [
        Pair(first, flipped[0], True, "negation"),
        Pair(second, flipped[1], True, "negation"),
        Pair(first, first | {"id": "3"}, False, "paraphrase"),
    ]
    assert [r["id"] for r in distinct_rows(pairs)] == ["1", "1'", "2", "2'", "3"]
    answers = {"1": "Yes", "1'": " no", "2": "yes", "2'": "no", "3": "yes"}
    scores = {(s["subset"], s["metric"]): s for s in score_pairs(pairs, answers)}
    negation = "kind=negation,should=change"
    assert scores[negation, "consistent"]["value"] == 1.0  # both change
    assert scores[negation, "both_right"]["value"] == 0.5  # but one from wrong to wrong
    assert scores[negation, "both_right"]["n"] == 2
    assert (scores[negation, "both_right"]["low"], scores[negation, "both_right"]["high"]) == (0.0, 1.0)
    assert scores["should=stay", "consistent"]["value"] == 1.0
    assert scores["should=stay", "consistent"]["low"] is None  # one image
    table = format_consistency(list(scores.values()))
    assert "negation              change             2  1.000 [1.00, 1.00]    0.500 [0.00, 1.00]" in table
    assert "all                   stay               1  1.000 [-]" in table


def test_always_yes_is_found_out():
    pairs = counterfactuals([row("Is there a mass?", "yes", id=str(n), image_id=str(n)) for n in range(4)])
    answers = {r["id"]: "yes" for r in distinct_rows(pairs)}
    assert {score["value"] for score in score_pairs(pairs, answers)} == {0.0}


def test_head_agreement_by_hand():
    def said(head, decoder, n):
        return {"id": str(n), "image_id": str(n), "prediction": decoder, "class_prediction": head}

    both = [("yes", "Yes "), ("no", "no"), ("yes", "no"), ("no", "yes"), ("yes", "yes"), ("no", "no")]
    predictions = [said(*pair, n) for n, pair in enumerate(both)]
    predictions += [said(None, "yes", 9), {"id": "10", "image_id": "10", "prediction": "yes"}]
    agreement, kappa = head_agreement(predictions)
    assert (agreement["value"], agreement["n"]) == (pytest.approx(4 / 6), 6)
    assert kappa["value"] == pytest.approx((4 / 6 - 1 / 2) / (1 - 1 / 2))  # chance agrees in half
    assert -1 <= kappa["low"] <= kappa["value"] <= kappa["high"] <= 1 and kappa["signature"].endswith(
        "|resamples:1000"
    )
    assert "agree: 0.667" in format_consistency([agreement, kappa]) and "kappa 0.333" in format_consistency(
        [agreement, kappa]
    )
    assert head_agreement(predictions[6:]) == []
    constant = head_agreement([said("yes", "yes", n) for n in range(3)])
    assert constant[1]["value"] is None and "kappa undefined" in format_consistency(constant)


def test_twins(tmp_path):
    def entry(qid, question, rephrase, relation="strict agreement", link="l", answer="Yes", image="x.jpg"):
        keys = ("qid", "question", "question_rephrase", "question_relation", "qid_linked_id", "answer", "image_name")
        return dict(zip(keys, (qid, question, rephrase, relation, link, answer, image), strict=True))

    entries = [
        entry("0", "Is there a mass?", "Is a mass there?"),
        entry(1, "Is a mass there?", "Is there a mass?", answer=" yes"),
        entry(2, "Is a mass there?", "Is there a mass?", link="another"),
        entry(3, "Is there no mass?", "Is there a mass?", relation="inversion", answer="no"),
        entry(4, "Something else?", "Is there a mass? ", answer="no"),
        entry(5, "Is there a mass?", "Is there a mass?"),
        entry(6, "Anything?", "NULL", relation="NULL", link="alone"),
    ]
    del entries[-1]["question_rephrase"]  # as two in the official file
    (tmp_path / "vqa_rad.json").write_text(json.dumps(entries))
    assert paraphrase_pairs(str(tmp_path)) == [("0", "1"), ("1", "5")]
    (tmp_path / "vqa_rad.json").write_text("[1]")
    with pytest.raises(InputError, match="vqa_rad.json is not the JSON list"):
        paraphrase_pairs(str(tmp_path))
    assert paraphrase_pairs("flaviagiammarino/vqa-rad") == []


def test_real_counts(shared_data):
    data = str(shared_data / "vqa_rad")
    rows = load_split("vqa_rad", "test", data)
    pairs = counterfactuals(rows, "vqa_rad")
    counts = {"negation": 86, "swapped_comparison": 1, "swapped_order": 8, "neither_offered": 8}
    assert Counter(pair.kind for pair in pairs) == counts
    assert len(paraphrase_pairs(data)) == 587
    same = paraphrases(rows, paraphrase_pairs(data))
    assert len(same) == 111
    assert all(a["answer"].lower() == b["answer"].lower() and a["image_id"] == b["image_id"] for a, b, _, _ in same)


def test_the_command(make_model, processor, tmp_path, command):
    model = make_model()
    model.generation_config.max_new_tokens = 3
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    few = {"train_images": 2, "validation_images": 2, "test_images": 6}
    recipe = {"dataset": "phantom", "data_dir": str(tmp_path / "data"), "data": few}
    (tmp_path / "model" / "recipe.yaml").write_text(json.dumps(recipe))
    folder = tmp_path / "out"
    folder.mkdir()
    said = {"id": "1", "image_id": "a", "prediction": "yes", "class_prediction": "yes"}
    lines = [said, {**said, "id": "2", "image_id": "b", "class_prediction": "no"}]
    (folder / "predictions.jsonl").write_text("\n".join(map(json.dumps, lines)))
    arguments = ["consistency", "--model", tmp_path / "model", "--output_dir", folder]
    output = command(*arguments)
    assert "negation              change" in output and "head and generated answer (n=2) agree: 0.500" in output
    written = json.loads((folder / "consistency.json").read_text())
    keys = {"metric", "subset", "condition", "value", "low", "high", "n", "signature"}
    assert all(score.keys() == keys for score in written["scores"])
    assert written["meta"]["dataset"] == "phantom" and written["meta"]["split"] == "test"

    file = tmp_path / "model" / "recipe.yaml"
    assert f"cannot be written to {file}: File exists" in command(*arguments[:3], "--output_dir", file, code=2)

    rows = [{"image": "a.png", "question": "Which organ?", "answer": "liver"}]
    (tmp_path / "table.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "a.png").write_bytes(next((tmp_path / "data").rglob("*.png")).read_bytes())
    own = ["--dataset", "custom", "--data_dir", tmp_path / "table.jsonl", "--data", "{}", "--split", "train"]
    message = command(*arguments, *own, code=2)
    assert "no question in the train split of custom is one that the rules change" in message
