"""What a run is made of: fingerprints of recipe and data, the images trained on; and what of it is another by now.

A run writes it to run.json and trained_images.txt, each checkpoint and the finished model have both, and their
manifests say it in short.
"""

import json
import shutil
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path
from typing import Any

from accelerate import PartialState
from datasets import Dataset, IterableDataset
from transformers.utils import cached_file

from flamingo_med.common.provenance import provenance
from modeling_flamingo_med.manifest_flamingo_med import (
    MANIFEST,
    OF_THE_PROCESSOR,
    OF_THE_TOKENIZER,
    files_like,
    hash_file,
    model_files,
    processor_files,
    read_manifest,
    write_manifest,
)
from processing.datasets import DEFAULT_DATASET, fingerprint, parquet_shards
from processing.datasets.arguments import DataArguments
from processing.datasets.split_overlap import image_digests
from processing.errors import InputError, check_renamed
from processing.files import write_json, write_whole

RUN, TRAINED_IMAGES, RECIPE = "run.json", "trained_images.txt", "recipe.yaml"
OF_THE_TRAINING = ("optimizer*", "scheduler.pt", "scaler.pt", "rng_state*.pth", "trainer_state.json", RUN)
OF_THE_RUN = (RUN, RECIPE, "summary.json")

# Settings that make the weights what they are: a resumed run keeps them.
OF_THE_WEIGHTS = ("vision", "text", "tokenizer", "init_from", "image_size", "model", "optim")
# Settings that change no weight of the outcome; data_dir is where the data lie, which have a fingerprint of their own.
WITHOUT_EFFECT = {
    *("output_dir", "data_dir", "resume_from_checkpoint", "accept_changes", "report_to", "run_name", "project"),
    *("disable_tqdm", "push_to_hub", "save_total_limit", "save_steps", "save_strategy", "use_cpu", "fast_matmul"),
    *(
        "dataloader_num_workers",
        "dataloader_pin_memory",
        "dataloader_prefetch_factor",
        "log_level",
        "trackio_space_id",
    ),
    *("dataloader_persistent_workers", "store_features", "per_device_eval_batch_size"),
}


def describe_origin(
    data_args: DataArguments,
    init_from: str | None,
    settings: dict[str, Any],
    train_rows: Dataset | IterableDataset,
    validation_rows: Dataset,
) -> tuple[dict, list[str]]:
    """What a run is made from.

    Returns:
        what run.json says: provenance, stages_before, settings, fingerprints and rows of train and validation, and
        trained_images, how many and whether these are all; and the hashes of the images that this run and the stages
        before it train on, sorted.

    Raises:
        InputError: an image that cannot be read.
    """
    own, complete = set(), True
    if isinstance(train_rows, IterableDataset):  # it passes by once, and is not read for this
        files = [Path(file) for file in parquet_shards.find_shards("train", data_args.data_dir)]
        of_train, complete = _digest([(file.name, file.stat().st_size) for file in files]), False
    else:
        with PartialState().local_main_process_first():  # the others find it in the cache
            own = image_digests(train_rows)
        of_train = fingerprint(train_rows)
    before, before_complete = images_before(init_from)
    fingerprints = {"train": of_train, "validation": fingerprint(validation_rows), "images": _digest(sorted(own))}
    rows = {"validation": len(validation_rows)} | ({"train": len(train_rows)} if complete else {})
    images = sorted(own | before)
    return {
        **provenance(),
        "stages_before": stages_before(init_from),
        "fingerprints": fingerprints,
        "rows": rows,
        "trained_images": {"count": len(images), "complete": complete and before_complete},
        "settings": settings,
    }, images


def stages_before(init_from: str | None) -> list[dict]:
    """What the model that training starts from was trained on, stage by stage, the first first.

    Returns:
        model, dataset (None where no run.json says it, as for one of the Hub), data, its options, and exclude, the
        report of images that were left out.
    """
    if init_from is None:
        return []
    path = Path(init_from, RUN)
    if not path.is_file():
        return [{"model": init_from, "dataset": None, "data": {}, "exclude": None}]
    meta = json.loads(path.read_text(encoding="utf-8"))
    data = {"dataset": DEFAULT_DATASET, "data": {}, "exclude": None} | check_renamed(meta["settings"], path)
    stage = {"model": init_from, **{name: data[name] for name in ("dataset", "data", "exclude")}}
    return [*meta.get("stages_before", []), stage]


def images_before(init_from: str | None) -> tuple[set[str], bool]:
    """Hashes of the images that an earlier stage, a folder or of the Hub, says it has seen, and whether these are all;
    what its pretrained parts have seen nobody knows."""
    if init_from is None:
        return set(), True
    quiet = ("missing_entries", "connection_errors", "gated_repo")
    options = {f"_raise_exceptions_for_{kind}": False for kind in quiet}
    try:
        images, manifest = (cached_file(init_from, name, **options) for name in (TRAINED_IMAGES, MANIFEST))
    except OSError:  # there is no such repository, as will be said when the model is loaded
        images = manifest = None
    if images is None or manifest is None:
        return set(), False
    known = read_manifest(Path(manifest).parent).get("trained_images", {})
    return set(Path(images).read_text(encoding="utf-8").split()), known.get("complete", False)


def write_origin(folder: Path, origin: dict, images: Iterable[str]) -> None:
    """run.json and trained_images.txt of a run."""
    write_whole(folder / TRAINED_IMAGES, "".join(f"{image}\n" for image in images))
    write_json(folder / RUN, origin)


def seal(folder: Path, run_folder: Path, *, step: int, final: bool, processes: int) -> None:
    """Write the manifest of a checkpoint or finished run, last of all.

    Args:
        folder: it, with all its files.
        run_folder: the run's, whose run.json and trained_images.txt, where there are any, a checkpoint gets too.
        step: optimizer steps so far.
        final: the training ends here.
        processes: number of processes that train.
    """
    for name in (RUN, TRAINED_IMAGES):
        if folder != run_folder and (run_folder / name).is_file():
            shutil.copyfile(run_folder / name, folder / name)
    tokenizer, processor = (files_like(folder, patterns) for patterns in (OF_THE_TOKENIZER, OF_THE_PROCESSOR))
    training = files_like(folder, OF_THE_RUN if folder == run_folder else OF_THE_TRAINING)
    origin = _read(folder / RUN) or {}
    fingerprints = {
        "tokenizer": _digest([hash_file(folder / name) for name in sorted(tokenizer)]),
        "processor": _digest([hash_file(folder / name) for name in sorted(processor)]),
        "recipe": _digest(_effective(origin.get("settings", {}))),
        "data": origin.get("fingerprints"),
    }
    facts = {"step": step, "final": final, "processes": processes, "fingerprints": fingerprints}
    facts["trained_images"] = origin.get("trained_images")
    files = model_files(folder) | processor_files(folder) | files_like(folder, [TRAINED_IMAGES])
    write_manifest(folder, files, training, **facts)


def changes_since(checkpoint: Path, run_folder: Path, origin: dict, accept: bool) -> list[str]:
    """What decides on the weights and is another than when a checkpoint was written, a sentence each.

    Args:
        checkpoint: the checkpoint.
        run_folder: of its run, whose run.json stands in for that of an older checkpoint.
        origin: of `describe_origin`, as it is now.
        accept: resume with what is another.

    Raises:
        InputError: something that the weights cannot follow is another, or it was not accepted.
    """
    before = _read(checkpoint / RUN) or _read(run_folder / RUN)
    if before is None:
        return False
    then, now = (_effective(meta["settings"]) for meta in (before, origin))
    said = {
        name: f"{name} was {then.get(name, 'not set')} and is now {now.get(name, 'not set')}"
        for name in sorted({*then, *now})
        if then.get(name) != now.get(name)
    }
    for name in said.keys() & set(OF_THE_WEIGHTS):
        raise InputError(
            f"{said[name]}, which the weights of {checkpoint} do not fit; undo that, or begin another run with "
            f"--init_from {checkpoint}"
        )
    changes = [*said.values(), *_changes_of_data(before, origin)]
    if changes and not accept:
        raise InputError(
            f"{checkpoint} was trained otherwise: {'; '.join(changes)}; undo that, or resume with "
            "--accept_changes true"
        )
    return changes


def _changes_of_data(before: dict, now: dict) -> list[str]:
    changes = []
    old, new = before.get("fingerprints", {}), now["fingerprints"]
    for name, what in {"train": "rows of train", "validation": "rows of validation", "images": "images"}.items():
        if name in old and old[name] != new[name]:
            counts = [meta.get("rows", {}).get(name) for meta in (before, now)]
            how_many = f", {counts[0]} before and {counts[1]} now," if None not in counts else ""
            changes.append(f"the {what}{how_many} are others (fingerprint {old[name]}, now {new[name]})")
    return changes


def _effective(settings: dict) -> dict:
    """The settings that the weights depend on, as JSON has them and under today's names."""
    settings = check_renamed(json.loads(json.dumps(settings)), RUN)
    of_logging = ("logging_", "hub_")
    return {n: v for n, v in settings.items() if n not in WITHOUT_EFFECT and not n.startswith(of_logging)}


def _read(path: Path) -> dict | None:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _digest(obj: Any) -> str:
    return sha256(json.dumps(obj, sort_keys=True).encode()).hexdigest()[:16]
