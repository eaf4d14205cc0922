"""What all data sets share: the registry, class names, rows, validation by group, and the reading of files."""

import gzip
from pkgutil import resolve_name
from typing import get_type_hints

import pytest
from datasets import Dataset

from processing.datasets import FEATURES, REGISTRY, class_names, count_unseen, load_split
from processing.datasets.rows import clean, log_dropped, make_row, split_name, split_validation, to_dataset
from processing.datasets.source_files import find_file, find_images, read_csv, read_jsonl
from processing.errors import InputError


def row(number, **changes):
    return make_row(**{"id": str(number), "image": f"{number}.png", "image_id": f"i{number}", **changes})


def question(number, answer="no", **changes):
    return row(number, question="Is it?", answer=answer, **changes)


@pytest.mark.parametrize("name", REGISTRY)
def test_every_data_set_is_a_documented_function(name):
    load = resolve_name(REGISTRY[name])
    hints = get_type_hints(load)
    assert list(hints)[:2] == ["split", "data_dir"] and hints["return"] is Dataset
    assert load.__doc__


def test_unknown_names():
    with pytest.raises(InputError, match="unknown data set 'path_vqq'; did you mean path_vqa?"):
        load_split("path_vqq", "train")
    with pytest.raises(InputError, match="unknown split of slake 'val'"):
        load_split("slake", "val")
    with pytest.raises(InputError, match="unknown option of path_vqa 'seed'"):
        load_split("path_vqa", "train", seed=1)


def test_class_names_are_those_of_train_and_others_are_counted():
    train = to_dataset([question(1, label=["b", "a"]), question(2, label=None), question(3, label=["b"])])
    test = to_dataset(
        [question(1, label=["a"]), question(2, label=["a", "c"]), question(3, label=None), question(4, label=["d"])]
    )
    assert class_names(train) == ["a", "b"]
    assert count_unseen(test, class_names(train)) == 2
    assert test["label"][1:3] == [["a", "c"], None]  # kept


def test_defaults_of_a_row():
    (made,) = to_dataset([question(1, " Yes\t")])
    assert list(made) == list(FEATURES)
    assert (made["answer"], made["answers"], made["answer_type"]) == ("Yes", ["Yes"], "closed")
    assert made["organ"] == ""
    assert (made["group"], made["question_type"], made["label"], made["boxes"]) == ("i1", "", ["yes"], [])
    (blind,) = to_dataset([question(1, "")])
    assert (blind["answers"], blind["answer_type"], blind["label"]) == ([], "", None)
    assert clean(" a \t b\n\u00a0c ") == "a b c"


def test_validation_is_carved_by_group_whatever_the_order():
    rows = [{**question(i, group=f"g{i // 3}"), "split": "test" if i > 26 else "train"} for i in range(30)]
    shuffled = [dict(row) for row in reversed(rows)]
    for copy in (rows, shuffled):
        split_validation(copy, 0.3, seed=0)
    groups = {
        split: {row["group"] for row in rows if row["split"] == split} for split in ("train", "validation", "test")
    }
    assert [len(found) for found in groups.values()] == [6, 3, 1]
    assert not groups["train"] & groups["validation"]
    assert {row["id"]: row["split"] for row in rows} == {row["id"]: row["split"] for row in shuffled}


def test_split_names():
    assert [split_name(name) for name in ("train", "VAL", " valid", "validate", "test", "dev")] == [
        *("train", "validation", "validation", "validation", "test", None)
    ]


def test_what_is_dropped_is_said(caplog):
    log_dropped("studies", 9, {"without a report": 2, "without an image": 0, "too old": 1})
    assert caplog.messages == ["studies: 3 of 9 excluded (2 without a report, 1 too old)"]
    caplog.clear()
    log_dropped("studies", 9, {"without a report": 0})
    assert not caplog.messages


def test_files_are_found_the_same_way_everywhere(tmp_path):
    for name in ("b/x.txt", "a/x.txt", "a/deep/y.txt", "a/P.JPG", "a/deep/q.png", "a/notes.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert find_file(tmp_path, ["**/none.txt", "**/x.txt"]) == tmp_path / "a" / "x.txt"
    assert find_file(tmp_path, ["**/[xy].txt"]) == tmp_path / "a" / "x.txt"
    assert find_file(tmp_path, ["*.txt"]) is None
    assert find_images(tmp_path) == {"P": tmp_path / "a" / "P.JPG", "q": tmp_path / "a" / "deep" / "q.png"}


def test_tables(tmp_path):
    text = '\ufeffname,text\r\nа,"two\nlines, and a comma"\r\nshort\r\n'
    (tmp_path / "t.csv").write_text(text, encoding="utf-8", newline="")
    with gzip.open(tmp_path / "t.csv.gz", "wt", encoding="utf-8", newline="") as file:
        file.write(text)
    expected = [{"name": "а", "text": "two\nlines, and a comma"}, {"name": "short", "text": ""}]
    assert read_csv(tmp_path / "t.csv", ["name"]) == read_csv(tmp_path / "t.csv.gz", ["text"]) == expected
    with pytest.raises(InputError, match="t.csv has no column 'texts'; did you mean text?"):
        read_csv(tmp_path / "t.csv", ["texts"])
    with pytest.raises(InputError, match="none.csv cannot be read: .*No such file"):
        read_csv(tmp_path / "none.csv", [])
    (tmp_path / "t.jsonl").write_text('{"a": "\u2028"}\n\n{"b": \n[]\n')
    assert read_jsonl(tmp_path / "t.jsonl", ["a"]) == [{"a": "\u2028"}, {}, {}]
    with pytest.raises(InputError, match="t.jsonl has no column 'b'; known: a"):
        read_jsonl(tmp_path / "t.jsonl", ["b"])
