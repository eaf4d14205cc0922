"""`own`: tables of one's own, with every bad row reported."""

import csv
import json

import pytest
from PIL import Image

from processing.datasets import FEATURES, SPLITS, load_split
from processing.errors import InputError


@pytest.fixture
def folder(tmp_path):
    for number in range(30):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / f"{number}.png")
    return tmp_path


def write_csv(path, rows):
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def entries(numbers):
    return [{"image": f"{n}.png", "question": f"Is there a {n}?", "answer": "yes"} for n in numbers]


def test_a_file_for_each_split(folder):
    for split, numbers in zip(SPLITS, (range(5), range(5, 8), range(8, 10)), strict=True):
        write_csv(folder / f"{split}.csv", entries(numbers))
    assert [len(load_split("own", split, str(folder))) for split in SPLITS] == [5, 3, 2]
    (row,) = load_split("own", "test", str(folder)).select([0])
    assert row["image"]["path"] == str(folder / "8.png")
    assert (row["id"], row["question"], row["answers"], row["answer_type"]) == (
        "1",
        "Is there a 8?",
        ["yes"],
        "closed",
    )


def test_mapped_columns_and_a_column_split(folder):
    rows = [
        {
            "Bild": "0.png",
            "Frage": "Лівий чи правий?",
            "Antwort": "лівий",
            "split": "train",
            "wer": "p1",
            "Klasse": "a|b",
        },
        {"Bild": "1.png", "Frage": "胸水は?", "Antwort": "はい", "split": "test", "wer": "p2", "Klasse": ""},
    ]
    write_csv(folder / "alles.csv", rows)
    columns = {"image": "Bild", "question": "Frage", "answer": "Antwort", "group": "wer", "label": "Klasse"}
    train = load_split("own", "train", str(folder / "alles.csv"), columns=columns)
    assert train.features == FEATURES
    assert (train[0]["question"], train[0]["group"], train[0]["label"]) == ("Лівий чи правий?", "p1", ["a", "b"])
    test = load_split("own", "test", str(folder / "alles.csv"), columns=columns)
    assert (test[0]["answer"], test[0]["label"]) == ("はい", ["はい"])
    with pytest.raises(InputError, match="the validation split of own is empty"):
        load_split("own", "validation", str(folder / "alles.csv"), columns=columns)
    with pytest.raises(InputError, match="has no column 'image' but .*Bild.*; map it: --data.columns.image NAME"):
        load_split("own", "train", str(folder / "alles.csv"))
    with pytest.raises(InputError, match="did you mean question?"):
        load_split("own", "train", str(folder / "alles.csv"), columns={"questions": "Frage"})


def test_one_table_is_carved_by_group(folder):
    rows = [{**entry, "group": f"patient {n // 3}"} for n, entry in enumerate(entries(range(30)))]
    write_csv(folder / "metadata.csv", rows)
    splits = {split: load_split("own", split, str(folder), test_fraction=0.3) for split in SPLITS}
    assert {split: len(rows) for split, rows in splits.items()} == {"train": 18, "validation": 3, "test": 9}
    groups = {split: set(rows["group"]) for split, rows in splits.items()}
    assert not groups["train"] & groups["test"] and not groups["train"] & groups["validation"]
    write_csv(folder / "metadata.csv", rows[::-1])
    assert set(load_split("own", "test", str(folder), test_fraction=0.3)["group"]) == groups["test"]


def test_json_lines_as_imagefolder_has_them(folder):
    lines = [{"file_name": entry.pop("image"), **entry, "split": "train"} for entry in entries(range(3))]
    (folder / "metadata.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    assert len(load_split("own", "train", str(folder))) == 3


def test_every_bad_row_is_reported(folder, caplog):
    rows = [
        *entries([0]),
        {"image": "", "question": "a", "answer": "b"},
        {"image": "1.png", "question": "  ", "answer": "b"},
        {"image": "2.png", "question": "a", "answer": ""},
        {"image": "none.png", "question": "a", "answer": "b"},
        {"image": "broken.png", "question": "a", "answer": "b"},
        *entries([3]),
    ]
    (folder / "broken.png").write_bytes(b"no image")
    write_csv(folder / "train.csv", rows)
    with pytest.raises(InputError) as error:
        load_split("own", "train", str(folder))
    for line in (
        "5 of 7 rows of",
        "row 2: no image",
        "row 3: no question",
        "row 4: no answer",
        "row 5: the image file .*none.png does not exist",
        "row 6: .*broken.png is not an image",
    ):
        assert error.match(line)
    assert len(load_split("own", "train", str(folder), on_bad_rows="skip")) == 2
    assert "skipped 5 of 7 rows" in caplog.text and "row 6:" in caplog.text
    rows[0] = {"image": "0.png", "question": "a", "answer": "b", "split": "dev"}
    write_csv(folder / "other.csv", [{"split": "train", **row} for row in rows[:1]])
    with pytest.raises(InputError, match="row 1: split is 'dev', not train, validation or test"):
        load_split("own", "train", str(folder / "other.csv"))


def test_mistakes(folder, tmp_path):
    for data_dir, options, message in (
        (None, {}, "own needs a data_dir"),
        (str(folder / "nothing"), {}, "holds no table train.csv, train.jsonl, metadata.csv or metadata.jsonl"),
        (str(folder / "0.png"), {}, "0.png is neither .csv nor .jsonl"),
        (str(folder), {"on_bad_rows": "drop"}, "on_bad_rows is raise or skip, not 'drop'"),
    ):
        with pytest.raises(InputError, match=message):
            load_split("own", "train", data_dir, **options)
    (folder / "train.jsonl").write_text("{broken\n")
    with pytest.raises(InputError, match="train.jsonl is not one JSON object a line"):
        load_split("own", "train", str(folder))
    (folder / "train.csv").write_bytes("image,question,answer\n0.png,é?,b\n".encode("latin-1"))
    with pytest.raises(InputError, match="train.csv is not UTF-8"):
        load_split("own", "train", str(folder))
    (folder / "train.csv").write_text("")
    with pytest.raises(InputError, match="the train split of own is empty"):
        load_split("own", "train", str(folder))
