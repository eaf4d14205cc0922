"""Score a model on a split of a data set, ask it one question, or explain it, or a classifier by it.

    python eval.py --model runs/phantom --recipe recipes/phantom.yaml --split test
    python eval.py ask --model runs/phantom --image docs/phantom.png --question "Is there a lung nodule?"
    python eval.py compare runs/a/eval/phantom-test/predictions.jsonl runs/b/eval/phantom-test/predictions.jsonl
    python eval.py calibrate runs/phantom/eval/phantom-validation/predictions.jsonl
    python eval.py consistency --model runs/phantom --split test
    python eval.py explain --model runs/phantom --recipe recipes/phantom.yaml --split test
    python eval.py explain_classifier --model runs/phantom --classifier runs/resnet --image x.png --output_dir page
    python eval.py compare_maps --models "[runs/phantom, runs/other]" --split test --output_dir page

Scoring answers every question with its image, with a blank one and with another row's, compares baselines that see
none, prints a table with 95 % intervals clustered by image, and writes metrics.json, predictions.jsonl and
report/index.html to output_dir. Any image-text-to-text model of the Hub can be scored. A killed evaluation goes on
where it stopped; several processes share the work under `accelerate launch eval.py …`. The data set is the recipe's,
or that of the run that made the model; --data_dir and --data.option override it.

compare prints the differences between two evaluations of the same rows. calibrate fits the temperatures of a model's
confidences to an evaluation of its validation split, and writes calibration.json beside the weights. consistency asks
changed and rephrased questions whose right answer is known, and writes consistency.json to the folder of scores.
explain makes maps of which pixels made each answer, by every method, and a report card of how faithful they are.
explain_classifier asks the model about a classifier's findings and writes one page: answers, contradictions in words,
maps of both. compare_maps shows several models' answers and maps side by side.
"""

import shutil
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path

from accelerate import PartialState

import modeling_flamingo_med  # noqa: F401 (registers the Auto classes)
from modeling_flamingo_med.explanation.classifier_command import ClassifierArguments, explain_classifier_command
from modeling_flamingo_med.explanation.command import ExplanationArguments, explain
from modeling_flamingo_med.explanation.comparison_command import ComparisonArguments, compare_maps
from modeling_flamingo_med.model_card import refresh_card
from processing.answering import answer_questions, load_model
from processing.datasets import fingerprint
from processing.datasets.overlap import QUICK, overlap, verdict
from processing.datasets.vqa_rad import twins
from processing.errors import InputError, check_keys, run
from processing.evaluation import answer_conditions, embedding_scores, features_of
from processing.files import write_json
from processing.folders import reserve, results_folder
from processing.provenance import provenance
from processing.recipe import (
    DataArguments,
    SplitArguments,
    TrainedModelArguments,
    build_arguments,
    build_with_data,
    describe,
    override,
)
from processing.scoring.baselines import image_lookup_answers, majority_answers, question_only_answers
from processing.scoring.compare import compare
from processing.scoring.consistency import distinct_rows, format_consistency, head_agreement, paraphrases, score_pairs
from processing.scoring.counterfactuals import counterfactuals
from processing.scoring.imageclef_submission import write_submission
from processing.scoring.page import write_page
from processing.scoring.plots import write_plots
from processing.scoring.predictions import read_meta, read_predictions
from processing.scoring.report import format_measures, format_tables, write_predictions
from processing.scoring.scores import difference, score_classes, score_confidence, score_rows
from processing.scoring.temperature import fit, load_calibration, save_calibration

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

    def __post_init__(self):
        super().__post_init__()
        if self.batch_size != "auto" and (isinstance(self.batch_size, str) or self.batch_size < 1):
            raise InputError(f"batch_size is at least 1 or auto, got {self.batch_size}")


@dataclass(kw_only=True)
class QuestionArguments(TrainedModelArguments):
    """One question to a model."""

    image: str = field(metadata={"help": "image file"})
    question: str = field(metadata={"help": "the question"})


def evaluate(arguments: list[str]) -> None:
    """Model and baselines on one split: table, metrics.json, predictions.jsonl and report/."""
    args, data_args = build_with_data(arguments, EvaluationArguments)
    rows, train_rows = data_args.load(args.split), data_args.load("train")
    model, processor = load_model(args.model, args.revision)
    calibration = load_calibration(args.model, args.revision)
    state = PartialState()
    output_dir = results_folder(args, "eval", data_args)
    lock = reserve(output_dir, first_process=state.is_main_process)
    scored, images = sum(map(bool, rows["answers"])), len(set(rows["image_id"]))
    conditions = ["model"] if scored == 0 else ["model", "blank_image", "shuffled_image"][: 3 if images > 1 else 2]
    if state.num_processes > 1 and state.is_main_process:
        print(f"{state.num_processes} processes share {len(rows)} questions")
    partial = output_dir / "partial"
    answers, of_model = answer_conditions(
        model, processor, rows, train_rows, conditions, partial, batch_size=args.batch_size
    )
    predictions = {condition: [answer.text for answer in some] for condition, some in answers.items()}
    try:
        embedded, not_embedded = embedding_scores(model, processor, rows, train_rows, predictions), None
    except InputError as error:  # which does not keep the other scores from the user
        embedded, not_embedded = {}, str(error)
    if not state.is_main_process:
        return

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
        scores = score_rows(rows, predictions, data_args.dataset, embedded)
        if answers["model"][0].classes is not None:
            names = [name for _, name in sorted(model.config.id2label.items())]
            of_classes, unknown = score_classes(rows, answers, names)
            scores, meta["rows"]["class_unknown"] = scores + of_classes, unknown
        meta["model_minus_blank_image"] = difference(rows, predictions["model"], predictions["blank_image"])
        scores += score_confidence(rows, answers["model"], calibration)
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
    lock.release()
    print_result(output_dir, meta, scores)


def print_result(folder: Path, meta: dict, scores: list[dict]) -> None:
    """The table, and what it does not show."""
    count, scored = meta["rows"]["all"], meta["rows"]["scored"]
    print(f"\n{meta['model']} on {meta['dataset']} {meta['split']}\n")
    if scores:
        print(format_tables(scores))
    if scored < count:
        print(f"{count - scored} of {count} questions have no answers to score by; their predictions are written")
    if scored and meta["rows"]["images"] == 1:
        print("all questions are about one image, so it is not shuffled and there are no intervals")
    if meta["rows"].get("class_unknown"):
        print(f"{meta['rows']['class_unknown']} of {count} questions have unknown classes, or one that the head lacks")
    if meta["not_embedded"]:
        print(f"the scores by embeddings are left out: {meta['not_embedded']}")
    print(f"\noverlap of train and {meta['split']}: {meta['overlap']}")
    written = [folder / name for name in ("metrics.json", "predictions.jsonl", "report/index.html", SUBMISSION)]
    print("written: " + ", ".join(str(path) for path in written if path.is_file()))


def ask(arguments: list[str]) -> None:
    """Answer one question about one image."""
    (args,) = build_arguments(override({}, arguments, QuestionArguments), QuestionArguments)
    if not args.question.strip():
        raise InputError('the question is empty; write it as --question "Is there a nodule?"')
    model, processor = load_model(args.model, args.revision)
    row = {"image": args.image, "image_id": args.image, "question": args.question}
    (answer,) = answer_questions(model, processor, [row])
    calibration = load_calibration(args.model, args.revision)
    confidence = calibration.confidence(answer.confidence) if calibration else answer.confidence
    print(f"question    {args.question}\nanswer      {answer.text}\nconfidence  {confidence:.2f}")
    how = "calibrated on validation" if calibration else "not calibrated"
    print(f"Not for clinical use. Confidence: geometric mean of the token probabilities, {how}.")


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
    print(
        f"{format_measures(measures)}\n\nof the rows that the temperatures were fitted on, with 95 % intervals "
        "clustered by image; score others for a test\n"
        f"{len(predictions)} rows: {counts['answers']} scored, {counts['candidates']} with the answer among candidates"
    )
    print(f"written: {meta['model']}/calibration.json, {folder}/reliability.png, {folder}/risk_coverage.png")


def consistency(arguments: list[str]) -> None:
    """Counterfactual and rephrased questions, and head against generated answer: table and consistency.json."""
    args, data_args = build_with_data(arguments, SplitArguments)
    rows = data_args.load(args.split)
    pairs = counterfactuals(rows, data_args.dataset)
    if data_args.dataset == "vqa_rad":
        pairs += paraphrases(rows, twins(data_args.data_dir))
    if not pairs:
        raise InputError(f"no question in the {args.split} split of {data_args.dataset} is one that the rules change")
    output_dir = results_folder(args, "eval", data_args)
    predictions = output_dir / "predictions.jsonl"  # of an evaluation, and with the head's classes where there is one
    of_head = head_agreement(read_predictions(predictions)) if predictions.is_file() else []
    model, processor = load_model(args.model, args.revision)
    lock = reserve(output_dir)
    asked = distinct_rows(pairs)
    features = features_of(model, processor, rows)
    answers = answer_questions(
        model, processor, asked, features=features, description="original and changed questions"
    )
    texts = {row["id"]: answer.text for row, answer in zip(asked, answers, strict=True)}
    scores = score_pairs(pairs, texts) + of_head
    meta = {**asdict(args), **asdict(data_args), "fingerprints": {"rows": fingerprint(rows)}, **provenance()}
    write_json(output_dir / "consistency.json", {"meta": meta, "scores": scores})
    print(f"\n{args.model} on {data_args.dataset} {args.split}\n\n{format_consistency(scores)}")
    lock.release()
    print(f"\nwritten: {output_dir}/consistency.json")


def main() -> None:
    """A first word names the command; without one, evaluate."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help"):
        print(
            f"{__doc__}\nscore:\n{describe(EvaluationArguments, DataArguments)}\nask:\n{describe(QuestionArguments)}\n"
            f"consistency:\n{describe(SplitArguments, DataArguments)}\n"
            f"explain:\n{describe(ExplanationArguments, DataArguments)}\n"
            f"explain_classifier:\n{describe(ClassifierArguments)}\n"
            f"compare_maps:\n{describe(ComparisonArguments, DataArguments)}"
        )
    elif arguments[0].startswith("--"):
        evaluate(arguments)
    else:
        commands = {
            "ask": ask,
            "compare": compare_files,
            "calibrate": calibrate,
            "consistency": consistency,
            "explain": explain,
            "explain_classifier": explain_classifier_command,
            "compare_maps": compare_maps,
        }
        check_keys(arguments[:1], commands, "command")
        commands[arguments[0]](arguments[1:])


if __name__ == "__main__":
    run(main)
