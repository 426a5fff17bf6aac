"""The parser of the command line, made of the commands' texts."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, NoReturn

from tcgamirror import __version__
from tcgamirror.cli.argtypes import FILES, FOLDERS, TYPES
from tcgamirror.cli.commands import CHOICES, COMMANDS, HEADINGS, MODULES, REMEDIES
from tcgamirror.model.errors import ExitCode, UsageError
from tcgamirror.model.text import did_you_mean

if TYPE_CHECKING:
    from _typeshed import SupportsWrite

VERSION = f"tcgamirror {__version__}"

_EXAMPLES = """\
examples:
  tcgamirror init tcga --slides 100 --mpp 15
  tcgamirror --mirror tcga update
  tcgamirror --mirror tcga status
  tcgamirror --mirror tcga query "select project_id, count(*) from mirror group by 1"

tcgamirror help COMMAND tells more about a command, tcgamirror help lists the manual's pages.

exit codes:
  0 all done   1 a bug   2 wrong use   3 finished, some failed or differ
  4 a server cannot be reached   5 another run holds the lock   6 disk full
  7 catalogue or mirror damaged   130 interrupted"""

_MIRROR = (
    "the mirror's directory (default: $TCGAMIRROR, or the current directory or the nearest "
    "parent that is a mirror; for init: $TCGAMIRROR or the empty current directory)"
)

_ARGUMENTS = re.compile(
    r"(?:(.+):\n)?((?:\[?[A-Z]+(?:\.{3})?\]?|-\S+(?: -\S+)?(?: \S+)?)(?:  |\n)(?s:.*))"
)
"""A paragraph that lists arguments and options: its title, if any, and the list."""

_NARGS = {"": None, "[]": "?", "...": "+", "[...]": "*"}
"""Numbers of values of an argument by what stands around its name."""


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Help that shows the commands below headings."""

    def _format_action(self, action: argparse.Action) -> str:
        if not isinstance(action, argparse._SubParsersAction):
            return super()._format_action(action)
        parts = []
        for command in self._iter_indented_subactions(action):
            if heading := HEADINGS.get(command.dest):
                parts.append(f"{'':{self._current_indent - 2}}{heading}:\n")
            parts.append(self._format_action(command))
        return "".join(parts)


class Parser(argparse.ArgumentParser):
    """Parser whose errors are one sentence."""

    def error(self, message: str) -> NoReturn:
        message = message.removeprefix("argument ")
        if message.startswith("the following arguments are required"):
            choices = [each.choices for each in self._actions if each.required and each.choices]
            message += "".join(f". Choose {', '.join(map(str, each))}" for each in choices)
        end = "" if message.endswith((".", "?")) else "."
        raise UsageError(f"{message}{end} See {self.prog} --help")

    def print_help(self, file: SupportsWrite[str] | None = None) -> None:
        # argparse's own hides that there is no room for the help.
        print(self.format_help(), end="", file=file)

    def _get_value(self, action: argparse.Action, arg_string: str) -> Any:
        if not arg_string and action.metavar in (*FOLDERS, *FILES):
            raise argparse.ArgumentError(action, "empty path, as an unset variable gives. Name one")
        return super()._get_value(action, arg_string)

    def _check_value(self, action: argparse.Action, value: object) -> None:
        if action.choices is not None and value not in action.choices:
            choices = [str(choice) for choice in action.choices]
            hint = REMEDIES.get((action.dest, str(value))) or did_you_mean(str(value), choices)
            hint = hint or f"Choose {', '.join(choices)}"
            if action.dest == "command":
                hint = _did_you_mean_mirror(str(value)) or hint
            raise argparse.ArgumentError(action, f"invalid choice {value!r}. {hint}")


def _did_you_mean_mirror(word: str) -> str:
    """Return a question that names --mirror if the word is a mirror's directory, or nothing."""
    from tcgamirror.mirror.settings import FILE_NAME

    return f"Did you mean --mirror {word}?" if os.access(f"{word}/{FILE_NAME}", os.F_OK) else ""


def _setting(command: str | None, option: str) -> str:
    """Return how to change a setting that a command of a mirror has no option for, or nothing."""
    from tcgamirror.mirror.settings import remedy_for_option

    writes = command == "init" or command in MODULES["update"]
    return remedy_for_option(option) if writes else ""


def make_parser() -> tuple[Parser, dict[str, Parser]]:
    """Return the program's parser and that of each command."""
    program = Parser(
        prog="tcgamirror",
        usage="tcgamirror [--mirror DIR] COMMAND ...",
        description="An offline mirror of TCGA whole-slide images at a low, known resolution.",
        epilog=_EXAMPLES,
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    program.add_argument("--version", action="version", version=VERSION)
    program.add_argument("--mirror", metavar="DIR", help=_MIRROR)
    commands = program.add_subparsers(
        title="commands", dest="command", metavar="COMMAND", prog="tcgamirror"
    )
    for name, words in COMMANDS.items():
        summary, *paragraphs, examples = words.split("\n\n")
        lists = [match for each in paragraphs if (match := _ARGUMENTS.fullmatch(each))]
        details = "\n\n".join(each for each in paragraphs if not _ARGUMENTS.fullmatch(each))
        command = commands.add_parser(
            name,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.\n\n{details}".strip(),
            epilog=f"{'examples' if len(examples.splitlines()) > 1 else 'example'}:\n{examples}",
            formatter_class=HelpFormatter,
            allow_abbrev=False,
        )
        # Without a default, --mirror before the command is kept.
        command.add_argument(
            "--mirror", metavar="DIR", default=argparse.SUPPRESS, help=argparse.SUPPRESS
        )
        for title, listed in (match.groups() for match in lists):
            add_arguments(command.add_argument_group(title) if title else command, listed)
    return program, commands.choices


def add_arguments(command: argparse._ActionsContainer, listed: str) -> None:
    """Add arguments and options listed as --help shows them, two spaces before the meaning.

    `NAME` is one value, `[NAME]` at most one, `NAME...` several. An option without a value is a
    flag. Values with | between them are choices; = stands before the default. An option whose
    meaning says so may be repeated. CHOICES and TYPES tell more by the names.

    >>> parser = argparse.ArgumentParser()
    >>> add_arguments(parser, "[SQL]  text\\n--limit N=80\\n    a number\\n--by a|b  a turn")
    >>> parser.parse_args(["--limit", "7", "--by", "b"])
    Namespace(sql=None, limit=7, by='b')
    """
    for entry in re.split(r"\n(?=\S)", listed):
        head, meaning = re.split(r"\s{2,}", entry, maxsplit=1)
        words = head.replace(",", "").split()
        names = [word for word in words if word.startswith("-")]
        value, _, default = "".join(words[len(names) :]).partition("=")
        how: dict[str, Any] = {"help": " ".join(meaning.split())}
        if default:
            how |= {"default": default, "help": f"{how['help']} (default: {default})"}
        if not names:
            name = value.strip("[.]")
            how["nargs"] = _NARGS[value.replace(name, "")]
            names, value = [name.lower()], name
        if not value:
            how["action"] = "store_true"
        elif "|" in value:
            how["choices"] = value.split("|")
        else:
            how |= {"metavar": value, "choices": CHOICES.get(value)}
            how["type"] = TYPES.get(names[-1]) or TYPES.get(value)
        if "repeat it for several" in meaning:
            how["action"] = "append"
        command.add_argument(*names, **how)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Return the parsed command line.

    Raises:
        UsageError: An argument is missing, unknown or invalid.
        SystemExit: --help or --version was printed.
    """
    if arguments == ["--version"]:
        # At once, without the parsers of all commands.
        print(VERSION)
        raise SystemExit
    program, commands = make_parser()
    first = next(iter(arguments), "").partition("=")[0]
    if first.startswith("-") and first not in program._option_string_actions:
        # argparse would take the option's value for the command.
        hint = did_you_mean(first, program._option_string_actions)
        if any(first in each._option_string_actions for each in commands.values()):
            hint = "Give it after the command"
        program.error(f"unknown argument {first!r}. {hint}".strip())
    args, unknown = program.parse_known_args(arguments)
    if unknown:
        command = commands.get(args.command, program)
        options = [name for each in command._actions for name in each.option_strings]
        for name, each in command._option_string_actions.items():
            options += [f"{name} {choice}" for choice in each.choices or ()]
        word = unknown[0].partition("=")[0]
        if word.startswith("-"):
            hint = REMEDIES.get((args.command, word)) or _setting(args.command, word)
            hint = hint or did_you_mean(word, options)
        else:
            hint = _did_you_mean_mirror(word) or REMEDIES.get((args.command, ""), "").format(word)
        command.error(f"unknown argument {' '.join(map(repr, unknown))}. {hint}".strip())
    return args


def handler(command: str | None) -> Callable[[argparse.Namespace], ExitCode]:
    """Return the function that runs a command; import its module, and so all that it needs."""
    name = command or "introduction"
    module = next((module for module, names in MODULES.items() if name in names), name)
    function: Callable[[argparse.Namespace], ExitCode] = getattr(
        import_module(f"tcgamirror.cli.{module}"), f"do_{name}"
    )
    return function
