"""Speed of answers beside the Flamingo code that runs today: 20 tokens for 1 and 16 questions, and an evaluation.

    pip install flamingo-pytorch
    python benchmarks/generate_speed.py --json generate_speed.json

The models are those of `implementations.py`, in float32, from prepared pixels; ours also from stored image features,
with oneDNN where it is faster, and in bfloat16. The evaluation is that of 451 questions about 203 images, from image
files to texts, every answer 4 tokens long: ours by `inference.answering`, peers 32 at a time, as rows come. Each is
a process of its own; they take turns. flamingo-pytorch keeps nothing between tokens and has no mask for
padding, so what it says to shorter questions of a batch means nothing; its time does.
"""

import sys
import tempfile
import time
from dataclasses import dataclass, field

import datasets
import torch
from implementations import OURS, PEERS, ours
from torch import Tensor
from transformers import StoppingCriteria, set_seed
from turns import Row, format_rows, make_row, report, take_turns, write
from workload import make_processor, make_rows

from flamingo_med.cli.main import run
from flamingo_med.cli.parser import CommandParser
from flamingo_med.inference.answering import answer_questions
from flamingo_med.inference.features import store_features
from flamingo_med.training.matmul import choose_matmul
from processing.images import read_image

TOKENS, SIZES, PEERS_AT_ONCE = 20, (1, 16), 32
QUESTIONS, IMAGES, ANSWER_TOKENS = 451, 203, 4
VARIANTS = ("features stored", "features stored, oneDNN where faster", "bf16")
MEASURES = {
    "generate_seconds": (f"{TOKENS} tokens, s", ".2f"),
    "first_token_seconds": ("first, s", ".2f"),
    "tokens_per_second": ("tokens/s", ".1f"),
    "evaluation_seconds": (f"{QUESTIONS} questions", ".1f"),
}


@dataclass
class BenchmarkArguments:
    """What is measured."""

    json: str = field(default="generate_speed.json", metadata={"help": "file for the rows; a PNG goes beside it"})
    rounds: int = field(default=5, metadata={"help": "measured generations of each"})
    evaluations: int = field(default=1, metadata={"help": "measured evaluations of each"})
    worker: str | None = field(default=None, metadata={"help": "(a process of the benchmark: its name)"})


class Clock(StoppingCriteria):
    """Never stops, but notes when the first token is there."""

    def __init__(self):
        self.start, self.first = time.perf_counter(), None

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs) -> Tensor:
        """(b) False."""
        self.first = self.first or time.perf_counter() - self.start
        return torch.zeros(len(input_ids), dtype=torch.bool)


def work(name: str, rounds: int) -> None:
    """One implementation: so many generations, and then evaluations, one a turn."""
    processor, rows = make_processor(), make_rows(QUESTIONS, IMAGES)
    generate, evaluate = (peer if name in PEERS else of_ours)(name, processor, rows)
    prompts = {}
    for size in SIZES:
        some = rows.select(range(size))
        images = [read_image(image) for image in some["image"]]
        prompts[size] = dict(processor(images=images, text=some["question"][:]))

    def turn(number: int) -> dict[str, float]:
        start = time.perf_counter()
        if number > rounds:
            evaluate()
            return {"seconds": time.perf_counter() - start}
        measured = {}
        for size, batch in prompts.items():
            clock = Clock()
            generate(batch, [clock])
            measured |= {f"first_{size}": clock.first, f"all_{size}": time.perf_counter() - clock.start}
        return {"seconds": time.perf_counter() - start, **measured}

    number, more = 0, report(turn(0))  # the first warms up
    while more:
        number += 1
        more = report(turn(number))


def of_ours(variant: str, processor, rows: datasets.Dataset) -> tuple:
    """What generates after a batch of prompts, and what answers all rows."""
    model = ours(processor).eval()
    if variant == "bf16":
        model = model.bfloat16()
    if variant.endswith("oneDNN where faster"):
        choose_matmul()
    stored = variant.startswith("features stored")
    features = store_features(model, processor, [rows], progress=False) if stored else None
    model.generation_config.max_new_tokens = ANSWER_TOKENS
    length = {"max_new_tokens": TOKENS, "min_new_tokens": TOKENS}

    def generate(batch: dict[str, Tensor], criteria: list[StoppingCriteria]) -> None:
        if stored:  # the first rows are about the first images
            images = [features[image] for image in rows.select(range(len(batch["input_ids"])))["image"]]
            batch = {name: value for name, value in batch.items() if name != "pixel_values"}
            batch["image_features"] = torch.stack(images)[:, None, None]
        elif variant == "bf16":
            batch = {**batch, "pixel_values": batch["pixel_values"].bfloat16()}
        model.generate(**batch, **length, do_sample=False, stopping_criteria=criteria)

    return generate, lambda: answer_questions(model, processor, rows, features=features)


def peer(name: str, processor, rows: datasets.Dataset) -> tuple:
    """The same of a peer."""
    model = PEERS[name](processor)
    model.model.eval()

    def evaluate() -> None:
        for start in range(0, len(rows), PEERS_AT_ONCE):
            some = rows.select(range(start, min(start + PEERS_AT_ONCE, len(rows))))
            images = [read_image(image) for image in some["image"]]
            batch = dict(processor(images=images, text=some["question"][:]))
            written = model.generate(batch, ANSWER_TOKENS, [])[:, batch["input_ids"].shape[1] :]
            processor.tokenizer.batch_decode(written, skip_special_tokens=True)

    return lambda batch, criteria: model.generate(batch, TOKENS, criteria), evaluate


def measure(names: list[str], args: BenchmarkArguments) -> list[Row]:
    """Rows of some implementations."""
    turns = args.rounds + args.evaluations
    reports = take_turns(__file__, names, turns, "answering", "--rounds", str(args.rounds))
    rows = []
    for name, (_, *measured) in reports.items():
        generations, evaluations = measured[: args.rounds], measured[args.rounds :]
        implementation = {"bf16": f"{OURS}-bf16"}.get(name, f"{OURS}, {name}" if name in VARIANTS else name)
        for size in SIZES:
            seconds = [one[f"all_{size}"] for one in generations]
            rows += [
                make_row("generate_seconds", implementation, size, seconds),
                make_row("first_token_seconds", implementation, size, [one[f"first_{size}"] for one in generations]),
                make_row("tokens_per_second", implementation, size, [TOKENS * size / s for s in seconds]),
            ]
        if evaluations:
            at_once = PEERS_AT_ONCE if name in PEERS else 0  # ours finds out itself
            rows.append(
                make_row("evaluation_seconds", implementation, at_once, [one["seconds"] for one in evaluations])
            )
    return rows


def main() -> None:
    """Workers, in turn."""
    (args,) = CommandParser("python benchmarks/generate_speed.py", __doc__, BenchmarkArguments).build(sys.argv[1:])
    if args.worker is not None:
        set_seed(0)
        with tempfile.TemporaryDirectory() as folder:
            datasets.config.HF_DATASETS_CACHE = folder  # where features are stored
            work(args.worker, args.rounds)
        return
    # In groups, since three models at a time are what 24 GB hold.
    rows = [row for names in ([OURS, *PEERS], list(VARIANTS)) for row in measure(names, args)]
    meta = {"torch": torch.__version__, "threads": torch.get_num_threads(), "questions": QUESTIONS, "images": IMAGES}
    written = write(args.json, meta, rows, "tokens_per_second", "tokens a second, generation")
    print(f"\n{format_rows(rows, MEASURES)}\n{written}")


if __name__ == "__main__":
    run(main)
