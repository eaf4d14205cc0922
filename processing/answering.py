"""Questions to answers with a confidence, for evaluation, training and the command line alike."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm
from transformers import AutoModelForImageTextToText, AutoProcessor, PreTrainedModel

from processing.collator import FlamingoMedCollator
from processing.errors import InputError
from processing.features import ImageFeatures
from processing.processing_flamingo_med import FlamingoMedProcessor


@dataclass(frozen=True)
class Answer:
    """A generated answer.

    Attributes:
        text: the answer.
        confidence: the geometric mean of the probabilities of its tokens, the end mark included; 0 to 1.
    """

    text: str
    confidence: float


def load_model(name: str) -> tuple[PreTrainedModel, FlamingoMedProcessor]:
    """Model and processor of a local folder or Hub id, on the GPU where there is one.

    Raises:
        InputError: neither a folder with a model nor a model on the Hub.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return AutoModelForImageTextToText.from_pretrained(name).to(device), AutoProcessor.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise InputError(f"no model of ours at {name}: {str(error).splitlines()[0]}") from None


def answer_questions(
    model: PreTrainedModel,
    processor: FlamingoMedProcessor,
    rows: Sequence[dict],
    *,
    batch_size: int = 64,
    blank_images: bool = False,
    features: ImageFeatures | None = None,
    description: str | None = None,
) -> list[Answer]:
    """Answer the question of each row about its image, greedily.

    Args:
        model: a model of ours, with its generation configuration.
        processor: its processor.
        rows: a list of dicts, or a `datasets.Dataset`, with image, image_id and question.
        batch_size: questions at a time; the answers do not depend on it.
        blank_images: hide the images from the model.
        features: stored features of all these images, instead of reading them.
        description: title of the progress bar; no bar where None.

    Returns:
        one answer a row, in the order of the rows.

    Raises:
        InputError: an image that cannot be read, or a question that cannot be asked.
    """
    if batch_size < 1:
        raise InputError(f"batch_size is at least 1, got {batch_size}")
    collate = FlamingoMedCollator(processor, answers=False, blank_images=blank_images, features=features)
    # Questions about one image stand together, so that it is encoded once.
    image_ids = [row["image_id"] for row in rows] if isinstance(rows, list) else rows["image_id"]
    order = sorted(range(len(rows)), key=lambda i: image_ids[i])
    answers: dict[int, Answer] = {}
    was_training = model.training
    model.eval()
    with tqdm(total=len(rows), desc=description, disable=description is None, unit="question") as progress:
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            batch = collate([rows[i] for i in chosen])
            _check_room(model, batch["input_ids"].shape[1])
            batch = {name: value.to(model.device) for name, value in batch.items()}
            answers.update(zip(chosen, _generate(model, processor, batch), strict=True))
            progress.update(len(chosen))
    model.train(was_training)
    return [answers[i] for i in range(len(rows))]


def _check_room(model: PreTrainedModel, prompt: int) -> None:
    """Refuse a prompt (in tokens) that leaves no room for the longest answer in the decoder's context."""
    context = model.config.get_text_config().max_position_embeddings
    longest = model.generation_config.max_new_tokens or 0
    if prompt + longest > context:
        raise InputError(
            f"a question of {prompt} tokens and an answer of up to {longest} does not fit the decoder's {context}; "
            "shorten the question"
        )


def _generate(model: PreTrainedModel, processor: FlamingoMedProcessor, batch: dict[str, Tensor]) -> list[Answer]:
    """Answers to one batch of left-padded prompts."""
    output = model.generate(**batch, do_sample=False, return_dict_in_generate=True, output_logits=True)
    tokens = output.sequences[:, batch["input_ids"].shape[1] :]  # (b t)
    log_probs = torch.stack(output.logits, dim=1).float().log_softmax(-1)  # (b t v)
    chosen = log_probs.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
    ended = (tokens == processor.tokenizer.eos_token_id).cumsum(-1)
    written = ended - (tokens == processor.tokenizer.eos_token_id).int() == 0  # up to and including the end mark
    confidence = ((chosen * written).sum(-1) / written.sum(-1)).exp()
    texts = processor.batch_decode(tokens, skip_special_tokens=True)
    return [Answer(text.strip(), c) for text, c in zip(texts, confidence.tolist(), strict=True)]
