"""What is explained: log-probability of an answer, its lead over another answer, or a class logit, of one question."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import einsum, rearrange
from torch import Tensor
from transformers import PreTrainedModel

from modeling_flamingo_med.classification_flamingo_med import question_end
from modeling_flamingo_med.modeling_flamingo_med import FlamingoMedOutput
from processing.errors import InputError, check_keys
from processing.processing_flamingo_med import FlamingoMedProcessor


@dataclass(frozen=True)
class Target:
    """k numbers that the model makes of an image, given r texts (the prompt with an answer, or with each of two).

    Attributes:
        description: for captions.
        labels: names of the k numbers.
        input_ids, attention_mask: (r t)
        next_ids: (r t) the token that each position predicts, 0 where none counts.
        weights: (k r t) how much the log-probability of that token counts; of a class, where the head reads.
        class_id: of the class whose logit it is, None for answers.
    """

    description: str
    labels: tuple[str, ...]
    input_ids: Tensor
    attention_mask: Tensor
    next_ids: Tensor
    weights: Tensor
    class_id: int | None = None

    def __call__(self, model: PreTrainedModel, **images: Tensor) -> Tensor:
        """Values (b k) of images: pixel_values (b c h w), or image_features (b p d)."""
        return self.run(model, **images)[0]

    def run(self, model: PreTrainedModel, **options) -> tuple[Tensor, FlamingoMedOutput]:
        """Values (b k), and the model's output for b·r rows; further options are those of its forward."""
        options = {name: _as_one_image(name, value) for name, value in options.items()}
        images = options.get("pixel_values", options.get("image_features"))
        b, r = len(images), len(self.input_ids)
        positions = self.weights.any(0).any(0).nonzero().squeeze(1)  # (p)
        outputs = model(
            self.input_ids.repeat(b, 1),
            self.attention_mask.repeat(b, 1),
            image_indices=torch.arange(b, device=images.device).repeat_interleave(r).unsqueeze(1),
            logits_to_keep=positions,
            use_cache=False,
            **options,
        )
        if self.class_id is not None:
            return outputs.class_logits[:, self.class_id].unsqueeze(1), outputs
        next_ids = self.next_ids[:, positions].repeat(b, 1).unsqueeze(-1)
        log_probs = outputs.logits.float().log_softmax(-1).gather(-1, next_ids).squeeze(-1)
        log_probs = rearrange(log_probs, "(b r) p -> b r p", b=b)
        return einsum(self.weights[..., positions], log_probs, "k r p, b r p -> b k"), outputs


def _as_one_image(name: str, value):
    """The axis of a row's images, and of an image's frames, of which there is one each."""
    if name == "pixel_values":
        return value.unsqueeze(1)
    return value[:, None, None] if name == "image_features" else value


def answer_target(
    model: PreTrainedModel,
    processor: FlamingoMedProcessor,
    question: str,
    answer: str,
    *,
    alternative: str | None = None,
    per_token: bool = False,
) -> Target:
    """Log-probability of an answer, end mark included, as `score_answers` computes it.

    Args:
        model, processor: a model of ours.
        question: the question.
        answer: the answer.
        alternative: another answer, whose log-probability is taken from it: why this and not that.
        per_token: a number for each token of the answer, instead of their sum.

    Raises:
        InputError: per_token with an alternative; a text with a special token, or too long.
    """
    if alternative is not None and per_token:
        raise InputError("an alternative is compared as a whole; leave out per_token")
    answers = [answer] if alternative is None else [answer, alternative]
    tokens = _tokenize(model, processor, question, answers)
    labels = F.pad(tokens["labels"][:, 1:], (0, 1), value=-100)
    known = labels != -100
    next_ids = labels.masked_fill(~known, 0)
    weights = known.unsqueeze(0).float()
    names = (f"log P(“{answer}”)",)
    if alternative is not None:
        weights[:, 1] *= -1
        names = (f"log P(“{answer}”) − log P(“{alternative}”)",)
    description = names[0]
    if per_token:
        weights = F.one_hot(known[0].nonzero().squeeze(1), known.shape[1]).unsqueeze(1).float()
        names = tuple(processor.tokenizer.decode([token]) for token in next_ids[0][known[0]])
    return Target(description, names, tokens["input_ids"], tokens["attention_mask"], next_ids, weights)


def class_target(model: PreTrainedModel, processor: FlamingoMedProcessor, question: str, class_name: str) -> Target:
    """Logit of a class of the model's head.

    Raises:
        InputError: a model without a head, or no such class; a question as in `answer_target`.
    """
    if not model.config.num_labels:
        raise InputError("the model has no classification head; explain its answer instead of a class")
    check_keys([class_name], model.config.label2id, "class")
    tokens = _tokenize(model, processor, question, None)
    ids = tokens["input_ids"]
    _, (end,) = question_end(ids, tokens["attention_mask"], None, None, model.config.eoq_token_id)
    weights = F.one_hot(end, ids.shape[1]).reshape(1, 1, -1).float()
    name = f"logit of class “{class_name}”"
    class_id = model.config.label2id[class_name]
    return Target(name, (name,), ids, tokens["attention_mask"], torch.zeros_like(ids), weights, class_id)


def _tokenize(
    model: PreTrainedModel, processor: FlamingoMedProcessor, question: str, answers: list[str] | None
) -> dict[str, Tensor]:
    try:
        prompts = [processor.render(question)] * len(answers or [""])
        tokens = processor.tokenize(prompts, answers)
    except ValueError as error:
        raise InputError(f"this cannot be explained: {error}") from None
    return {name: value.to(model.device) for name, value in tokens.items()}
