"""Ask changed and rephrased questions whose right answer is known.

Also compares the classification head with the generated answer, where the model has one. Prints a
table, and writes consistency.json to the folder of the evaluation.

  flamingo-med consistency --model runs/phantom --split test
"""

from dataclasses import asdict

from flamingo_med.cli.arguments import OFTEN, build_with_typed_data
from flamingo_med.cli.parser import CommandParser
from flamingo_med.common.folders import lock_folder
from flamingo_med.common.provenance import provenance
from flamingo_med.evaluation.conditions import features_of
from flamingo_med.evaluation.consistency import (
    distinct_rows,
    format_consistency,
    head_agreement,
    paraphrases,
    score_pairs,
)
from flamingo_med.evaluation.counterfactuals import counterfactuals
from flamingo_med.evaluation.predictions import read_predictions
from flamingo_med.inference.answering import answer_questions, load_model
from flamingo_med.inference.backends import longest_answer
from flamingo_med.inference.readable_rows import check_texts
from flamingo_med.inference.split_arguments import SplitArguments, results_folder
from processing.datasets import fingerprint
from processing.datasets.arguments import DataArguments
from processing.datasets.vqa_rad import paraphrase_pairs
from processing.errors import InputError, disk_errors
from processing.files import write_json


def main(arguments: list[str]) -> None:
    """Counterfactual and rephrased questions, and head against generated answer: table and consistency.json."""
    parser = CommandParser("flamingo-med consistency", __doc__, SplitArguments, DataArguments, often=OFTEN)
    args, data_args = build_with_typed_data(parser, arguments)
    rows = data_args.load(args.split)
    pairs = counterfactuals(rows, data_args.dataset)
    if data_args.dataset == "vqa_rad":
        pairs += paraphrases(rows, paraphrase_pairs(data_args.data_dir))
    if not pairs:
        raise InputError(f"no question in the {args.split} split of {data_args.dataset} is one that the rules change")
    output_dir = results_folder(args, "eval", data_args)
    predictions = output_dir / "predictions.jsonl"  # of an evaluation, and with the head's classes where there is one
    of_head = head_agreement(read_predictions(predictions)) if predictions.is_file() else []
    model, processor = load_model(args.model, args.revision, args.trust_remote_code)
    lock = lock_folder(output_dir)
    asked = distinct_rows(pairs)
    check_texts(model, processor, asked, f"{data_args.dataset} {args.split}", new_tokens=longest_answer(model))
    features = features_of(model, processor, rows)
    answers = answer_questions(
        model, processor, asked, features=features, description="original and changed questions"
    )
    texts = {row["id"]: answer.text for row, answer in zip(asked, answers, strict=True)}
    scores = score_pairs(pairs, texts) + of_head
    meta = {**asdict(args), **asdict(data_args), "fingerprints": {"rows": fingerprint(rows)}, **provenance()}
    print(f"\n{args.model} on {data_args.dataset} {args.split}\n\n{format_consistency(scores)}")
    with disk_errors(output_dir):
        write_json(output_dir / "consistency.json", {"meta": meta, "scores": scores})
    lock.release()
    print(f"\nwritten: {output_dir}/consistency.json")
