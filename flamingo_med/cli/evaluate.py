"""Score a model on a split of a data set.

Every question is answered with its image, with a blank image and with another row's image, beside
baselines that see no image. Prints a table with 95 % intervals clustered by image, and writes
metrics.json, predictions.jsonl and report/index.html to output_dir. An interrupted evaluation
resumes; under accelerate launch several processes share the work.

  flamingo-med evaluate --model runs/phantom --split test
  flamingo-med evaluate --model llava-hf/llava-1.5-7b-hf --recipe vqa_rad --data_dir data/vqa_rad
"""

from accelerate import PartialState

from flamingo_med.cli.arguments import OFTEN, build_with_typed_data
from flamingo_med.cli.main import run_command
from flamingo_med.cli.parser import CommandParser
from flamingo_med.evaluation.tables import format_tables
from flamingo_med.reporting.evaluate_split import SUBMISSION, Evaluation, EvaluationArguments, evaluate_split
from processing.datasets.arguments import DataArguments
from processing.errors import InputError


def main(arguments: list[str]) -> None:
    """Model and baselines on one split: table, metrics.json, predictions.jsonl and report/."""
    parser = CommandParser(
        "flamingo-med evaluate", __doc__, EvaluationArguments, DataArguments, often=(*OFTEN, "dataset", "batch_size")
    )
    evaluation = evaluate_split(*build_with_typed_data(parser, arguments))
    if PartialState().is_main_process:
        print_evaluation(evaluation)


def print_evaluation(evaluation: Evaluation) -> None:
    """The table, and what it does not show.

    Raises:
        InputError: behind it, that it could not be written.
    """
    folder, meta, scores = evaluation.folder, evaluation.meta, evaluation.scores
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
    if evaluation.not_written:
        raise InputError(evaluation.not_written)
    written = [folder / name for name in ("metrics.json", "predictions.jsonl", "report/index.html", SUBMISSION)]
    print("written: " + ", ".join(str(path) for path in written if path.is_file()))


if __name__ == "__main__":
    run_command("evaluate")
