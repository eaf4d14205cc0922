"""Odd inputs by seed: what people, editors, disks and other programs make of our files, and calls with odd values.

A generator takes a random generator and a `Workshop`, writes what it needs to the workshop's folder, and gives back
the call to try. What a call returns is compared with nothing, but for an edited checkpoint: there it is the answer.
"""

import json
import math
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image
from transformers import set_seed

from flamingo_med.cli.main import dispatch
from flamingo_med.common.settings import packaged_recipes, read_mapping
from flamingo_med.evaluation.calibration import Calibration, load_calibration, save_calibration
from flamingo_med.inference.answering import answer_questions, load_model
from flamingo_med.reporting.model_card import render_card
from flamingo_med.training.trainer import FlamingoMedTrainer
from modeling_flamingo_med import FlamingoMedForConditionalGeneration, FlamingoMedProcessor
from processing.datasets import SPLITS, class_names, fingerprint, load_split
from processing.datasets.rows import exclude_images
from processing.datasets.split_overlap import overlap
from processing.files import write_json
from processing.images import read_image
from processing.tokenization import texts_of, train_tokenizer
from tests.conftest import QUESTIONS, SMALL, TEXT, VISION

Call = Callable[[], Any]

TEXTS = (
    *("", " ", "x", "0", "-1", "nan", "yes", "null", "~", "true", "1e-4", "2024-13-45", "..", "a/b", "a" * 300),
    *("\x00", "\ud800", "Чи є маса?", "有气胸吗", "هل يوجد", "🫁", "e\u0301\u202e", "\ufeff", "\u2028", "a\nb", "\t"),
    *(
        "<image>",
        "<EOQ>",
        "<EOC>",
        "[PAD]",
        "{{ x }}",
        "{% for %}",
        "%s",
        "*",
        "&a",
        "|",
        "-",
        "phantom",
        "word " * 400,
    ),
)
NUMBERS = (0, 1, -1, 2, 3.5, 1e-9, -0.5, 10**6, 10**30, -(10**30), 1e308, math.inf, -math.inf, math.nan, True, False)


def odd(random: Random, depth: int = 0) -> Any:
    """A value that JSON and YAML can hold."""
    choice = random.randrange(10 if depth < 2 else 7)
    if choice < 3:
        return random.choice(TEXTS)
    if choice < 6:
        return random.choice(NUMBERS)
    if choice == 6:
        return None
    if choice == 7:
        return [odd(random, depth + 1) for _ in range(random.randrange(3))]
    return {random.choice(TEXTS): odd(random, depth + 1) for _ in range(random.randrange(3))}


def edited(value: Any, random: Random) -> Any:
    """The value with one part, somewhere within, changed, gone, renamed or doubled."""
    if isinstance(value, dict) and value and random.random() < 0.96:
        name = random.choice(list(value))
        change = random.randrange(12)
        if change == 0:
            return {other: part for other, part in value.items() if other != name}
        if change == 1:
            return {random.choice(TEXTS) if other == name else other: part for other, part in value.items()}
        if change == 2:
            return {**value, random.choice(TEXTS): odd(random)}
        return {**value, name: edited(value[name], random)}
    if isinstance(value, list) and value and random.random() < 0.9:
        i, change = random.randrange(len(value)), random.randrange(6)
        if change == 0:
            return [*value[:i], *value[i + 1 :]]
        if change == 1:
            return [*value, value[i]]
        return [*value[:i], edited(value[i], random), *value[i + 1 :]]
    return [value] if random.randrange(12) == 0 else odd(random)


def damaged(data: bytes, random: Random) -> bytes:
    """The bytes of a file as a disk, an editor or a bad copy leaves them."""
    at = random.randrange(len(data) + 1)
    ends = at + random.randrange(1, 20)
    return random.choice(
        (
            lambda: b"",
            lambda: data[:at],
            lambda: data[at:],
            lambda: data[:at] + data[ends:],
            lambda: data[:at] + bytes([random.randrange(256)]) + data[at + 1 :],
            lambda: data[:at] + bytes(min(len(data) - at, 64)) + data[at + 64 :],
            lambda: data[:at] + random.choice(TEXTS).encode("utf-8", "surrogatepass") + data[at:],
            lambda: data + data,
            lambda: b"\xef\xbb\xbf" + data,
            lambda: data.decode("utf-8", "replace").encode("utf-16"),
            lambda: data.replace(b"\n", b"\r\n"),
            lambda: data.replace(b'"', b"'"),
            lambda: data.replace(b" ", b"\t"),
            lambda: random.choice((b"null", b"[]", b"{}", b"0", b'""', b"# nothing\n", b"<<<<<<< HEAD\n" + data)),
            lambda: b"[" * random.choice((10, 3000, 200_000)),
            lambda: b"1" * 5000,
        )
    )()


class Workshop:
    """What the generators start from: images, a tiny model with its answer, and files of a run; and a folder for each
    input, which is empty when it begins.

    Args:
        folder: where all of it lies.
    """

    def __init__(self, folder: Path):
        self.folder, self.model_folder, self.images = folder / "input", folder / "model", folder / "images"
        self.images.mkdir(parents=True)
        for i in range(3):
            Image.new("RGB", (24 + i, 20), (90 * i, 40, 10)).save(self.images / f"{i}.png")
        (self.images / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
        tokenizer = train_tokenizer([*QUESTIONS, "Question: Answer: yes no left right"] * 3, 320)
        self.processor = FlamingoMedProcessor.from_vision_text_pretrained(None, tokenizer, image_size=32)
        set_seed(0)
        config = {**SMALL, "cross_attn_gate_init": 0.5, **self.processor.token_ids}
        model = FlamingoMedForConditionalGeneration.from_vision_text_pretrained(VISION["clip"], TEXT["gpt2"], **config)
        model.generation_config.max_new_tokens = 8
        model.save_pretrained(self.model_folder)
        self.processor.save_pretrained(self.model_folder)
        save_calibration(self.model_folder, Calibration(1.5, 2.0, {"dataset": "phantom"}))
        self.answer = self.ask(self.model_folder)

    def begin(self) -> None:
        """Empty the folder of an input, and go there: relative paths, however odd, stay within."""
        os.chdir(self.folder.parent)
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        os.chdir(self.folder)

    def write(self, name: str, data: bytes | str) -> Path:
        """A file of the input; a link to an untouched one is replaced."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_bytes(data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data)
        return path

    def ask(self, folder: Path) -> tuple[str, float]:
        """Answer and confidence of a model, as `flamingo-med ask` shows them."""
        model, processor = load_model(str(folder))
        row = {"image": str(self.images / "1.png"), "image_id": "1", "question": QUESTIONS[0]}
        (answer,) = answer_questions(model, processor, [row], batch_size=1)
        calibration = load_calibration(str(folder))
        threshold = calibration and calibration.abstain_below
        confidence = calibration.confidence(answer.confidence) if calibration else answer.confidence
        return answer.text, round(confidence, 3), threshold is not None and confidence < threshold


# ----------------------------------------------------------------------------------------------------------- settings

FURTHER = {  # settings that recipes seldom have
    "data": {"split": "x", "data_dir": "x", "seed": 1, "train_images": 4},
    "model": {"problem_type": "multi_label_classification", "train_embeddings": "new", "resampler_act": "relu"},
    "report_to": "wandb",
    "deepspeed": "ds.json",
    "optim": "adafactor",
    "fsdp": "full_shard",
    "augmentation": {"crop": 0.1, "rotation": 5},
    "per_device_train_batch_size": 0,
    "eval_strategy": "steps",
    "save_steps": 0.5,
    "lr_scheduler_kwargs": {"num_cycles": 1},
    "accelerator_config": {"split_batches": True},
    "warmup_steps": 0.1,
    "max_steps": 3,
    "image_size": 32,
    "tokenizer": {"vocab_size": 300},
}
RUN = {  # a run that begins within a second
    "dataset": "custom",
    "vision": {"model_type": "clip_vision_model", **VISION["clip"].to_diff_dict()},
    "text": {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128},
    "tokenizer": {"vocab_size": 300},
    "image_size": 32,
    "model": {**SMALL, "freeze_vision": False, "freeze_text": False},
    "max_steps": 2,
    "eval_strategy": "steps",
    "eval_steps": 1,
    "save_steps": 1,
    "report_to": "none",
    "metric_for_best_model": "exact_match",
    "load_best_model_at_end": True,
}


def recipes(random: Random, workshop: Workshop) -> Call:
    """A recipe or settings on the command line, up to `--print_config`."""
    arguments = []
    settings = read_mapping(random.choice(list(packaged_recipes().values()))) | further(random)
    fault = random.choice(["value", "value", "typed", "damage", "trick", "all"])
    if fault in ("value", "all"):
        settings = edited(settings, random)
    text = yaml.dump(settings, allow_unicode=random.random() < 0.5, sort_keys=False)
    if fault in ("typed", "all"):
        arguments += typed(random)
    if fault == "damage":
        text = damaged(text.encode("utf-8", "surrogatepass"), random)
    elif fault in ("trick", "all"):
        text += yaml_trick(random)
    path = workshop.write("recipe.yaml", text)
    how = ["--estimate_memory", "8"] if random.random() < 0.02 else ["--print_config"]
    return lambda: dispatch(["train", str(path), *arguments, *how])


def further(random: Random) -> dict:
    return {name: FURTHER[name] for name in random.sample(list(FURTHER), random.randrange(3))}


def typed(random: Random) -> list[str]:
    """`--name value` as people type them, and worse."""
    names = [
        *FURTHER,
        *RUN,
        "learning_rate",
        "seed",
        "output_dir",
        "data.split",
        "text.n_embd",
        "model.x.y",
        "vision.a",
    ]
    name = random.choice([*names, *names, *names, *TEXTS])
    value = random.choice(
        [*TEXTS, "1.5", "x: y", "{a: 1}", "[1", "{", "!!int x", "!!python/object:os.system", "? [1]"]
    )
    dashes = random.choice(["--"] * 12 + ["-", "---", ""])
    return (
        [f"{dashes}{name}={value}"]
        if random.random() < 0.3
        else [f"{dashes}{name}", value][: random.choice([1, 2, 2])]
    )


def yaml_trick(random: Random) -> str:
    """Lines that YAML reads as more than they seem."""
    lines = [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, random.choice([3, 9]))]
    bomb = "\n".join(["a0: &a0 [x]", *lines])
    name = random.choice(["vision", "text", "model", "data", "dataset", "output_dir", "augmentation", "seed"])
    return "\n" + random.choice(
        (
            f"{bomb}\n{name}: *{lines[-1].split(':')[0]}\n",
            f"{name}: &a [*a]\n",
            f"{name}: &a {{x: *a}}\n",
            f"{name}: {'[' * 2000}{']' * 2000}\n",
            f"{name}: {'{a: ' * 60}1{'}' * 60}\n",
            f"{name}: !!python/object/apply:os.system [true]\n",
            f"{name}: !!binary aGVsbG8=\n",
            f"{name}: !!set {{a, b}}\n",
            f"{name}: !!timestamp x\n",
            f"{name}: !!int x\n",
            f"{name}: 2024-02-31\n",
            f"{name}: 2024-02-01\n",
            f"{name}: !ours x\n",
            f'{name}: "\\ud800"\n',
            f"{name}: {'9' * 5000}\n",
            f"{name}: 1:99:99\n",
            "<<: {seed: 1}\n",
            "<<: 3\n",
            "[1, 2]: 3\n",
            "1: 2\n",
            "null: 2\n",
            "? {a: 1}\n: 2\n",
            "---\nseed: 1\n",
            "seed: 1\nseed: 2\n",
            "\tseed: 1\n",
            "seed: *unknown\n",
        )
    )


def runs(random: Random, workshop: Workshop) -> Call:
    """A whole run up to its first step."""
    splits = ["train"] * 8 + ["validation"] * 3 + ["test"]
    rows = [[f"{i % 3}.png", "Is it?", ("yes", "no")[i % 2], split] for i, split in enumerate(splits)]
    table(workshop, "table.csv", rows, ["image", "question", "answer", "split"])
    settings = RUN | {"output_dir": str(workshop.folder / "run"), "data_dir": str(workshop.folder / "table.csv")}
    settings = edited(settings | further(random), random)
    path = workshop.write("recipe.yaml", yaml.dump(settings))
    arguments = [] if random.random() < 0.7 else typed(random)

    def run() -> None:
        before, FlamingoMedTrainer.train = FlamingoMedTrainer.train, begun
        try:
            dispatch(["train", str(path), *arguments, "--use_cpu", "true"])
        except Begun:
            pass
        finally:
            FlamingoMedTrainer.train = before

    return run


class Begun(Exception):
    """The first step is due."""


def begun(trainer: FlamingoMedTrainer, **kwargs) -> None:
    """In the place of `train`."""
    raise Begun


# ------------------------------------------------------------------------------------------------------------- tables


def table(
    workshop: Workshop,
    name: str,
    rows: Sequence[Sequence[str]],
    columns: Sequence[str] = ("image", "question", "answer"),
) -> Path:
    """A table of the workshop's images, which lie beside it."""
    for image in workshop.images.iterdir():
        os.link(image, workshop.folder / image.name)
    return workshop.write(name, "".join(",".join(row) + "\n" for row in (columns, *rows)))


def tables(random: Random, workshop: Workshop) -> Call:
    """Somebody's own table, and what is made of its rows before a training."""
    stem, suffix = random.choice(["table", "table", "metadata", "train"]), random.choice([".csv", ".jsonl"])
    image = "file_name" if stem == "metadata" else "image"
    columns = [image, "question", "answer", *random.sample(["split", "group", "question_type", "label"], 2)]
    rows = []
    for _ in range(random.randrange(2, 8)):
        row = dict.fromkeys(columns, "")
        row |= {image: f"{random.randrange(3)}.png", "question": "Is it?", "answer": random.choice(["yes", "left"])}
        if "split" in row:
            row["split"] = random.choice(["train", "train", "test", "val"])
        rows.append(row)
    for _ in range(random.randrange(3)):
        rows = edited(rows, random)
    rows = rows if isinstance(rows, list) else [rows]
    if suffix == ".jsonl":
        data = "\n".join(json.dumps(row, ensure_ascii=random.random() < 0.5) for row in rows)
    else:
        lines = [columns, *([row.get(c, "") for c in columns] if isinstance(row, dict) else [row] for row in rows)]
        quote = random.choice([csv_cell, csv_cell, str])
        data = "\n".join(",".join(quote(cell) for cell in line) for line in lines)
    data = data.encode("utf-8", "surrogatepass")
    path = table(workshop, stem + suffix, [])
    workshop.write(path.name, damaged(data, random) if random.random() < 0.3 else data)
    options = {"columns": {"image": image}, "on_bad_rows": "skip", "check_images": True, "seed": 0}
    options |= {"test_fraction": 0.2, "validation_fraction": 0.1}
    options = {name: options[name] for name in random.sample(list(options), random.randrange(4))}
    options = edited(options, random) if random.random() < 0.2 else options
    options = options if isinstance(options, dict) else {}

    given, split = random.choice([path, path, path.parent]), random.choice([*SPLITS, "train", "train"])

    def load() -> None:
        rows = load_split("custom", split, str(given), **options)
        list(texts_of(rows)), class_names(rows), fingerprint(rows), overlap(rows, rows, 100)

    return load


def csv_cell(value: Any) -> str:
    return '"' + str(value).replace('"', '""') + '"'


# -------------------------------------------------------------------------------------------------------- checkpoints


def checkpoints(random: Random, workshop: Workshop) -> Call:
    """The folder of a model in which one file was edited, and what it answers then."""
    files = sorted(path for path in workshop.model_folder.iterdir() if path.is_file())
    for file in files:
        os.link(file, workshop.folder / file.name)
    file = random.choice([file for file in files if file.suffix != ".safetensors" or random.random() < 0.5])
    data = file.read_bytes()
    if file.suffix == ".json" and random.random() < 0.7:
        value = json.loads(data)
        value = edited(value, random)
        data = json.dumps(value).encode()
    elif file.suffix == ".safetensors" and random.random() < 0.5:
        data = edited_weights(data, random)
    else:
        data = damaged(data, random)
    workshop.write(file.name, data)
    return lambda: workshop.ask(workshop.folder)


def edited_weights(data: bytes, random: Random) -> bytes:
    """Weights with another header, or other numbers."""
    size = int.from_bytes(data[:8], "little")
    header, weights = json.loads(data[8 : 8 + size]), data[8 + size :]
    change = random.randrange(4)
    if change == 0:
        part = random.choice(["resampler", "cross_attn", "vision_encoder", "language_model", ""])
        names = [name for name in header if name.startswith(part)]
        for name in random.sample(names, random.randrange(1, len(names) + 1)):
            header.pop(name)
    elif change == 1:
        header = edited(header, random)
    elif change == 2:
        at = random.randrange(len(weights))
        weights = weights[:at] + bytes([weights[at] ^ 1 << random.randrange(8)]) + weights[at + 1 :]
    else:
        at, count = random.randrange(len(weights)), random.randrange(1, 5000)
        weights = weights[:at] + bytes(len(weights[at : at + count])) + weights[at + count :]
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + weights


# ------------------------------------------------------------------------------------------------------------ results

VERSIONS = {"python": "3.11", "torch": "2.6"}


def prediction(i: int) -> dict:
    """A line of predictions.jsonl."""
    asked = {"id": f"r{i}", "image_id": f"image {i % 3}", "question": "Is it?", "answer": ("yes", "no")[i % 2]}
    asked |= {"answers": [asked["answer"]], "answer_type": "closed", "question_type": "presence", "organ": "lung"}
    said = {"prediction": "yes", "confidence": 0.9 - i / 20, "candidates": {"yes": -0.1 - i / 9, "no": -1.0}}
    return {**asked, **said, "candidate_confidence": 0.7, "exact_match": 1 - i % 2, "f1": 0.5}


def metrics(folder: Path) -> dict:
    """A metrics.json."""
    scores = [
        {"metric": metric, "subset": subset, "condition": condition, "value": 0.5, "low": 0.4, "high": 0.6, "n": 40}
        | {"signature": f"{metric}|v1"}
        for metric in ("exact_match", "ece")
        for condition in ("model", "blank_image", "majority")
        for subset in ("all", "closed", "open")
    ]
    meta = {"model": str(folder), "dataset": "vqa_rad", "split": "validation", "data": {"scheme": "official"}}
    meta |= {"rows": {"all": 45, "scored": 44, "images": 9}, "overlap": "none", "fingerprints": {"rows": "abc"}}
    meta |= {"model_minus_blank_image": {"value": 0.2, "low": 0.1, "high": 0.3}, "versions": VERSIONS}
    return {
        "meta": {**meta, "exclude": None, "command": "python eval.py --model runs/rad", "commit": "abc"},
        "scores": scores,
    }


def run_files(workshop: Workshop) -> dict[str, dict]:
    """What a card is made of."""
    config = json.loads((workshop.model_folder / "config.json").read_text())
    run = {"command": "python train.py x.yaml", "commit": None, "versions": VERSIONS, "overlap": "none"}
    settings = {"dataset": "vqa_rad", "data": {"scheme": "official"}, "output_dir": "runs/rad", "data_dir": "/x/y"}
    summary = {"steps": 12, "epochs": 2.0, "questions_per_step": 3, "learning_rate": 1e-4, "lr_scheduler": "cosine"}
    summary |= {"seed": 0, "seconds": 72.0, "resumed": False, "loss": {"first": 3.0, "last": 0.5}}
    summary |= {"hardware": {"processes": 2, "device": "cpu", "cores": 4}}
    summary |= {"validation": {"step": 10, "loss": 0.75, "exact_match": 0.625, "low": 0.5, "high": 0.75}}
    return {
        "config.json": config,
        "run.json": {**run, "stages_before": [{"dataset": "mimic_cxr", "data": {}}], "settings": settings},
        "summary.json": summary,
        "eval/validation/metrics.json": metrics(workshop.folder),
    }


def results(random: Random, workshop: Workshop) -> Call:
    """Files of an evaluation or a run of which one was edited, and a command that reads them."""
    folder = workshop.folder
    files = run_files(workshop)
    rows = [prediction(i) for i in range(8)]
    kind = random.choice(["compare", "compare", "card", "card", "calibrate", "exclude", "calibration"])
    if kind in ("compare", "calibrate"):
        for side in ("a", "b"):
            write_json(folder / side / "metrics.json", metrics(folder))
            workshop.write(f"{side}/predictions.jsonl", jsonl(rows))
        name = random.choice(["a/predictions.jsonl", "a/predictions.jsonl", "a/metrics.json"])
        value = rows if name.endswith("l") else metrics(folder)
    elif kind == "card":
        for name, content in files.items():
            write_json(folder / name, content)
        name = random.choice(list(files))
        value = files[name]
    elif kind == "exclude":
        name, value = "overlap.json", {"image_ids": ["0.png"], "names": {"a": "a", "b": "b"}, "verdict": "x"}
    else:
        name, guarantees = "calibration.json", {"threshold": {"confidence": 0.4, "coverage": 1.0}, "target_risk": 0.1}
        value = {"answer_temperature": 1.5, "candidate_temperature": 2.0, "fitted_on": {}, "guarantees": guarantees}
    for _ in range(random.choice([1, 1, 2])):
        value = edited(value, random)
    data = jsonl(value) if name.endswith("l") and isinstance(value, list) else json.dumps(value)
    data = data.encode("utf-8", "surrogatepass")
    workshop.write(name, damaged(data, random) if random.random() < 0.3 else data)
    risk = random.choice([[], ["--target_risk", "0.4"]])
    others = ["a/predictions.jsonl", "b/predictions.jsonl"]
    random.shuffle(others)

    def calibration() -> None:
        found = load_calibration(str(folder))
        if found:
            f"{found.confidence(0.5):.2f} {found.probabilities(np.zeros((1, 2)))}"
            if found.abstain_below is not None:
                f"{found.abstain_below:.2f} {found.guarantees['target_risk']:.0%}"

    return {
        "compare": lambda: dispatch(["compare", *(str(folder / other) for other in others)]),
        "calibrate": lambda: dispatch(["calibrate", str(folder / "a" / "predictions.jsonl"), *risk]),
        "card": lambda: str(render_card(folder)),
        "exclude": lambda: exclude_images(custom_rows(workshop), str(folder / "overlap.json"), "custom train"),
        "calibration": calibration,
    }[kind]


def jsonl(rows: list) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def custom_rows(workshop: Workshop):
    path = table(workshop, "table.csv", [["0.png", "Is it?", "yes"], ["1.png", "Is it?", "no"]])
    return load_split("custom", "train", str(path), test_fraction=0.0, validation_fraction=0.0)


# ---------------------------------------------------------------------------------------------------- processor calls


def processor_calls(random: Random, workshop: Workshop) -> Call:
    """A call of the processor, or of `read_image`."""
    processor = workshop.processor

    def nested(make: Callable[[], Any], depth: int = 0) -> Any:
        if depth < 3 and random.random() < 0.35:
            kind = random.choice([list, list, tuple])
            return kind(nested(make, depth + 1) for _ in range(random.choice([0, 1, 1, 2, 2, 3])))
        return make()

    def some(make: Callable[[], Any], count: int) -> Any:
        return nested(make) if random.random() < 0.5 else [make() for _ in range(count)]

    def an_image() -> Any:
        return image(random, workshop)

    def a_text() -> Any:
        return random.choice([*QUESTIONS, *QUESTIONS, *TEXTS, "<image> x <image>", None, 1, b"x", ["x"], "a" * 10**5])

    count = random.randrange(1, 4)
    images, texts, answers = some(an_image, count), some(a_text, count), some(a_text, count)
    options = {name: value for name, value in (("images", images), ("text", texts)) if random.random() < 0.9}
    if random.random() < 0.3:
        options["answers"] = answers
    if random.random() < 0.2:
        example = (an_image(), a_text(), a_text())
        options["examples"] = random.choice([[example], [example] * 3, [example[:2]], example, None, "x"])
    if random.random() < 0.1:
        options[random.choice(["return_tensors", "padding", "size", "do_resize", "x", "videos"])] = odd(random)
    said = str(a_text())
    message = {"role": random.choice(["user", "assistant", "system"]), "content": said}
    if random.random() < 0.5:
        message["content"] = [{"type": "image"}, {"type": "text", "text": said}]
    number = random.choice([0, 1, -1, 10**4, 1.5, None, "x"])
    return random.choice(
        [lambda: processor(**options)] * 6
        + [
            lambda: processor.render(a_text(), number),
            lambda: processor.tokenize(some(a_text, count), random.choice([None, answers])),
            lambda: processor.tokenize_answers(answers),
            lambda: processor.apply_chat_template([message]),
            lambda: read_image(an_image()),
            lambda: read_image({"path": an_image(), "bytes": an_image()}),
        ]
    )


def image(random: Random, workshop: Workshop) -> Any:
    """An image, most often a usable one; else of an odd kind, size or type, or none."""
    if random.random() < 0.5:
        return Image.open(workshop.images / "1.png")
    array = np.random.default_rng(random.randrange(100))
    shape = random.choice(
        [(8, 9), (8, 9, 3), (3, 8, 9), (8, 9, 1), (8, 9, 2), (8, 9, 4), (0, 9, 3), (2, 8, 9, 3), (1,)]
    )
    kind = random.choice(["uint8", "uint16", "int32", "float32", "float64", "bool", "complex64", "object"])
    return random.choice(
        (
            lambda: Image.new(
                random.choice(["1", "L", "P", "RGBA", "CMYK", "I;16", "I", "F", "LA", "HSV", "YCbCr"]), (9, 8)
            ),
            lambda: Image.new("RGB", random.choice([(0, 0), (0, 5), (1, 1), (1, 4000), (4000, 1)])),
            lambda: (255 * array.random(shape)).astype(kind),
            lambda: array.random(shape).astype(kind),
            lambda: torch.rand(shape),
            lambda: np.full(shape, random.choice(NUMBERS)),
            lambda: str(workshop.images / random.choice(["0.png", "broken.png", "none.png"])),
            lambda: workshop.images / "0.png",
            lambda: damaged((workshop.images / "2.png").read_bytes(), random),
            lambda: random.choice(TEXTS),
            lambda: odd(random),
            lambda: None,
        )
    )()


# Name → generator, and its share of the inputs in percent.
GENERATORS = {
    "recipes": (recipes, 32),
    "runs": (runs, 3),
    "tables": (tables, 20),
    "checkpoints": (checkpoints, 10),
    "results": (results, 20),
    "processor calls": (processor_calls, 15),
}
