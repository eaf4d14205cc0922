"""Training speed beside the Flamingo code that runs today: steps of an epoch shaped like VQA-RAD's.

    pip install flamingo-pytorch
    python benchmarks/train_speed.py --json speed.json
    python benchmarks/train_speed.py --batch_sizes [32] --rounds 57 --levers false    # every step of an epoch

The models are those of `implementations.py`; all train with AdamW, gradients clipped at norm 1, in float32. Ours
trains by its own trainer, and so does ours with one lever off, or one more on, at a time; peers see the rows shuffled
and padded. Each is a process of its own; they take turns, step by step (the levers among themselves). A step is what
an epoch of 1,800 questions about 300 images is made of, from reading its rows to the changed weights.
"""

import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from statistics import mean

import datasets
import torch
from implementations import OURS, PEERS, ours
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from transformers import ProgressCallback, TrainerCallback, set_seed
from turns import Row, format_rows, make_row, report, take_turns, write
from workload import make_processor, make_rows

from flamingo_med.cli.main import run
from flamingo_med.cli.parser import CommandParser
from flamingo_med.training.trainer import FlamingoMedTrainer, FlamingoMedTrainingArguments
from processing.images import read_image
from processing.processing_flamingo_med import FlamingoMedProcessor

QUESTIONS, IMAGES = 1800, 300
LEVERS = {  # name → arguments of the trainer
    "no stored features": {"store_features": False},
    "padded": {"packing": False},
    "padded, not by length": {"packing": False, "bucket_lengths": False},
    "images not shared": {},
    "oneDNN where faster": {"fast_matmul": True},
    "bf16": {"bf16": True},
}
MEASURES = {
    "step_seconds": ("step, s", ".2f"),
    "epoch_samples_per_second": ("questions/s", ".1f"),
    "peak_rss_gb": ("peak GB", ".1f"),
    "matmul_fraction": ("of matmul", ".0%"),
}


@dataclass
class BenchmarkArguments:
    """What is measured."""

    json: str = field(default="train_speed.json", metadata={"help": "file for the rows; a PNG goes beside it"})
    batch_sizes: list = field(
        default_factory=lambda: [8, 32], metadata={"help": "questions a step: --batch_sizes [8]"}
    )
    rounds: int = field(default=5, metadata={"help": "measured steps of each"})
    levers: bool = field(default=True, metadata={"help": "ours with a lever changed too"})
    worker: str | None = field(default=None, metadata={"help": "(a process of the benchmark: its name)"})


def train_ours(lever: str | None, size: int) -> None:
    """Our trainer, which reports every step after the first two."""
    processor, rows = make_processor(), make_rows(QUESTIONS, IMAGES, shared=lever != "images not shared")
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(sys.stderr):
        datasets.config.HF_DATASETS_CACHE = folder  # where features are stored
        args = FlamingoMedTrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=size,
            num_train_epochs=1000,
            learning_rate=1e-5,
            max_grad_norm=1.0,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            **LEVERS.get(lever, {}),
        )
        trainer = FlamingoMedTrainer(ours(processor), args, processor, train_dataset=rows, callbacks=[EachStep()])
        trainer.pop_callback(ProgressCallback)
        trainer.train()


class EachStep(TrainerCallback):
    """Reports how long each step takes; of the second, only how much it computes."""

    def __init__(self):
        self.flops = FlopCounterMode(display=False)
        self.start = 0.0

    def on_step_begin(self, args, state, control, **kwargs) -> None:
        """The second step is counted."""
        if state.global_step == 1:
            self.flops.__enter__()

    def on_step_end(self, args, state, control, **kwargs) -> None:
        """Reports, waits for its turn, and looks at the clock."""
        if state.global_step == 2:
            self.flops.__exit__(None, None, None)
            control.should_training_stop = not report({"flops": self.flops.get_total_flops()})
        elif state.global_step > 2:
            control.should_training_stop = not report(measured(self.start))
        self.start = time.perf_counter()


def train_peer(name: str, size: int) -> None:
    """A plain loop over shuffled rows, which reports in the same way."""
    processor, rows = make_processor(), make_rows(QUESTIONS, IMAGES)
    peer = PEERS[name](processor)
    peer.model.train()
    trainable = [p for p in peer.model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=1e-5)
    batches = shuffled(rows, processor, size)

    def step() -> None:
        peer.loss(next(batches)).backward()
        torch.nn.utils.clip_grad_norm_(trainable, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    step()
    with FlopCounterMode(display=False) as flops:
        step()
    more = report({"flops": flops.get_total_flops()})
    while more:
        start = time.perf_counter()
        step()
        more = report(measured(start))


def shuffled(rows: datasets.Dataset, processor: FlamingoMedProcessor, size: int) -> Iterator[dict[str, Tensor]]:
    """Batches of rows in random order, padded, epoch after epoch."""
    generator = torch.Generator().manual_seed(0)
    while True:
        order = torch.randperm(len(rows), generator=generator).tolist()
        for first in range(0, len(rows), size):
            some = [rows[i] for i in order[first : first + size]]
            texts = {"text": [row["question"] for row in some], "answers": [row["answer"] for row in some]}
            yield dict(processor(images=[read_image(row["image"]) for row in some], **texts))


def measured(start: float) -> dict[str, float]:
    """Seconds since then, and the memory that this process had at most."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"seconds": time.perf_counter() - start, "peak_rss_gb": peak}


def matmul_rate() -> float:
    """Floating-point operations a second of this machine in a large matrix product."""
    a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)
    times = []
    for _ in range(8):
        start = time.perf_counter()
        a @ b
        times.append(time.perf_counter() - start)
    return 2 * 2048**3 / min(times)


def measure(names: list[str], size: int, rounds: int) -> list[Row]:
    """Rows of some implementations at one batch size."""
    reports = take_turns(__file__, names, rounds, f"batch {size}", "--batch_sizes", f"[{size}]")
    rate, rows = matmul_rate(), []
    for name, (first, *steps) in reports.items():
        seconds = [step["seconds"] for step in steps]
        values = {
            "step_seconds": seconds,
            "epoch_samples_per_second": [size / mean(seconds)],  # batches differ in length: the mean makes an epoch
            "peak_rss_gb": [steps[-1]["peak_rss_gb"]],
            "matmul_fraction": [first["flops"] / s / rate for s in seconds],
        }
        implementation = {"bf16": f"{OURS}-bf16"}.get(name, f"{OURS}, {name}" if name in LEVERS else name)
        rows += [make_row(kind, implementation, size, some) for kind, some in values.items()]
    return rows


def main() -> None:
    """Workers, in turn, at each batch size."""
    (args,) = CommandParser("python benchmarks/train_speed.py", __doc__, BenchmarkArguments).build(sys.argv[1:])
    if args.worker is not None:
        set_seed(0)
        if args.worker in PEERS:
            train_peer(args.worker, args.batch_sizes[0])
        else:
            train_ours(args.worker, args.batch_sizes[0])
        return
    # In groups, since three models at a time are what 24 GB hold.
    levers = list(LEVERS) if args.levers else []
    groups = [[OURS, *PEERS], levers[:3], levers[3:]]
    rows = [row for size in args.batch_sizes for names in groups if names for row in measure(names, size, args.rounds)]
    meta = {"torch": torch.__version__, "threads": torch.get_num_threads(), "questions": QUESTIONS, "images": IMAGES}
    print(f"\n{format_rows(rows, MEASURES)}")
    print(write(args.json, meta, rows, "epoch_samples_per_second", "questions a second, training"))


if __name__ == "__main__":
    run(main)
