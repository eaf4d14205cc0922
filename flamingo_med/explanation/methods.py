"""`explain`: which pixels of an image made this answer, by any of the methods."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from PIL import Image
from torch import Tensor
from transformers import PreTrainedModel

from flamingo_med.explanation.case import Case, prepare
from flamingo_med.explanation.explanation import Explanation
from processing.errors import InputError, check_keys
from processing.processing_flamingo_med import FlamingoMedProcessor

METHODS = {  # name → file in this folder
    "attention": "attention",
    "attention_gradients": "attention",
    "integrated_gradients": "attribution",
    "grad_cam": "attribution",
    "occlusion": "attribution",
}


def explain(
    model: PreTrainedModel,
    processor: FlamingoMedProcessor,
    image: Image.Image | str | Path | bytes | dict,
    question: str,
    *,
    method: str = "occlusion",
    answer: str | None = None,
    alternative: str | None = None,
    class_name: str | None = None,
    per_token: bool = False,
) -> Explanation:
    """Which pixels made this answer. For several methods, `prepare` once and `explain_case` by each.

    Args:
        model, processor: a model of ours; it is put in evaluation mode.
        image: anything that `processing.images.read_image` takes, DICOM included.
        question: the question.
        method: one of `METHODS`.
        answer: the answer to explain; by default what the model answers.
        alternative: explain why this answer and not that: the difference of their log-probabilities.
        class_name: explain the logit of this class of the model's head instead.
        per_token: a map for each token of the answer.

    Raises:
        InputError: an unknown method, class or image; a target that the method cannot explain; an image processor
            whose resizing cannot be undone; the extra `explain` is not installed.

    Example:
        explain(model, processor, "x.png", "Is there a pneumothorax?", method="occlusion").save("why.png")
    """
    check_keys([method], METHODS, "method")
    case = prepare(
        model,
        processor,
        image,
        question,
        answer=answer,
        alternative=alternative,
        class_name=class_name,
        per_token=per_token,
    )
    return explain_case(case, method)


def explain_case(case: Case, method: str) -> Explanation:
    """The same of a prepared case."""
    check_keys([method], METHODS, "method")
    maps, details = load_method(method)(case)
    if maps.shape[1:] == (case.grid.rows, case.grid.columns):
        patch_maps, pixel_maps = maps, case.grid.to_pixels(maps, case.geometry.model)
    else:
        patch_maps, pixel_maps = case.grid.from_pixels(maps), maps
    return Explanation(
        method=method,
        details=details,
        question=case.question,
        answer=case.answer,
        target=case.target.description,
        labels=case.target.labels,
        image=case.image,
        patch_maps=patch_maps.cpu(),
        pixel_maps=pixel_maps.cpu(),
        geometry=case.geometry,
    )


def load_method(name: str) -> Callable[[Case], tuple[Tensor, str]]:
    """The function that makes the maps of a case, in the encoder's grid or in pixels, and says how.

    Raises:
        InputError: the extra `explain`, which holds Captum, is not installed.
    """
    try:
        module = import_module(f"flamingo_med.explanation.{METHODS[name]}")
    except ModuleNotFoundError as error:
        raise InputError(f"{name} needs {error.name}: pip install captum") from None
    return getattr(module, name)
