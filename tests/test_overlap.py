"""The overlap report: images by name, bytes and sight, questions, triplets, groups; and the real data's overlaps."""

import io
import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from processing.datasets import load_split
from processing.datasets.overlap import compare, overlap
from processing.datasets.rows import make_row, to_dataset


def scan(seed, size=(120, 100), **save):
    """File of a smooth random image."""
    coarse = np.random.default_rng(seed).integers(0, 255, (12, 12), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(coarse).resize((240, 200), Image.Resampling.BICUBIC).resize(size).save(buffer, **save)
    return buffer.getvalue()


def rows(*entries):
    return to_dataset(
        [
            make_row(id=str(n), image={"path": None, "bytes": data}, image_id=name, question=q, answer=a, group=group)
            for n, (name, data, q, a, group) in enumerate(entries)
        ]
    )


def test_each_kind_of_overlap():
    png, jpeg = {"format": "PNG"}, {"format": "JPEG", "quality": 60}
    a = rows(
        ("one", scan(1, **png), "Is it A?", "yes", "p1"),
        ("one", scan(1, **png), "Where?", "left", "p1"),
        ("two", scan(2, **png), "Where?", "left", "p2"),
        ("three", scan(3, **png), "Is it C?", "no", "p3"),
    )
    b = rows(
        ("one", scan(9, **png), "other?", "yes", "p9"),  # by name alone
        ("zwei", scan(2, **png), "where?", "Left", "p2"),  # by bytes, and by sight; the same triplet
        ("drei", scan(3, (60, 50), **jpeg), "Is it D?", "no", "p8"),  # by sight alone
        ("vier", scan(4, **png), "Is it C?", "no", "p7"),
    )
    result = overlap(a, b)
    shared = {kind: (found["count"], found["rows_a"], found["rows_b"]) for kind, found in result["shared"].items()}
    assert shared == {
        "images by name": (1, 2, 1),
        "images by bytes": (1, 1, 1),
        "images by sight": (2, 2, 2),
        "images": (3, 4, 3),
        "questions": (2, 3, 2),
        "groups": (1, 1, 1),
        "triplets": (1, 1, 1),
    }
    assert result["shared"]["triplets"]["examples"] == ["zwei | where? | left"]
    assert compare(a, b, "train", "test")["verdict"] == "3 of 4 images of test are in train: 3 of 4 questions"
    none = compare(a, b.select([3]), "train", "test")
    assert none["verdict"] == "test shares no image with train"


def test_real_overlaps(shared_data):
    rad, med = str(shared_data / "vqa_rad"), str(shared_data / "vqa_med_2019")
    train, test = (load_split("vqa_rad", split, rad, validation_fraction=0.0) for split in ("train", "test"))
    found = compare(train, test, "train", "test")
    assert found["verdict"] == "202 of 203 images of test are in train: 446 of 451 questions"
    for split, count in (("train", 32), ("validation", 6)):
        other = load_split("vqa_med_2019", split, med)
        both = overlap(other, train)["shared"] | {}
        names = set(other["image_id"]) & (set(train["image_id"]) | set(test["image_id"]))
        assert len(names) == count
        by_sight = set(both["images by sight"]["examples"])
        assert both["images by sight"]["count"] >= len(names & set(train["image_id"]))
        assert by_sight or not names


def test_command(tmp_path, shared_data):
    command = [sys.executable, "-m", "processing.datasets.overlap", "--a", "vqa_med_2019", "--b", "vqa_rad"]
    command += ["--a_dir", str(shared_data / "vqa_med_2019"), "--a_split", "validation"]
    command += ["--b_dir", str(shared_data / "vqa_rad"), "--output", str(tmp_path / "o.json")]
    printed = subprocess.run(command, capture_output=True, text=True)
    assert printed.returncode == 0, printed.stderr
    assert "6 of 314 images of vqa_rad all are in vqa_med_2019 validation: 45 of 2248 questions" in printed.stdout
    saved = json.loads((tmp_path / "o.json").read_text())
    expected = {f"synpic{n}" for n in (17664, 23631, 24538, 33102, 33481, 44995)}
    assert set(saved["shared"]["images by name"]["examples"]) == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--a", "vqa_rat", "--b", "vqa_rad"], "did you mean vqa_rad?"),
        (["--a", "phantom"], "--b is missing"),
        (["--a", "phantom", "--b", "phantom", "--a_split", "dev"], "unknown split 'dev'"),
    ],
)
def test_mistakes(arguments, message, monkeypatch, capsys):
    from processing.datasets import overlap as module
    from processing.errors import run

    monkeypatch.setattr(sys, "argv", ["overlap", *arguments])
    with pytest.raises(SystemExit):
        run(module.main)
    assert message in capsys.readouterr().err
