"""Comparison of two predictions.jsonl files: figures by hand, intervals of pairs, and what does not go together."""

import json

import pytest

from flamingo_med.evaluation.comparison import compare, differences, pair_rows, score_fields
from flamingo_med.evaluation.intervals import clustered_bootstrap
from processing.errors import InputError

KINDS = [("closed", "presence"), ("closed", "presence"), ("open", "side"), ("open", "")]


def rows(hits, **more):
    return [
        {
            "id": f"é{n}",
            "image_id": f"i{n % 3}",
            "question": f"Frage {n}?",
            "answer": "ja",
            "answer_type": KINDS[n % 4][0],
            "question_type": KINDS[n % 4][1],
            "prediction": "ja",
            "confidence": 0.5,
            "exact_match": float(hit),
            **{name: values[n] for name, values in more.items()},
        }
        for n, hit in enumerate(hits)
    ]


def write(path, some, signature=None):
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in some), encoding="utf-8")
    if signature:
        scores = [{"metric": "exact_match", "signature": signature}]
        path.with_name("metrics.json").write_text(json.dumps({"meta": {}, "scores": scores}))
    return path


def test_differences_by_hand():
    first, second = rows([1, 0, 0, 1, 1, 0, 0, 1]), rows([1, 1, 0, 0, 1, 1, 1, 1])
    pairs = pair_rows(first, second[::-1], ("a", "b"))
    found = {row["subset"]: row for row in differences(pairs, "exact_match")}
    assert list(found) == ["all", "closed", "open", "question_type=presence", "question_type=side"]
    assert [found["all"][name] for name in ("first", "second", "value", "n")] == [0.5, 0.75, 0.25, 8]
    assert [found["closed"][name] for name in ("first", "second", "value", "n")] == [0.5, 1.0, 0.5, 4]
    assert found["open"]["value"] == 0
    expected = clustered_bootstrap([0, 1, 0, -1, 0, 1, 1, 0], [f"i{n % 3}" for n in range(8)])
    assert (found["all"]["low"], found["all"]["high"]) == expected
    assert found["question_type=side"]["low"] is not None


def test_a_file_and_itself(tmp_path):
    path = write(tmp_path / "a.jsonl", rows([1, 0, 1, 1]))
    assert "all                          4   0.750   0.750  +0.000 [+0.000, +0.000]" in compare(path, path)


def test_rows_that_lack_a_score_are_counted(tmp_path):
    first = write(tmp_path / "a.jsonl", rows([1, 0, 1, 1], class_accuracy=[1.0, None, 0.0, 1.0]))
    second = write(tmp_path / "b.jsonl", rows([1, 0, 1, 1], class_accuracy=[1.0, 1.0, None, 0.0]))
    table = compare(first, second)
    assert "left out: 2 of 4 rows without class_accuracy on both sides" in table
    assert "all                          2   1.000   0.500  -0.500" in table.split("class_accuracy,")[1]
    none = write(tmp_path / "c.jsonl", rows([1, 0, 1, 1], class_accuracy=[None, 1.0, None, None]))
    assert "left out: 4 of 4 rows without class_accuracy" in compare(first, none)


def test_scores_are_the_numbers_but_confidences():
    some = rows([1, 0], f1=[1, None], class_confidence=[0.1, 0.2], flag=[True, False], mixed=[1.0, "x"])
    assert score_fields(some) == ["exact_match", "f1"]


def test_scores_of_one_side_are_named(tmp_path):
    first = write(tmp_path / "a.jsonl", rows([1, 0], f1=[1.0, 0.5]))
    second = write(tmp_path / "b.jsonl", rows([1, 1], bleu=[1.0, 0.5]))
    table = compare(first, second)
    assert f"only in {first}, not compared: f1" in table and f"only in {second}, not compared: bleu" in table
    old = [{name: value for name, value in row.items() if not name.endswith("_type")} for row in rows([1, 0])]
    assert "closed" not in compare(write(tmp_path / "c.jsonl", old), first)  # files without types have the whole alone


def test_one_image_has_no_interval(tmp_path):
    some = rows([1, 0])
    for row in some:
        row["image_id"] = "one"
    path = write(tmp_path / "a.jsonl", some)
    assert "+0.000 [-]" in compare(path, path)


def test_signatures(tmp_path):
    first = write(tmp_path / "a" / "predictions.jsonl", rows([1, 0]), "exact_match|v1")
    same = write(tmp_path / "b" / "predictions.jsonl", rows([1, 1]), "exact_match|v1")
    other = write(tmp_path / "c" / "predictions.jsonl", rows([1, 1]), "exact_match|v2")
    unknown = write(tmp_path / "d" / "predictions.jsonl", rows([1, 1]))
    assert "exact_match, exact_match|v1  [95 %" in compare(first, same)
    assert "signature unknown" in compare(unknown, first)
    with pytest.raises(
        InputError, match=r"exact_match is exact_match\|v1 in .*a.predictions.jsonl but exact_match\|v2"
    ):
        compare(first, other)
    unknown.with_name("metrics.json").write_text("[]")
    with pytest.raises(InputError, match="metrics.json is not what flamingo-med evaluate writes"):
        compare(first, unknown)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda some: some[:3], r"1 only in .*a.jsonl \(the first: é3\)"),
        (lambda some: [*some, {**some[0], "id": "new"}], r"1 only in .*b.jsonl \(the first: new\)"),
        (
            lambda some: [{**some[0], "id": "new"}, *some[1:]],
            r"1 only in .*a.jsonl \(the first: é0\) and 1 only in .*b.jsonl",
        ),
        (lambda some: [*some[:3], {**some[3], "answer": "geheim"}], "row é3 differs in its answer"),
        (lambda some: [*some[:3], {**some[3], "image_id": "x"}], "row é3 differs in its image_id"),
        (lambda some: [*some, some[0]], "line 5 of .*b.jsonl has the id é0 for the second time"),
        (lambda some: [{"id": "1"}], "line 1 of .*b.jsonl is no JSON object with id and image_id"),
        (lambda some: [1], "line 1 of .*b.jsonl is no JSON object"),
        (lambda some: [], "b.jsonl is empty"),
        (lambda some: [{k: v for k, v in row.items() if k != "exact_match"} for row in some], "no score in common"),
    ],
)
def test_what_cannot_be_compared(tmp_path, change, message):
    some = rows([1, 0, 1, 1])
    first, second = write(tmp_path / "a.jsonl", some), write(tmp_path / "b.jsonl", change(some))
    with pytest.raises(InputError, match=message) as error:
        compare(first, second)
    assert "geheim" not in str(error.value) and "Frage" not in str(error.value)


def test_the_command(tmp_path, command):
    first, second = write(tmp_path / "a.jsonl", rows([1, 0])), write(tmp_path / "b.jsonl", rows([1, 1]))
    assert "+0.500" in command("compare", first, second)
    (tmp_path / "latin.jsonl").write_bytes('{"id": "é"}'.encode("latin-1"))
    for arguments, message in (
        ([], "required: FIRST, SECOND"),
        ([first], "required: SECOND"),
        (["--first", first], "required: FIRST, SECOND"),
        ([first] * 3, "unrecognized arguments"),
        ([first, tmp_path / "nothing.jsonl"], f"cannot be read from {tmp_path / 'nothing.jsonl'}: No such file"),
        ([first, tmp_path], f"cannot be read from {tmp_path}: Is a directory"),
        ([first, tmp_path / "latin.jsonl"], "not UTF-8"),
    ):
        (error,) = command("compare", *arguments, code=2).splitlines()
        assert message in error
