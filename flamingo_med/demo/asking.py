"""One question to the model: its answer, what else it considered, and the classes of its head."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL.Image import Image
from torch import Tensor
from transformers import PreTrainedModel

from flamingo_med.evaluation.calibration import Calibration
from flamingo_med.inference.backends import (
    Answer,
    class_probabilities,
    generate,
    longest_answer,
    make_backend,
)
from processing.errors import InputError
from processing.processing_flamingo_med import FlamingoMedProcessor

ALTERNATIVES = 4  # beams

Example = tuple[Tensor, str, str]


@dataclass(frozen=True)
class Option:
    """An answer, or a class, and its probability."""

    text: str
    probability: float


@dataclass(frozen=True)
class Reply:
    """What the model says.

    Attributes:
        answer: the greedy answer, with its confidence as of `flamingo_med.inference.backends`.
        calibrated: that confidence has been corrected on validation data.
        options: that answer and others, by the probability of each as a whole; together at most 1.
        classes: of the model's head, most probable first; none where it has no head.
    """

    answer: Answer
    calibrated: bool
    options: list[Option]
    classes: list[Option]


def look(processor: FlamingoMedProcessor, image: Image) -> Tensor:
    """What the model sees of an image (c h w)."""
    return processor.pixels([[image]])["pixel_values"][0, 0]


@torch.no_grad()
def ask(
    model: PreTrainedModel,
    processor: FlamingoMedProcessor,
    pixels: Tensor,
    question: str,
    examples: Sequence[Example] = (),
    calibration: Calibration | None = None,
) -> Reply:
    """Ask about one image, after examples (few-shot).

    Args:
        model, processor: a model of ours, in evaluation mode.
        pixels: (c h w) of the image, of `look`.
        question: the question.
        examples: pixels, question and answer of each.
        calibration: by which the confidence is corrected, if it was fitted.

    Raises:
        InputError: no question, one with a special token, or one that with the examples is too long.
    """
    question = question.strip()
    if not question:
        raise InputError("the question is empty; write one, such as “Is there a pleural effusion?”")
    try:
        prompt = processor.render(question, examples=[(asked, answer) for _, asked, answer in examples])
        tokens = processor.tokenize([prompt])
        backend = make_backend(model, processor)
        backend.check_room(tokens["input_ids"].shape[1])
        images = torch.stack([*(shown for shown, _, _ in examples), pixels]).unsqueeze(0)
        latents = model.encode_images(images.to(model.device, model.dtype))
    except ValueError as error:  # a text that cannot be asked, or more images than the model takes
        raise InputError(str(error)) from None
    batch = {**{name: value.to(model.device) for name, value in tokens.items()}, "image_latents": latents}
    text, confidence = generate(model, processor, batch, backend.max_new_tokens)[0]
    answer = Answer(text, calibration.confidence(confidence) if calibration else confidence)
    return Reply(answer, calibration is not None, _options(model, processor, batch, answer), _classes(model, batch))


def _options(
    model: PreTrainedModel, processor: FlamingoMedProcessor, batch: dict[str, Tensor], answer: Answer
) -> list[Option]:
    """The answer and those of a beam search, most probable first; an empty one is none."""
    beams = model.generate(
        **batch,
        max_new_tokens=longest_answer(model),
        do_sample=False,
        num_beams=ALTERNATIVES,
        num_return_sequences=ALTERNATIVES,
    )
    written = processor.batch_decode(beams[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
    texts = [text for text in dict.fromkeys([answer.text, *(text.strip() for text in written)]) if text]
    if not texts:
        return []
    probabilities = model.score_answers(processor.tokenize_answers(texts), **batch)[0].exp().tolist()
    return _sorted(texts, probabilities)


def _classes(model: PreTrainedModel, batch: dict[str, Tensor]) -> list[Option]:
    if not model.config.num_labels:
        return []
    probabilities = class_probabilities(model(**batch, logits_to_keep=1).class_logits[0], model.config)
    return _sorted([model.config.id2label[i] for i in range(model.config.num_labels)], probabilities.tolist())


def _sorted(texts: Sequence[str], probabilities: Sequence[float]) -> list[Option]:
    options = [Option(text, p) for text, p in zip(texts, probabilities, strict=True)]
    return sorted(options, key=lambda option: -option.probability)
