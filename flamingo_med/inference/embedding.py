"""Answers → vectors, means of the decoder's last hidden states over their tokens; and a prototype of each answer."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from datasets import Dataset
from tqdm import tqdm
from transformers import PreTrainedModel

from flamingo_med.inference.features import ImageFeatures
from flamingo_med.metrics import original
from processing.collator import FlamingoMedCollator
from processing.datasets.rows import uniform
from processing.errors import InputError
from processing.processing_flamingo_med import FlamingoMedProcessor

MOST_ANSWERS = 1_000  # with a prototype, the most frequent ones
ROWS_AN_ANSWER = 8  # that its prototype is the mean of


@torch.no_grad()
def embed_answers(
    model: PreTrainedModel,
    processor: FlamingoMedProcessor,
    rows: Sequence[dict],
    answers: Sequence[str],
    *,
    pool_prompt: bool = False,
    blank_images: bool = False,
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
        blank_images: hide the images from the model.
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
    collate = FlamingoMedCollator(processor, answers=True, blank_images=blank_images, features=features)
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


def prototype_rows(rows: Dataset) -> list[int]:
    """Numbers of the rows whose answers make the prototypes: of each of the `MOST_ANSWERS` most frequent answers the
    `ROWS_AN_ANSWER` with the least hash of their id. A train split may be large, and each is a forward pass.

    Args:
        rows: with id and answer.
    """
    names = [answer.strip().lower() for answer in rows["answer"]]
    counts = Counter(filter(None, names))
    frequent = set(sorted(counts, key=lambda name: (-counts[name], name))[:MOST_ANSWERS])
    ids, taken = rows["id"][:], Counter()
    chosen = []
    for i in sorted(range(len(rows)), key=lambda i: uniform("prototype", ids[i])):
        if names[i] in frequent and taken[names[i]] < ROWS_AN_ANSWER:
            taken[names[i]] += 1
            chosen.append(i)
    return sorted(chosen)


def signature(metric: str) -> str:
    """What is printed beside a number of `original` that rests on these prototypes."""
    return f"{original.signature(metric)}|rows-an-answer:{ROWS_AN_ANSWER}|answers:{MOST_ANSWERS}"
