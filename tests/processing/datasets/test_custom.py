"""Bring your own: every layout, every kind of bad row, and splits that keep images together."""

import csv
import hashlib
import json
import shutil

import pytest
from PIL import Image

from processing.datasets import FEATURES, SPLITS, load_split
from processing.errors import InputError

HEADER = ("image", "question", "answer")


@pytest.fixture
def folder(tmp_path):
    """Ten images, image0.png … image9.png."""
    (tmp_path / "images").mkdir()
    for number in range(10):
        Image.new("L", (8, 8), number).save(tmp_path / "images" / f"image{number}.png")
    return tmp_path


def write(path, *rows, header=HEADER):
    path.parent.mkdir(exist_ok=True)
    if path.suffix == ".jsonl":
        lines = (json.dumps(dict(zip(header, row, strict=True)), ensure_ascii=False) for row in rows)
        path.write_text("\n".join(lines), encoding="utf-8")
    else:
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([header, *rows])
    return str(path)


def good(number, question="Is there a mass?", answer="no"):
    return f"images/image{number}.png", question, answer


def identity(path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def identities(folder, *numbers) -> list[str]:
    return [identity(folder / "images" / f"image{number}.png") for number in numbers]


def everything(data_dir, **options):
    return {split: load_split("custom", split, str(data_dir), **options) for split in SPLITS}


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_a_table_for_each_split(folder, suffix):
    write(folder / f"train{suffix}", good(0, " Чи є  маса? ", "так"), good(0), good(1))
    write(folder / f"validation{suffix}", good(2))
    write(folder / f"test{suffix}", good(3))
    splits = everything(folder)
    numbers = [(0, 0, 1), (2,), (3,)]
    assert [rows["image_id"][:] for rows in splits.values()] == [identities(folder, *some) for some in numbers]
    assert splits["train"].features == FEATURES
    assert splits["train"][0] == {
        "id": "train-1",
        "image": {"path": str(folder / "images" / "image0.png"), "bytes": None},
        "more_images": [],
        "image_id": identities(folder, 0)[0],
        "question": "Чи є маса?",
        "answer": "так",
        "answers": ["так"],
        "answer_type": "open",
        "question_type": "",
        "organ": "",
        "label": None,
        "boxes": [],
        "group": identities(folder, 0)[0],
    }


def test_validation_is_carved_where_there_is_none(folder):
    write(folder / "train.csv", *(good(number) for number in range(8) for _ in range(2)))
    write(folder / "test.csv", good(9))
    splits = everything(folder, validation_fraction=0.25)
    assert [len(rows) for rows in splits.values()] == [12, 4, 1]
    assert not set(splits["train"]["image_id"]) & set(splits["validation"]["image_id"])


def test_one_table_without_splits_is_divided_by_image_and_not_by_order(folder):
    rows = [good(number, f"question {i}?") for number in range(10) for i in range(3)]
    path = write(folder / "all.csv", *rows)
    splits = everything(path, test_fraction=0.3, validation_fraction=0.3)
    images = {split: set(rows["image_id"]) for split, rows in splits.items()}
    assert sum(map(len, images.values())) == len(set.union(*images.values())) == 10
    assert sum(map(len, splits.values())) == 30
    write(folder / "all.csv", *reversed(rows))
    again = everything(folder, test_fraction=0.3, validation_fraction=0.3)  # the folder has one table
    assert {split: set(rows["image_id"]) for split, rows in again.items()} == images


def test_an_image_is_the_same_however_its_path_is_spelled(folder):
    """Absolute paths give the splits that relative ones give, and copies of an image stay on one side."""
    spellings = [
        "images/image{}.png",
        "./images/image{}.png",
        "images/../images/image{}.png",
        str(folder / "images" / "image{}.png"),
        "copies/{}.png",
    ]
    (folder / "copies").mkdir()
    for number in range(10):
        shutil.copy(folder / "images" / f"image{number}.png", folder / "copies" / f"{number}.png")
    options = {"test_fraction": 0.3, "validation_fraction": 0.3}
    divided = []
    for spelling in spellings:
        path = write(folder / "all.csv", *((spelling.format(number), "Is it?", "no") for number in range(10)))
        divided.append([rows["image_id"][:] for rows in everything(path, **options).values()])
    assert all(splits == divided[0] for splits in divided)
    rows = [(spelling.format(number), "Is it?", "no") for number in range(10) for spelling in spellings]
    together = everything(write(folder / "all.csv", *rows), **options)
    assert [sorted(set(rows["image_id"])) for rows in together.values()] == [sorted(ids) for ids in divided[0]]


def test_a_column_names_the_split(folder):
    rows = [(*good(0), "train"), (*good(1), "Val"), (*good(2), "test"), (*good(3), "train")]
    path = write(folder / "all.csv", *rows, header=(*HEADER, "split"))
    assert [len(rows) for rows in everything(path).values()] == [2, 1, 1]
    write(folder / "all.csv", *rows, (*good(4), ""), header=(*HEADER, "split"))
    with pytest.raises(InputError, match="1 of 5 rows name no split, the others do"):
        load_split("custom", "train", path)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_an_imagefolder(folder, suffix):
    for split in ("train", "test"):
        write(folder / split / f"metadata{suffix}", ("scan.png", "Is it?", "yes"), header=("file_name", *HEADER[1:]))
        Image.new("L", (8, 8)).save(folder / split / "scan.png")
    train, test = (load_split("custom", split, str(folder), validation_fraction=0.0) for split in ("train", "test"))
    assert train["image_id"][0] == test["image_id"][0] == identity(folder / "train" / "scan.png")  # it is in both
    assert test["image"][0]["path"] == str(folder / "test" / "scan.png")
    assert test["answer_type"][0] == "closed"
    write(folder / "flat" / "metadata.csv", ("../train/scan.png", "Is it?", "no"), header=("file_name", *HEADER[1:]))
    flat = {"test_fraction": 0.0, "validation_fraction": 0.0, "allow_outside": True}
    assert len(load_split("custom", "train", str(folder / "flat"), **flat)) == 1


def test_column_names_and_optional_columns(folder):
    header = ("file", "q", "a", "patient", "kind", "classes")
    rows = [
        ("images/image0.png", "Where?", "left", "p1", "Side", "mass|cyst "),
        ("images/image1.png", "?", "1", "p1", "", ""),
    ]
    path = write(folder / "table.csv", *rows, header=header)
    columns = dict(zip((*HEADER, "group", "question_type", "label"), header, strict=True))
    rows = load_split("custom", "train", path, columns=columns, test_fraction=0.0, validation_fraction=0.0)
    assert rows["group"][:] == ["p1", "p1"]
    assert rows["question_type"][:] == ["side", ""]
    assert rows["label"][:] == [["mass", "cyst"], None]
    assert rows["answer"][:] == ["left", "1"]
    with pytest.raises(InputError, match="unknown column of own 'quesion'; did you mean question"):
        load_split("custom", "train", path, columns={"quesion": "q"})
    with pytest.raises(InputError, match="table.csv has no column 'image'; known: a, classes, file"):
        load_split("custom", "train", path)
    with pytest.raises(InputError, match="table.csv has no column 'patients'; did you mean patient"):
        load_split("custom", "train", path, columns={**columns, "group": "patients"})


def test_groups_stay_in_one_split(folder):
    rows = [(*good(number), f"p{number // 2}") for number in range(10)]
    path = write(folder / "all.csv", *rows, header=(*HEADER, "group"))
    groups = [set(rows["group"]) for rows in everything(path, test_fraction=0.4, validation_fraction=0.4).values()]
    assert sum(map(len, groups)) == len(set.union(*groups)) == 5


@pytest.fixture
def bad_table(folder):
    (folder / "images" / "text.png").write_text("no image")
    (folder / "images" / "empty.png").touch()
    rows = [
        good(0),
        ("images/none.png", "a secret?", "no"),
        ("images/text.png", "a secret?", "no"),
        ("images/empty.png", "a secret?", "no"),
        ("", "a secret?", "no"),
        ("images/image1.png", " ", "no"),
        ("images/image1.png", "a secret?"),
        ("images/image1.png", "a secret", " with a comma?", "no"),
        good(2),
    ]
    return write(folder / "all.csv", *rows)


REASONS = {
    2: "the image file .*none.png does not exist",
    3: ".*text.png is not an image of a known format",
    4: "the image file .*empty.png is empty",
    5: "image is empty",
    6: "question is empty",
    7: "answer is empty",
    8: "it has more fields than the header",
}


def test_every_bad_row_is_reported(bad_table):
    with pytest.raises(InputError, match="7 of 9 rows are bad; fix them, or pass --data.on_bad_rows skip") as error:
        load_split("custom", "train", bad_table)
    for number, reason in REASONS.items():
        error.match(f"row {number} of .*all.csv: {reason}")
    assert "row 1 of" not in str(error.value) and "row 9 of" not in str(error.value)
    assert "secret" not in str(error.value)


def test_bad_rows_are_skipped_and_counted(bad_table, folder, caplog):
    options = {"on_bad_rows": "skip", "test_fraction": 0.0, "validation_fraction": 0.0}
    rows = load_split("custom", "train", bad_table, **options)
    assert rows["image_id"][:] == identities(folder, 0, 2)
    said = caplog.text
    assert "7 of 9 rows are bad and excluded" in said and said.count("\n  row ") == 7
    assert "secret" not in said
    assert (
        len(load_split("custom", "train", bad_table, **options, check_images=False)) == 4
    )  # damaged ones are not seen


def test_bad_rows_of_jsonl(folder):
    path = folder / "all.jsonl"
    lines = [
        json.dumps({"image": "images/image0.png", "question": "Is it?", "answer": "no"}),
        '{"image": ',
        "[1]",
        json.dumps({"image": "images/image0.png", "question": "Is it?"}),
        json.dumps({"image": "images/image0.png", "question": ["Is it?"], "answer": 1}),
        json.dumps({"image": "images/image0.png", "question": "Is it?", "answer": 0, "split": "training"}),
    ]
    path.write_text("\n".join(lines))
    with pytest.raises(InputError, match="5 of 6 rows are bad") as error:
        load_split("custom", "train", str(path))
    for number, reason in {
        2: "it is not a JSON object",
        3: "it is not a JSON object",
        4: "answer is empty",
        5: "question is not a text",
        6: "split is 'training', none of train, validation, test",
    }.items():
        error.match(f"row {number} of .*all.jsonl: {reason}")


def test_images_stay_below_the_folder(folder, tmp_path_factory):
    """Absolute paths and links are fine if they begin in the folder; what leads out of it has to be allowed."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    Image.new("L", (8, 8)).save(elsewhere / "secret.png")
    (folder / "linked").symlink_to(elsewhere)
    (folder / "tables").mkdir()
    paths = [
        str(folder / "images" / "image0.png"),
        "images/../images/image1.png",
        "linked/secret.png",
        str(elsewhere / "secret.png"),
        f"../{elsewhere.name}/secret.png",
        f"linked/../{elsewhere.name}/secret.png",
    ]
    assert (folder.parent / elsewhere.name).is_dir()
    path = write(folder / "all.csv", *((name, "Is it?", "no") for name in paths))
    with pytest.raises(InputError, match="3 of 6 rows are bad") as error:
        load_split("custom", "train", path)
    for number in (4, 5, 6):
        error.match(f"row {number} of .*all.csv: the image file .* is outside of {folder}; .*allow_outside true")
    options = {"test_fraction": 0.0, "validation_fraction": 0.0}
    assert len(load_split("custom", "train", path, **options, allow_outside=True)) == 6
    assert len(load_split("custom", "train", path, **options, on_bad_rows="skip")) == 3


def test_images_beside_the_folder_of_a_split(folder):
    """A table in a folder of its own may name images anywhere below the folder that was given."""
    for split in ("train", "test"):
        row = ("../images/image0.png", "Is it?", "no")
        write(folder / split / "metadata.csv", row, header=("file_name", *HEADER[1:]))
    assert len(load_split("custom", "train", str(folder), validation_fraction=0.0)) == 1


def test_a_text_where_the_path_should_be(folder):
    path = write(folder / "all.csv", ("a very long text " * 500, "Is it?", "no"), ("a\0b", "Is it?", "no"))
    with pytest.raises(InputError, match="2 of 2 rows are bad"):
        load_split("custom", "train", path)


def test_labels_and_groups_of_jsonl(folder):
    rows = [(*good(0), ["b", "a "], 0), (*good(1), 3, "p"), (*good(2), None, None), (*good(3), [], None)]
    path = write(folder / "all.jsonl", *rows, header=(*HEADER, "label", "group"))
    found = load_split("custom", "train", path, test_fraction=0.0, validation_fraction=0.0)
    assert found["label"][:] == [["b", "a"], ["3"], None, []]
    assert found["group"][:] == ["0", "p", *identities(folder, 2, 3)]


def test_a_mended_image_is_seen(bad_table, folder):
    options = {"on_bad_rows": "skip", "test_fraction": 0.0, "validation_fraction": 0.0}
    assert len(load_split("custom", "train", bad_table, **options)) == 2
    Image.new("L", (8, 8)).save(folder / "images" / "empty.png")
    assert len(load_split("custom", "train", bad_table, **options)) == 3


def test_mistakes(folder):
    with pytest.raises(InputError, match="own needs --data_dir"):
        load_split("custom", "train")
    with pytest.raises(InputError, match="no table and no folder at .*none.csv"):
        load_split("custom", "train", str(folder / "none.csv"))
    with pytest.raises(InputError, match="holds 0 tables, none named for a split"):
        load_split("custom", "train", str(folder))
    path = write(folder / "a.csv", good(0))
    with pytest.raises(InputError, match="unknown on_bad_rows 'drop' of own; known: raise, skip"):
        load_split("custom", "train", path, on_bad_rows="drop")
    with pytest.raises(InputError, match="test_fraction must be at least 0 and below 1, not 1.5"):
        load_split("custom", "train", path, test_fraction=1.5)
    with pytest.raises(InputError, match="columns is 'image=file', but must be dict or nothing"):
        load_split("custom", "train", path, columns="image=file")
    write(folder / "b.csv", good(0))
    with pytest.raises(InputError, match="holds 2 tables, none named for a split"):
        load_split("custom", "train", str(folder))
    write(folder / "train.csv", good(0))
    write(folder / "train.jsonl", good(0))
    with pytest.raises(InputError, match="several tables for the train split; keep one"):
        load_split("custom", "train", str(folder))
    (folder / "c.csv").write_bytes("image,question,answer\nп,п,п".encode("cp1251"))
    with pytest.raises(InputError, match="c.csv cannot be read: 'utf-8' codec"):
        load_split("custom", "train", str(folder / "c.csv"))
    (folder / "c.csv").write_text("")
    with pytest.raises(InputError, match="c.csv holds no rows"):
        load_split("custom", "train", str(folder / "c.csv"))
