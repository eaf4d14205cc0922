"""Show the differences between two evaluations of the same rows.

They are paired, row by row, with 95 % intervals clustered by image.

  flamingo-med compare runs/a/eval/phantom-test/predictions.jsonl \\
      runs/b/eval/phantom-test/predictions.jsonl
"""

from flamingo_med.cli.parser import CommandParser
from flamingo_med.evaluation.comparison import compare


def main(arguments: list[str]) -> None:
    """Differences of the scores in two predictions.jsonl files of the same rows."""
    words = {"first": "predictions.jsonl of an evaluation", "second": "predictions.jsonl of another"}
    words, _ = CommandParser("flamingo-med compare", __doc__, words=words).parse(arguments)
    print(compare(words["first"], words["second"]))
