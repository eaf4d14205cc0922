"""Write the model card of a run.

It has no number of its own: all come from the files that the run and its evaluations have written.
Training and evaluation write it too.

  flamingo-med card runs/phantom
  flamingo-med card runs/phantom --output card.md
"""

from dataclasses import dataclass, field

from flamingo_med.cli.parser import CommandParser
from flamingo_med.reporting.model_card import write_card


@dataclass
class CardArguments:
    """Which run, and where its card goes."""

    run: str = field(metadata={"help": "folder of the run"})
    output: str | None = field(default=None, metadata={"help": "file of the card; RUN/README.md if unset"})


def main(arguments: list[str]) -> None:
    """Folder of a run → its card."""
    words = {"run": "folder of the run"}
    (args,) = CommandParser("flamingo-med card", __doc__, CardArguments, words=words, often=("output",)).build(
        arguments
    )
    print(f"written: {write_card(args.run, args.output)}")
