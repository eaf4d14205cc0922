"""A training run: recipe → data → processor → model → trainer → a folder that `from_pretrained` loads."""

import logging
import shlex
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml
from datasets import Dataset
from transformers import set_seed

from flamingo_med.common.folders import lock_folder
from flamingo_med.common.settings import build_arguments, merge, read_recipe
from flamingo_med.training.checkpoints import MAKE_ROOM, find_best, find_checkpoint, is_final
from flamingo_med.training.identity import RECIPE, changes_since, describe_origin, seal, write_origin
from flamingo_med.training.starting_point import (
    ModelArguments,
    build_model,
    build_processor,
    continue_from,
    resume_from,
)
from flamingo_med.training.trainer import FlamingoMedTrainer, FlamingoMedTrainingArguments
from processing.datasets import SPLITS, count_unseen
from processing.datasets.arguments import DataArguments
from processing.datasets.split_overlap import QUICK, overlap, verdict
from processing.errors import InputError, disk_errors
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

    train_rows, validation_rows = data_args.load_train(), data_args.load("validation")
    origin, images = describe_origin(data_args, model_args.init_from, settings, train_rows, validation_rows)
    best, ended = None, False
    if checkpoint:
        accept = training_args.accept_changes
        changes = changes_since(Path(checkpoint), output_dir, origin, accept)
        for change in changes:
            logger.warning(f"accepted: {change}")
        best = find_best(checkpoint, training_args, accept)
        ended = is_final(checkpoint) and not changes

    set_seed(training_args.seed)
    if checkpoint:
        model, processor = resume_from(checkpoint)
    elif model_args.init_from:
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
            write_overlap(trainer, origin)
            write_origin(output_dir, origin, images)
        if ended:
            trainer.finish(checkpoint, best)
        else:
            trainer.train(resume_from_checkpoint=checkpoint, best_checkpoint=best)
        trainer.save_model()
        if trainer.is_world_process_zero():
            write_whole(output_dir / RECIPE, as_yaml(settings))
            trainer.create_model_card()
            # Written last, and at once: a folder whose manifest says so holds a finished run.
            step, processes = trainer.state.global_step, training_args.world_size
            seal(output_dir, output_dir, step=step, final=True, processes=processes)
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


def write_overlap(trainer: FlamingoMedTrainer, origin: dict[str, Any]) -> None:
    """overlap.json, what train and validation share, and the verdict, for run.json; nothing of a stream."""
    train_rows, validation_rows = trainer.train_dataset, trainer.eval_dataset
    if isinstance(train_rows, Dataset):
        shared = overlap(train_rows, validation_rows, QUICK)
        write_json(Path(trainer.args.output_dir, "overlap.json"), shared)
        origin["overlap"] = verdict(shared, "train", "validation")
        logger.info(f"overlap of train and validation: {origin['overlap']}")


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
