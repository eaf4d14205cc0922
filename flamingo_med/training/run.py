"""A training run: recipe → data → processor → model → trainer → a folder that `from_pretrained` loads."""

import logging
import shlex
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml
from transformers import set_seed

from flamingo_med.common.folders import disk_errors, lock_folder
from flamingo_med.common.provenance import provenance
from flamingo_med.common.settings import build_arguments, merge, read_recipe
from flamingo_med.training.checkpoints import MAKE_ROOM, find_checkpoint, log_changes, stages_before
from flamingo_med.training.starting_point import ModelArguments, build_model, build_processor, continue_from
from flamingo_med.training.trainer import FlamingoMedTrainer, FlamingoMedTrainingArguments
from processing.datasets import SPLITS, count_unseen, fingerprint
from processing.datasets.arguments import DataArguments
from processing.datasets.split_overlap import QUICK, overlap, verdict
from processing.errors import InputError
from processing.files import write_json, write_whole

KINDS = (DataArguments, ModelArguments, FlamingoMedTrainingArguments)

logger = logging.getLogger(__name__)


def train(recipe: str | Path, **overrides: Any) -> Path:
    """Train a model by a recipe, as `flamingo-med train` does.

    Args:
        recipe: path of a YAML file, or the name of a packaged recipe.
        overrides: settings in the place of the recipe's; a mapping changes only the names that it has.

    Returns:
        the folder of the finished run, which holds the best model.

    Raises:
        InputError: a mistake in the settings or the data, before any training.
    """
    return train_by_settings(merge(read_recipe(recipe), overrides))


def train_by_settings(settings: dict[str, Any]) -> Path:
    """As `train`, with the settings that a recipe and the command line have given together."""
    data_args, model_args, training_args = build_arguments(settings, *KINDS)
    output_dir = Path(training_args.output_dir)
    checkpoint = find_checkpoint(training_args)
    lock = lock_folder(output_dir, first_process=training_args.process_index == 0)

    set_seed(training_args.seed)
    train_rows, validation_rows = data_args.load_train(), data_args.load("validation")
    if model_args.init_from:
        model, processor = continue_from(model_args, train_rows)
    else:
        processor = build_processor(model_args, train_rows)
        model = build_model(model_args, processor, train_rows)
    model.generation_config.max_new_tokens = training_args.max_new_tokens  # saved with the model: it answers so later

    trainer = FlamingoMedTrainer(
        model=model,
        args=training_args,
        processing_class=processor,
        train_dataset=train_rows,
        eval_dataset=validation_rows,
    )
    with disk_errors(output_dir, MAKE_ROOM):
        if trainer.is_world_process_zero():
            describe_start(trainer, data_args)
            if checkpoint:
                log_changes(output_dir, settings)
            write_start(trainer, data_args, model_args, settings)
        trainer.train(resume_from_checkpoint=checkpoint)
        trainer.save_model()
        if trainer.is_world_process_zero():
            # Written last, and at once: a folder with it holds a finished run.
            write_whole(output_dir / "recipe.yaml", as_yaml(settings))
    if trainer.is_world_process_zero():
        trainer.create_model_card()
        lock.release()
    if training_args.push_to_hub:
        trainer.push_to_hub()
    return output_dir


def describe_start(trainer: FlamingoMedTrainer, data_args: DataArguments) -> None:
    """Log what is trained on what."""
    args, model = trainer.args, trainer.accelerator.unwrap_model(trainer.model)
    train_rows, validation_rows = trainer.train_dataset, trainer.eval_dataset
    size = f"{train_rows.num_shards} shards of" if data_args.streaming else len(train_rows)
    logger.info(f"{size} training and {len(validation_rows)} validation questions of {data_args.dataset}")
    logger.info(f"{args.world_size} process(es) of {args.per_device_train_batch_size} questions a step")
    if model.config.num_labels:
        unseen = count_unseen(validation_rows, list(model.config.label2id))
        logger.info(f"{model.config.num_labels} classes; {unseen} validation questions have one that train lacks")
    logger.info(model.parameter_summary())


def write_start(
    trainer: FlamingoMedTrainer, data_args: DataArguments, model_args: ModelArguments, settings: dict[str, Any]
) -> None:
    """run.json, what the run is made from, and overlap.json, what train and validation share."""
    folder = Path(trainer.args.output_dir)
    meta = {**provenance(), "stages_before": stages_before(model_args.init_from)}
    if not data_args.streaming:
        train_rows, validation_rows = trainer.train_dataset, trainer.eval_dataset
        shared = overlap(train_rows, validation_rows, QUICK)
        write_json(folder / "overlap.json", shared)
        meta["overlap"] = verdict(shared, "train", "validation")
        meta["fingerprints"] = {"train": fingerprint(train_rows), "validation": fingerprint(validation_rows)}
        logger.info(f"overlap of train and validation: {meta['overlap']}")
    write_json(folder / "run.json", {**meta, "settings": settings})


def as_yaml(settings: dict[str, Any]) -> str:
    """A recipe as it would be written by hand, in the order of its settings."""
    return yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)


def next_command(folder: Path) -> str:
    """The command that scores a finished run, as it works from any working directory: on its test split where there is
    one, else on validation."""
    settings = read_recipe(folder / "recipe.yaml")
    of_data = {f.name: settings[f.name] for f in fields(DataArguments) if f.name in settings}
    (data_args,) = build_arguments(of_data, DataArguments)
    words = ["flamingo-med", "evaluate", "--model", str(folder.absolute()), "--split", _split_to_score(data_args)]
    if data_args.data_dir and Path(data_args.data_dir).exists():
        words += ["--data_dir", str(Path(data_args.data_dir).absolute())]
    return shlex.join(words)


def _split_to_score(data_args: DataArguments) -> str:
    for split in ("test", "validation"):
        try:
            data_args.load(split)
        except InputError:
            continue
        return split
    return SPLITS[0]
