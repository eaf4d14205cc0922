"""The demo page in a real browser (Debian's chromium): upload to map and bars, mistakes, two users, privacy."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import pytest
from PIL import Image
from transformers import set_seed

from modeling_flamingo_med import FlamingoMedForConditionalGeneration
from tests import ROOT
from tests.conftest import QUESTIONS, SMALL, TEXT, VISION
from tests.processing.test_dicom import encode, make

sync_api = pytest.importorskip("playwright.sync_api")
pytest.importorskip("gradio")

from flamingo_med.demo.demo_page import build_page  # noqa: E402
from flamingo_med.demo.guard import private_folder  # noqa: E402
from flamingo_med.demo.login import Login  # noqa: E402
from flamingo_med.demo.session import Assistant, Memory, Session  # noqa: E402

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")]
expect = sync_api.expect


@pytest.fixture(scope="module")
def model(processor):
    """A tiny random model with a head."""
    set_seed(0)
    model = FlamingoMedForConditionalGeneration.from_vision_text_pretrained(
        VISION["clip"],
        TEXT["gpt2"],
        **processor.token_ids,
        **SMALL,
        cross_attn_gate_init=0.5,
        id2label={0: "effusion", 1: "nodule", 2: "normal"},
    )
    model.generation_config.max_new_tokens = 4
    return model


@pytest.fixture(scope="module")
def server(model, processor, tmp_path_factory):
    """Its page, served by demo.py: the address, and the folder of its files."""
    folder = tmp_path_factory.mktemp("demo")
    model.save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    (folder / "temporary").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [sys.executable, "demo.py", "--model", folder / "model", "--port", str(port), "--max_upload_mb", "1"]
    environment = {**os.environ, "TMPDIR": str(folder / "temporary"), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
        try:
            wait_for(f"http://127.0.0.1:{port}", process, folder / "log")
            yield f"http://127.0.0.1:{port}", folder
        finally:
            process.terminate()
            process.wait(20)
    assert not list((folder / "temporary").iterdir())
    assert "Traceback" not in (folder / "log").read_text()


def wait_for(address: str, process: subprocess.Popen, log: Path) -> None:
    def answers() -> bool:
        assert process.poll() is None, log.read_text()
        try:
            urlopen(address).close()
        except OSError:
            return False
        return True

    wait_until(answers)


def wait_until(condition, seconds: int = 60) -> None:
    for _ in range(10 * seconds):
        if condition():
            return
        time.sleep(0.1)
    raise AssertionError("in vain")


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(server, browser):
    """open_page(): a new user's page, of whom no request leaves this machine, and no script fails."""
    contexts, requests, failures = [], [], []

    def open_one(**options):
        context = browser.new_context(**options)
        contexts.append(context)
        context.set_default_timeout(20_000)
        context.on("request", lambda request: requests.append(request.url))
        page = context.new_page()
        page.on("pageerror", lambda error: failures.append(str(error)))
        page.goto(server[0])
        expect(page.get_by_role("heading", name="Ask about a medical image")).to_be_visible()
        return page

    yield open_one
    for context in contexts:
        context.close()
    outside = [url for url in requests if not url.startswith((server[0], "data:", "blob:"))]
    assert requests and not outside and not failures


@pytest.fixture
def picture(tmp_path):
    """picture("a.png", seed): a file of noise."""

    def write(name: str, seed: int = 0) -> Path:
        pixels = np.random.default_rng(seed).integers(0, 255, (40, 30), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / name)
        return tmp_path / name

    return write


def upload(page, path: Path) -> None:
    page.locator("#file input[type=file]").set_input_files(path)


def image_source(page) -> str:
    return page.locator("#viewer .layers img").first.get_attribute("src")


def record(page) -> dict:
    with page.expect_download() as download:
        page.get_by_role("link", name=re.compile("Download the audit record")).click()
    return json.loads(Path(download.value.path()).read_text(encoding="utf-8"))


def test_upload_ask_answer_map_and_bars(open_page, server, picture):
    page = open_page()
    expect(page.get_by_text("Not for clinical use")).to_be_visible()
    upload(page, picture("one.png"))
    expect(page.get_by_alt_text("The image, 30 by 40 pixels")).to_be_visible()
    page.get_by_role("button", name=QUESTIONS[0], exact=True).click()
    expect(page.get_by_label("Question", exact=True)).to_have_value(QUESTIONS[0])
    page.get_by_role("button", name="Ask", exact=True).click()
    expect(page.locator("#answer .confidence")).to_contain_text(re.compile(r"Confidence [<>]?0\.\d{3}"))
    expect(page.locator("#answer h2")).to_contain_text(["Answers considered", "Classes"])
    assert page.locator("#answer section").last.locator("li").count() == 3
    expect(page.locator("#viewer .heat")).to_be_visible()
    expect(page.locator("#viewer figcaption")).to_contain_text("occlusion")

    heat = page.locator("#viewer .heat")
    page.get_by_label("Opacity of the map").last.focus()
    page.keyboard.press("Home")
    expect(heat).to_have_css("opacity", "0")
    page.get_by_label("Map of the answer").click()
    page.get_by_role("option", name="Attention rollout").click()
    expect(page.locator("#viewer figcaption")).to_contain_text("attention (")

    written = record(page)
    assert written["question"] == QUESTIONS[0] and 0 <= written["confidence"] <= 1
    assert written["model"]["revision"].startswith("sha256:")
    assert written["model"]["name"] == "model"  # the folder's, and nothing of where that is
    left = [path for path in (server[1] / "temporary").glob("*/*") if any(path.rglob("*"))]
    assert not left, "an upload, or an empty file beside it, is still there"


def test_by_keyboard_alone(open_page, picture):
    page = open_page()
    page.get_by_role("button", name="Radiograph", exact=True).focus()
    page.keyboard.press("Enter")
    expect(page.get_by_alt_text("The image, 128 by 128 pixels")).to_be_visible()
    page.get_by_label("Question", exact=True).focus()
    page.keyboard.type(QUESTIONS[1])
    page.keyboard.press("Enter")
    expect(page.locator("#answer .card")).to_contain_text(QUESTIONS[1])
    expect(page.locator("#viewer .heat")).to_be_visible()


def test_mistakes_are_said_in_the_page(open_page, picture, tmp_path):
    page = open_page()
    page.get_by_role("button", name="Ask", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("there is no image to ask about")
    (tmp_path / "notes.png").write_text("no image at all")
    upload(page, tmp_path / "notes.png")
    expect(page.locator("#problem")).to_contain_text("notes.png is not an image of a known format")
    page = open_page()
    upload(page, picture("one.png"))
    expect(page.locator("#viewer .layers")).to_be_visible()
    page.get_by_label("Question", exact=True).fill("What is <image>?")
    page.get_by_role("button", name="Ask", exact=True).click()
    expect(page.locator("#answer")).to_contain_text("special token '<image>'")
    page.get_by_label("Question", exact=True).fill("<img src=x onerror='throw 1'> ${throw 1}")
    page.get_by_role("button", name="Ask", exact=True).click()
    expect(page.locator("#answer .card")).to_contain_text("<img src=x onerror='throw 1'> ${throw 1}")


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n"], ids=["empty", "cut off"])
def test_a_file_without_an_image(content, open_page, tmp_path):
    page = open_page()
    (tmp_path / "scan.png").write_bytes(content)
    upload(page, tmp_path / "scan.png")
    expect(page.locator("#problem")).to_contain_text("scan.png")
    expect(page.locator("#viewer .layers")).to_have_count(0)


def test_a_question_in_another_alphabet(open_page, picture):
    page = open_page()
    upload(page, picture("снимок.png"))
    expect(page.locator("#viewer .layers")).to_be_visible()
    page.get_by_label("Question", exact=True).fill("Есть ли выпот?")
    page.keyboard.press("Enter")
    expect(page.locator("#answer .card")).to_contain_text("Есть ли выпот?")
    assert record(page)["question"] == "Есть ли выпот?"


def test_a_file_that_is_too_large(open_page, tmp_path):
    page = open_page()
    (tmp_path / "large.png").write_bytes(b"\0" * (2**20 + 1000))
    upload(page, tmp_path / "large.png")
    expect(page.get_by_text("exceed the maximum allowed size").first).to_be_visible()
    expect(page.locator("#viewer .layers")).to_have_count(0)


def test_two_users_at_once(open_page, picture):
    pages = [open_page(), open_page()]
    for number, page in enumerate(pages):
        upload(page, picture(f"{number}.png", number))
        expect(page.locator("#viewer .layers")).to_be_visible()
        page.get_by_label("Question", exact=True).fill(QUESTIONS[number])
    for page in pages:
        page.get_by_role("button", name="Ask", exact=True).click()
    for number, page in enumerate(pages):
        expect(page.locator("#answer .card")).to_contain_text(QUESTIONS[number])
        expect(page.locator("#viewer .heat")).to_be_visible()
    records = [record(page) for page in pages]
    assert records[0]["image"]["sha256"] != records[1]["image"]["sha256"]
    assert image_source(pages[0]) != image_source(pages[1])


def test_dicom_with_a_window(open_page, tmp_path):
    ramp = np.linspace(-1000, 1000, 64 * 48).reshape(64, 48).astype(np.int16)
    scan = make(ramp, 16, RescaleSlope=1, RescaleIntercept=0, WindowCenter=0, WindowWidth=2000)
    (tmp_path / "scan").write_bytes(encode(scan))
    page = open_page()
    expect(page.locator("#window")).to_be_hidden()
    upload(page, tmp_path / "scan")
    expect(page.get_by_alt_text("The image, 48 by 64 pixels")).to_be_visible()
    before = image_source(page)
    width = page.get_by_label("number input for Window width")
    for value in ("", "0"):
        width.fill(value)
        page.keyboard.press("Enter")
    expect(page.locator("#problem")).to_contain_text("the width of a window is at least 1, got 0")
    width.fill("200")
    page.keyboard.press("Enter")
    expect(page.locator("#viewer .layers img").first).not_to_have_attribute("src", before)
    page.get_by_label("Question", exact=True).fill(QUESTIONS[0])
    page.get_by_role("button", name="Ask", exact=True).click()
    expect(page.locator("#viewer .heat")).to_be_visible()
    assert record(page)["image"]["window"] == {"center": 0, "width": 200}


def test_dicom_with_frames(open_page, tmp_path):
    stack = np.random.default_rng(0).integers(0, 255, (3, 40, 30), dtype=np.uint8)
    (tmp_path / "stack").write_bytes(encode(make(stack, NumberOfFrames=3)))
    page = open_page()
    upload(page, tmp_path / "stack")
    expect(page.get_by_alt_text("The image, 30 by 40 pixels")).to_be_visible()
    before = image_source(page)
    frame = page.get_by_label("number input for Frame")
    frame.fill("4")
    page.keyboard.press("Enter")
    expect(page.locator("#problem")).to_contain_text("stack has the frames 1 to 3, not 4")
    frame.fill("3")
    page.keyboard.press("Enter")
    expect(page.locator("#viewer .layers img").first).not_to_have_attribute("src", before)
    page.get_by_label("Question", exact=True).fill(QUESTIONS[0])
    page.get_by_role("button", name="Ask", exact=True).click()
    expect(page.locator("#viewer .heat")).to_be_visible()
    assert record(page)["image"]["frame"] == 3
    page.get_by_role("button", name="Radiograph", exact=True).click()
    expect(page.locator("#frame")).to_be_hidden()


def test_few_shot(open_page, picture):
    page = open_page()
    page.get_by_role("button", name="Radiograph", exact=True).click()
    page.get_by_role("button", name=re.compile("Advanced")).click()
    page.locator("#few-shot-file input[type=file]").set_input_files(picture("example.png"))
    page.get_by_label("Its question").fill(QUESTIONS[0])
    page.get_by_label("Its answer").fill("yes")
    page.get_by_role("button", name="Add the example").click()
    expect(page.locator("#few-shot-list li")).to_have_count(1)
    page.get_by_label("Question", exact=True).fill(QUESTIONS[1])
    page.get_by_role("button", name="Ask", exact=True).click()
    expect(page.locator("#viewer figcaption")).to_contain_text("without the examples")
    assert record(page)["examples"][0]["answer"] == "yes"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_cut_off_on_a_phone(scheme, open_page):
    page = open_page(viewport={"width": 390, "height": 844}, color_scheme=scheme)
    page.get_by_role("button", name="Radiograph", exact=True).click()
    expect(page.locator("#viewer .layers")).to_be_in_viewport(ratio=1)
    expect(page.get_by_label("Question", exact=True)).to_be_in_viewport(ratio=1)
    page.get_by_label("Question", exact=True).fill(QUESTIONS[0])
    page.get_by_role("button", name="Ask", exact=True).click()
    expect(page.locator("#answer .card")).to_be_visible()
    page.evaluate("document.querySelector('.top code').textContent = 'models/'.repeat(20)")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_an_image_is_forgotten_when_the_page_is_closed(browser, model, processor):
    memory = Memory(2**30)
    page, _ = build_page(Assistant(model, processor, "tiny"), memory)
    with private_folder():
        page.launch(prevent_thread_lock=True, quiet=True, ssr_mode=False, run_history=False)

        def images() -> int:
            kept = list(page.state_holder.session_data.values())
            states = [state for one in kept for state in one.state_data.values()]
            shown = sum("data:image/png" in str(one.config_values) for one in kept)
            return shown + sum(isinstance(state, Session) and state.upload is not None for state in states)

        try:
            tab = browser.new_page()
            tab.goto(page.local_url)
            tab.get_by_role("button", name="Radiograph", exact=True).click()
            expect(tab.locator("#viewer .layers")).to_be_visible()
            assert images() == 2  # what gradio keeps of the page, and the session
            tab.close()
            wait_until(lambda: images() == 0 and memory.nbytes == 0)
        finally:
            page.close()


@pytest.mark.parametrize("password", ["right", "wrong"])
def test_a_password(password, browser, model, processor):
    page, _ = build_page(Assistant(model, processor, "tiny"), Memory(2**30))
    with private_folder():
        page.launch(prevent_thread_lock=True, quiet=True, ssr_mode=False, auth=Login("reader", "right").check)
        try:
            tab = browser.new_page()
            tab.goto(page.local_url)
            tab.get_by_label("username").fill("reader")
            tab.get_by_label("password").fill(password)
            tab.get_by_role("button", name="Login").click()
            expect(
                tab.get_by_text("Ask about a medical image" if password == "right" else "Incorrect")
            ).to_be_visible()
            tab.close()
        finally:
            page.close()
