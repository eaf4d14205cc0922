"""A model's answers to a split under every condition: with the images, with all blanked, with those of other rows."""

import json
import logging
from collections.abc import Mapping, Sequence
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

import numpy as np
from accelerate import PartialState
from accelerate.utils import gather_object
from datasets import Dataset
from transformers import PreTrainedModel, ProcessorMixin

from flamingo_med.common.provenance import hash_weights
from flamingo_med.evaluation.scorers import long_answers
from flamingo_med.inference.answering import stream_answers
from flamingo_med.inference.backends import Answer
from flamingo_med.inference.candidates import candidate_answers
from flamingo_med.inference.embedding import embed_answers, prototype_rows, prototypes
from flamingo_med.inference.features import ImageFeatures, store_features
from flamingo_med.inference.partial_answers import PartialAnswers
from flamingo_med.metrics import original, sentence_similarity
from processing.datasets import fingerprint
from processing.datasets.rows import uniform
from processing.errors import InputError, reason

logger = logging.getLogger(__name__)

EMBEDDED_AT_ONCE = 32  # whatever the number of processes, so that the same rows share a batch
EMBEDDED_CONDITIONS = ("model", "blank_image")
DIGITS = 6  # of a cosine; further ones depend on the number of threads


def answer_conditions(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    rows: Dataset,
    train_rows: Dataset,
    conditions: Sequence[str],
    folder: Path,
    batch_size: int | str = "auto",
) -> tuple[dict[str, list[Answer]], str]:
    """Answers to all rows under each condition; each process answers its share, and reads that of the others.

    Args:
        model, processor: any image-text-to-text model.
        rows: the questions.
        train_rows: where candidate answers of closed questions come from.
        conditions: some of "model", "blank_image" and "shuffled_image", see `how_shown`.
        folder: keeps the answers as they come, for all processes; what it holds of the same model, rows and settings
            is not asked again.
        batch_size: see `stream_answers`.

    Returns:
        condition → one answer a row, and the fingerprint of the model.
    """
    state = PartialState()
    features = features_of(model, processor, rows)
    of_model = model_fingerprint(model, processor)
    candidates = candidate_answers(train_rows, rows)
    answers = {}
    for condition in conditions:
        shown = how_shown(condition, rows, candidates)
        settings = json.dumps([version("flamingo-med"), of_model, fingerprint(rows), shown], sort_keys=True)
        partial = PartialAnswers(folder, condition, sha256(settings.encode()).hexdigest()[:16])
        state.wait_for_everyone()  # all have read before any writes
        if state.is_main_process and partial.outdated:
            logger.info(f"{condition}: starting again, {folder} is of another model, other rows or other settings")
        if state.is_main_process and partial.answers:
            logger.info(f"{condition}: resumes, {len(partial.answers)} of {len(rows)} answers are there")
        partial.open(state.process_index)
        missing = [i for i in range(len(rows)) if i not in partial.answers]
        with state.split_between_processes(share_by_image(rows, missing, shown.get("images_from"))) as share:
            how = {**shown, "batch_size": batch_size, "features": features}
            how["description"] = condition if state.is_main_process else None
            for row, answer in stream_answers(model, processor, rows, indices=share, **how):
                partial.add(row, answer)
        partial.close()
        state.wait_for_everyone()
        partial.read()
        answers[condition] = [partial.answers[i] for i in range(len(rows))]
    return answers, of_model


def embedding_scores(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    rows: Dataset,
    train_rows: Dataset,
    texts: Mapping[str, Sequence[str]],
) -> dict[str, list[dict[str, float]]]:
    """The scores of `original` that need the model's own hidden states, of what it said with and without the images.

    Each process embeds its share, and all get all. Only of a model of ours, and not of long answers, each of which
    would be a prototype of its own.

    Args:
        model, processor, rows, train_rows: as of `answer_conditions`; prototypes come from the train rows.
        texts: condition → one answer a row; those of `EMBEDDED_CONDITIONS` are scored.

    Returns:
        condition → of each row original_embedding_match and original_cosine, the cosine of the answer's vector and
        the accepted answer's; nothing of a row without answers.

    Raises:
        InputError: in all processes, an image that cannot be read, or an answer of train or of the rows that does not
            fit the decoder's context.
    """
    known = [i for i, references in enumerate(rows["answers"]) if references]
    scored = rows.select(known)
    if model.config.model_type != "flamingo_med" or not known or long_answers("", scored["answers"][:]):
        return {}
    of_train = train_rows.select(prototype_rows(train_rows))
    names, centres = prototypes(of_train["answer"], _embed(model, processor, of_train, of_train["answer"][:], "train"))
    accepted = _embed(model, processor, scored, scored["answer"][:], "accepted")
    found = {}
    for condition in (name for name in EMBEDDED_CONDITIONS if name in texts):
        answers = [texts[condition][i] for i in known]
        vectors = _embed(model, processor, scored, answers, condition, blank_images=condition == "blank_image")
        matches = original.embedding_match(vectors, centres, names, scored["answers"][:])
        cosines = np.round(original.cosines(vectors, accepted), DIGITS).tolist()
        found[condition] = [{} for _ in range(len(rows))]
        for i, match, cosine in zip(known, matches, cosines, strict=True):
            found[condition][i] = {"original_embedding_match": match, "original_cosine": cosine}
    return found


def sentence_scores(
    rows: Dataset, texts: Mapping[str, Sequence[str]], encoder: str
) -> dict[str, list[dict[str, float]]]:
    """`sentence_similarity` of each row under the conditions of `EMBEDDED_CONDITIONS`, in the form of
    `embedding_scores`.

    Args:
        rows: the questions.
        texts: condition → one answer a row.
        encoder: Hub id or folder of a sentence encoder.

    Raises:
        InputError: there is no such encoder.
    """
    try:
        return {
            condition: [
                {"sentence_similarity": value} if references else {}
                for value, references in zip(
                    sentence_similarity.similarities(texts[condition], rows["answers"][:], encoder),
                    rows["answers"],
                    strict=True,
                )
            ]
            for condition in EMBEDDED_CONDITIONS
            if condition in texts
        }
    except (OSError, ValueError) as error:
        raise InputError(f"no sentence encoder at {encoder} (folder or Hub id): {reason(error)}") from None


def _embed(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    rows: Dataset,
    answers: Sequence[str],
    which: str,
    blank_images: bool = False,
) -> np.ndarray:
    """Vectors (n d) of answers to all rows, in their order; rows about one image are embedded together, and each
    process takes whole batches."""
    state = PartialState()
    order = share_by_image(rows, list(range(len(rows))), None)
    batches = [order[start : start + EMBEDDED_AT_ONCE] for start in range(0, len(order), EMBEDDED_AT_ONCE)]
    how = {
        "features": features_of(model, processor, rows),
        "batch_size": EMBEDDED_AT_ONCE,
        "blank_images": blank_images,
    }
    how["description"] = f"embedding of answers: {which}" if state.is_main_process else None
    with state.split_between_processes(batches) as share:
        own = [i for batch in share for i in batch]
        try:
            found = (
                [embed_answers(model, processor, rows.select(own), [answers[i] for i in own], **how)] if own else []
            )
        except InputError as error:
            found = [error]
    vectors = gather_object(found)
    for error in (some for some in vectors if isinstance(some, InputError)):
        raise error  # in all processes alike, none of which then waits for another
    return np.concatenate(vectors)[np.argsort(order)]


def how_shown(condition: str, rows: Dataset, candidates: list[list[str]]) -> dict:
    """The arguments of `stream_answers` under a condition."""
    if condition == "blank_image":
        return {"blank_images": True}
    if condition == "shuffled_image":
        return {"images_from": other_images(rows)}
    return {"candidates": candidates}


def other_images(rows: Dataset) -> list[int]:
    """For each row the number of a row about another image.

    The images stand in an order by the hash of their first row's id, and each row gets the next image: none stays with
    its questions, each is shown as one other is asked about, and the order of the rows does not matter.

    Raises:
        ValueError: all rows are about one image.
    """
    first: dict[str, tuple[str, int]] = {}  # image → smallest id of its rows, and number of that row
    for i, (image_id, row_id) in enumerate(zip(rows["image_id"], rows["id"], strict=True)):
        first[image_id] = min(first.get(image_id, (row_id, i)), (row_id, i))
    if len(first) < 2:
        raise ValueError("images are shuffled among at least two")
    order = sorted(first, key=lambda image_id: uniform("shuffled_image", first[image_id][0]))
    following = dict(zip(order, [*order[1:], order[0]], strict=True))
    return [first[following[image_id]][1] for image_id in rows["image_id"]]


def share_by_image(rows: Dataset, missing: list[int], images_from: Sequence[int] | None) -> list[int]:
    """The missing rows in the order of the images they are shown, so that few images stand in two shares."""
    image_ids = rows["image_id"][:]
    return sorted(missing, key=lambda i: (image_ids[i if images_from is None else images_from[i]], i))


def features_of(model: PreTrainedModel, processor: ProcessorMixin, rows: Dataset) -> ImageFeatures | None:
    """Features of all images, where a model of ours has a frozen encoder; training or another evaluation with the
    same one may have stored them."""
    if not has_features(model):
        return None
    return store_features(model, processor, [rows], progress=PartialState().is_main_process)


def has_features(model: PreTrainedModel) -> bool:
    """Whether all images are encoded before any question is answered."""
    return model.config.model_type == "flamingo_med" and model.config.freeze_vision


def model_fingerprint(model: PreTrainedModel, processor: ProcessorMixin) -> str:
    """Hash of the weights and of all settings that an answer depends on, wherever the model lies."""
    config = {name: value for name, value in model.config.to_dict().items() if name != "_name_or_path"}
    settings = [config, model.generation_config.to_dict(), processor.to_dict(), processor.chat_template]
    parts = [hash_weights(model), settings]
    return sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]
