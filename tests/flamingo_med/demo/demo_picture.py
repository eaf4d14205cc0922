"""Draws docs/demo.png: the page after one question, whose answer is right and whose map lies on the finding.

    flamingo-med demo --model runs/phantom &
    python -m tests.flamingo_med.demo.demo_picture runs/phantom http://127.0.0.1:7860 docs/demo.png

Both are checked before the picture is taken, by the same model on the same image.
"""

import io
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from playwright.sync_api import sync_playwright

import flamingo_med
from processing.datasets.phantom_drawing import draw
from processing.datasets.phantom_patients import sample_scene

WIDTH, HEIGHT = 1280, 1000
NUMBER, SIZE = 20, 128  # an image of phantom's test split, drawn as it is by default
QUESTION, FINDING, ANSWER = "Can a pleural effusion be seen?", "effusion", "yes"
LONGEST = 1024  # pixels of the picture, which keeps the file small; a palette would band the colour bar


def draw_image() -> tuple[Image.Image, list[float]]:
    """The image, and the box of its finding."""
    scene = sample_scene(0, "test", NUMBER)
    pixels, boxes = draw(scene, SIZE)
    (box,) = (box for finding, box in zip(scene.findings, boxes, strict=True) if finding.label == FINDING)
    return Image.fromarray(pixels).convert("RGB"), box


def check(folder: str, image: Image.Image, box: list[float]) -> None:
    """The model answers rightly, and most of what its map says for the answer lies within the box of the finding."""
    model, processor = flamingo_med.load_model(folder)
    why = flamingo_med.explain(model, processor, image, QUESTION, method="occlusion")
    (heat,) = why.original_maps()
    x0, y0, x1, y1 = (round(edge) for edge in box)
    heat = np.clip(heat, 0, None)
    share = heat[y0:y1, x0:x1].sum() / heat.sum()
    assert why.answer == ANSWER, f"{folder} answers {why.answer}, not {ANSWER}"
    assert share > 0.5, f"{share:.2f} of the map lies within {box}"


def main(folder: str, address: str, path: str) -> None:
    """Check, ask, and write the page as PNG."""
    image, box = draw_image()
    check(folder, image, box)
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as temporary:
        image.save(Path(temporary, "radiograph.png"))
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light")
        page.goto(address)
        page.locator("#file input[type=file]").set_input_files(Path(temporary, "radiograph.png"))
        page.get_by_alt_text("The image, 128 by 128 pixels").wait_for()
        page.get_by_label("Question", exact=True).fill(QUESTION)
        page.get_by_role("button", name="Ask", exact=True).click()
        page.locator("#viewer .heat").wait_for()
        shown = Image.open(io.BytesIO(page.screenshot(full_page=True))).convert("RGB")
        browser.close()
    shown.thumbnail((LONGEST, LONGEST))
    shown.save(path, optimize=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
