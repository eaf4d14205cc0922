"""SLAKE in its published layout: languages, boxes, a Hub repository with zipped images."""

import json
import zipfile

import datasets
import pytest
from PIL import Image

from processing.datasets import FEATURES, load_split, source_files
from processing.errors import InputError


def entry(qid, image, question, answer, **changes):
    return {
        "img_id": image,
        "img_name": f"xmlab{image}/source.jpg",
        "question": question,
        "answer": answer,
        "q_lang": "en",
        "location": "Lung",
        "modality": "X-Ray",
        "answer_type": "CLOSED",
        "base_type": "vqa",
        "content_type": "Abnormality",
        "triple": ["vhead", "_", "_"],
        "qid": qid,
        **changes,
    }


@pytest.fixture
def slake(tmp_path):
    root = tmp_path / "Slake1.0"
    for image in range(3):
        folder = root / "imgs" / f"xmlab{image}"
        folder.mkdir(parents=True)
        Image.new("RGB", (32, 24), (image, 0, 0)).save(folder / "source.jpg")
    (root / "imgs" / "xmlab0" / "detection.json").write_text(
        '[{"Heart": [2.0, 3.0, 10.0, 5.5]}, {"Lung": [0, 0, 4, 4]}]'
    )
    (root / "imgs" / "xmlab1" / "detection.json").write_text("[]")
    write(root / "train.json", entry(1, 0, "Is  it big?", "Yes"), entry(2, 0, "它大吗?", "是", q_lang="zh"))
    write(root / "validate.json", entry(3, 1, "Which organ?", "Heart", answer_type="OPEN", content_type="Organ"))
    write(root / "test.json", entry(4, 2, "Is it normal?", "No"))
    return root


def write(path, *entries):
    path.write_text(json.dumps(entries, ensure_ascii=False), encoding="utf-8")


def test_rows(slake):
    rows = load_split("slake", "train", str(slake))
    assert rows.features == FEATURES
    (row,) = rows
    assert row == {
        "id": "1",
        "image": {"path": str(slake / "imgs" / "xmlab0" / "source.jpg"), "bytes": None},
        "more_images": [],
        "image_id": "xmlab0",
        "question": "Is it big?",
        "answer": "Yes",
        "answers": ["Yes"],
        "answer_type": "closed",
        "question_type": "abnormality",
        "organ": "lung",
        "label": ["yes"],
        "boxes": [{"label": "Heart", "box": [2.0, 3.0, 12.0, 8.5]}, {"label": "Lung", "box": [0.0, 0.0, 4.0, 4.0]}],
        "group": "xmlab0",
    }
    (row,) = load_split("slake", "validation", str(slake))
    assert (row["answer_type"], row["question_type"], row["boxes"]) == ("open", "organ", [])
    assert load_split("slake", "test", str(slake))["boxes"][:] == [[]]  # there is no file of boxes
    assert load_split("slake", "train", str(slake), language="zh")["answer"][:] == ["是"]


def test_a_hub_repository(slake, tmp_path, monkeypatch):
    """validation.json instead of validate.json, and the images in a zip archive."""
    monkeypatch.setattr(datasets.config, "EXTRACTED_DATASETS_PATH", str(tmp_path / "extracted"))
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    (slake / "validate.json").rename(snapshot / "validation.json")
    with zipfile.ZipFile(snapshot / "imgs.zip", "w") as archive:
        for path in sorted((slake / "imgs").rglob("*.*")):
            archive.write(path, path.relative_to(slake))
    asked = {}
    monkeypatch.setattr(
        source_files, "snapshot_download", lambda name, **options: asked.update(options, name=name) or str(snapshot)
    )
    (row,) = load_split("slake", "validation", "BoKelvin/SLAKE")
    assert row["image"]["path"].endswith("imgs/xmlab1/source.jpg") and "imgs.zip" in asked["allow_patterns"]
    assert (asked["name"], asked["repo_type"]) == ("BoKelvin/SLAKE", "dataset")

    def offline(name, **options):
        raise ConnectionError(f"no way to {name}\nand a second line")

    monkeypatch.setattr(source_files, "snapshot_download", offline)
    with pytest.raises(InputError, match=r"neither a folder nor a Hub id: BoKelvin/SLAKE \(no way") as error:
        load_split("slake", "train")
    assert "\n" not in str(error.value)


def test_mistakes(slake):
    with pytest.raises(InputError, match="unknown language 'english'"):
        load_split("slake", "train", str(slake), language="english")
    (slake / "imgs" / "xmlab0" / "source.jpg").unlink()
    with pytest.raises(InputError, match="1 of 1 images are missing .*xmlab0/source.jpg"):
        load_split("slake", "train", str(slake))
    (slake / "imgs" / "xmlab0" / "detection.json").write_text('[{"Heart": [2.0, 3.0]}]')
    with pytest.raises(InputError, match="detection.json is not a list of boxes"):
        load_split("slake", "train", str(slake))
    write(slake / "train.json", {"img_name": "xmlab0/source.jpg"})
    with pytest.raises(InputError, match="question 1 in .*train.json lacks the key 'qid'"):
        load_split("slake", "train", str(slake))
    for text, message in [
        ("{", "cannot be read as JSON"),
        ("{}", "is not a JSON list"),
        ("[1]", "is not a JSON list"),
    ]:
        (slake / "train.json").write_text(text)
        with pytest.raises(InputError, match=f"train.json {message}"):
            load_split("slake", "train", str(slake))
    (slake / "train.json").unlink()
    with pytest.raises(InputError, match="no train.json of SLAKE in .*Slake1.0; get it from"):
        load_split("slake", "train", str(slake))
