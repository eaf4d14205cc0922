"""Train a model by a recipe.

    accelerate launch train.py recipes/phantom.yaml
    accelerate launch train.py recipes/vqa_rad.yaml --data_dir data/vqa_rad --learning_rate 3e-5 --data.seed 1

A recipe is a YAML file of the arguments below and of any argument of `transformers.TrainingArguments`; the command
line overrides it, and --print_config shows the result. --estimate_memory 64 tells what a device needs for a step of
questions of 64 tokens, without data or weights. Stages chain: --init_from runs/mimic_cxr. The best model ends in
output_dir, where `AutoModelForImageTextToText.from_pretrained` loads it, and with --push_to_hub --hub_model_id
user/name on the Hub.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_type_hints

import yaml
from datasets import Dataset, IterableDataset
from transformers import AutoConfig, PretrainedConfig, set_seed

from modeling_flamingo_med import FlamingoMedConfig, FlamingoMedForConditionalGeneration
from modeling_flamingo_med.backbones_flamingo_med import part_config
from modeling_flamingo_med.memory import estimate_memory, format_memory
from modeling_flamingo_med.run_folder import find_checkpoint, full_disk_named, say_changes, stages_before
from modeling_flamingo_med.trainer import FlamingoMedTrainer, FlamingoMedTrainingArguments
from processing.backends import context_length
from processing.datasets import class_names, count_unseen, fingerprint
from processing.datasets.overlap import QUICK, overlap, verdict
from processing.errors import InputError, check_keys, check_types, run
from processing.files import write_json, write_whole
from processing.folders import reserve
from processing.hub import reason
from processing.processing_flamingo_med import FlamingoMedProcessor
from processing.provenance import provenance
from processing.recipe import DataArguments, build_arguments, describe, override, read_recipe
from processing.tokenizer import extend_embeddings, load_tokenizer, texts_of, train_tokenizer

# What a later stage may change of a model's configuration.
CHANGEABLE = {
    *("freeze_vision", "freeze_text", "train_embeddings", "problem_type", "id2label", "use_image_embeddings"),
    *("classification_dropout", "classification_label_smoothing", "classification_loss_weight"),
}


@dataclass
class ModelArguments:
    """What the model is made of."""

    vision: str | dict = field(
        default="openai/clip-vit-base-patch32",
        metadata={"help": "image encoder: Hub id or folder, or a configuration (with model_type) for random weights"},
    )
    text: str | dict = field(default="gpt2", metadata={"help": "decoder: the same"})
    tokenizer: str | dict | None = field(
        default=None,
        metadata={
            "help": "Hub id or folder, for a pretrained text one extended from its own; {vocab_size: n} trains one on "
            "the data; text's if unset"
        },
    )
    init_from: str | None = field(
        default=None,
        metadata={
            "help": "finished run, or model on the Hub, to go on from: its parts and processor are taken, and "
            "of model only what is frozen or about a head may differ"
        },
    )
    image_size: int | None = field(default=None, metadata={"help": "side in pixels; vision's own resizing if unset"})
    model: dict = field(default_factory=dict, metadata={"help": "arguments of FlamingoMedConfig"})

    def __post_init__(self):
        hints = get_type_hints(FlamingoMedConfig.__init__)
        ours = {"vision_config", "text_config", "backbones", "backbones_saved", "num_labels", "id2label", "return"}
        check_keys(
            self.model,
            [name for name in hints if name not in ours and not name.endswith("_token_id")],
            "setting of model",
        )
        self.model = check_types(self.model, hints)
        if isinstance(self.tokenizer, dict):
            check_keys(self.tokenizer, ["vocab_size"], "setting of tokenizer")
        missing = isinstance(self.text, dict) and self.tokenizer is None
        if missing or (isinstance(self.text, str) and isinstance(self.tokenizer, dict)):
            raise InputError(
                "a decoder with random weights needs a tokenizer, such as {vocab_size: 512}, and a pretrained one its "
                f"own; got text {self.text} and tokenizer {self.tokenizer}"
            )
        self.vision, self.text = (as_config(p) if isinstance(p, dict) else p for p in (self.vision, self.text))


def main() -> None:
    """Recipe → data → processor → model → trainer → output folder."""
    kinds = (DataArguments, ModelArguments, FlamingoMedTrainingArguments)
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        print(f"{__doc__}\n{describe(*kinds)}")
        return
    settings = override(read_recipe(sys.argv[1]), sys.argv[2:], *kinds)
    if settings.pop("print_config", False):
        build_arguments(settings | {"use_cpu": True}, *kinds)  # tells mistakes, but of GPUs
        print(as_yaml(settings), end="")
        return
    tokens = settings.pop("estimate_memory", None)
    if tokens is not None:
        settings["use_cpu"] = True  # of whatever GPUs the recipe is for, none is needed
    data_args, model_args, training_args = build_arguments(settings, *kinds)
    if tokens is not None:
        print(memory_table(model_args, training_args, tokens))
        return
    checkpoint = find_checkpoint(training_args)
    lock = reserve(training_args.output_dir, first_process=training_args.process_index == 0)

    set_seed(training_args.seed)
    train_rows, validation_rows = data_args.load_train(), data_args.load("validation")
    if model_args.init_from:
        model, processor = continue_from(model_args, train_rows)
    else:
        processor = build_processor(model_args, train_rows)
        model = build_model(model_args, processor, train_rows)

    trainer = FlamingoMedTrainer(
        model=model,
        args=training_args,
        processing_class=processor,
        train_dataset=train_rows,
        eval_dataset=validation_rows,
    )
    if trainer.is_world_process_zero():
        size = f"{train_rows.num_shards} shards of" if data_args.streaming else len(train_rows)
        print(f"{size} training and {len(validation_rows)} validation questions of {data_args.dataset}")
        print(
            f"{training_args.world_size} process(es) of {training_args.per_device_train_batch_size} questions a step"
        )
        if model.config.num_labels:
            unseen = count_unseen(validation_rows, list(model.config.label2id))
            print(f"{model.config.num_labels} classes; {unseen} validation questions have one that train lacks")
        print(model.parameter_summary())
        if checkpoint:
            say_changes(training_args.output_dir, settings)
        meta = {**provenance(), "stages_before": stages_before(model_args.init_from)}
        if not data_args.streaming:
            shared = overlap(train_rows, validation_rows, QUICK)
            write_json(Path(training_args.output_dir, "overlap.json"), shared)
            meta["overlap"] = verdict(shared, "train", "validation")
            meta["fingerprints"] = {"train": fingerprint(train_rows), "validation": fingerprint(validation_rows)}
            print(f"overlap of train and validation: {meta['overlap']}")
        write_json(Path(training_args.output_dir, "run.json"), {**meta, "settings": settings})
    trainer.train(resume_from_checkpoint=checkpoint)
    with full_disk_named(training_args.output_dir):
        trainer.save_model()
    if trainer.is_world_process_zero():
        # Written last, and at once: a folder with it holds a finished run.
        write_whole(Path(training_args.output_dir, "recipe.yaml"), as_yaml(settings))
        trainer.create_model_card()
        print(Path(training_args.output_dir, "summary.md").read_text())
        print(f"model: {training_args.output_dir}; score it: python eval.py --model {training_args.output_dir}")
        lock.release()
    if training_args.push_to_hub:
        trainer.push_to_hub()


def memory_table(args: ModelArguments, training_args: FlamingoMedTrainingArguments, tokens: int) -> str:
    """What `--estimate_memory` prints; a head, which is small, is left out."""
    if not isinstance(tokens, int) or tokens < 2:
        raise InputError(f"--estimate_memory needs the tokens of a question with its answer, such as 64, not {tokens}")
    with mistakes_named():
        vision, text = part_config(args.vision, "vision_config"), part_config(args.text, "text_config")
    image_size = args.image_size or getattr(vision, "image_size", None)
    if image_size is None:
        raise InputError(f"a {vision.model_type} has no image size of its own; add --image_size 224")
    estimate = estimate_memory(
        vision,
        text,
        training_args,
        tokens=tokens,
        vocab_size=args.tokenizer["vocab_size"] if isinstance(args.tokenizer, dict) else text.vocab_size,
        image_size=image_size,
        **{name: value for name, value in args.model.items() if name != "problem_type"},
    )
    return format_memory(estimate, training_args, tokens)


def as_yaml(settings: dict) -> str:
    """A recipe as it would be written by hand, in the order of its settings."""
    return yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)


def build_processor(args: ModelArguments, train_rows: Dataset | IterableDataset) -> FlamingoMedProcessor:
    """Image preprocessing of the image encoder and tokenizer of the decoder, or one trained on the questions."""
    vision = args.vision if isinstance(args.vision, str) else None
    tokenizer = args.tokenizer or args.text
    if isinstance(tokenizer, dict):
        tokenizer = train_tokenizer(texts_of(train_rows), **tokenizer)
    with mistakes_named():
        processor = FlamingoMedProcessor.from_vision_text_pretrained(vision, tokenizer, image_size=args.image_size)
    if not isinstance(args.text, str):
        processor.tokenizer.model_max_length = context_length(args.text)
    return processor


def build_model(
    args: ModelArguments, processor: FlamingoMedProcessor, train_rows: Dataset | IterableDataset
) -> FlamingoMedForConditionalGeneration:
    """Pretrained or random parts, joined by fresh resampler and cross-attention; with a problem_type, also a head.

    Tokens with which the tokenizer extends a pretrained decoder's own start as the mean of their old pieces.
    """
    config = with_classes(args.model, train_rows)
    with mistakes_named():
        model = FlamingoMedForConditionalGeneration.from_vision_text_pretrained(
            args.vision, args.text, **processor.token_ids, **config
        )
    if isinstance(args.text, str) and args.tokenizer is not None:
        extend_embeddings(model, load_tokenizer(args.text), processor.tokenizer)
    return model


def continue_from(
    args: ModelArguments, train_rows: Dataset | IterableDataset
) -> tuple[FlamingoMedForConditionalGeneration, FlamingoMedProcessor]:
    """Model and processor of an earlier stage; a head for other classes begins anew."""
    config = with_classes(args.model, train_rows)
    with mistakes_named():
        earlier = FlamingoMedConfig.from_pretrained(args.init_from)
        fixed = [name for name in config if name not in CHANGEABLE and getattr(earlier, name) != config[name]]
        if fixed:
            name = fixed[0]
            raise InputError(f"model.{name} of {args.init_from} is {getattr(earlier, name)}, not {config[name]}")
        head = {"id2label": {}, "use_image_embeddings": earlier.use_image_embeddings} | config
        same_head = all(getattr(earlier, name) == head[name] for name in ("id2label", "use_image_embeddings"))
        model = FlamingoMedForConditionalGeneration.from_pretrained(
            args.init_from,
            **{name: value for name, value in config.items() if name in CHANGEABLE},
            ignore_mismatched_sizes=not same_head,
        )
        if model.config.num_labels and not same_head:
            model.classifier.reset_parameters()
        return model, FlamingoMedProcessor.from_pretrained(args.init_from)


def with_classes(config: dict, train_rows: Dataset | IterableDataset) -> dict:
    """Settings of the model, with the train split's classes where there is to be a head (problem_type)."""
    if config.get("problem_type") is None:
        return config
    names = class_names(train_rows)
    if not names:
        raise InputError("a head (problem_type) needs classes, but no row of the train split has a label")
    if config["problem_type"] == "single_label_classification":
        several = sum(len(label or ()) > 1 for label in train_rows["label"])
        if several:
            raise InputError(
                f"{several} rows of the train split have several classes: give --model.problem_type "
                "multi_label_classification"
            )
    return {**config, "id2label": dict(enumerate(names))}


@contextmanager
def mistakes_named() -> Iterator[None]:
    """What is said of a Hub id or folder that is not found, or of parts that do not work together, in one sentence."""
    try:
        yield
    except (OSError, ValueError) as error:
        message, why = str(error).partition("\n")[0], reason(error)
        raise InputError(message if message == why else f"{message.rstrip(':')}: {why}") from None


def as_config(settings: dict) -> PretrainedConfig:
    """A configuration from a mapping with model_type; refuses names that its class does not know."""
    settings = dict(settings)
    model_type = settings.pop("model_type", None)
    if model_type is None:
        raise InputError(f"{settings} needs a model_type, such as clip_vision_model or gpt2")
    try:
        default = AutoConfig.for_model(model_type)
    except ValueError:
        raise InputError(f"unknown model_type {model_type!r}; transformers has no such model") from None
    check_keys(settings, [*default.to_dict(), *default.attribute_map], f"setting of {model_type}")
    return AutoConfig.for_model(model_type, **settings)


if __name__ == "__main__":
    run(main)
