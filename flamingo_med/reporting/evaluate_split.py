"""One evaluation: a model and the baselines on a split, their scores, and the files and pages written of them."""

import logging
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from accelerate import PartialState

from flamingo_med.common.folders import lock_folder
from flamingo_med.common.provenance import provenance
from flamingo_med.common.settings import merge
from flamingo_med.evaluation.baselines import image_lookup_answers, majority_answers, question_only_answers
from flamingo_med.evaluation.calibration import load_calibration
from flamingo_med.evaluation.conditions import answer_conditions, embedding_scores, has_features, sentence_scores
from flamingo_med.evaluation.imageclef_submission import write_submission
from flamingo_med.evaluation.scores import difference, score_classes, score_confidence, score_rows
from flamingo_med.evaluation.tables import write_predictions
from flamingo_med.inference.answering import load_model
from flamingo_med.inference.backends import longest_answer
from flamingo_med.inference.readable_rows import all_bad_images, check_images, check_texts
from flamingo_med.inference.split_arguments import SplitArguments, build_with_data, results_folder
from flamingo_med.reporting.evaluation_page import write_page
from flamingo_med.reporting.model_card import refresh_card
from processing.datasets import fingerprint
from processing.datasets.arguments import DataArguments
from processing.datasets.split_overlap import QUICK, overlap, verdict
from processing.errors import InputError, check_path, disk_errors
from processing.files import write_json

logger = logging.getLogger(__name__)

SUBMISSION = "submission.txt"  # of a blind test set of ImageCLEF

# Name → function of train rows and rows, which sees no image.
BASELINES = {
    "majority": majority_answers,
    "question_only": question_only_answers,
    "image_lookup": image_lookup_answers,
}


@dataclass(kw_only=True)
class EvaluationArguments(SplitArguments):
    """A model on a split."""

    batch_size: int | str = field(
        default="auto",
        metadata={
            "help": "questions whose images are read at a time, or auto for what fits; scores do not depend on it"
        },
    )

    sentence_encoder: str | None = field(
        default=None,
        metadata={"help": "Hub id or folder of a sentence encoder, to report sentence_similarity by it too"},
    )

    def __post_init__(self):
        super().__post_init__()
        check_path("--sentence_encoder", self.sentence_encoder)
        if self.batch_size != "auto" and (isinstance(self.batch_size, str) or self.batch_size < 1):
            raise InputError(f"batch_size is at least 1 or auto, got {self.batch_size}")


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation has found.

    Attributes:
        folder: where metrics.json, predictions.jsonl and report/ are.
        meta: what was evaluated on what, by which code.
        scores: tidy rows: metric, subset, condition, value, low, high, n, signature.
        not_written: why the files in the folder are not all there, if they are not; the answers are kept, so that the
            same evaluation writes them without asking again.
    """

    folder: Path
    meta: dict[str, Any]
    scores: list[dict[str, Any]]
    not_written: str | None = None


def evaluate(model: str | Path, **settings: Any) -> Evaluation:
    """Score a model on a split of a data set, as `flamingo-med evaluate` does.

    Args:
        model: folder or Hub id of the model.
        settings: of `EvaluationArguments` and `DataArguments`, such as split="validation", data_dir="…"; the data set
            is that of the model's recipe by default.

    Raises:
        InputError: no such model or data, or a mistake in the settings.
    """
    args, data_args = build_with_data(
        EvaluationArguments, lambda of_data: merge(of_data, {"model": str(model), **settings})
    )
    return evaluate_split(args, data_args)


def evaluate_split(args: EvaluationArguments, data_args: DataArguments) -> Evaluation:
    """As `evaluate`; each of several processes answers its share, and the first one writes and has all scores."""
    rows, train_rows = data_args.load(args.split), data_args.load("train")
    model, processor = load_model(args.model, args.revision, args.trust_remote_code)
    calibration = load_calibration(args.model, args.revision)
    state = PartialState()
    output_dir = results_folder(args, "eval", data_args)
    lock = lock_folder(output_dir, first_process=state.is_main_process)
    what = f"{data_args.dataset} {args.split}"
    check_texts(model, processor, rows, what, new_tokens=longest_answer(model))
    if not has_features(model):
        check_images(rows, what)
    scored, images = sum(map(bool, rows["answers"])), len(set(rows["image_id"]))
    conditions = ["model"] if scored == 0 else ["model", "blank_image", "shuffled_image"][: 3 if images > 1 else 2]
    if state.num_processes > 1 and state.is_main_process:
        logger.info(f"{state.num_processes} processes share {len(rows)} questions")
    partial = output_dir / "partial"
    with all_bad_images({what: rows}):
        answers, of_model = answer_conditions(
            model, processor, rows, train_rows, conditions, partial, batch_size=args.batch_size
        )
    predictions = {condition: [answer.text for answer in some] for condition, some in answers.items()}
    try:
        embedded, not_embedded = embedding_scores(model, processor, rows, train_rows, predictions), None
    except InputError as error:  # which does not keep the other scores from the user
        embedded, not_embedded = {}, str(error)
    if not state.is_main_process:
        return Evaluation(output_dir, {}, [])
    if args.sentence_encoder and scored:
        similar = sentence_scores(rows, predictions, args.sentence_encoder)
        embedded = {
            condition: [a | b for a, b in zip(embedded.get(condition, similar[condition]), some, strict=True)]
            for condition, some in similar.items()
        }

    meta = {
        **asdict(args),
        **asdict(data_args),
        "revision": getattr(model.config, "_commit_hash", None),
        "seed": 0,
        "rows": {"all": len(rows), "scored": scored, "images": images},
        "fingerprints": {"model": of_model, "rows": fingerprint(rows), "train_rows": fingerprint(train_rows)},
        "not_embedded": not_embedded,
        "overlap": verdict(overlap(train_rows, rows, QUICK), "train", args.split),
        **provenance(),
    }
    scores = []
    if scored:
        predictions |= {name: baseline(train_rows, rows) for name, baseline in BASELINES.items()}
        scores = score_rows(rows, predictions, data_args.dataset, embedded, args.sentence_encoder)
        if answers["model"][0].classes is not None:
            names = [name for _, name in sorted(model.config.id2label.items())]
            of_classes, unknown = score_classes(rows, answers, names)
            scores, meta["rows"]["class_unknown"] = scores + of_classes, unknown
        meta["model_minus_blank_image"] = difference(rows, predictions["model"], predictions["blank_image"])
        scores += score_confidence(rows, answers["model"], calibration)
    not_written = None
    try:
        with disk_errors(output_dir):
            if scored:
                write_page(output_dir / "report", meta, scores, rows, answers["model"], calibration)
            write_predictions(
                output_dir / "predictions.jsonl",
                rows,
                answers["model"],
                data_args.dataset,
                embedded.get("model"),
                predictions.get("blank_image"),
            )
            write_json(output_dir / "metrics.json", {"meta": meta, "scores": scores})
            if not scored and data_args.dataset.startswith("vqa_med"):
                write_submission(output_dir / SUBMISSION, rows["image_id"], predictions["model"])
            shutil.rmtree(partial)
        refresh_card(args.model)
    except InputError as error:  # which does not keep the scores from the user
        not_written = str(error)
    lock.release()
    return Evaluation(output_dir, meta, scores, not_written)
