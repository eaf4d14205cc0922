"""`python -m processing.datasets.phantom_sheet`: the contact sheet of `phantom` in docs/data.md, findings in boxes."""

import sys

from PIL import Image, ImageDraw

from processing.datasets.phantom_drawing import draw
from processing.datasets.phantom_patients import sample_scene
from processing.errors import InputError, run

SIZE = 160  # of an image, in pixels
COLUMNS = 5
LINES = {"frontal": 2, "axial": 1, "lateral": 1}
COLOURS = {
    "effusion": "deepskyblue",
    "pneumothorax": "gold",
    "nodule": "lime",
    "cardiomegaly": "red",
    "pacemaker": "violet",
}


def draw_sheet() -> Image.Image:
    """The first images of each view, a finding's box in the colour of its kind."""
    scenes = [sample_scene(0, "test", index) for index in range(100)]
    chosen = []
    for view, lines in LINES.items():
        chosen += [scene for scene in scenes if scene.view == view][: lines * COLUMNS]
    sheet = Image.new("RGB", (COLUMNS * SIZE, sum(LINES.values()) * SIZE))
    for place, scene in enumerate(chosen):
        pixels, boxes = draw(scene, SIZE)
        image = Image.fromarray(pixels).convert("RGB")
        for finding, box in zip(scene.findings, boxes, strict=True):
            ImageDraw.Draw(image).rectangle(box, outline=COLOURS[finding.label])
        sheet.paste(image, (place % COLUMNS * SIZE, place // COLUMNS * SIZE))
    return sheet


def main() -> None:
    """Write it to the file that is named."""
    if len(sys.argv) != 2 or not sys.argv[1].endswith(".png"):
        raise InputError("phantom_sheet takes one file: python -m processing.datasets.phantom_sheet FILE.png")
    path = sys.argv[1]
    try:
        draw_sheet().save(path)
    except OSError as error:
        raise InputError(f"the sheet cannot be written to {path}: {error.strerror}") from None
    print(f"written: {path}; " + ", ".join(f"{colour} {label}" for label, colour in COLOURS.items()))


if __name__ == "__main__":
    run(main)
