"""The folder of a run: which checkpoint it resumes from, and what its settings were."""

import json
import logging
import zipfile
from pathlib import Path

from safetensors import SafetensorError, safe_open
from transformers import TrainingArguments

from processing.datasets import DEFAULT_DATASET
from processing.errors import InputError, check_renamed

logger = logging.getLogger(__name__)

# What to do where the folder of a run could not be written.
MAKE_ROOM = "make room, and resume from the last checkpoint with --resume_from_checkpoint true"


def find_checkpoint(args: TrainingArguments) -> str | None:
    """The checkpoint to resume from, if any; refuses a folder whose run would be lost.

    Raises:
        InputError: a finished run; an unfinished one without `resume_from_checkpoint`; a checkpoint that was named but
            is not there or not whole.
    """
    folder = Path(args.output_dir)
    if (folder / "recipe.yaml").exists():
        raise InputError(f"{folder} holds a finished run; choose another --output_dir, or remove it")
    checkpoints = sorted(folder.glob("checkpoint-*[0-9]"), key=lambda path: int(path.name.split("-")[-1]))
    if checkpoints and not args.resume_from_checkpoint:
        raise InputError(
            f"{folder} holds an unfinished run; resume it by --resume_from_checkpoint true, "
            "choose another --output_dir, or remove it"
        )
    if isinstance(args.resume_from_checkpoint, str):
        if not Path(args.resume_from_checkpoint).is_dir():
            raise InputError(f"no checkpoint at {args.resume_from_checkpoint}")
        if fault := damage(Path(args.resume_from_checkpoint), args.world_size):
            raise InputError(f"{args.resume_from_checkpoint} is incomplete ({fault}); choose an earlier one")
        return args.resume_from_checkpoint
    for path in reversed(checkpoints):
        fault = damage(path, args.world_size)
        if fault is None:
            logger.info(f"resuming from {path}")
            return str(path)
        logger.info(f"{path} is incomplete ({fault}), skipped")
    return None


def damage(checkpoint: Path, world_size: int = 1) -> str | None:
    """What is wrong with a checkpoint: a file that is missing or cut off. None where nothing is.

    `transformers` itself resumes without optimizer or random state, in silence, and then to other weights.

    Args:
        checkpoint: its folder.
        world_size: number of processes, each of which has a random state of its own.
    """
    of_processes = ["rng_state.pth"] if world_size == 1 else [f"rng_state_{i}.pth" for i in range(world_size)]
    for name in ("trainer_state.json", "scheduler.pt", *of_processes):
        if not (checkpoint / name).is_file():
            return f"no {name}"
    try:
        json.loads((checkpoint / "trainer_state.json").read_text())
    except ValueError:
        return "damaged trainer_state.json"
    for path in sorted([*checkpoint.glob("*.pt"), *checkpoint.glob("*.pth"), *checkpoint.glob("*.bin")]):
        if not zipfile.is_zipfile(path):  # torch writes zip files, whose list of contents stands at the end
            return f"damaged {path.name}"
    for path in sorted(checkpoint.glob("*.safetensors")):
        try:
            safe_open(path, "pt")
        except SafetensorError:
            return f"damaged {path.name}"
    for kind, pattern in {"weights": "*.safetensors", "optimizer": "optimizer.*"}.items():
        if not any(checkpoint.glob(pattern)):
            return f"no {kind}"
    return None


def stages_before(init_from: str | None) -> list[dict]:
    """What the model that training starts from was trained on, stage by stage, the first first.

    Returns:
        model, dataset (None where no run.json says it, as for one of the Hub), data, its options, and exclude, the
        report of images that were left out.
    """
    if init_from is None:
        return []
    path = Path(init_from, "run.json")
    if not path.is_file():
        return [{"model": init_from, "dataset": None, "data": {}, "exclude": None}]
    meta = json.loads(path.read_text(encoding="utf-8"))
    data = {"dataset": DEFAULT_DATASET, "data": {}, "exclude": None} | check_renamed(meta["settings"], path)
    stage = {"model": init_from, **{name: data[name] for name in ("dataset", "data", "exclude")}}
    return [*meta.get("stages_before", []), stage]


def log_changes(folder: str, settings: dict) -> None:
    """Log which settings of a run that resumes differ from those that it began with."""
    path = Path(folder, "run.json")
    before = json.loads(path.read_text())["settings"] if path.is_file() else settings
    now = json.loads(json.dumps(settings))  # as they were written
    for name in sorted({*before, *now} - {"resume_from_checkpoint"}):
        if before.get(name) != now.get(name):
            logger.info(f"{name} was {before.get(name, 'not set')} and is now {now.get(name, 'not set')}")
