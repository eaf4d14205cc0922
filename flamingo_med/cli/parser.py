"""CommandParser: what one types behind a subcommand: words, settings as --name value, --help, --help-all."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, fields
from typing import Any

from flamingo_med.common.settings import build_arguments, override
from processing.errors import InputError


class _Setting(argparse.Action):
    """Keeps `--name=value` as it is, in its turn: `override` reads values as YAML, and a later one wins."""

    def __call__(self, parser, namespace, value, option_string=None) -> None:
        namespace.settings.append(f"{option_string}={value}")


class _HelpAll(argparse.Action):
    """Prints the help with the settings that --help leaves out."""

    def __call__(self, parser, namespace, value, option_string=None) -> None:
        for action, text in parser.further.items():
            action.help = text
        parser.print_help()
        parser.exit()


class _Help(argparse.RawDescriptionHelpFormatter):
    """Names of settings on the left, what they are on the right, within 100 columns."""

    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=34, width=100)

    def _format_args(self, action: argparse.Action, default_metavar: str) -> str:
        return action.metavar or ""


class CommandParser(argparse.ArgumentParser):
    """The parser of one command.

    Args:
        program: what one types to start it.
        description: what stands above the settings in its help.
        kinds: argument dataclasses, whose fields are the settings; each has a help text in its metadata.
        words: name → help of what comes without a name, in this order; all are needed.
        often: names of the settings that --help lists, in this order, and --help-all the others too; all if None.
        shorter: name → help of settings, in the place of what another library's field says.
    """

    def __init__(
        self,
        program: str,
        description: str,
        *kinds: type,
        words: Mapping[str, str] | None = None,
        often: Sequence[str] | None = None,
        shorter: Mapping[str, str] | None = None,
    ):
        words, shorter = words or {}, shorter or {}
        super().__init__(
            prog=program,
            usage=" ".join(["%(prog)s", *map(str.upper, words), "[--name value …]"]),
            description=description.strip(),
            formatter_class=_Help,
            add_help=False,
            allow_abbrev=False,
        )
        self.kinds, self.words = kinds, words
        comes_first = self.add_argument_group("first")
        for name, text in words.items():
            comes_first.add_argument(name, metavar=name.upper(), help=text)
        known = {field.name: field for kind in kinds for field in fields(kind) if field.init}
        often = [name for name in known if name not in words] if often is None else often
        shown = self.add_argument_group("settings")
        for name in often:
            self._add_setting(shown, f"--{name}", _help_of(known[name], shorter.get(name)))
        others = self.add_argument_group("further settings")
        self.further = {  # what --help-all tells too
            self._add_setting(others, f"--{name}", argparse.SUPPRESS): _help_of(field)
            for name, field in known.items()
            if name not in often and name not in words
        }
        helps = self.add_argument_group("help")
        helps.add_argument("-h", "--help", action="help", help="show this help")
        more = f"show {len(self.further)} further settings too" if self.further else argparse.SUPPRESS
        helps.add_argument("--help-all", action=_HelpAll, nargs=0, help=more)

    def _add_setting(self, group, name: str, text: str) -> argparse.Action:
        return group.add_argument(name, action=_Setting, nargs="?", const="true", metavar="", help=text)

    def parse(self, arguments: Sequence[str]) -> tuple[dict[str, str], list[str]]:
        """Words by name, and the settings as `--name=value` in their order, for `override`.

        A dotted name enters a mapping; a name alone stands for true. Which names there are is checked later, together
        with those of the recipe.

        Raises:
            InputError: a word too few or too many.
        """
        joined = []
        for argument in arguments:
            opens = argument.startswith("--") or argument == "-h"
            waits = joined and joined[-1].startswith("--") and "=" not in joined[-1] and not _is_help(joined[-1])
            if waits and not opens:
                joined[-1] += f"={argument}"
            else:
                joined.append(argument)
        for name in {argument.partition("=")[0] for argument in joined if argument.startswith("--")}:
            if not name.strip("-"):
                self.error(f"{name} has no name of a setting behind it")
            if name not in self._option_string_actions:
                self._add_setting(self, name, argparse.SUPPRESS)
        found = vars(self.parse_args(joined, argparse.Namespace(settings=[])))
        return {name: found[name] for name in self.words}, found["settings"]

    def build(self, arguments: Sequence[str]) -> list[Any]:
        """An instance of each dataclass, for a command whose words, if any, are settings of one of them.

        Raises:
            InputError: as of `parse` and `build_arguments`.
        """
        words, settings = self.parse(arguments)
        return build_arguments(override(words, settings, *self.kinds), *self.kinds)

    def error(self, message: str) -> None:
        """One sentence instead of usage and exit."""
        raise InputError(f"{' '.join(message.split())}; see {self.prog} --help")


def _help_of(field: Field, text: str | None = None) -> str:
    """Help and default of a setting, as argparse wants it."""
    text = text or " ".join(str(field.metadata.get("help") or "").split())
    default = field.default if field.default_factory is MISSING else field.default_factory()
    unsaid = default is MISSING or default in (None, {}, [])
    return (text if unsaid else f"{text} ({default})").replace("%", "%%")


def _is_help(argument: str) -> bool:
    return argument in ("--help", "--help-all")
