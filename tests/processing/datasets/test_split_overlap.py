"""The overlap report on hand-made splits whose answer is known, then on the real data."""

import json
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from flamingo_med.cli.overlap import format_table, load_rows
from processing.datasets import load_split
from processing.datasets.rows import make_row, to_dataset
from processing.datasets.split_overlap import (
    LOOK_THRESHOLD,
    difference_hash,
    overlap,
    verdict,
)
from processing.errors import InputError
from processing.images import read_image
from tests import ROOT


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def make(tmp_path):
    """make(name, seed, …): the row of an image of that name whose pixels are smooth noise of that seed."""

    def make(name, seed, question="What is it?", answer="a mass", size=64, group=None, more=()):
        paths = []
        for number in (seed, *more):
            path = tmp_path / f"{name}-{number}-{size}.png"
            noise = np.random.default_rng(number).integers(0, 256, (20, 20), np.uint8)
            Image.fromarray(noise).resize((400, 400), Image.Resampling.BICUBIC).resize((size, size)).save(path)
            paths.append(path)
        return make_row(
            id=name,
            image=paths[0],
            more_images=paths[1:],
            image_id=name,
            question=question,
            answer=answer,
            group=group,
        )

    return make


def shared(report, kind):
    return tuple(report["shared"][kind].values())


def test_every_kind(make):
    a = to_dataset(
        [make("a", 1), make("a", 1, "Is it big?", "yes"), make("b", 2, group="p"), make("c", 3), make("d", 4)]
    )
    b = to_dataset(
        [
            make("a", 1, "IS IT BIG?", "Yes"),  # the same triplet
            make("renamed", 2, "Where?", group="p"),  # the same bytes and patient under another name
            make("renamed", 2, "What is it?"),
            make("c", 3, size=200),  # a larger copy that keeps its id: no bytes in common
            make("other", 9, "Whence?"),
        ]
    )
    report = overlap(a, b)
    assert report["a"] == {"rows": 5, "images": 4} and report["b"] == {"rows": 5, "images": 4}
    # values, images of a, rows of a, images of b, rows of b
    assert shared(report, "image_id") == (2, 2, 3, 2, 2)  # a and c
    assert shared(report, "image_bytes") == (2, 2, 3, 2, 3)  # a and b = renamed
    assert shared(report, "image_look") == (3, 3, 4, 3, 4)
    assert shared(report, "question") == (2, 4, 5, 3, 3)
    assert shared(report, "triplet") == (3, 3, 3, 3, 3)  # about a, b = renamed, and c
    assert shared(report, "group") == (3, 3, 4, 3, 3)
    assert report["image_ids"] == ["a", "c", "renamed"]
    assert verdict(report, "train", "test") == "3 of 4 test images are in train"
    table = format_table(report, "one", "two")
    assert "a  one: 5 rows, 4 images" in table and "images, by look" in table


def test_disjoint(make):
    a, b = to_dataset([make("a", 1), make("b", 2)]), to_dataset([make("c", 3)])
    assert verdict(overlap(a, b)) == "disjoint by image"
    alike = to_dataset([make("c", 2, size=100)])
    assert verdict(overlap(a, alike)) == "disjoint by image; 1 test images look like one of train"
    patient = to_dataset([make("c", 3, group="b")])
    assert verdict(overlap(a, patient)) == "disjoint by image; 1 patients or groups are in both"


def test_any_image_of_a_row_counts(make):
    a, b = to_dataset([make("a", 1, more=(2, 3))]), to_dataset([make("b", 4), make("a-3-64.png", 5)])
    assert overlap(a, b)["image_ids"] == []
    study = make("c", 6)
    shared = {"path": a[0]["more_images"][1]["path"], "bytes": None}
    study["more_images"] = [shared]
    assert overlap(a, to_dataset([study]))["image_ids"] == ["c"]
    other = make("d", 7)
    other["more_images"] = [shared, other["image"]]
    assert overlap(a, to_dataset([other]))["image_ids"] == ["d"]


def test_the_empty_question_of_reports_is_not_shared(make):
    a, b = to_dataset([make("a", 1, "", "Clear.")]), to_dataset([make("b", 2, "", "Clear.")])
    assert overlap(a, b)["shared"]["question"]["values"] == 0


def test_too_many_images_are_compared_by_id_only(make):
    a, b = to_dataset([make("a", 1)]), to_dataset([make("b", 1), make("a", 7)])
    report = overlap(a, b, max_images=2)
    assert not report["files_compared"] and set(report["shared"]) == {"image_id", "question", "triplet", "group"}
    assert report["image_ids"] == ["a"]
    report = overlap(a, to_dataset([make("b", 1)]), max_images=1)
    assert verdict(report) == "disjoint by image; by id only, too many to compare files"


def test_images_in_memory_and_hashes_from_the_cache(make, tmp_path, monkeypatch):
    row = make("a", 1)
    data = Path(row["image"]["path"]).read_bytes()
    a, b = to_dataset([row]), to_dataset([{**row, "image": {"path": None, "bytes": data}, "image_id": "b"}])
    first = overlap(a, b)
    assert first["image_ids"] == ["b"]

    def fail(*_):
        raise AssertionError("read again")

    monkeypatch.setattr("processing.datasets.split_overlap.read_image", fail)
    assert overlap(a, b) == first
    Path(row["image"]["path"]).write_bytes(data + b"changed")
    with pytest.raises(AssertionError, match="read again"):
        overlap(a, b)


def test_an_image_that_cannot_be_read(make):
    a, b = to_dataset([make("a", 1)]), to_dataset([make("b", 2)])
    Path(b[0]["image"]["path"]).write_text("no image")
    with pytest.raises(InputError, match="b-2-64.png is not an image"):
        overlap(a, b)
    Path(b[0]["image"]["path"]).unlink()
    with pytest.raises(InputError, match="b-2-64.png cannot be read: No such file"):
        overlap(a, b)


def test_difference_hash():
    ramp = Image.fromarray(np.tile(np.arange(170, dtype=np.uint8), (64, 1)))
    assert difference_hash(ramp) == "f" * 64
    assert difference_hash(Image.new("RGB", (50, 50), "white")) == "0" * 64


FEW = [
    f"--{side}_data.{split}_images={n}" for side in "ab" for split, n in (("train", 4), ("validation", 2), ("test", 3))
]


def test_the_command_writes_its_report_where_one_is(tmp_path, command, monkeypatch):
    monkeypatch.chdir(tmp_path)
    output = command("overlap", "--a", "phantom", "--b", "phantom", "--a_dir", tmp_path, "--b_dir", tmp_path, *FEW)
    assert "4 of 9 phantom all images are in phantom train" in output
    report = json.loads((tmp_path / "overlap-phantom-train-phantom-all.json").read_text())
    assert report["verdict"] in output
    assert (report["a"]["images"], report["shared"]["image_bytes"]["images_b"]) == (4, 4)
    assert report["names"] == {"a": "phantom train", "b": "phantom all"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--a", "phantom"], "--b is missing"),
        (["--a", "phantom", "--b", "vqa_rat"], "did you mean vqa_rad"),
        (["--a", "phantom", "--b", "phantom", "--b_split", "al"], "unknown b_split 'al'; did you mean all?"),
        (["--a", "slake", "--a_dir", str(ROOT), "--b", "phantom", "--a_split", "all"], "no train.json of SLAKE in"),
        (["--a", "phantom", "--b", "phantom", "--output", "/none/x.json"], "no folder /none to write x.json to"),
        (["--a", "phantom", "--b", "phantom", "--c", "1"], "unknown setting 'c'"),
    ],
)
def test_mistakes_of_the_command(tmp_path, command, arguments, message):
    where = {"--a_dir": tmp_path, "--b_dir": tmp_path} | dict(zip(arguments[::2], arguments[1::2], strict=True))
    few = FEW if where["--a"] == "phantom" else []
    assert message in command("overlap", *(word for pair in where.items() for word in pair), *few, code=2)


def test_real_overlap_of_vqa_med_2019_and_vqa_rad(shared_data):
    vqa_rad = load_rows("vqa_rad", "all", str(shared_data / "vqa_rad"), {})
    assert len(vqa_rad) == 2248 and len(set(vqa_rad["image_id"])) == 314
    ids = {}
    for split in ("train", "validation"):
        rows = load_split("vqa_med_2019", split, str(shared_data / "vqa_med_2019"))
        report = overlap(rows, vqa_rad)
        ids[split] = report["image_ids"]
        # The images are copies, downsized: none has the bytes of its original, every one has its look.
        assert report["shared"]["image_bytes"]["images_b"] == 0
        assert report["shared"]["image_look"]["images_b"] >= len(ids[split])
    assert (len(ids["train"]), len(ids["validation"])) == (32, 6)
    names = ("17664", "23631", "24538", "33102", "33481", "44995")
    assert ids["validation"] == [f"synpic{name}" for name in names]


def test_real_overlap_of_the_schemes_of_vqa_rad(shared_data):
    def splits(scheme):
        options = {"scheme": scheme, "validation_fraction": 0.0}
        return (load_split("vqa_rad", split, str(shared_data / "vqa_rad"), **options) for split in ("train", "test"))

    report = overlap(*splits("official"))
    assert verdict(report) == "202 of 203 test images are in train"
    assert report["shared"]["image_id"]["rows_b"] == 446
    assert report["shared"]["triplet"]["rows_b"] == 1  # ids 422 and 447
    report = overlap(*splits("image_disjoint"))
    assert verdict(report).startswith("disjoint by image")
    assert report["shared"]["image_bytes"]["rows_b"] == report["shared"]["group"]["rows_b"] == 0


def test_the_threshold_finds_copies_and_not_others(tmp_path, shared_data):
    """Downsized to half and saved as JPEG, an image stays within the threshold; another image does not come near."""
    hashes = []
    for path in sorted((shared_data / "vqa_rad" / "images").glob("*.jpg"))[:12]:
        image = read_image(path)
        image.reduce(2).save(tmp_path / path.name, quality=50)
        hashes.append([bytes.fromhex(difference_hash(i)) for i in (image, read_image(tmp_path / path.name))])
    bits = np.unpackbits(np.array([[list(hash) for hash in pair] for pair in hashes], np.uint8), axis=-1)
    distances = (bits[:, None, 0] != bits[None, :, 1]).sum(-1)
    assert distances.diagonal().max() <= LOOK_THRESHOLD
    assert distances[~np.eye(len(distances), dtype=bool)].min() > 2 * LOOK_THRESHOLD
