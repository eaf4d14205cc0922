"""flamingo-med: Flamingo-style medical visual question answering. Research software. Not for clinical use.

Importing this package registers our classes with the Auto classes of `transformers`, and imports nothing else: each
name below comes when it is first used.

>>> import flamingo_med
>>> from transformers import AutoConfig
>>> AutoConfig.for_model("flamingo_med", image_token_id=0).model_type
'flamingo_med'
"""

from importlib import import_module
from typing import Any

from flamingo_med.common.auto_classes import register_lazily

try:
    from processing.errors import InputError
except ModuleNotFoundError:  # somebody else's module of that name, beside the script or of another distribution
    import processing

    raise ImportError(f"{processing.__file__} is in the way of flamingo-med's package processing: rename it") from None

__version__ = "0.1.0"

# Name → the module that it is imported from.
_HOMES = {
    "FlamingoMedConfig": "modeling_flamingo_med",
    "FlamingoMedForConditionalGeneration": "modeling_flamingo_med",
    "FlamingoMedModel": "modeling_flamingo_med",
    "FlamingoMedProcessor": "processing.processing_flamingo_med",
    "FlamingoMedTrainer": "flamingo_med.training.trainer",
    "FlamingoMedTrainingArguments": "flamingo_med.training.trainer",
    "answer_questions": "flamingo_med.inference.answering",
    "evaluate": "flamingo_med.reporting.evaluate_split",
    "explain": "flamingo_med.explanation",
    "load_model": "flamingo_med.inference.answering",
    "load_split": "processing.datasets",
    "train": "flamingo_med.training.run",
}
__all__ = [*_HOMES, "InputError", "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})


register_lazily()
