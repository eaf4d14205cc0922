"""The contact sheet of `phantom` in docs/data.md, findings in boxes."""

from PIL import Image, ImageDraw

from processing.datasets.phantom_drawing import draw
from processing.datasets.phantom_patients import sample_scene

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
