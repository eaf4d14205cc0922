"""The folder of a run: which checkpoint it resumes from, and which is the best one."""

import json
import logging
import zipfile
from pathlib import Path

from transformers import TrainingArguments

from flamingo_med.training.identity import RECIPE
from modeling_flamingo_med.manifest_flamingo_med import check_folder, read_manifest, write_manifest
from processing.errors import InputError

UNFINISHED = "it was not written to its end"
STATE = "trainer_state.json"

logger = logging.getLogger(__name__)

# What to do where the folder of a run could not be written.
MAKE_ROOM = "make room, and resume from the last checkpoint with --resume_from_checkpoint true"


def find_checkpoint(args: TrainingArguments) -> str | None:
    """The checkpoint to resume from, if any; refuses a folder whose run would be lost.

    A run that ended while it wrote its first checkpoint has none, and starts over.

    Raises:
        InputError: a finished run; an unfinished one without `resume_from_checkpoint`; a checkpoint that was named but
            is not there or not whole; checkpoints, none of which is whole.
    """
    folder = Path(args.output_dir)
    if _is_finished(folder):
        raise InputError(f"{folder} holds a finished run; choose another --output_dir, or remove it")
    checkpoints = sorted(folder.glob("checkpoint-*[0-9]"), key=lambda path: int(path.name.split("-")[-1]))
    if checkpoints and not args.resume_from_checkpoint:
        raise InputError(
            f"{folder} holds an unfinished run; resume it by --resume_from_checkpoint true, "
            "choose another --output_dir, or remove it"
        )
    if isinstance(args.resume_from_checkpoint, str):
        path = Path(args.resume_from_checkpoint)
        if not path.is_dir():
            raise InputError(f"no checkpoint at {path}")
        if fault := damage(path):
            raise InputError(f"{path} is incomplete ({fault}); choose an earlier one")
        _tell_processes(path, args.world_size)
        return str(path)
    faults = {}
    for path in reversed(checkpoints):
        fault = damage(path)
        if fault is None:
            logger.info(f"resuming from {path}")
            _tell_processes(path, args.world_size)
            return str(path)
        logger.warning(f"{path} is incomplete ({fault}), skipped")
        faults[path.name] = fault
    if set(faults.values()) - {UNFINISHED}:
        raise InputError(
            f"no checkpoint in {folder} can be resumed from: "
            f"{'; '.join(f'{name}: {fault}' for name, fault in faults.items())}; nothing was changed: choose another "
            "--output_dir, or remove this one to start over"
        )
    return None


def _is_finished(folder: Path) -> bool:
    """Whether a run has come to its end, as its manifest says, which is written last; of older ones, their recipe."""
    try:
        manifest = read_manifest(folder)
    except ValueError:  # whatever it was, it is not to be overwritten
        return (folder / RECIPE).exists()
    return (folder / RECIPE).exists() if manifest is None else bool(manifest.get("final"))


def begin_checkpoint(folder: Path) -> None:
    """Mark a checkpoint as unfinished, until `identity.seal` writes what it holds."""
    folder.mkdir(parents=True, exist_ok=True)
    write_manifest(folder, [])


def damage(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint: a file that is missing, cut off or changed. None where nothing is.

    Every file is read in full. The random states of other processes than it was written by do not count.
    """
    try:
        manifest = check_folder(checkpoint, whole=True, training=True)
    except ValueError as error:
        return str(error).partition(";")[0].replace(f"{checkpoint}/", "")
    if manifest is not None and "step" not in manifest:
        return UNFINISHED
    for name in (STATE, "scheduler.pt"):
        if not (checkpoint / name).is_file():
            return f"no {name}"
    kinds = {"weights": "*.safetensors", "optimizer": "optimizer*", "rng_state": "rng_state*.pth"}
    for kind, pattern in kinds.items():
        if not any(checkpoint.glob(pattern)):
            return f"no {kind}"
    if manifest is not None:
        return None
    try:
        json.loads((checkpoint / STATE).read_text())
    except ValueError:
        return f"damaged {STATE}"
    for path in sorted([*checkpoint.glob("*.pt"), *checkpoint.glob("*.pth"), *checkpoint.glob("*.bin")]):
        if not zipfile.is_zipfile(path):  # torch writes zip files, whose list of contents stands at the end
            return f"damaged {path.name}"
    return None


def _tell_processes(checkpoint: Path, world_size: int) -> None:
    """Say that dropout differs where another number of processes wrote the checkpoint."""
    before = len([*checkpoint.glob("rng_state*.pth")])
    if before != world_size:
        logger.warning(
            f"{checkpoint} was written by {before} process(es), and this run has {world_size}: dropout draws other "
            f"numbers than it would have, and a step has the questions of {world_size}"
        )


def is_final(checkpoint: str | Path) -> bool:
    """Whether the training ended with the step at which a checkpoint was written."""
    manifest = read_manifest(checkpoint)
    if manifest is not None:
        return manifest["final"]
    state = json.loads(Path(checkpoint, STATE).read_text())
    return state["global_step"] >= state["max_steps"]


def find_best(checkpoint: str, args: TrainingArguments, accept: bool) -> str | None:
    """Where the best checkpoint so far lies, of a run that resumes; None where none was kept.

    Args:
        checkpoint: the one that it resumes from.
        args: of the run.
        accept: resume without it where it is lost; the best of the steps to come is kept then.

    Raises:
        InputError: it is missing or damaged.
    """
    saved = json.loads(Path(checkpoint, STATE).read_text())["best_model_checkpoint"]
    if not args.load_best_model_at_end or saved is None:
        return saved
    name = Path(saved).name  # the run may have been moved
    places = [Path(args.output_dir, name), Path(checkpoint).parent / name, Path(saved)]
    best = next((path for path in places if path.is_dir()), None)
    fault = "it is gone" if best is None else damage(best)
    if fault is None:
        return str(best)
    lost = f"the best checkpoint so far, {best or saved}, cannot be used ({fault})"
    if not accept:
        raise InputError(
            f"{lost}; put it back, or resume with --accept_changes true, and the best of the steps to come is kept"
        )
    logger.warning(f"{lost}: the best of the steps to come is kept")
    return None
