"""`phantom`: drawn radiographs with known findings, boxes and balanced questions; a benchmark without patients.

Every image is a schematic chest radiograph or CT slice (`phantom_drawing.py`) of an imaginary patient
(`phantom_patients.py`). A question and its wording (`phantom_questions.py`) say nothing about the answer: for each
wording every answer occurs equally often, so a model that does not look at the image scores 1 / number of answers. The
data are a function of the options alone, on every machine.
"""

import json
import os
import tempfile
from pathlib import Path

import datasets
from datasets import Dataset
from PIL import Image
from tqdm import tqdm

from processing.datasets.phantom_drawing import Scene, draw
from processing.datasets.phantom_patients import sample_scene
from processing.datasets.phantom_questions import Question, ask, balance
from processing.datasets.rows import make_row, to_dataset
from processing.errors import InputError, disk_errors

VERSION = 1  # part of the cache folder's name: raise it whenever a pixel or a box changes
BOXES_FILE = "boxes.json"
MAKE_ROOM = "make room, or keep the drawn images elsewhere by --data_dir"


def load(
    split: str,
    data_dir: str | None = None,
    *,
    seed: int = 0,
    train_images: int = 3000,
    validation_images: int = 200,
    test_images: int = 400,
    questions_per_image: int = 8,
    image_size: int = 128,
) -> Dataset:
    """One split, drawn on first use.

    Args:
        split: one of `SPLITS`; the splits share no image.
        data_dir: folder that keeps the drawn images; a folder in the cache of `datasets` by default.
        seed: another seed gives other patients.
        train_images, validation_images, test_images: number of images in each split.
        questions_per_image: at most so many rows for one image; balance comes first.
        image_size: width and height in pixels.
    """
    counts = {"train": train_images, "validation": validation_images, "test": test_images}
    for name, count in counts.items():
        require(f"{name}_images", count, 1, 100_000)
    require("image_size", image_size, 64, 512)
    require("questions_per_image", questions_per_image, 1, 100)
    scenes = [sample_scene(seed, split, index) for index in range(counts[split])]
    root = Path(data_dir or Path(datasets.config.HF_DATASETS_CACHE) / "phantom")
    folder = root / f"v{VERSION}-seed{seed}-{split}-{len(scenes)}x{image_size}px"
    if not (folder / BOXES_FILE).exists():
        write_images(scenes, image_size, folder)
    boxes = json.loads((folder / BOXES_FILE).read_text())
    chosen = balance([ask(scene, index) for index, scene in enumerate(scenes)], questions_per_image)
    rows = [
        row(f"{split}-{index:05d}", number, folder / f"{index:05d}.png", question, text, boxes[index])
        for index, questions in enumerate(chosen)
        for number, (question, text) in enumerate(questions)
    ]
    return to_dataset(rows)


def row(image_id: str, number: int, path: Path, question: Question, text: str, boxes: list[dict]) -> dict:
    return make_row(
        id=f"{image_id}-{number}",
        image=path,
        image_id=image_id,
        question=text,
        answer=question.answer,
        question_type=question.question_type,
        boxes=[box for box in boxes if box["label"] == question.finding],
    )


def require(option: str, value: int, low: int, high: int) -> None:
    if not isinstance(value, int) or not low <= value <= high:
        raise InputError(f"{option} of phantom must be a whole number from {low} to {high}, not {value!r}")


def write_images(scenes: list[Scene], size: int, folder: Path) -> None:
    """Draw into a temporary sibling of `folder`, then rename it: `folder` is complete or does not exist."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"phantom cannot keep its images in {folder.parent}: {error.strerror}") from None
    with (
        disk_errors(folder.parent, MAKE_ROOM),
        tempfile.TemporaryDirectory(dir=folder.parent, prefix=f"{folder.name}.part-") as temporary,
    ):
        part = Path(temporary) / "images"
        part.mkdir()
        boxes = []
        for index, scene in enumerate(tqdm(scenes, desc=f"drawing {folder.name}", unit="image")):
            pixels, found = draw(scene, size)
            Image.fromarray(pixels).save(part / f"{index:05d}.png", compress_level=1)
            boxes.append([{"label": f.label, "box": box} for f, box in zip(scene.findings, found, strict=True)])
        (part / BOXES_FILE).write_text(json.dumps(boxes))
        try:
            os.rename(part, folder)
        except OSError:
            # another process was faster, with the same images
            if not (folder / BOXES_FILE).exists():
                raise InputError(f"{folder} is incomplete; delete it, and it is drawn again") from None
