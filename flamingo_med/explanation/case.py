"""One question about one image, made ready to be explained by any number of methods."""

from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from transformers import PreTrainedModel

from flamingo_med.explanation.geometry import Geometry, Grid
from flamingo_med.explanation.target import Target, answer_target, class_target
from flamingo_med.inference.answering import answer_questions
from processing.errors import InputError
from processing.images import read_image
from processing.processing_flamingo_med import FlamingoMedProcessor


@dataclass(frozen=True)
class Case:
    """What all methods start from.

    Attributes:
        model: in evaluation mode.
        question: the question.
        answer: what is explained, or what the model answers where a class is.
        target: the numbers to explain.
        image: the original.
        pixels: (1 c h w) what the model sees of it.
        geometry: between both.
        grid: of the image encoder.
    """

    model: PreTrainedModel
    question: str
    answer: str
    target: Target
    image: Image.Image
    pixels: Tensor
    geometry: Geometry
    grid: Grid


def prepare(
    model: PreTrainedModel,
    processor: FlamingoMedProcessor,
    image: Image.Image | str | Path | bytes | dict,
    question: str,
    *,
    answer: str | None = None,
    alternative: str | None = None,
    class_name: str | None = None,
    per_token: bool = False,
    original: tuple[int, int] | None = None,
    pixels: Tensor | None = None,
) -> Case:
    """A case of one question about one image; arguments as of `explain`, and where the image is a smaller picture of
    the original that the model gets, the height and width of that and the pixels (1 c h w) that the model sees of it.
    """
    if class_name is not None and (alternative is not None or per_token):
        raise InputError("a class has neither an alternative answer nor tokens; explain one or the other")
    require_ours(model)
    model.eval()
    image = read_image(image)
    if answer is None:
        row = {"image": image, "image_id": "the image", "question": question}
        answer = answer_questions(model, processor, [row])[0].text
    if class_name is None:
        target = answer_target(model, processor, question, answer, alternative=alternative, per_token=per_token)
    else:
        target = class_target(model, processor, question, class_name)
    shown = (image.height, image.width)
    geometry = Geometry.of(processor.image_processor, original or shown).shown_at(shown)
    if pixels is None:
        pixels = processor.pixels([[image]])["pixel_values"][0]
    pixels = pixels.to(model.device, model.dtype)
    return Case(model, question, answer, target, image, pixels, geometry, encoder_grid(model, pixels))


def require_ours(model: PreTrainedModel) -> None:
    """
    Raises:
        InputError: a model of another kind, which can be scored but not explained.
    """
    if model.config.model_type != "flamingo_med":
        raise InputError(f"only models of this project are explained, and this one is a {model.config.model_type}")


@torch.no_grad()
def encoder_grid(model: PreTrainedModel, pixels: Tensor) -> Grid:
    """How the image encoder divides images (b c h w)."""
    outputs = []
    hook = model.vision_encoder.register_forward_hook(lambda module, args, output: outputs.append(output))
    try:
        model.image_features(pixels)
    finally:
        hook.remove()
    layer = model.config.vision_feature_layer
    features = outputs[0].last_hidden_state if layer == -1 else outputs[0].hidden_states[layer]
    height, width = pixels.shape[-2:]
    if features.ndim == 4:  # a convolutional encoder's map
        return Grid(*features.shape[-2:], height, width)
    patch = model.vision_encoder.config.patch_size
    rows, columns = height // patch, width // patch
    return Grid(rows, columns, rows * patch, columns * patch)


def require_patches(case: Case, method: str) -> None:
    """Refuse a model whose decoder sees one pooled vector, which says nothing of places.

    Raises:
        InputError: that model.
    """
    if case.model.config.vision_feature_select == "pooled":
        raise InputError(
            f"{method} needs the features of places, and this model sees one pooled vector of an image; "
            "take integrated_gradients or occlusion"
        )
