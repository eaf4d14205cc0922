"""The page as a server, asked over HTTP as browsers do: many users, large images, guessed passwords, foreign hosts."""

import asyncio
import importlib.util
import io
import subprocess
import sys
import time
from contextlib import AsyncExitStack

import pytest
from PIL import Image

from tests import ROOT

pytest.importorskip("gradio")
httpx = pytest.importorskip("httpx")

pytestmark = pytest.mark.slow
LARGE = 1100  # pixels a side, more than the page shows


def load_benchmark():
    spec = importlib.util.spec_from_file_location("page_load", ROOT / "benchmarks" / "page_load.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["page_load"] = module  # its dataclasses look there
    spec.loader.exec_module(module)
    return module


page_load = load_benchmark()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    page_load.write_tiny_model(folder)
    return folder


@pytest.fixture(scope="module")
def temporary(tmp_path_factory):
    return tmp_path_factory.mktemp("temporary")


@pytest.fixture(scope="module")
def server(model, temporary):
    """The page with memory for two large images."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(temporary))
        options = ["--max_upload_mb", "1", "--memory_mb", "33", "--host_names", "[vqa.example.org]"]
        with page_load.serve(model, *options) as server:
            yield server


def large(colour: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (LARGE, LARGE), (colour, 0, 0)).save(file, "PNG")
    return file.getvalue()


def left_behind(temporary) -> list:
    return [path for path in temporary.glob("flamingo-med-demo-*/*") if path.is_file() or any(path.rglob("*"))]


def test_the_same_file_of_four_people_at_once(server, temporary):
    async def show(data: bytes) -> str:
        async with page_load.Visitor.come(server.address) as visitor:
            return await visitor.upload(data)

    async def four() -> list[str]:
        return await asyncio.gather(*(show(page_load.noise(0, 256)) for _ in range(4)))

    for _ in range(5):
        assert asyncio.run(four()) == [""] * 4
    assert not left_behind(temporary), "uploads, or empty files beside them"


def test_an_upload_that_is_refused_leaves_nothing(server, temporary):
    too_large = httpx.post(f"{server.address}/{page_load.API}/upload", files={"files": ("a.png", b"0" * 2**21)})
    assert too_large.status_code == 413
    assert not left_behind(temporary)


def test_the_images_of_the_oldest_session_make_room(server):
    async def three_users() -> list[str]:
        async with AsyncExitStack() as stack:
            users = [await stack.enter_async_context(page_load.Visitor.come(server.address)) for _ in range(3)]
            for number, user in enumerate(users):
                assert await user.upload(large(number)) == ""
            answers = [await user.ask("Is there a nodule?") for user in users]
            assert 'class="heat"' in await users[2].map()
            assert await users[0].upload(large(0)) == ""
            return [*answers, await users[0].ask("Is there a nodule?")]

    first, second, third, again = asyncio.run(three_users())
    assert "the image was dropped" in first and "upload it again" in first
    for answer in (second, third, again):
        assert page_load.record_of(answer)["image"]["width"] == LARGE


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:1", 200),
        ("localhost", 200),
        ("vqa.example.org", 200),
        ("evil.example", 400),
        ("127.0.0.1.evil.example", 400),
        ("", 400),
    ],
)
def test_the_host_of_a_request(host, status, server):
    for path in ("/", "/config", f"/{page_load.API}/upload"):
        answer = httpx.get(server.address + path, headers={"Host": host})
        assert answer.status_code in ((status,) if status == 400 else (200, 405)), path


def test_the_folder_of_the_model_stays_here(server, model):
    page = httpx.get(f"{server.address}/config").text
    assert model.name in page and str(model.parent) not in page


def test_passwords_are_not_guessed_fast(model):
    with page_load.serve(model, "--user", "reader", password="right") as server:

        def attempt(password: str) -> int:
            data = {"username": "reader", "password": password}
            return httpx.post(f"{server.address}/login", data=data, timeout=30).status_code

        assert attempt("right") == 200
        start = time.perf_counter()
        statuses = [attempt("wrong") for _ in range(5)]
        assert statuses == [400] * 5 and time.perf_counter() - start >= 2  # 0, 0, 0, 1, 2 seconds
        spoofed = httpx.post(
            f"{server.address}/login",
            data={"username": "reader", "password": "wrong"},
            headers={"X-Forwarded-For": "10.1.2.3"},
            timeout=30,
        )
        assert spoofed.elapsed.total_seconds() > 2, "without a proxy nobody can name another address"


def test_under_load_nothing_is_mixed_up(server):
    figures = page_load.measure(server, users=4, questions=2, sessions=8, minutes=1)
    assert figures["goals"]["nothing_mixed_up"] and figures["goals"]["no_errors"]
    assert figures["all_users"]["answers"] == 8 and figures["sessions"]["answers"] == 8
    assert figures["memory"][-1]["sessions"] == 8


def test_the_benchmark_tells_what_it_takes():
    command = [sys.executable, ROOT / "benchmarks" / "page_load.py", "--help"]
    assert "--sessions" in subprocess.run(command, capture_output=True, text=True, check=True).stdout
