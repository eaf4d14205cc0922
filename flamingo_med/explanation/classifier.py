"""The classifier that is explained: our head, or any image classifier of `transformers`, behind one interface."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    BaseImageProcessor,
    PreTrainedModel,
)

from flamingo_med.explanation.case import Case, prepare
from flamingo_med.explanation.geometry import Geometry, Grid
from flamingo_med.inference.answering import load_model
from flamingo_med.inference.backends import class_probabilities
from modeling_flamingo_med.configuration_flamingo_med import FlamingoMedConfig
from processing.errors import InputError, check_path, reason
from processing.processing_flamingo_med import FlamingoMedProcessor


class Classifier(ABC):
    """Classes of an image.

    Attributes:
        model: a model with `config.id2label`.
        multi_label: several classes may hold at once; else exactly one does.

    Raises:
        InputError: a model without classes that one could ask about.
    """

    def __init__(self, model: PreTrainedModel):
        self.model = model.eval()
        config = model.config
        self.multi_label = config.problem_type == "multi_label_classification"
        self.names = [config.id2label[i] for i in range(config.num_labels or 0)]
        if len(self.names) < 1 + (not self.multi_label) or config.problem_type == "regression":
            raise InputError("this model has no classes to ask about; train one with a problem_type")
        if self.names[0] == "LABEL_0":
            raise InputError(
                "the classes of this model are called LABEL_0, …; name them in its config.json's id2label"
            )

    @abstractmethod
    def logits(self, image: Image.Image) -> Tensor:
        """(num_labels)"""

    @abstractmethod
    def case(self, image: Image.Image, class_name: str) -> Case:
        """The logit of one class, to be explained by a method on pixels."""

    @torch.no_grad()
    def probabilities(self, image: Image.Image) -> dict[str, float]:
        """class → its probability, the most probable first."""
        values = class_probabilities(self.logits(image), self.model.config)
        pairs = zip(self.names, values.tolist(), strict=True)
        return dict(sorted(pairs, key=lambda pair: -pair[1]))


class HeadClassifier(Classifier):
    """The classification head of a model of ours, which reads the end of a question.

    Args:
        model, processor: a model of ours with a head.
        question: what the head is asked; the one that it has been trained on.
    """

    def __init__(self, model: PreTrainedModel, processor: FlamingoMedProcessor, question: str):
        super().__init__(model)
        if not question.strip():
            raise InputError("the head reads the end of a question, and this one is empty")
        self.processor = processor
        self.question = question

    def logits(self, image: Image.Image) -> Tensor:
        try:
            inputs = self.processor(images=image, text=self.question)
        except ValueError as error:
            raise InputError(f"the head cannot be asked this: {error}") from None
        return self.model(**inputs.to(self.model.device)).class_logits[0]

    def case(self, image: Image.Image, class_name: str) -> Case:
        return prepare(self.model, self.processor, image, self.question, answer="", class_name=class_name)


class ImageClassifier(Classifier):
    """Any model of `AutoModelForImageClassification`.

    Args:
        model: the model.
        image_processor: its preprocessing.
    """

    def __init__(self, model: PreTrainedModel, image_processor: BaseImageProcessor):
        super().__init__(model)
        self.image_processor = image_processor

    def pixels(self, image: Image.Image) -> Tensor:
        """(1 c h w) what the model sees of it."""
        pixels = self.image_processor([image], return_tensors="pt")["pixel_values"]
        return pixels.to(self.model.device, self.model.dtype)

    def logits(self, image: Image.Image) -> Tensor:
        return self.model(pixel_values=self.pixels(image)).logits[0]

    def case(self, image: Image.Image, class_name: str) -> Case:
        pixels = self.pixels(image)
        return Case(
            model=self.model,
            question="",
            answer=class_name,
            target=ClassLogit(self.names.index(class_name), f"logit of class “{class_name}”"),
            image=image,
            pixels=pixels,
            geometry=Geometry.of(self.image_processor, (image.height, image.width)),
            grid=Grid(*pixels.shape[-2:], *pixels.shape[-2:]),
        )


@dataclass(frozen=True)
class ClassLogit:
    """The one number that a case of an image classifier explains, called as `Target` is."""

    class_id: int
    description: str

    @property
    def labels(self) -> tuple[str, ...]:
        """Its name."""
        return (self.description,)

    def __call__(self, model: PreTrainedModel, *, pixel_values: Tensor) -> Tensor:
        """Images (b c h w) → (b 1)"""
        return model(pixel_values=pixel_values).logits[:, self.class_id].unsqueeze(1)


def load_classifier(name: str, question: str, trust_remote_code: bool = False) -> Classifier:
    """The classifier of a local folder or Hub id, on the GPU where there is one.

    Args:
        name: a model of ours with a head, or an image classifier of `transformers`.
        question: what our head is asked.
        trust_remote_code: run the code that another classifier brings.

    Raises:
        InputError: no such model, or one that needs code which is not trusted; one without classes.
    """
    check_path("classifier", name)
    try:
        settings, _ = FlamingoMedConfig.get_config_dict(name)
        if settings.get("model_type") != FlamingoMedConfig.model_type:
            how = {"trust_remote_code": trust_remote_code}
            device = "cuda" if torch.cuda.is_available() else "cpu"
            model = AutoModelForImageClassification.from_pretrained(name, **how).to(device)
            return ImageClassifier(model, AutoImageProcessor.from_pretrained(name, backend="pil", **how))
    except InputError:
        raise
    except (OSError, ValueError, ImportError) as error:
        raise InputError(f"no image classifier at {name}: {reason(error)}") from None
    return HeadClassifier(*load_model(name), question)
