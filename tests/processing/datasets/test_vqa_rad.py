"""VQA-RAD: both layouts on a tiny imitation with every oddity, then the counts of the real files."""

import json
from collections import Counter

import datasets
import pytest
from PIL import Image

from processing.datasets import FEATURES, SPLITS, load_split
from processing.datasets import vqa_rad as module
from processing.errors import InputError
from tests.processing.datasets.hub_copy import image_bytes, write_hub_copy


def entry(qid, image, question, answer, link=None, **changes):
    return {
        "qid": qid,
        "phrase_type": "freeform",
        "qid_linked_id": link or f"link-{qid}",
        "image_organ": "ABD",
        "image_case_url": f"case-{image}",
        "image_name": f"synpic{image}.jpg",
        "question": question,
        "question_type": "PRES",
        "answer": answer,
        "answer_type": "CLOSED",
        **changes,
    }


ODDITIES = [
    entry("0", 1, "Is there a mass? ", "Yes", link="twin"),
    entry(1, 1, "Can a mass be seen?", "Yes", link="twin", phrase_type="para"),
    entry(2, 2, "How many ribs \tare broken?", 3, question_type="COUNT", answer_type="OPEN"),
    entry(3, 3, "Which organs?", " Heart \tlungs", question_type="ATRIB, PRES", answer_type="OPEN"),
    entry(4, 4, "Normal?", "No", question_type="PRSE", answer_type="CLOSED ", link="two images"),
    entry(5, 5, "Abnormal?", "Yes", question_type="Other", link="two images", phrase_type="para"),
    entry(6, 1, "Where is it?", "left", question_type="POS", answer_type="OPEN", phrase_type="test_freeform"),
    entry(7, 1, "Is it left?", "Yes", question_type="ABN", phrase_type="test_para"),
]


@pytest.fixture
def official(tmp_path):
    (tmp_path / "images").mkdir()
    for number in range(1, 6):
        Image.new("RGB", (4, 4), (number, 0, 0)).save(tmp_path / "images" / f"synpic{number}.jpg")
    (tmp_path / "vqa_rad.json").write_text(json.dumps(ODDITIES))
    return tmp_path


@pytest.fixture
def hub_copy(tmp_path):
    """A folder in the schema of the Hub repository: 10 train images with two questions each, one of them also test."""
    train = [(number, f"question {number}?", answer) for number in range(10) for answer in ("Yes", "left \tlung ")]
    return write_hub_copy(tmp_path / "copy", {"train": train, "test": [(9, "other?", "no"), (10, "which?", "both")]})


def all_splits(data_dir, **options):
    return {split: load_split("vqa_rad", split, str(data_dir), **options) for split in SPLITS}


def images_of(rows):
    return set(rows["image_id"])


def test_oddities_of_the_official_file(official):
    train = load_split("vqa_rad", "train", str(official), validation_fraction=0)
    assert train.features == FEATURES
    rows = {row["id"]: row for row in train}
    assert list(rows) == ["0", "1", "2", "3", "4", "5"]
    assert rows["0"] == {
        "id": "0",
        "image": {"path": str(official / "images" / "synpic1.jpg"), "bytes": None},
        "more_images": [],
        "image_id": "synpic1",
        "question": "Is there a mass?",
        "answer": "Yes",
        "answers": ["Yes"],
        "answer_type": "closed",
        "question_type": "presence",
        "organ": "abdomen",
        "label": ["yes"],
        "boxes": [],
        "group": "synpic1",
    }
    assert (rows["2"]["question"], rows["2"]["answer"]) == ("How many ribs are broken?", "3")
    assert rows["3"]["answers"] == ["Heart lungs"]
    assert [rows[i]["question_type"] for i in "2345"] == ["count", "attribute", "presence", "other"]
    assert [rows[i]["answer_type"] for i in "2345"] == ["open", "open", "closed", "closed"]
    assert (rows["5"]["image_id"], rows["5"]["group"]) == ("synpic5", "synpic4")  # rephrased about another image

    test = load_split("vqa_rad", "test", str(official))
    assert test["id"][:] == ["6", "7"]
    assert test["question_type"][:] == ["position", "abnormality"]


def test_names_of_the_osf_download(official):
    (official / "vqa_rad.json").rename(official / "VQA_RAD Dataset Public.json")
    (official / "images").rename(official / "VQA_RAD Image Folder")
    assert len(load_split("vqa_rad", "test", str(official))) == 2


def test_no_validation_is_said(official):
    with pytest.raises(InputError, match="validation split of vqa_rad is empty"):
        load_split("vqa_rad", "validation", str(official), validation_fraction=0)


@pytest.mark.parametrize("scheme", module.SCHEMES)
def test_groups_stay_together(official, scheme):
    for seed in range(8):
        parts = [
            set(module.load(split, str(official), scheme=scheme, validation_fraction=0.5, seed=seed)["group"])
            for split in (SPLITS if scheme == "image_disjoint" else ("train", "validation"))
        ]
        assert sum(map(len, parts)) == len(set.union(*parts))


def test_hub_schema(hub_copy):
    splits = all_splits(hub_copy, validation_fraction=0.2)
    assert {split: len(rows) for split, rows in splits.items()} == {"train": 16, "validation": 4, "test": 2}
    assert not images_of(splits["train"]) & images_of(splits["validation"])
    row = splits["test"][0]
    assert row["image"]["bytes"] == image_bytes(9)
    assert (row["id"], row["answer_type"], row["question_type"]) == ("test-0", "closed", "")
    assert len(row["image_id"]) == 16 and row["group"] == row["image_id"]
    assert set(splits["train"]["answer"]) == {"Yes", "left lung"}
    assert set(zip(splits["train"]["answer"], splits["train"]["answer_type"], strict=True)) == {
        ("Yes", "closed"),
        ("left lung", "open"),
    }


def test_hub_schema_image_disjoint(hub_copy):
    options = {"scheme": "image_disjoint", "validation_fraction": 0.3}
    splits = {split: module.load(split, hub_copy, **options) for split in SPLITS}
    assert sum(map(len, splits.values())) == 22
    assert sum(len(images_of(rows)) for rows in splits.values()) == 11


def test_hub_copy_without_a_column(hub_copy, tmp_path):
    for split in ("train", "test"):
        path = tmp_path / "copy" / "data" / f"{split}-00000-of-00001.parquet"
        datasets.Dataset.from_dict({"question": ["a?"], "answer": ["b"]}).to_parquet(path)
    with pytest.raises(InputError, match="no train split with the columns image, question, answer"):
        load_split("vqa_rad", "train", hub_copy)


def test_data_not_found(tmp_path, monkeypatch):
    (tmp_path / "notes.txt").write_text("not ours: must not be read")
    with pytest.raises(InputError, match=r"holds no vqa_rad\.json and no parquet; .*osf\.io/89kps"):
        load_split("vqa_rad", "train", str(tmp_path))
    with pytest.raises(InputError, match=r"data_dir is .*nowhere, but there is no .*flaviagiammarino/vqa-rad"):
        load_split("vqa_rad", "train", str(tmp_path / "nowhere"))

    def offline(name):
        raise ConnectionError(f"Couldn't reach {name!r} on the Hub\nand a second line")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(InputError, match=r"Couldn't reach 'flaviagiammarino/vqa-rad' on the Hub") as error:
        load_split("vqa_rad", "train")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["[{", "[1, 2]", '{"qid": 1}', "3"])
def test_broken_json(official, text):
    (official / "vqa_rad.json").write_text(text)
    with pytest.raises(InputError, match=r"vqa_rad\.json is not the JSON list"):
        load_split("vqa_rad", "train", str(official))


def test_broken_parquet(hub_copy, tmp_path):
    (tmp_path / "copy" / "train-00000-of-00001.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(InputError, match="does not load from the local folder"):
        load_split("vqa_rad", "train", hub_copy)


def test_missing_key_and_images(official):
    (official / "images" / "synpic2.jpg").unlink()
    (official / "images" / "synpic4.jpg").unlink()
    with pytest.raises(InputError, match=r"2 of 5 images are missing, the first is .*synpic2\.jpg"):
        load_split("vqa_rad", "train", str(official))
    (official / "vqa_rad.json").write_text(json.dumps([{k: v for k, v in ODDITIES[0].items() if k != "answer"}]))
    with pytest.raises(InputError, match=r"vqa_rad\.json lacks the key 'answer'"):
        load_split("vqa_rad", "train", str(official))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scheme": "image-disjoint"}, "did you mean image_disjoint"),
        ({"validation_fraction": 1.0}, "below 1, not 1.0"),
        ({"validation_fraction": -0.1}, "at least 0"),
    ],
)
def test_wrong_options(official, options, message):
    with pytest.raises(InputError, match=message):
        load_split("vqa_rad", "train", str(official), **options)


@pytest.fixture(scope="module")
def real(shared_data):
    return str(shared_data / "vqa_rad")


def test_real_official_split(real):
    splits = all_splits(real)
    train, validation, test = (splits[split] for split in SPLITS)
    assert (len(train) + len(validation), len(test)) == (1797, 451)
    rows = [row for part in splits.values() for row in part]
    assert len({row["id"] for row in rows}) == 2248
    assert len({row["image_id"] for row in rows}) == 314
    assert not set(train["group"]) & set(validation["group"])
    assert len(set(validation["group"])) == 31
    assert len(images_of(test) & (images_of(train) | images_of(validation))) == 202
    assert Counter(test["answer_type"]) == {"closed": 272, "open": 179}
    assert Counter(row["answer_type"] for row in rows) == {"closed": 1299, "open": 949}
    assert {row["question_type"] for row in rows} == {
        *("abnormality", "attribute", "color", "count", "modality", "organ"),
        *("other", "plane", "position", "presence", "size"),
    }
    assert all(text == " ".join(text.split()) and text for row in rows for text in (row["question"], row["answer"]))


def test_real_image_disjoint_split(real):
    splits = all_splits(real, scheme="image_disjoint")
    assert sum(map(len, splits.values())) == 2248
    images = [images_of(rows) for rows in splits.values()]
    assert sum(map(len, images)) == len(set.union(*images)) == 314
    assert 0.15 < len(images[2]) / 314 < 0.25
    assert len({row["group"] for row in splits["validation"]}) == round(0.1 * (314 - 1 - len(images[2])))
    again = all_splits(real, scheme="image_disjoint", seed=1)
    assert again["test"]["id"][:] == splits["test"]["id"][:]
    assert again["train"]["id"][:] != splits["train"]["id"][:]
    assert all_splits(real, scheme="image_disjoint")["train"]["id"][:] == splits["train"]["id"][:]


def test_real_duplicate_triplets(real):
    rows = {}
    for split in ("train", "test"):
        for row in load_split("vqa_rad", split, real, validation_fraction=0):
            key = row["image_id"], row["question"].lower(), row["answer"].lower()
            rows.setdefault(key, []).append((row["id"], split))
    repeated = sorted(sorted(found) for found in rows.values() if len(found) > 1)
    assert repeated == [
        [("195", "train"), ("196", "train")],
        [("422", "train"), ("447", "test")],
        [("78", "train"), ("79", "train")],
        [("942", "train"), ("943", "train")],
    ]
