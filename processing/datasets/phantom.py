"""`phantom`: drawn radiographs with known findings, boxes and balanced questions; a benchmark without patients.

Every image is a schematic chest radiograph or CT slice of an imaginary patient (`phantom_drawing.py`). A question and
its wording say nothing about the answer: for each wording every answer occurs equally often, so a model that does not
look at the image scores 1 / number of answers. The data are a function of the options alone, on every machine.
"""

import hashlib
import heapq
import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np
from datasets import Dataset
from PIL import Image
from tqdm import tqdm

from processing.datasets import FEATURES
from processing.datasets.phantom_drawing import (
    CT_LUNG,
    HEART_SHARE,
    THORAX_BASE,
    THORAX_HEIGHT,
    Anatomy,
    Finding,
    Scene,
    draw,
)
from processing.errors import InputError

VERSION = 1  # part of the cache folder's name: raise it whenever a pixel or a box changes
SIDES = ("left", "right")
ZONES = {"upper": (0.23, 0.30), "middle": (0.39, 0.48), "lower": (0.57, 0.64)}  # y of the centres of nodules
NODULE_RADIUS = (0.038, 0.044), (0.066, 0.075)  # of small and of large ones
BOXES_FILE = "boxes.json"

YES_NO = ("yes", "no")
NOUNS = {
    "effusion": "pleural effusion",
    "pneumothorax": "pneumothorax",
    "nodule": "lung nodule",
    "cardiomegaly": "cardiomegaly",
    "pacemaker": "cardiac pacemaker",
}
OPEN_ANSWERS = {
    "side": SIDES,
    "place": ("upper zone", "middle zone", "lower zone"),
    "count": ("0", "1", "2", "3"),
    "size": ("small", "large"),
    "view": ("frontal", "lateral", "axial"),
    "modality": ("x-ray", "ct"),
}
OPEN_WORDINGS = {
    "side": ("On which side is the {noun}?", "Which side is affected by the {noun}?", "Is the {noun} left or right?"),
    "place": (
        "In which lung zone is the {noun}?",
        "Where is the {noun}: upper, middle or lower zone?",
        "Which zone of the lung contains the {noun}?",
    ),
    "count": ("How many lung nodules are there?", "What is the number of lung nodules?", "Count the lung nodules."),
    "size": ("Is the {noun} small or large?", "What is the size of the {noun}?", "How large is the {noun}?"),
    "view": (
        "What is the view of this image?",
        "Which projection or plane is shown?",
        "How is the chest viewed?",
    ),
    "modality": (
        "What is the imaging modality?",
        "Which modality was used to acquire this image?",
        "How was this image taken?",
    ),
}
CLOSED_WORDINGS = {
    "presence": ("Is there a {noun}?", "Does this image show a {noun}?", "Can a {noun} be seen?"),
    "side": ("Is the {noun} on the {asked} side?", "Is the {noun} {asked}-sided?", "Is the {noun} on the {asked}?"),
    "view": (
        "Is this {article} {asked} view?",
        "Does this image show {article} {asked} view?",
        "Is the view {asked}?",
    ),
    "modality": ("Is this {article} {asked} image?", "Was this image taken with {asked}?", "Is the modality {asked}?"),
}
HEART_WORDINGS = ("Is the heart enlarged?", "Is there cardiomegaly?", "Is the cardiac silhouette enlarged?")


@dataclass(frozen=True)
class Question:
    question_type: str
    answer: str
    finding: str = ""  # label of the finding the question is about
    asked: str = ""  # what a closed question about side, view or modality suggests

    @property
    def closed(self) -> bool:
        return self.answer in YES_NO

    @property
    def kind(self) -> tuple[str, str, str]:
        """Questions of one kind compete for balance: they differ in wording and answer only."""
        return self.question_type, self.finding, self.asked

    @property
    def answers(self) -> tuple[str, ...]:
        return YES_NO if self.closed else OPEN_ANSWERS[self.question_type]

    def text(self, wording: int) -> str:
        wordings = CLOSED_WORDINGS if self.closed else OPEN_WORDINGS
        choices = HEART_WORDINGS if self.finding == "cardiomegaly" else wordings[self.question_type]
        article = "an" if self.asked in ("axial", "x-ray") else "a"
        asked = {"ct": "CT", "x-ray": "X-ray"}.get(self.asked, self.asked)
        return choices[wording % len(choices)].format(noun=NOUNS.get(self.finding), asked=asked, article=article)


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
    return Dataset.from_list(rows, features=FEATURES)


def row(image_id: str, number: int, path: Path, question: Question, text: str, boxes: list[dict]) -> dict:
    return {
        "id": f"{image_id}-{number}",
        "image": {"path": str(path), "bytes": None},
        "image_id": image_id,
        "question": text,
        "answer": question.answer,
        "answers": [question.answer],
        "answer_type": "closed" if question.closed else "open",
        "question_type": question.question_type,
        "boxes": [box for box in boxes if box["label"] == question.finding],
        "group": image_id,
    }


def require(option: str, value: int, low: int, high: int) -> None:
    if not isinstance(value, int) or not low <= value <= high:
        raise InputError(f"{option} of phantom must be a whole number from {low} to {high}, not {value!r}")


def write_images(scenes: list[Scene], size: int, folder: Path) -> None:
    """Draw into a temporary sibling of `folder`, then rename it: `folder` is complete or does not exist."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f"{folder.name}.part-") as temporary:
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


# -------------------------------------------------------------------------------------------------------- patients


def sample_scene(seed: int, split: str, index: int) -> Scene:
    digest = hashlib.sha256(f"{seed}/{split}/{index}".encode()).digest()
    random = np.random.RandomState(np.frombuffer(digest, "<u4").astype(np.uint32))  # numpy froze this generator
    view = ("frontal", "lateral", "axial")[np.searchsorted((0.7, 0.85), random.random_sample(), side="right")]
    anatomy = Anatomy(
        shift_x=random.uniform(-0.025, 0.025),
        shift_y=random.uniform(-0.02, 0.02),
        scale=random.uniform(0.92, 1.04),
        tilt=random.uniform(-0.07, 0.07),
        chest=random.uniform(0.375, 0.41),
        heart_ratio=random.uniform(0.42, 0.48),
        rib_spacing=random.uniform(0.07, 0.085),
        rib_strength=random.uniform(0.06, 0.12),
        brightness=random.uniform(-0.03, 0.08),
        contrast=random.uniform(0.8, 1.1),
        gamma=random.uniform(-0.25, 0.35),
        vignette=random.uniform(0, 0.3),
        noise_seed=random.randint(2**31 - 1),
    )
    if view == "frontal":
        findings = frontal_findings(random, anatomy)
    elif view == "axial":
        findings = axial_findings(random)
    else:
        findings = []  # laterals are there for the questions about view and modality
    return Scene(view, anatomy, tuple(findings))


def frontal_findings(random: np.random.RandomState, anatomy: Anatomy) -> list[Finding]:
    findings = []
    if random.random_sample() < 0.5:
        size, extent = small_or_large(random, (0.01, 0.025), (0.13, 0.17))
        findings.append(Finding("effusion", extent, SIDES[random.randint(2)], size=size))
    if random.random_sample() < 0.5:
        findings.append(Finding("pneumothorax", random.uniform(0.075, 0.1), SIDES[random.randint(2)]))
    if random.random_sample() < 0.5:
        findings.append(Finding("cardiomegaly", random.uniform(0.58, 0.66)))
    if random.random_sample() < 0.5:
        side = SIDES[random.randint(2)]
        x = random.uniform(0.235, 0.27) * (1 if side == "left" else -1)
        findings.append(Finding("pacemaker", 0.04, side, x=x, y=random.uniform(0.17, 0.2)))
    return findings + frontal_nodules(random, anatomy, findings)


def frontal_nodules(random: np.random.RandomState, anatomy: Anatomy, findings: list[Finding]) -> list[Finding]:
    """Up to three nodules apart from each other, none behind fluid or an enlarged heart."""
    found = {finding.label: finding for finding in findings}
    fluid, air, enlarged = (found.get(label) for label in ("effusion", "pneumothorax", "cardiomegaly"))
    hidden = set()
    if fluid:
        hidden |= {(fluid.side, "lower")} | ({(fluid.side, "middle")} if fluid.size == "large" else set())
    if enlarged or (air and air.side == "left"):
        hidden.add(("left", "lower"))
    if enlarged and air:
        hidden |= {(air.side, "lower"), (air.side, "middle")}
    heart_ratio = enlarged.extent if enlarged else anatomy.heart_ratio
    sides = {zone: [side for side in SIDES if (side, zone) not in hidden] for zone in ZONES}
    zones = [zone for zone in ZONES if sides[zone]]

    def candidate() -> Finding:
        zone = zones[random.randint(len(zones))]
        side = sides[zone][random.randint(len(sides[zone]))]
        size, radius = small_or_large(random, *NODULE_RADIUS)
        y = random.uniform(*ZONES[zone])
        height = (THORAX_BASE - y) / THORAX_HEIGHT
        wall = anatomy.chest * np.sqrt(1 - height * height)
        if air and air.side == side:
            wall -= air.extent
        heart_border = heart_ratio * anatomy.chest * HEART_SHARE[side] * {"upper": 0, "middle": 0.65, "lower": 1}[zone]
        inner = max(0.06 + radius, heart_border + radius / 2)
        x = random.uniform(inner, max(inner, wall - radius - 0.015))
        return Finding("nodule", radius, side, zone, size, x if side == "left" else -x, y)

    return place_apart(random.randint(4), candidate)


def axial_findings(random: np.random.RandomState) -> list[Finding]:
    findings = []
    if random.random_sample() < 0.5:
        size, extent = small_or_large(random, (0.07, 0.085), (0.14, 0.17))
        findings.append(Finding("effusion", extent, SIDES[random.randint(2)], size=size))
    fluid_sides = {finding.side for finding in findings}

    def candidate() -> Finding:
        side = SIDES[random.randint(2)]
        size, radius = small_or_large(random, *NODULE_RADIUS)
        x = CT_LUNG["x"] + (random.uniform(0.03, 0.06) if side == "left" else random.uniform(-0.03, 0.05))
        y = CT_LUNG["y"] + random.uniform(-0.13, -0.05 if side in fluid_sides else 0.05)
        return Finding("nodule", radius, side, "", size, x if side == "left" else -x, y)

    return findings + place_apart(random.randint(4), candidate)


def small_or_large(
    random: np.random.RandomState, small: tuple[float, float], large: tuple[float, float]
) -> tuple[str, float]:
    size, bounds = (("small", small), ("large", large))[random.randint(2)]
    return size, random.uniform(*bounds)


def place_apart(count: int, candidate: Callable[[], Finding]) -> list[Finding]:
    """`count` nodules with a gap between any two, or fewer if there is no room."""
    placed = []
    for _ in range(200):
        if len(placed) == count:
            break
        new = candidate()
        if all((new.x - f.x) ** 2 + (new.y - f.y) ** 2 > (new.extent + f.extent + 0.03) ** 2 for f in placed):
            placed.append(new)
    return placed


# ------------------------------------------------------------------------------------------------------- questions


def ask(scene: Scene, index: int) -> list[Question]:
    """Every question the scene can answer, at most one of each kind."""
    modality = "ct" if scene.view == "axial" else "x-ray"
    questions = [Question("view", scene.view), Question("modality", modality)]
    questions += [Question("view", yes_no(scene.view == asked), asked=asked) for asked in OPEN_ANSWERS["view"]]
    questions += [Question("modality", yes_no(modality == asked), asked=asked) for asked in OPEN_ANSWERS["modality"]]
    visible = {"frontal": tuple(NOUNS), "lateral": (), "axial": ("effusion", "nodule")}[scene.view]
    for label in visible:
        found = [finding for finding in scene.findings if finding.label == label]
        questions.append(Question("presence", yes_no(bool(found)), label))
        if label == "nodule":
            questions.append(Question("count", str(len(found)), label))
        if len(found) == 1:
            questions += describe(found[0], SIDES[index % 2])
    return questions


def describe(finding: Finding, asked_side: str) -> list[Question]:
    questions = []
    if finding.side:
        questions.append(Question("side", finding.side, finding.label))
        questions.append(Question("side", yes_no(finding.side == asked_side), finding.label, asked_side))
    if finding.zone:
        questions.append(Question("place", f"{finding.zone} zone", finding.label))
    if finding.size:
        questions.append(Question("size", finding.size, finding.label))
    return questions


def yes_no(value: bool) -> str:
    return "yes" if value else "no"


def balance(candidates: list[list[Question]], limit: int) -> list[list[tuple[Question, str]]]:
    """Choose at most `limit` questions of each image, and their wording, so that only the image tells the answer.

    Questions are taken in sets, one for each possible answer of a kind, and a set shares one wording. The kinds take
    turns, and each turn serves the images that have the fewest questions so far.
    """
    waiting = {}  # kind -> answer -> heap of (questions so far, image, question)
    for image, questions in enumerate(candidates):
        for number, question in enumerate(questions):
            heaps = waiting.setdefault(question.kind, {answer: [] for answer in question.answers})
            heaps[question.answer].append((0, image, number))
    chosen = [[] for _ in candidates]

    def next_image(heap: list) -> bool:
        """Bring the least asked image to the top; False if no image has room for a question."""
        while heap and heap[0][0] != len(chosen[heap[0][1]]):
            _, image, number = heapq.heappop(heap)
            if len(chosen[image]) < limit:
                heapq.heappush(heap, (len(chosen[image]), image, number))
        return bool(heap)

    turn = 0
    kinds = sorted(waiting)
    while kinds:
        for kind in list(kinds):
            heaps = waiting[kind].values()
            if not all(next_image(heap) for heap in heaps):
                kinds.remove(kind)
                continue
            for heap in heaps:
                _, image, number = heapq.heappop(heap)
                question = candidates[image][number]
                chosen[image].append((question, question.text(turn)))
        turn += 1
    return chosen
