"""Where a training starts: processor and model of pretrained parts, of random weights, or of an earlier stage."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from datasets import Dataset, IterableDataset
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, PretrainedConfig

from flamingo_med.inference.backends import context_length
from modeling_flamingo_med import FlamingoMedConfig, FlamingoMedForConditionalGeneration
from processing.datasets import class_names
from processing.errors import InputError, check_keys, check_path, check_types, one_line, reason
from processing.processing_flamingo_med import FlamingoMedProcessor
from processing.tokenization import extend_embeddings, load_tokenizer, texts_of, train_tokenizer

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
            "help": "earlier run, or model on the Hub, to initialise from: its parts and processor are taken, "
            "and of model only what is frozen or about a head may differ"
        },
    )
    image_size: int | None = field(default=None, metadata={"help": "side in pixels; vision's own resizing if unset"})
    model: dict = field(default_factory=dict, metadata={"help": "arguments of FlamingoMedConfig"})

    def __post_init__(self):
        for name in ("vision", "text", "tokenizer", "init_from"):
            check_path(f"--{name}", getattr(self, name))
        settings = FlamingoMedConfig.settings()
        ours = {"vision_config", "text_config", "backbones", "backbones_saved", "num_labels", "id2label"}
        check_keys(
            self.model,
            [name for name in settings if name not in ours and not name.endswith("_token_id")],
            "setting of model",
        )
        self.model = check_types(self.model, settings)
        if isinstance(self.tokenizer, dict):
            check_keys(self.tokenizer, ["vocab_size"], "setting of tokenizer")
            self.tokenizer = check_types(self.tokenizer, {"vocab_size": int})
        missing = isinstance(self.text, dict) and self.tokenizer is None
        if missing or (isinstance(self.text, str) and isinstance(self.tokenizer, dict)):
            raise InputError(
                "a decoder with random weights needs a tokenizer, such as {vocab_size: 512}, and a pretrained one its "
                f"own; got text {self.text} and tokenizer {self.tokenizer}"
            )
        self.vision, self.text = (as_config(p) if isinstance(p, dict) else p for p in (self.vision, self.text))


def build_processor(args: ModelArguments, train_rows: Dataset | IterableDataset) -> FlamingoMedProcessor:
    """Image preprocessing of the image encoder and tokenizer of the decoder, or one trained on the questions."""
    vision = args.vision if isinstance(args.vision, str) else None
    tokenizer = args.tokenizer or args.text
    if isinstance(tokenizer, dict):
        tokenizer = train_tokenizer(texts_of(train_rows), **tokenizer)
    with loading_errors():
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
    with loading_errors():
        model = FlamingoMedForConditionalGeneration.from_vision_text_pretrained(
            args.vision, args.text, **processor.token_ids, **config
        )
    if isinstance(args.text, str) and args.tokenizer is not None:
        extend_embeddings(model, load_tokenizer(args.text), processor.tokenizer)
    return model


def continue_from(
    args: ModelArguments, train_rows: Dataset | IterableDataset
) -> tuple[FlamingoMedForConditionalGeneration, FlamingoMedProcessor]:
    """Model and processor of an earlier stage; a head for other classes is re-initialised."""
    config = with_classes(args.model, train_rows)
    with loading_errors():
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


def resume_from(checkpoint: str) -> tuple[FlamingoMedForConditionalGeneration, FlamingoMedProcessor]:
    """Model and processor of a checkpoint, whatever the data are by now: its embeddings belong to its tokens."""
    with loading_errors():
        model = FlamingoMedForConditionalGeneration.from_pretrained(checkpoint)
        return model, FlamingoMedProcessor.from_pretrained(checkpoint)


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
def loading_errors() -> Iterator[None]:
    """What is said of a Hub id or folder that is not found, or of parts that do not work together, in one sentence."""
    try:
        yield
    except InputError:
        raise
    except (OSError, ValueError) as error:
        message, why = str(error).partition("\n")[0], reason(error)
        raise InputError(message if message == why else f"{message.rstrip(':')}: {why}") from None
    except Exception as error:  # of whatever encoder and decoder, whose classes check little
        raise InputError(f"the parts of the model cannot be made or do not go together: {one_line(error)}") from None


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
    try:
        return AutoConfig.for_model(model_type, **settings)
    except (StrictDataclassError, TypeError, ValueError) as error:
        why = " ".join(str(error).split())
        raise InputError(f"a {model_type} cannot have these settings: {why:.200}") from None
