"""`flamingo-med COMMAND …`: finds the command's file, runs it, and turns a user's mistake into one sentence.

Only what --help needs is imported here; the heavy libraries come with the command's own file.
"""

import argparse
import errno
import logging
import sys
from collections.abc import Callable
from importlib import import_module

from flamingo_med import __version__
from processing.errors import InputError, nearest

COMMANDS = {
    "train": "train a model by a recipe",
    "evaluate": "score a model on a data set, beside baselines that see no image",
    "ask": "answer one question about one image",
    "explain": "measure how faithful the maps of a model's answers are",
    "explain-classifier": "check an image classifier's findings by asking about them",
    "compare": "show the differences between two evaluations of the same rows",
    "compare-maps": "show several models' answers and maps side by side",
    "calibrate": "fit a model's confidences to its validation split",
    "consistency": "ask changed and rephrased questions whose answer is known",
    "demo": "serve the page on which one asks about an image",
    "convert": "turn a checkpoint of another Flamingo into one of ours",
    "publish": "put a model, a metric or the phantom data set on the Hub",
    "card": "write the model card of a run",
    "overlap": "tell what two splits share: images, questions, patients",
    "shards": "write a split as Parquet shards, to be streamed",
    "tokenizer": "train a tokenizer on a data set, or extend one",
    "verify": "check a folder's files against its manifest",
    "recipes": "list the packaged recipes",
}


class _ToTerminal(logging.Handler):
    """What the libraries of this project say, as plain lines beside what the command prints."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print it."""
        print(record.getMessage(), file=sys.stderr if record.levelno >= logging.WARNING else sys.stdout)


def main() -> None:
    """The console script."""
    run(lambda: dispatch(sys.argv[1:]))


def run_command(name: str) -> None:
    """What the scripts at the top of the repository call, and `python -m flamingo_med.cli.train`."""
    run(lambda: dispatch([name, *sys.argv[1:]]))


def dispatch(arguments: list[str]) -> None:
    """Run the command that the first word names.

    Raises:
        InputError: there is no such command.
    """
    parser = argparse.ArgumentParser(
        prog="flamingo-med",
        usage="flamingo-med COMMAND [--name value …]",
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, max_help_position=24, width=100),
        description="Medical visual question answering. Research software. Not for clinical use.",
        epilog="flamingo-med COMMAND --help tells more of each.",
    )
    parser.add_argument("--version", action="version", version=f"flamingo-med {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command")
    for name, text in COMMANDS.items():
        commands.add_parser(name, help=text, add_help=False)
    first = arguments[:1] or ["--help"]
    if not first[0].startswith("-") and first[0] not in COMMANDS:
        raise InputError(f"there is no command {first[0]!r}; {nearest(first[0], COMMANDS)}")
    command = parser.parse_args(first).command
    import_module(f"flamingo_med.cli.{command.replace('-', '_')}").main(arguments[1:])


def run(call: Callable[[], None]) -> None:
    """Call it; an `InputError` becomes its sentence and exit code 2, everything else keeps its traceback."""
    for name in ("flamingo_med", "processing", "modeling_flamingo_med"):
        logger = logging.getLogger(name)
        logger.setLevel(logging.INFO)
        logger.handlers = [_ToTerminal()]
        logger.propagate = False
    # It regrets, whenever anything imports it, that a kernel for another kind of machine is not installed.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    try:
        call()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise
        place = error.filename or "a folder that is written to, such as the cache of the libraries,"
        print(f"error: {place} cannot be written: {error.strerror}; make room, and run it again", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
