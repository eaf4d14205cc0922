"""Answers → vectors, means of the decoder's last hidden states over their tokens; and a prototype of each answer."""

from collections.abc import Sequence

import numpy as np
import torch
from tqdm import tqdm
from transformers import PreTrainedModel

from processing.collator import FlamingoMedCollator
from processing.errors import InputError
from processing.features import ImageFeatures
from processing.processing_flamingo_med import FlamingoMedProcessor


@torch.no_grad()
def embed_answers(
    model: PreTrainedModel,
    processor: FlamingoMedProcessor,
    rows: Sequence[dict],
    answers: Sequence[str],
    *,
    pool_prompt: bool = False,
    batch_size: int = 64,
    features: ImageFeatures | None = None,
    description: str | None = None,
) -> np.ndarray:
    """What the model makes of an answer to each row's question, seeing the row's image.

    The hidden states are those that go into the output layer.

    Args:
        model: a model of ours.
        processor: its processor.
        rows: a list of dicts, or a `datasets.Dataset`, with image, image_id and question.
        answers: one to each: predictions, or the rows' own answers.
        pool_prompt: take the mean over the prompt's tokens too, as the original project did; by default over those of
            the answer alone, its end mark among them, so that an empty answer has a vector too.
        batch_size: rows at a time.
        features: stored features of all these images, instead of reading them.
        description: title of the progress bar; no bar where None.

    Returns:
        (n d) in the order of the rows.

    Raises:
        InputError: an image that cannot be read, or an answer that does not fit.
        ValueError: numbers of rows and answers that differ.
    """
    if batch_size < 1:
        raise InputError(f"batch_size is at least 1, got {batch_size}")
    if len(rows) != len(answers):
        raise ValueError(f"{len(answers)} answers to {len(rows)} questions")
    collate = FlamingoMedCollator(processor, answers=True, features=features)
    was_training = model.training
    model.eval()
    vectors = []
    with tqdm(total=len(rows), desc=description, disable=description is None, unit="answer") as progress:
        for start in range(0, len(rows), batch_size):
            numbers = range(start, min(start + batch_size, len(rows)))
            batch = collate([{**rows[i], "answer": answers[i]} for i in numbers])
            batch = {name: value.to(model.device) for name, value in batch.items()}
            labels = batch.pop("labels")
            output = model(**batch, output_hidden_states=True, use_cache=False, logits_to_keep=1)
            pooled = batch["attention_mask"].bool() if pool_prompt else labels != -100
            states = output.hidden_states[-1].float() * pooled.unsqueeze(-1)
            vectors.append((states.sum(1) / pooled.sum(1, keepdim=True)).cpu())
            progress.update(len(numbers))
    model.train(was_training)
    return torch.cat(vectors).numpy()


def prototypes(answers: Sequence[str], vectors: np.ndarray) -> tuple[list[str], np.ndarray]:
    """The mean vector of each answer, stripped and lower-cased: (n), (n d) → (k) answers in order, (k d).

    Those of train tell what the model has learned; the original project took those of the evaluated split, which then
    holds every right answer and no other.
    """
    names = [answer.strip().lower() for answer in answers]
    distinct = sorted(set(names))
    number = {name: i for i, name in enumerate(distinct)}
    sums = np.zeros((len(distinct), vectors.shape[1]))
    index = [number[name] for name in names]
    np.add.at(sums, index, vectors)
    return distinct, sums / np.bincount(index)[:, None]
