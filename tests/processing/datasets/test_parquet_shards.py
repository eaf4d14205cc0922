"""Shards: written, and read again as a whole or as a stream, which processes share and which resumes in the middle."""

from collections import Counter
from itertools import islice

import numpy as np
import pyarrow.parquet
import pytest
import torch
from datasets import Dataset
from datasets.distributed import split_dataset_by_node
from PIL import Image
from torch.utils.data import DataLoader
from transformers import TrainerCallback

from flamingo_med.training.sampler import EndlessRows
from flamingo_med.training.trainer import FlamingoMedTrainer, FlamingoMedTrainingArguments
from processing.collator import FlamingoMedCollator
from processing.datasets import FEATURES, load_split, parquet_shards
from processing.datasets.arguments import DataArguments
from processing.datasets.parquet_shards import write_shards
from processing.errors import InputError
from processing.images import read_image

NUM_ROWS = 90


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> Dataset:
    """Thirty images with three questions each, some of them in several alphabets."""
    folder = tmp_path_factory.mktemp("images")
    rows = []
    for i in range(NUM_ROWS):
        path = folder / f"{i // 3}.png"
        if i % 3 == 0:
            Image.new("L", (32, 32), 8 * (i // 3)).save(path)
        rows.append(
            {
                "id": f"row-{i}",
                "image": {"path": str(path), "bytes": None},
                "more_images": [],
                "image_id": f"image-{i // 3}",
                "question": f"Is it {'так' if i % 2 else 'so'}?",
                "answer": "yes",
                "answers": ["yes", "так"],
                "answer_type": "closed",
                "question_type": "presence",
                "organ": "lung",
                "label": ["yes"],
                "boxes": [{"label": "nodule", "box": [0.5, 1, 2, 3]}] * (i % 2),
                "group": f"image-{i // 3}",
            }
        )
    return Dataset.from_list(rows, features=FEATURES)


def test_all_views_of_a_study_are_inside(rows, tmp_path):
    study = {**rows[0], "more_images": [rows[3]["image"], rows[6]["image"]]}
    write_shards(Dataset.from_list([study], features=FEATURES), "train", tmp_path, 10)
    (again,) = load_split("parquet_shards", "train", str(tmp_path))
    for image, original in zip(again["more_images"], study["more_images"], strict=True):
        assert image["path"] in ("1.png", "2.png")
        assert read_image(image).tobytes() == read_image(original).tobytes()


@pytest.fixture(scope="module")
def folder(rows, tmp_path_factory) -> str:
    """Nine shards of ten rows."""
    folder = tmp_path_factory.mktemp("shards")
    assert write_shards(rows, "train", folder, 10) == 9
    assert write_shards(rows.select(range(9)), "validation", folder, 10) == 1
    return str(folder)


def ids(rows) -> list[str]:
    return [row["id"] for row in rows]


def test_what_is_written_is_read(rows, folder):
    for read in (load_split("parquet_shards", "train", folder), parquet_shards.stream("train", folder)):
        by_id = {row["id"]: row for row in read}
        assert sorted(by_id) == sorted(ids(rows))
        for row in rows:
            again = by_id[row["id"]]
            assert {**again, "image": None} == {**row, "image": None}
            assert again["image"]["path"] == f"{row['image_id'].removeprefix('image-')}.png"  # no path of this machine
            assert read_image(again["image"]).tobytes() == read_image(row["image"]).tobytes()


def test_rows_of_an_image_stand_together_and_images_in_no_order(rows, folder, tmp_path):
    images = [row["image_id"] for row in parquet_shards.stream("train", folder)]
    assert all(len(set(images[i : i + 3])) == 1 for i in range(0, NUM_ROWS, 3))
    assert images != sorted(images) and images != [row["image_id"] for row in rows]
    write_shards(rows.shuffle(seed=1), "train", tmp_path, 10)  # whatever order the rows came in
    assert ids(parquet_shards.stream("train", str(tmp_path))) == ids(parquet_shards.stream("train", folder))


def test_every_pass_holds_every_row_once_in_another_order(folder):
    def passes(seed):
        stream = EndlessRows(parquet_shards.stream("train", folder), seed=seed, buffer_size=20)
        taken = list(islice(stream, 3 * NUM_ROWS))
        assert [row["epoch"] for row in taken] == [0] * NUM_ROWS + [1] * NUM_ROWS + [2] * NUM_ROWS
        return [ids(taken[i * NUM_ROWS : (i + 1) * NUM_ROWS]) for i in range(3)]

    orders = passes(0)
    assert all(len(set(order)) == NUM_ROWS for order in orders)
    assert len({tuple(order) for order in orders}) == 3
    assert passes(0) == orders
    assert passes(1)[0] != orders[0]


@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_processes_share_a_pass(folder, world_size):
    """By shards where these can be dealt out evenly (3), else by rows."""
    taken = []
    for rank in range(world_size):
        rows = split_dataset_by_node(parquet_shards.stream("train", folder), rank, world_size)
        stream = EndlessRows(rows, seed=0, buffer_size=20)
        for row in stream:
            if row["epoch"] == 1:
                break
            taken.append(row["id"])
    assert Counter(taken) == Counter({f"row-{i}": 1 for i in range(NUM_ROWS)})


def test_workers_share_a_pass(folder):
    stream = EndlessRows(parquet_shards.stream("train", folder), seed=0, buffer_size=20)
    loader = DataLoader(stream, batch_size=10, num_workers=2, collate_fn=list)
    first, again = ([row for batch in islice(loader, 20) for row in batch] for _ in range(2))
    assert sorted(row["id"] for row in first if row["epoch"] == 0) == sorted(f"row-{i}" for i in range(NUM_ROWS))
    assert ids(first) == ids(again)


def test_memory_does_not_grow_with_the_rows(rows, tmp_path):
    """Of forty megabytes a buffer of a hundred rows is in memory, and a copy or two of it on the way."""
    noise = np.random.default_rng(0)

    def large(row, i):
        return {"id": f"{i}", "image_id": f"{i}", "image": {"path": "x", "bytes": noise.bytes(20_000)}}

    row = Dataset.from_list([rows[0]] * 2000, features=FEATURES)
    write_shards(row.map(large, with_indices=True, features=FEATURES), "train", tmp_path, 100)
    before, held = pyarrow.total_allocated_bytes(), []
    for _ in islice(EndlessRows(parquet_shards.stream("train", str(tmp_path)), seed=0, buffer_size=100), 2000):
        held.append(pyarrow.total_allocated_bytes() - before)
    assert max(held) < 12e6
    assert max(held[1000:]) < 1.2 * max(held[:1000])


class Stop(TrainerCallback):
    """Interrupts a run."""

    def __init__(self, step: int):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step == self.step


class Recorder(FlamingoMedTrainer):
    """Remembers what is trained on."""

    def training_step(self, model, inputs, *args, **kwargs):
        self.seen = [*getattr(self, "seen", []), inputs["numbers"]]
        return super().training_step(model, {k: v for k, v in inputs.items() if k != "numbers"}, *args, **kwargs)


def train(model, processor, rows, folder, stop=None, resume=None, **arguments) -> Recorder:
    args = FlamingoMedTrainingArguments(
        output_dir=str(folder),
        max_steps=16,
        save_strategy="steps",
        save_steps=11,
        per_device_train_batch_size=7,
        shuffle_buffer=20,
        augmentation={"rotation": 7, "contrast": 0.1},
        learning_rate=1e-2,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        **arguments,
    )
    trainer = Recorder(model, args, processor, train_dataset=rows, callbacks=[Stop(stop)] if stop else [])
    trainer.train(resume_from_checkpoint=resume)
    return trainer


@pytest.fixture
def named_batches(monkeypatch):
    """Batches carry the ids and epochs of their rows."""
    collate = FlamingoMedCollator.__call__

    def call(self, rows):
        numbers = [[int(row["id"].removeprefix("row-")), row["epoch"]] for row in rows]
        return {**collate(self, rows), "numbers": torch.tensor(numbers)}

    monkeypatch.setattr(FlamingoMedCollator, "__call__", call)


@pytest.mark.parametrize("streaming", [True, False])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_an_interrupted_run_goes_on_with_the_remaining_rows(
    make_model, processor, folder, rows, tmp_path, named_batches, streaming, accumulation
):
    """Sixteen steps of seven rows pass over the ninety rows once and a bit; the cut is in the middle of a pass."""
    rows = parquet_shards.stream("train", folder) if streaming else rows
    settings = {"gradient_accumulation_steps": accumulation}
    whole = train(make_model(), processor, rows, tmp_path / "whole", **settings)
    cut = train(make_model(), processor, rows, tmp_path / "cut", stop=11, **settings)
    checkpoint = str(tmp_path / "cut" / "checkpoint-11")
    resumed = train(make_model(), processor, rows, tmp_path / "cut", resume=checkpoint, **settings)

    def seen(trainer):
        return [tuple(row) for batch in trainer.seen for row in batch.tolist()]

    assert seen(cut) + seen(resumed) == seen(whole)
    assert len(set(seen(whole)[:NUM_ROWS])) == NUM_ROWS
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(weight, resumed.model.state_dict()[name]), name


def test_a_stream_needs_max_steps_and_a_shard_for_each_worker(make_model, processor, folder, tmp_path):
    rows = parquet_shards.stream("train", folder)
    args = FlamingoMedTrainingArguments(output_dir=str(tmp_path), report_to="none")
    with pytest.raises(InputError, match="--max_steps"):
        FlamingoMedTrainer(make_model(), args, processor, train_dataset=rows)
    args = FlamingoMedTrainingArguments(
        output_dir=str(tmp_path), report_to="none", max_steps=1, dataloader_num_workers=10
    )
    with pytest.raises(InputError, match="10 workers, but only 9 shards"):
        FlamingoMedTrainer(make_model(), args, processor, train_dataset=rows).get_train_dataloader()


@pytest.mark.parametrize("size", [1, 2, 1000])
def test_a_buffer_of_any_size_loses_no_row(folder, size):
    stream = EndlessRows(parquet_shards.stream("train", folder), seed=0, buffer_size=size)
    assert len(set(ids(islice(stream, NUM_ROWS)))) == NUM_ROWS
    with pytest.raises(InputError, match="shuffle_buffer is at least 1, got 0"):
        FlamingoMedTrainingArguments(output_dir="none", report_to="none", shuffle_buffer=0)


def test_only_shards_are_streamed(folder):
    with pytest.raises(InputError, match="only the data set parquet_shards can be streamed, not phantom"):
        DataArguments(dataset="phantom", streaming=True).load_train()
    stream = DataArguments(dataset="parquet_shards", data_dir=folder, streaming=True).load_train()
    assert stream.num_shards == 9
    assert len(DataArguments(dataset="parquet_shards", data_dir=folder).load_train()) == NUM_ROWS


def test_incomplete_and_broken_shards(rows, tmp_path):
    with pytest.raises(InputError, match="data_dir of the data set parquet_shards is missing"):
        load_split("parquet_shards", "train")
    with pytest.raises(InputError, match="holds no shards train"):
        load_split("parquet_shards", "train", str(tmp_path))
    write_shards(rows, "train", tmp_path, 40)
    with pytest.raises(InputError, match="holds shards of train already"):
        write_shards(rows, "train", tmp_path, 40)
    with pytest.raises(InputError, match="rows_per_shard is at least 1"):
        write_shards(rows, "test", tmp_path, 0)
    first, second, _ = sorted(tmp_path.iterdir())
    table = pyarrow.parquet.read_table(second)
    second.unlink()
    with pytest.raises(InputError, match="the 2 shards of train .* are not one whole set"):
        parquet_shards.stream("train", str(tmp_path))
    pyarrow.parquet.write_table(table.drop_columns("group"), second)
    with pytest.raises(InputError, match="00001-of-00003.parquet has other columns"):
        parquet_shards.stream("train", str(tmp_path))
    first.write_bytes(first.read_bytes()[:1000])
    with pytest.raises(InputError, match="00000-of-00003.parquet is damaged"):
        parquet_shards.stream("train", str(tmp_path))


def test_all_shards_or_none(rows, tmp_path):
    missing = rows.map(lambda row, i: {"image": {"path": "gone.png", "bytes": None}} if i == 50 else row, True)
    with pytest.raises(InputError, match=r"gone\.png does not exist"):
        write_shards(missing.cast(FEATURES), "train", tmp_path / "new", 10)
    assert list((tmp_path / "new").iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"):
        write_shards(rows, "train", tmp_path / "file", 10)


def test_the_command_writes_a_split(tmp_path, command):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"{{dataset: phantom, data_dir: {tmp_path / 'data'}, seed: 0}}")
    arguments = ["--recipe", str(recipe), "--output_dir", str(tmp_path / "out"), "--rows_per_shard", "20"]
    arguments += ["--split", "test", "--data.test_images", "10", "--data.image_size", "64"]
    output = command("shards", *arguments)
    rows = load_split("parquet_shards", "test", str(tmp_path / "out"))
    expected = load_split("phantom", "test", str(tmp_path / "data"), test_images=10, image_size=64)
    assert sorted(ids(rows)) == sorted(ids(expected))
    assert f"{len(rows)} rows of phantom in {-(-len(rows) // 20)} shards" in output
    recipe.write_text("seed: 0")
    assert "names no dataset" in command("shards", *arguments, code=2)
