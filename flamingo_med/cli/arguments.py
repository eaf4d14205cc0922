"""Arguments of the commands on a split of a data set, from what was typed."""

from typing import Any

from flamingo_med.cli.parser import CommandParser
from flamingo_med.common.settings import override
from flamingo_med.inference.split_arguments import build_with_data
from processing.datasets.arguments import DataArguments

# The settings of such a command that its --help lists.
OFTEN = ("model", "split", "recipe", "data_dir", "output_dir")


def build_with_typed_data(parser: CommandParser, arguments: list[str]) -> tuple[Any, DataArguments]:
    """An instance of the first dataclass of the parser, which has a `recipe`, and the data set.

    Raises:
        InputError: as of `build_with_data`.
    """
    _, typed = parser.parse(arguments)
    return build_with_data(parser.kinds[0], lambda settings: override(settings, typed, *parser.kinds))
