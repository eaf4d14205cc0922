"""Questions to answers with a confidence, for evaluation, training and the command line alike."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
import torch
from accelerate import PartialState
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from jinja2 import Environment, TemplateError
from PIL import Image
from safetensors import SafetensorError, safe_open
from torch import Tensor
from tqdm import tqdm
from transformers import AutoModelForImageTextToText, AutoProcessor, PreTrainedModel, ProcessorMixin

from flamingo_med.inference.backends import Answer, make_backend
from flamingo_med.inference.features import ImageFeatures
from modeling_flamingo_med import FlamingoMedConfig  # which registers the Auto classes too
from modeling_flamingo_med.manifest_flamingo_med import check_folder
from processing.errors import InputError, check_path, one_line, reason
from processing.processing_flamingo_med import FlamingoMedProcessor
from processing.shapes import parse_json

LARGEST_BATCH = 128
IMAGE_COLUMNS = ("image", "more_images", "image_id")


def load_model(
    name: str, revision: str | None = None, trust_remote_code: bool = False
) -> tuple[PreTrainedModel, ProcessorMixin]:
    """Model and processor of a local folder or Hub id, on this process's GPU where there is one.

    Args:
        name: ours, or any other that `AutoModelForImageTextToText` loads.
        revision: branch, tag or commit on the Hub; its main branch by default.
        trust_remote_code: run the code that another model brings; that of ours is never run, as this package is it.

    Raises:
        InputError: neither a folder with a model nor a model on the Hub; one that needs code which is not trusted; or
            a file that is damaged, or not what the manifest says.
    """
    check_path("model", name)
    try:
        if Path(name).is_dir():  # before its configuration decides which kind of model it is
            check_folder(name)
    except ValueError as error:
        raise InputError(str(error)) from None
    device = PartialState(cpu=not torch.cuda.is_available()).device
    try:
        settings, _ = FlamingoMedConfig.get_config_dict(name, revision=revision)
        is_ours = settings.get("model_type") == FlamingoMedConfig.model_type
        how = {"revision": revision, "trust_remote_code": trust_remote_code and not is_ours}
        model = AutoModelForImageTextToText.from_pretrained(name, **how).to(device)
        processor = AutoProcessor.from_pretrained(name, **how)
        if isinstance(processor, FlamingoMedProcessor):
            _try_out(model, processor)
        return model, processor
    except Exception as error:  # of as many kinds as there are parsers: of settings, weights, tokenizers, templates
        untrusted = "trust_remote_code" in str(error)
        why = reason(error) if untrusted or isinstance(error, OSError | ImportError) else one_line(error)[:300]
        raise InputError(
            f"no image-text-to-text model at {name} (folder or Hub id): {_damaged_file(name) or why}"
        ) from None


def _try_out(model: PreTrainedModel, processor: FlamingoMedProcessor) -> None:
    """Raises an error where what was loaded cannot be asked: the processor makes no inputs of a question, or the
    generation configuration has something else than a number, or yes or no, where one is needed."""
    processor(images=Image.new("RGB", (32, 32)), text="Is it?")
    vocabulary = model.config.get_text_config().vocab_size
    for name, value in model.generation_config.to_dict().items():
        values = value if isinstance(value, list) else [value]
        if name.endswith("_token_id"):
            sound = all(one is None or (type(one) is int and 0 <= one < vocabulary) for one in values)
        elif name.startswith(("max_", "min_", "num_")):
            sound = isinstance(value, int | float | type(None))
        else:
            sound = not name.startswith(("do_", "output_", "return_", "use_")) or isinstance(value, bool | type(None))
        if not sound:
            raise ValueError(f"{name} in generation_config.json cannot be {value!r}")


def _damaged_file(folder: str) -> str | None:
    """Which file of a model's folder is not what its name says, and why; None where all are, or it is of the Hub."""
    for path in sorted(Path(folder).glob("*")):
        try:
            if path.suffix == ".json" and not isinstance(parse_json(path.read_text(encoding="utf-8")), dict):
                raise ValueError("it is no mapping")
            if path.suffix == ".jinja":
                Environment().parse(path.read_text(encoding="utf-8"))
            if path.suffix == ".safetensors":
                safe_open(path, "pt")
        except (OSError, ValueError, TemplateError, SafetensorError) as error:
            return f"{path.name} is damaged ({one_line(error)[:200]})"
    return None


def answer_questions(model: PreTrainedModel, processor: ProcessorMixin, rows: Sequence[dict], **how) -> list[Answer]:
    """Answer the question of each row about its image, greedily.

    Args:
        model, processor, rows, how: as of `stream_answers`.

    Returns:
        one answer a row, in the order of the rows.
    """
    answers = dict(stream_answers(model, processor, rows, **how))
    return [answers[i] for i in range(len(rows))]


def stream_answers(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    rows: Sequence[dict],
    *,
    indices: Sequence[int] | None = None,
    batch_size: int | str = "auto",
    blank_images: bool = False,
    images_from: Sequence[int] | None = None,
    candidates: Sequence[Sequence[str]] | None = None,
    features: ImageFeatures | None = None,
    max_new_tokens: int | None = None,
    description: str | None = None,
) -> Iterator[tuple[int, Answer]]:
    """Answer questions, and give each answer as soon as it is there.

    Args:
        model: a model of ours, or any image-text-to-text model, with its generation configuration.
        processor: its processor.
        rows: a list of dicts, or a `datasets.Dataset`, with image, image_id and question.
        indices: the rows to be answered; all by default.
        batch_size: questions whose images are read at a time, halved where they do not fit; "auto" for as many as fit.
            The answers do not depend on it.
        blank_images: hide the images from the model.
        images_from: for each row the number of the row whose image it is shown; its own by default.
        candidates: for each row answers whose likelihood is asked for, of a model of ours.
        features: stored features of all these images, instead of reading them.
        max_new_tokens: tokens of the longest answer; as of `backends.longest_answer` by default.
        description: title of the progress bar; no bar where None.

    Yields:
        number of a row and its answer. Questions about one image stand together, so that it is encoded once.

    Raises:
        InputError: an image that cannot be read, a question that cannot be asked, or one alone that does not fit.
    """
    if batch_size != "auto" and batch_size < 1:
        raise InputError(f"batch_size is at least 1 or auto, got {batch_size}")
    backend = make_backend(model, processor, features, max_new_tokens)
    source = range(len(rows)) if images_from is None else images_from
    image_ids = [row["image_id"] for row in rows] if isinstance(rows, list) else rows["image_id"][:]
    pending = sorted(range(len(rows)) if indices is None else indices, key=lambda i: (image_ids[source[i]], i))

    def shown(i: int) -> dict:
        if source[i] == i:
            return rows[i]
        other = rows[source[i]]
        return {**rows[i], **{name: other[name] for name in IMAGE_COLUMNS if name in other}}

    was_training = model.training
    model.eval()
    size = LARGEST_BATCH if batch_size == "auto" else batch_size
    if batch_size == "auto" and pending and model.device.type == "cpu":  # whose memory, once gone, ends the process
        size = _fitting(model, backend.inputs([shown(pending[0])], blank_images), backend.max_new_tokens)
    with tqdm(total=len(pending), desc=description, disable=description is None, unit="question") as progress:
        while pending:
            chosen = pending[:size]
            some = [[] if candidates is None else candidates[i] for i in chosen]
            try:
                answers = backend.answer(backend.inputs([shown(i) for i in chosen], blank_images), some)
            except RuntimeError as error:
                if not should_reduce_batch_size(error):
                    raise
                if len(chosen) == 1:
                    raise InputError("not even one question fits into memory; use a larger device") from None
                answers = None
            if answers is None:
                size = len(chosen) // 2
                clear_device_cache(garbage_collection=True)
                continue
            yield from zip(chosen, answers, strict=True)
            pending = pending[len(chosen) :]
            progress.update(len(chosen))
    model.train(was_training)


def _fitting(model: PreTrainedModel, batch: dict[str, Tensor], longest: int) -> int:
    """How many questions like the one in the batch fit into half of the free memory that a process may take.

    An estimate from above: logits of the answer (kept, stacked, and their logarithms), the decoder's cache and the
    activations of a layer, and those of the image encoder as sixteen times the pixels.
    """
    text = model.config.get_text_config()
    tokens = batch["input_ids"].shape[1] + longest
    numbers = 3 * longest * text.vocab_size + tokens * text.hidden_size * (2 * text.num_hidden_layers + 16)
    numbers += 16 * sum(value.numel() for value in batch.values() if value.is_floating_point())
    free = psutil.virtual_memory().available / PartialState().num_processes
    return max(1, min(LARGEST_BATCH, int(free / 2 / (4 * numbers))))
