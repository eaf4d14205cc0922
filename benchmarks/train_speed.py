"""Training speed beside the Flamingo code that runs today: a step, and an epoch shaped like VQA-RAD's.

    pip install flamingo-pytorch
    python benchmarks/train_speed.py --json speed.json

All have random weights of one shape: CLIP ViT-B/32 at 224 pixels, frozen; a resampler of depth 6, 64 latents; gated
cross-attention before each of 12 frozen decoder layers of GPT-2 small's size; token embeddings that learn; AdamW,
float32. IDEFICS has a Llama decoder of that shape; flamingo-pytorch its own (PaLM). Each implementation, and ours with
one lever off at a time, is a process of its own; they take turns, step by step, so that whatever else the machine does
meets all of them (the levers among themselves). The epoch is that of 1,800 questions about 300 images, question and
answer 8 to 40 tokens: peers see the rows shuffled and padded, ours as its trainer hands them out. Its time is the
median step times the steps.
"""

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from statistics import median

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPVisionConfig, GPT2Config, set_seed

from modeling_flamingo_med import FlamingoMedForConditionalGeneration
from modeling_flamingo_med.sampler import ImageGroupedBatchSampler
from processing.collator import pack
from processing.errors import run
from processing.files import write_json
from processing.recipe import build_arguments, describe, override

QUESTIONS, IMAGES, VOCABULARY, IMAGE_TOKEN, END = 1800, 300, 50261, 50257, 50258
OURS = "flamingo-med"
LEVERS = {  # what is switched off
    "no stored features": {"stored": False},
    "padded": {"packed": False},
    "not grouped by image": {"grouped": False},
}


@dataclass
class BenchmarkArguments:
    """What is measured."""

    json: str = field(default="speed.json", metadata={"help": "file for the rows"})
    batch_sizes: list = field(
        default_factory=lambda: [8, 32], metadata={"help": "questions a step: --batch_sizes [8]"}
    )
    rounds: int = field(default=5, metadata={"help": "measured steps of each"})
    levers: bool = field(default=True, metadata={"help": "ours with one lever off at a time too"})
    worker: str | None = field(default=None, metadata={"help": "(a process of the benchmark: its name)"})


@cache
def workload() -> tuple[list[Tensor], list[Tensor], list[int]]:
    """Prompts, answers with their end, and the image of each of the questions; the same for all."""
    generator = torch.Generator().manual_seed(0)
    lengths = (
        torch.randn(QUESTIONS, generator=generator).mul(0.35).add(2.75).exp().round().long().clamp(8, 40).tolist()
    )
    prompts, answers = [], []
    for length in lengths:
        answer = int(torch.randint(2, 5, (1,), generator=generator))
        tokens = torch.randint(0, IMAGE_TOKEN, (length,), generator=generator)
        prompts.append(torch.cat([torch.tensor([IMAGE_TOKEN]), tokens[: length - answer]]))
        answers.append(torch.cat([tokens[length - answer :][:-1], torch.tensor([END])]))
    return prompts, answers, [row % IMAGES for row in range(QUESTIONS)]


def batches(size: int, grouped: bool, packed: bool) -> Iterator[list[int]]:
    """Row numbers of batches, epoch after epoch, in the order of our sampler or shuffled."""
    prompts, answers, images = workload()
    lengths = [len(p) + len(a) for p, a in zip(prompts, answers, strict=True)]
    sampler = ImageGroupedBatchSampler(images, batch_size=size, lengths=None if packed else lengths)
    generator = torch.Generator().manual_seed(0)
    while True:
        if grouped:
            yield from ([row for row, _ in batch] for batch in sampler)
            sampler.set_epoch(sampler.epoch + 1)
        else:
            order = torch.randperm(QUESTIONS, generator=generator).tolist()
            yield from (order[start : start + size] for start in range(0, QUESTIONS, size))


def padded(rows: list[int]) -> dict[str, Tensor]:
    """input_ids, attention_mask and labels (b t), padded on the right, and the image of each row."""
    prompts, answers, images = workload()
    whole = [torch.cat([prompts[row], answers[row]]) for row in rows]
    labels = [torch.cat([torch.full_like(prompts[row], -100), answers[row]]) for row in rows]
    pad = torch.nn.utils.rnn.pad_sequence
    return {
        "input_ids": pad(whole, True, END),
        "attention_mask": pad([torch.ones_like(row) for row in whole], True, 0),
        "labels": pad(labels, True, -100),
        "images": torch.tensor([images[row] for row in rows]),
    }


def pictures(images: Tensor) -> Tensor:
    """(b 3 224 224) noise, the same for the same image."""
    return torch.stack([torch.randn(3, 224, 224, generator=torch.Generator().manual_seed(int(i))) for i in images])


def ours(stored: bool = True, packed: bool = True, **_) -> tuple[torch.nn.Module, Callable[[list[int]], Tensor]]:
    """Our model, and the loss of a batch of rows as our trainer computes it."""
    model = FlamingoMedForConditionalGeneration.from_vision_text_pretrained(
        CLIPVisionConfig(patch_size=32, intermediate_size=3072, hidden_size=768, num_hidden_layers=12, image_size=224),
        GPT2Config(),
        vocab_size=VOCABULARY,
        image_token_id=IMAGE_TOKEN,
        eoq_token_id=IMAGE_TOKEN + 2,
        eos_token_id=END,
        pad_token_id=END,
        cross_attn_gate_init=0.1,
    ).train()
    features = {}

    def stored_features(images: Tensor) -> Tensor:
        missing = [i for i in images.tolist() if i not in features]
        if missing:
            with torch.no_grad():
                features.update(zip(missing, model.image_features(pictures(torch.tensor(missing))), strict=True))
        return torch.stack([features[i] for i in images.tolist()])

    def loss(rows: list[int]) -> Tensor:
        batch = padded(rows)
        distinct, numbers = batch.pop("images").unique(return_inverse=True)
        batch["row_images"] = numbers.unsqueeze(1)
        if stored:
            batch["image_features"] = stored_features(distinct)[:, None, None]
        else:
            batch["pixel_values"] = pictures(distinct).unsqueeze(1)
        return model(**(pack(batch, IMAGE_TOKEN) if packed else batch)).loss

    if stored:  # once and for all, before training
        stored_features(torch.arange(IMAGES))
    return model, loss


def idefics(**_) -> tuple[torch.nn.Module, Callable[[list[int]], Tensor]]:
    """IDEFICS of transformers, of the nearest shape."""
    from transformers import IdeficsConfig, IdeficsForVisionText2Text

    config = IdeficsConfig(
        vocab_size=VOCABULARY,
        additional_vocab_size=0,
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=12,
        num_attention_heads=12,
        cross_layer_interval=1,
        use_resampler=True,
        freeze_text_layers=True,
        freeze_vision_layers=True,
        vision_config={"embed_dim": 768, "image_size": 224, "intermediate_size": 3072, "patch_size": 32},
        perceiver_config={"resampler_depth": 6, "resampler_n_heads": 8, "resampler_head_dim": 64},
        pad_token_id=END,
        bos_token_id=END,
        eos_token_id=END,
    )
    model = IdeficsForVisionText2Text(config).train()
    for name, p in model.named_parameters():
        part = any(word in name for word in ("perceiver", "gated_cross", "embed_tokens", "lm_head"))
        p.requires_grad_(part)

    def loss(rows: list[int]) -> Tensor:
        batch = padded(rows)
        pixels = pictures(batch.pop("images")).unsqueeze(1)
        sees = torch.ones(*batch["input_ids"].shape, 1, dtype=torch.long)
        return model(**batch, pixel_values=pixels, image_attention_mask=sees).loss

    return model, loss


def flamingo_pytorch(**_) -> tuple[torch.nn.Module, Callable[[list[int]], Tensor]]:
    """flamingo-pytorch with its own decoder, on the patches of the same frozen CLIP."""
    from flamingo_pytorch import FlamingoPaLM
    from transformers import CLIPVisionModel

    class Patches(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.clip = CLIPVisionModel(CLIPVisionConfig(patch_size=32)).requires_grad_(False)

        def forward(self, pixels: Tensor) -> Tensor:
            return self.clip(pixels).last_hidden_state

    model = FlamingoPaLM(
        num_tokens=VOCABULARY,
        dim=768,
        depth=12,
        heads=12,
        dim_head=64,
        ff_mult=4,
        media_token_id=IMAGE_TOKEN,
        cross_attn_every=1,
        img_encoder=Patches(),
        perceiver_num_latents=64,
        perceiver_depth=6,
        max_video_frames=1,
        only_attend_immediate_media=True,
    ).train()

    def loss(rows: list[int]) -> Tensor:
        batch = padded(rows)
        logits = model(batch["input_ids"], images=pictures(batch["images"]).unsqueeze(1))
        return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten())

    return model, loss


def work(name: str, size: int) -> None:
    """One implementation: for each line of input a step, and a line of JSON about it."""
    set_seed(0)
    options = LEVERS.get(name, {})
    build = {"idefics": idefics, "flamingo-pytorch": flamingo_pytorch}.get(name, ours)
    model, loss_of = build(**options)
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-5, fused=build is ours)
    rows = batches(size, build is ours and options.get("grouped", True), options.get("packed", True))

    def step() -> float:
        chosen = next(rows)
        start = time.perf_counter()
        loss = loss_of(chosen)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return time.perf_counter() - start

    step()
    with FlopCounterMode(display=False) as counter:
        step()
    print(json.dumps({"flops": counter.get_total_flops()}), flush=True)
    for _ in sys.stdin:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(json.dumps({"seconds": step(), "peak_rss_gb": peak}), flush=True)


def matmul_rate() -> float:
    """Floating-point operations a second of this machine in a large matrix product."""
    a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)
    times = []
    for _ in range(8):
        start = time.perf_counter()
        a @ b
        times.append(time.perf_counter() - start)
    return 2 * 2048**3 / min(times)


def measure(names: list[str], size: int, rounds: int) -> list[dict]:
    """Rows of all implementations at one batch size."""
    command = [sys.executable, __file__, "--batch_sizes", f"[{size}]", "--worker"]
    workers = {
        name: subprocess.Popen([*command, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for name in names
    }
    flops = {name: json.loads(worker.stdout.readline())["flops"] for name, worker in workers.items()}
    steps = {name: [] for name in names}
    for number in range(rounds):
        for name, worker in workers.items():
            worker.stdin.write("step\n")
            worker.stdin.flush()
            steps[name].append(json.loads(worker.stdout.readline()))
            print(f"batch {size}, round {number + 1}: {name} {steps[name][-1]['seconds']:.2f} s", flush=True)
    for worker in workers.values():
        worker.stdin.close()
        worker.wait()
    rate, rows = matmul_rate(), []
    for name in names:
        seconds = [step["seconds"] for step in steps[name]]
        kinds = {
            "step_seconds": (median(seconds), min(seconds), max(seconds)),
            "epoch_samples_per_second": (size / median(seconds), size / max(seconds), size / min(seconds)),
            "matmul_fraction": tuple(flops[name] / s / rate for s in (median(seconds), max(seconds), min(seconds))),
            "peak_rss_gb": (steps[name][-1]["peak_rss_gb"],) * 3,
        }
        implementation = name if name not in LEVERS else f"{OURS}, {name}"
        rows += [
            {"name": kind, "implementation": implementation, "batch_size": size, "value": v, "low": low, "high": high}
            for kind, (v, low, high) in kinds.items()
        ]
    return rows


def format_rows(rows: list[dict]) -> str:
    """A line for each implementation and batch size."""
    cells = {(r["batch_size"], r["implementation"], r["name"]): r for r in rows}
    lines = [f"{'':<36}{'batch':>6}{'step s':>9}{'range':>16}{'questions/s':>13}{'peak GB':>9}{'of matmul':>11}"]
    for size, name in dict.fromkeys(key[:2] for key in cells):
        step, speed, peak, part = (
            cells[size, name, kind]
            for kind in ("step_seconds", "epoch_samples_per_second", "peak_rss_gb", "matmul_fraction")
        )
        spread = f"{step['low']:.2f} – {step['high']:.2f}"
        lines.append(
            f"{name:<36}{size:>6}{step['value']:>9.2f}{spread:>16}{speed['value']:>13.1f}{peak['value']:>9.1f}"
            f"{part['value']:>11.0%}"
        )
    return "\n".join(lines)


def main() -> None:
    """Workers, in turn, at each batch size."""
    if sys.argv[1:2] in (["-h"], ["--help"]):
        print(f"{__doc__}\n{describe(BenchmarkArguments)}")
        return
    (args,) = build_arguments(override({}, sys.argv[1:], BenchmarkArguments), BenchmarkArguments)
    if args.worker is not None:
        work(args.worker, args.batch_sizes[0])
        return
    # In groups, since three models at a time are what 24 GB hold.
    groups = [[OURS, "idefics", "flamingo-pytorch"], *([list(LEVERS)] if args.levers else ())]
    rows = [row for size in args.batch_sizes for names in groups for row in measure(names, size, args.rounds)]
    meta = {"torch": torch.__version__, "threads": torch.get_num_threads(), "questions": QUESTIONS, "images": IMAGES}
    write_json(args.json, {"meta": meta, "rows": rows})
    print(f"\n{format_rows(rows)}\nwritten: {args.json}")


if __name__ == "__main__":
    run(main)
