"""A picture of the demo page that is being served, after one question.

python demo.py --model runs/phantom &
python -m tests.flamingo_med.demo.demo_picture http://127.0.0.1:7860 docs/demo.png
"""

import io
import shutil
import sys

from PIL import Image
from playwright.sync_api import sync_playwright

WIDTH, HEIGHT = 1280, 1000
QUESTION = "On which side is the pleural effusion?"
LONGEST = 1024  # pixels of the picture, which keeps the file small; a palette would band the colour bar


def main(address: str, path: str) -> None:
    """Ask about the first example and write the page as PNG."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light")
        page.goto(address)
        page.get_by_role("button", name="Radiograph", exact=True).click()
        page.get_by_alt_text("The image, 128 by 128 pixels").wait_for()
        page.get_by_role("button", name=QUESTION, exact=True).click()
        page.get_by_role("button", name="Ask", exact=True).click()
        page.locator("#viewer .heat").wait_for()
        shown = Image.open(io.BytesIO(page.screenshot(full_page=True))).convert("RGB")
        browser.close()
    shown.thumbnail((LONGEST, LONGEST))
    shown.save(path, optimize=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
