"""The page under load: how long answers take, whose they are, and the memory of the server over many sessions.

    python benchmarks/page_load.py [--users 20] [--questions 5] [--sessions 1000] [--minutes 20] [--model FOLDER]

Serves the page on this machine, by default with a tiny model of random weights, and asks as browsers do, each user
about an image of noise of their own. First one user asks, then all at once; then come and go as many sessions as asked
for. Every answer's audit record must hold the hash of the user's own image and the user's own question. Prints and
writes JSON; the exit code is 1 where a goal is missed.
"""

import argparse
import asyncio
import hashlib
import io
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from base64 import b64decode
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import httpx
import numpy as np
import psutil
from PIL import Image

ROOT = Path(__file__).parents[1]
API = "gradio_api"
QUESTIONS = ("Is there a pleural effusion?", "Is there a pneumothorax?", "Is the heart enlarged?")
WORKERS = 1  # the model answers one question at a time
LONGEST = 300  # seconds that a start or an answer may take
QUICK_MAP = "attention"  # of the sessions that come and go
GROWTH = 1.1  # of the memory over the second half of the sessions, at most


def write_tiny_model(folder: str | Path) -> None:
    """A model of random weights and its processor, for images of 32 pixels."""
    from transformers import CLIPVisionConfig, GPT2Config, set_seed

    from modeling_flamingo_med import FlamingoMedForConditionalGeneration, FlamingoMedProcessor
    from processing.tokenization import train_tokenizer

    set_seed(0)
    tokenizer = train_tokenizer([*QUESTIONS, "Question: Answer: yes no left right"] * 3, 320)
    processor = FlamingoMedProcessor.from_vision_text_pretrained(None, tokenizer, image_size=32)
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = FlamingoMedForConditionalGeneration.from_vision_text_pretrained(
        CLIPVisionConfig(image_size=32, patch_size=8, **vision),
        GPT2Config(n_embd=32, n_layer=3, n_head=4, n_positions=128),
        **processor.token_ids,
        resampler_depth=2,
        resampler_num_latents=4,
        cross_attn_every_n_layers=2,
        cross_attn_gate_init=0.5,
    )
    model.generation_config.max_new_tokens = 4
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


@dataclass(frozen=True)
class Server:
    """The page in a process of its own."""

    address: str
    process: psutil.Process

    @property
    def mib(self) -> float:
        """Resident memory."""
        return self.process.memory_info().rss / 2**20


@contextmanager
def serve(model: str | Path, *options: str, password: str = "") -> Iterator[Server]:
    """The page of a model on a free port of this machine, until the block ends."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "flamingo_med.cli.main", "demo", "--model", str(model), "--port", str(port)]
    environment = {"OMP_NUM_THREADS": "1", **os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    environment["FLAMINGO_MED_PASSWORD"] = password
    address = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen([*command, *options], cwd=ROOT, env=environment, stdout=log, stderr=log)
        try:
            wait_for(address, process)
            yield Server(address, psutil.Process(process.pid))
        finally:
            process.terminate()
            process.wait(30)
            log.seek(0)
            sys.stderr.write(log.read())


def wait_for(address: str, process: subprocess.Popen) -> None:
    """Until the page answers."""
    for _ in range(10 * LONGEST):
        if process.poll() is not None:
            raise SystemExit("the page has ended at its start")
        with suppress(httpx.HTTPError):
            httpx.get(address)
            return
        time.sleep(0.1)
    raise SystemExit("the page does not answer")


class Visitor:
    """What a browser says to the page: one session."""

    def __init__(self, client: httpx.AsyncClient, config: dict):
        self.client, self.session = client, uuid4().hex
        names = {part["id"]: part["props"].get("elem_id") for part in config["components"]}
        self.functions = {
            (names.get(id), event): one["id"] for one in config["dependencies"] for id, event in one["targets"]
        }
        asked = self.functions["ask", "click"]
        self.explain = next(one["id"] for one in config["dependencies"] if one.get("trigger_after") == asked)

    @classmethod
    @asynccontextmanager
    async def come(cls, address: str) -> AsyncIterator["Visitor"]:
        """A page that is open until the block ends."""
        async with httpx.AsyncClient(base_url=address, timeout=LONGEST) as client:
            visitor = cls(client, (await client.get("/config")).raise_for_status().json())
            alive = f"/{API}/heartbeat/{visitor.session}"
            async with client.stream("GET", alive):  # by its end the page knows that the visitor has gone
                yield visitor

    async def call(self, function: int, *data: object) -> list:
        """What an event of the page gives back."""
        body = {"data": [None, *data], "fn_index": function, "session_hash": self.session}  # None: gradio's own state
        joined = await self.client.post(f"/{API}/queue/join", json=body)
        if joined.is_error:
            raise RuntimeError(f"refused: {joined.text}")
        event = joined.json()["event_id"]
        async with self.client.stream("GET", f"/{API}/queue/data", params={"session_hash": self.session}) as answer:
            async for line in answer.aiter_lines():
                message = json.loads(line.removeprefix("data:")) if line.startswith("data:") else {}
                if message.get("msg") == "process_completed" and message.get("event_id") == event:
                    if not message["success"]:
                        raise RuntimeError(f"failed: {message['output']}")
                    return message["output"]["data"]
        raise RuntimeError("the page has closed the connection")

    async def upload(self, data: bytes, name: str = "image.png") -> str:
        """Show the page an image; what it says against it."""
        sent = await self.client.post(f"/{API}/upload", files={"files": (name, data)})
        (path,) = sent.raise_for_status().json()
        file = {"path": path, "orig_name": name, "meta": {"_type": "gradio.FileData"}}
        return (await self.call(self.functions["file", "upload"], file))[3]

    async def ask(self, question: str) -> str:
        """The answer to a question, as HTML."""
        return (await self.call(self.functions["ask", "click"], question))[1]

    async def map(self, method: str = "occlusion") -> str:
        """The image with the map of the answer, as HTML."""
        return (await self.call(self.explain, method))[0]


def record_of(answer: str) -> dict:
    """The audit record that an answer offers."""
    _, found, rest = answer.partition('href="data:application/json;base64,')
    if not found:
        raise RuntimeError(f"no answer: {answer}")
    return json.loads(b64decode(rest.partition('"')[0]))


def noise(number: int, side: int = 64) -> bytes:
    """An image of its own, as PNG."""
    file = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 256, (side, side), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


class Tally:
    """What has been counted: seconds of answers, and of answers with their maps; mistakes."""

    def __init__(self) -> None:
        self.answers: list[float] = []
        self.turns: list[float] = []
        self.errors: list[str] = []
        self.mixed_up = 0

    async def visit(self, address: str, number: int, questions: int, method: str = "occlusion") -> None:
        """One user, who shows an image, and so often asks about it and looks at the map of the answer."""
        image = noise(number)
        try:
            async with Visitor.come(address) as visitor:
                if problem := await visitor.upload(image):
                    raise RuntimeError(problem)
                for i in range(questions):
                    await self._turn(visitor, image, f"{QUESTIONS[i % len(QUESTIONS)]} {number}", method)
        except (RuntimeError, httpx.HTTPError) as error:
            self.errors.append(f"{type(error).__name__}: {error}")

    async def _turn(self, visitor: Visitor, image: bytes, question: str, method: str) -> None:
        start = time.perf_counter()
        record = record_of(await visitor.ask(question))
        self.answers.append(time.perf_counter() - start)
        own = hashlib.sha256(image).hexdigest()
        self.mixed_up += (record["image"]["sha256"], record["question"]) != (own, question)
        if 'class="heat"' not in await visitor.map(method):
            raise RuntimeError("an answer without a map")
        self.turns.append(time.perf_counter() - start)

    def summary(self) -> dict:
        return {
            "answer_seconds": quantiles(self.answers),
            "answer_and_map_seconds": quantiles(self.turns),
            "answers": len(self.answers),
            "errors": len(self.errors),
            "first_errors": self.errors[:3],
            "mixed_up": self.mixed_up,
        }


def quantiles(seconds: list[float]) -> dict[str, float] | None:
    """Median and the 95th percentile."""
    if not seconds:
        return None
    return {"p50": round(statistics.median(seconds), 4), "p95": round(float(np.quantile(seconds, 0.95)), 4)}


def is_fast(crowd: list[float], alone: list[float], users: int) -> bool:
    """Whether the 95th percentile is below 5 times what one user waits, times the users of each worker."""
    return bool(crowd and alone) and float(np.quantile(crowd, 0.95)) < 5 * statistics.median(alone) * users / WORKERS


async def together(address: str, users: int, questions: int) -> Tally:
    """So many users at once."""
    tally = Tally()
    await asyncio.gather(*(tally.visit(address, 1 + number, questions) for number in range(users)))
    return tally


async def one_after_the_other(
    server: Server, sessions: int, seconds: float, abreast: int = 4
) -> tuple[Tally, list[dict]]:
    """Many sessions, few of them at the same time, and the memory on the way; fewer where the time is over."""
    tally, memory = Tally(), []
    end = time.monotonic() + seconds
    step = max(sessions // 20, abreast)
    for done in range(0, sessions, abreast):
        if time.monotonic() > end:
            sessions = done
            break
        if done % step < abreast:
            memory.append({"sessions": done, "mib": round(server.mib, 1)})
        few = range(done, min(done + abreast, sessions))
        await asyncio.gather(*(tally.visit(server.address, 10_000 + number, 1, QUICK_MAP) for number in few))
    return tally, [*memory, {"sessions": sessions, "mib": round(server.mib, 1)}]


def measure(server: Server, users: int, questions: int, sessions: int, minutes: float) -> dict:
    """All figures, and whether the goals are met."""
    asyncio.run(together(server.address, 1, 3))  # what is loaded late
    alone = asyncio.run(together(server.address, 1, max(10, questions)))
    crowd = asyncio.run(together(server.address, users, questions))
    many, memory = asyncio.run(one_after_the_other(server, sessions, 60 * minutes))
    half = [point["mib"] for point in memory if point["sessions"] >= memory[-1]["sessions"] / 2]
    tallies = (alone, crowd, many)
    return {
        "users": users,
        "workers": WORKERS,
        "one_user": alone.summary(),
        "all_users": crowd.summary(),
        "sessions": many.summary(),
        "memory": memory,
        "goals": {
            "p95_of_answers": is_fast(crowd.answers, alone.answers, users),
            "p95_of_answers_and_maps": is_fast(crowd.turns, alone.turns, users),
            "nothing_mixed_up": not any(tally.mixed_up for tally in tallies),
            "no_errors": not any(tally.errors for tally in tallies),
            "memory_constant": half[-1] <= GROWTH * half[0],
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder of a model; without it, a tiny one of random weights")
    parser.add_argument("--users", type=int, default=20, help="that ask at once")
    parser.add_argument("--questions", type=int, default=5, help="of each")
    parser.add_argument("--sessions", type=int, default=1000, help="that come and go")
    parser.add_argument("--minutes", type=float, default=20, help="after which no further session comes")
    parser.add_argument("--output", default="page_load.json", help="where the figures are written")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if not args.model:
            write_tiny_model(folder)
        with serve(args.model or folder) as server:
            figures = measure(server, args.users, args.questions, args.sessions, args.minutes)
    text = json.dumps(figures, indent=2)
    Path(args.output).write_text(text + "\n", encoding="utf-8")
    print(text)
    sys.exit(not all(figures["goals"].values()))


if __name__ == "__main__":
    main()
