"""Score a model on a split of a data set, or ask it one question.

    python eval.py --model runs/phantom --recipe recipes/phantom.yaml --split test
    python eval.py ask --model runs/phantom --image docs/phantom.png --question "Is there a lung nodule?"
    python eval.py compare runs/a/eval/phantom-test/predictions.jsonl runs/b/eval/phantom-test/predictions.jsonl
    python eval.py calibrate runs/phantom/eval/phantom-validation/predictions.jsonl
    python eval.py consistency --model runs/phantom --split test

Scoring answers every question twice, with the images and with all of them blanked, prints a table with 95 % intervals
clustered by image, and writes metrics.json and predictions.jsonl to output_dir. The data set is the recipe's, or that
of the run that made the model; --data_dir and --data.option override it.

compare prints the differences between two evaluations of the same rows. calibrate fits the temperatures of a model's
confidences to an evaluation of its validation split, and writes calibration.json beside the weights. consistency asks
changed and rephrased questions whose right answer is known, and writes consistency.json to the folder of scores.
"""

import re
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path

import modeling_flamingo_med  # noqa: F401 (registers the Auto classes)
from processing.answering import answer_questions, load_model
from processing.datasets import fingerprint
from processing.datasets.overlap import QUICK, overlap, verdict
from processing.datasets.vqa_rad import twins
from processing.errors import InputError, check_keys, run
from processing.features import ImageFeatures
from processing.files import write_json
from processing.provenance import provenance
from processing.recipe import DataArguments, build_arguments, build_with_data, describe, override
from processing.scoring.baselines import majority_answers
from processing.scoring.compare import compare
from processing.scoring.consistency import distinct_rows, format_consistency, head_agreement, paraphrases, score_pairs
from processing.scoring.counterfactuals import counterfactuals
from processing.scoring.plots import write_plots
from processing.scoring.predictions import read_meta, read_predictions
from processing.scoring.report import format_table, score_rows, write_predictions
from processing.scoring.temperature import fit, format_measures, save_calibration


@dataclass
class EvaluationArguments:
    """Which model, on what, and where the scores go."""

    model: str = field(metadata={"help": "folder or Hub id of the model"})
    recipe: str | None = field(default=None, metadata={"help": "recipe that names the data set; the model's if unset"})
    split: str = field(default="test", metadata={"help": "train, validation or test"})
    batch_size: int = field(default=64, metadata={"help": "questions at a time; scores do not depend on it"})
    output_dir: str | None = field(default=None, metadata={"help": "MODEL/eval/DATASET-SPLIT-OPTIONS if unset"})

    def __post_init__(self):
        self.recipe = self.recipe or f"{self.model}/recipe.yaml"


@dataclass
class QuestionArguments:
    """One question to a model."""

    model: str = field(metadata={"help": "folder or Hub id of the model"})
    image: str = field(metadata={"help": "image file"})
    question: str = field(metadata={"help": "the question"})


@dataclass
class ConsistencyArguments:
    """Whose answers to compare with each other."""

    model: str = field(metadata={"help": "folder or Hub id of the model"})
    recipe: str | None = field(default=None, metadata={"help": "recipe that names the data set; the model's if unset"})
    split: str = field(default="test", metadata={"help": "train, validation or test"})
    output_dir: str | None = field(default=None, metadata={"help": "MODEL/eval/DATASET-SPLIT-OPTIONS if unset"})

    def __post_init__(self):
        self.recipe = self.recipe or f"{self.model}/recipe.yaml"


def evaluate(arguments: list[str]) -> None:
    """Model and baselines on one split: table, metrics.json and predictions.jsonl."""
    args, data_args = build_with_data(arguments, EvaluationArguments)
    rows, train_rows = data_args.load(args.split), data_args.load("train")
    if not all(rows["answers"]):
        raise InputError(f"the {args.split} split of {data_args.dataset} has questions without answers to score by")
    options = "".join(f"-{name}={value}" for name, value in sorted(data_args.data.items()))
    options = re.sub(r"[^\w.=-]+", "_", options)  # mappings and paths, in the name of a folder
    output_dir = Path(args.output_dir or Path(args.model, "eval", f"{data_args.dataset}-{args.split}{options}"))
    model, processor = load_model(args.model)
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"the scores cannot be written to {output_dir}: {error.strerror}") from None
    overlaps = verdict(overlap(train_rows, rows, QUICK), "train", args.split)
    features = None
    if model.config.freeze_vision:  # then training has stored them, or another evaluation with the same encoder will
        features = ImageFeatures(model, processor)
        features.add_rows(model, processor, rows, progress=True)
    answers = answer_questions(
        model, processor, rows, batch_size=args.batch_size, features=features, description="with images"
    )
    blank = answer_questions(
        model, processor, rows, batch_size=args.batch_size, blank_images=True, description="images blanked"
    )
    predictions = {
        "model": [answer.text for answer in answers],
        "blank_image": [answer.text for answer in blank],
        "majority": majority_answers(train_rows, rows),
    }
    scores = score_rows(rows, predictions)

    meta = {
        **asdict(args),
        **asdict(data_args),
        "revision": getattr(model.config, "_commit_hash", None),
        "fingerprints": {"rows": fingerprint(rows), "train_rows": fingerprint(train_rows)},
        "overlap": overlaps,
        **provenance(),
    }
    write_json(output_dir / "metrics.json", {"meta": meta, "scores": scores})
    write_predictions(output_dir / "predictions.jsonl", rows, answers)
    print(f"\n{args.model} on {data_args.dataset} {args.split}, exact match with 95 % intervals clustered by image\n")
    print(format_table(scores))
    print(f"\noverlap of train and {args.split}: {overlaps}")
    print(f"\nwritten: {output_dir}/metrics.json, {output_dir}/predictions.jsonl")


def ask(arguments: list[str]) -> None:
    """Answer one question about one image."""
    (args,) = build_arguments(override({}, arguments, QuestionArguments), QuestionArguments)
    if not args.question.strip():
        raise InputError('the question is empty; write it as --question "Is there a nodule?"')
    model, processor = load_model(args.model)
    row = {"image": args.image, "image_id": args.image, "question": args.question}
    (answer,) = answer_questions(model, processor, [row])
    print(f"question    {args.question}\nanswer      {answer.text}\nconfidence  {answer.confidence:.2f}")
    print("Not for clinical use. Confidence: geometric mean of the token probabilities, not calibrated.")


def compare_files(arguments: list[str]) -> None:
    """Differences of the scores in two predictions.jsonl files of the same rows."""
    if len(arguments) != 2 or any(argument.startswith("--") for argument in arguments):
        raise InputError("compare takes two files: python eval.py compare a/predictions.jsonl b/predictions.jsonl")
    print(compare(*arguments))


def calibrate(arguments: list[str]) -> None:
    """Fit the temperatures of a model's confidences to an evaluation of its validation split: calibration.json beside
    the weights, and plots beside the predictions."""
    if len(arguments) != 1 or arguments[0].startswith("--"):
        raise InputError("calibrate takes one file, of an evaluation with --split validation: …/predictions.jsonl")
    predictions, folder = read_predictions(arguments[0]), Path(arguments[0]).parent
    meta = read_meta(folder / "metrics.json")
    if meta["split"] != "validation":
        raise InputError(f"{arguments[0]} is of the {meta['split']} split; fit on validation, then score the others")
    if not Path(meta["model"]).is_dir():
        raise InputError(f"calibration.json is written beside the weights, but {meta['model']} is no folder")
    calibration, measures = fit(predictions, {name: meta[name] for name in ("dataset", "split", "fingerprints")})
    save_calibration(meta["model"], calibration)
    write_plots(folder, predictions, calibration)
    counts = calibration.fitted_on
    print(f"{format_measures(measures)}\n\nof the rows that the temperatures were fitted on; score others for a test")
    print(
        f"{len(predictions)} rows: {counts['answers']} scored, {counts['candidates']} with the answer among candidates"
    )
    print(f"written: {meta['model']}/calibration.json, {folder}/reliability.png, {folder}/risk_coverage.png")


def consistency(arguments: list[str]) -> None:
    """Counterfactual and rephrased questions, and head against generated answer: table and consistency.json."""
    args, data_args = build_with_data(arguments, ConsistencyArguments)
    rows = data_args.load(args.split)
    pairs = counterfactuals(rows, data_args.dataset)
    if data_args.dataset == "vqa_rad":
        pairs += paraphrases(rows, twins(data_args.data_dir))
    if not pairs:
        raise InputError(f"no question in the {args.split} split of {data_args.dataset} is one that the rules change")
    output_dir = default_folder(args, data_args)
    predictions = output_dir / "predictions.jsonl"  # of an evaluation, and with the head's classes where there is one
    of_head = head_agreement(read_predictions(predictions)) if predictions.is_file() else []
    model, processor = load_model(args.model)
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"the scores cannot be written to {output_dir}: {error.strerror}") from None
    asked = distinct_rows(pairs)
    answers = answer_questions(model, processor, asked, description="original and changed questions")
    texts = {row["id"]: answer.text for row, answer in zip(asked, answers, strict=True)}
    scores = score_pairs(pairs, texts) + of_head
    meta = {**asdict(args), **asdict(data_args), "fingerprints": {"rows": fingerprint(rows)}, **provenance()}
    write_json(output_dir / "consistency.json", {"meta": meta, "scores": scores})
    print(f"\n{args.model} on {data_args.dataset} {args.split}\n\n{format_consistency(scores)}")
    print(f"\nwritten: {output_dir}/consistency.json")


def default_folder(args: EvaluationArguments | ConsistencyArguments, data_args: DataArguments) -> Path:
    """Where the scores go: the folder that was asked for, or one beneath the model."""
    options = "".join(f"-{name}={value}" for name, value in sorted(data_args.data.items()))
    options = re.sub(r"[^\w.=-]+", "_", options)  # mappings and paths, in the name of a folder
    return Path(args.output_dir or Path(args.model, "eval", f"{data_args.dataset}-{args.split}{options}"))


def main() -> None:
    """A first word names the command; without one, evaluate."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help"):
        print(
            f"{__doc__}\nscore:\n{describe(EvaluationArguments, DataArguments)}\nask:\n{describe(QuestionArguments)}\n"
            f"consistency:\n{describe(ConsistencyArguments, DataArguments)}"
        )
    elif arguments[0].startswith("--"):
        evaluate(arguments)
    else:
        commands = {"ask": ask, "compare": compare_files, "calibrate": calibrate, "consistency": consistency}
        check_keys(arguments[:1], commands, "command")
        commands[arguments[0]](arguments[1:])


if __name__ == "__main__":
    run(main)
