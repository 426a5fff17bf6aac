"""Parts that all commands share: parsers, the mirror to work on, the end of a run."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NoReturn, TypeAlias

from tcgamirror.cli import output
from tcgamirror.cli.argtypes import VALUES
from tcgamirror.model.errors import ExitCode, NotAMirror, TcgaMirrorError, UsageError
from tcgamirror.model.text import did_you_mean

if TYPE_CHECKING:
    from tcgamirror.catalogue.catalogue import Catalogue
    from tcgamirror.cli.progress import ProgressDisplay
    from tcgamirror.mirror.directory import Mirror
    from tcgamirror.system.interrupt import Shutdown


FOLDERS, FILES = ("DIR", "DST"), ("FILE", "PATH", "SRC", "DEST", "EXPORT")
"""Metavars of arguments that are paths."""

HEADINGS = {
    "init": "fill a mirror",
    "status": "look at it",
    "verify": "keep it whole",
    "lock": "carry and show it",
    "get": "without a mirror",
    "help": "help",
}
"""Headings in the program's help, by the first command below each."""

JSON = "--json  print the result as one JSON line"

VIA = "--via SOURCES  sources of a slide, in the order to try them (default: range,tiles,whole)"

ADDRESSES = """\
--api URL     API of another GDC (default: https://api.gdc.cancer.gov)
--tiles URL   its tile server (default: that of the GDC)
--bucket URL  open-data bucket, or none (default: that of TCGA; none with another GDC)"""

_OPTIONS = re.compile(r"(?:(.+):\n)?(--[a-z-]+(?: \S+)?(?:  |\n)(?s:.*))")
"""A paragraph that lists options: its title, if any, and the list."""


# The mirror --------------------------------------------------------------------------


def named_mirror(args: argparse.Namespace) -> Path | None:
    """Return the directory of --mirror or TCGAMIRROR.

    Raises UsageError if it is on another machine.
    """
    named = mirror_text(args)
    if named is not None and ":" in named:
        # Imported late: few names have a colon.
        from tcgamirror.transfer.remote_paths import check_mirror

        check_mirror(named, args.command)
    return None if named is None else Path(named)


def mirror_text(args: argparse.Namespace) -> str | None:
    """Return the same as it was typed."""
    named: str | None = args.mirror
    return os.environ.get("TCGAMIRROR") or None if named is None else named


def did_you_mean_mirror(word: str) -> str:
    """Return a question that names --mirror if the word is a mirror's directory, or nothing."""
    from tcgamirror.mirror.settings import FILE_NAME

    return f"Did you mean --mirror {word}?" if os.access(f"{word}/{FILE_NAME}", os.F_OK) else ""


def open_mirror(args: argparse.Namespace) -> Mirror:
    """Return the mirror that is named, or the nearest above the current directory."""
    from tcgamirror.mirror.directory import Mirror

    named = named_mirror(args)
    return Mirror.find(named or Path(), above=named is None)


def find_mirror(args: argparse.Namespace) -> Mirror | None:
    """Return the mirror, or None if none was named and there is none here."""
    try:
        return open_mirror(args)
    except NotAMirror:
        if args.mirror:
            raise
        return None


@contextmanager
def open_catalogue(args: argparse.Namespace) -> Iterator[tuple[Mirror, Catalogue]]:
    """Open the mirror's catalogue to read it."""
    from tcgamirror.catalogue.catalogue import Catalogue
    from tcgamirror.mirror.directory import CATALOGUE

    mirror = open_mirror(args)
    with Catalogue.open(mirror.root / CATALOGUE, read_only=True) as catalogue:
        yield mirror, catalogue


@contextmanager
def replace_file(path: Path) -> Iterator[BinaryIO]:
    """Yield a file that takes the place of `path` when the block ends without an error.

    Raises UsageError if nothing can be written there. The block decides on what is there.
    """
    from tcgamirror.mirror.directory import check_not_own
    from tcgamirror.system.files import atomic_write

    if path.is_dir():
        raise UsageError(f"{path}: is a directory. Name a file in it")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"{path.absolute().parent}: no such directory. Make it first")
    check_not_own(path)
    try:
        with atomic_write(path) as file:
            yield file
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise UsageError(f"{path}: cannot be written ({why}). Name another file") from error


@contextmanager
def stoppable_run(*, as_json: bool) -> Iterator[tuple[ProgressDisplay, Shutdown]]:
    """Yield the display and the shutdown of a run that Ctrl-C stops.

    An error ends the process at once if workers are busy; Python would wait for their threads.
    """
    from tcgamirror.cli.progress import ProgressDisplay
    from tcgamirror.system.interrupt import Shutdown

    shutdown = Shutdown()
    shutdown.install_handlers()
    with closing(ProgressDisplay(quiet=as_json)) as progress:
        try:
            yield progress, shutdown
        except TcgaMirrorError as error:
            if shutdown.workers_abandoned:
                progress.close()
                output.fail(error, as_json=as_json)
                os._exit(error.exit_code)
            raise


# Parsers -----------------------------------------------------------------------------


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

    def _get_value(self, action: argparse.Action, arg_string: str) -> Any:
        if not arg_string and action.metavar in (*FOLDERS, *FILES):
            raise argparse.ArgumentError(action, "empty path, as an unset variable gives. Name one")
        return super()._get_value(action, arg_string)

    def _check_value(self, action: argparse.Action, value: object) -> None:
        if action.choices is not None and value not in action.choices:
            choices = [str(choice) for choice in action.choices]
            hint = did_you_mean(str(value), choices) or f"Choose {', '.join(choices)}"
            if action.dest == "command":
                hint = did_you_mean_mirror(str(value)) or hint
            raise argparse.ArgumentError(action, f"invalid choice {value!r}. {hint}")


Commands: TypeAlias = "argparse._SubParsersAction[Parser]"


def add_command(
    commands: Commands,
    name: str,
    run: Callable[[argparse.Namespace], ExitCode],
    words: str,
    **more: Any,
) -> Parser:
    """Add a command that calls `run`, described by paragraphs as its --help shows them.

    They are a summary, which the program's help shows too, details, options and examples; see
    `add_options`. Options below a line that ends in a colon are a group with this title.
    """
    summary, *paragraphs, examples = words.split("\n\n")
    options = [match for each in paragraphs if (match := _OPTIONS.fullmatch(each))]
    details = "\n\n".join(each for each in paragraphs if not _OPTIONS.fullmatch(each))
    command = commands.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.\n\n{details}".strip(),
        epilog=f"{'examples' if len(examples.splitlines()) > 1 else 'example'}:\n{examples}",
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    command.set_defaults(run=run, parser=command)
    # Without a default, --mirror before the command is kept.
    command.add_argument(
        "--mirror", metavar="DIR", default=argparse.SUPPRESS, help=argparse.SUPPRESS
    )
    for title, listed in (match.groups() for match in options):
        add_options(command.add_argument_group(title) if title else command, listed, **more)
    return command


def add_options(command: argparse._ActionsContainer, listed: str, **more: Any) -> None:
    """Add options listed as --help shows them: name, value and, after two spaces, the meaning.

    An option without a value is a flag. Values with | between them are choices; others have
    the type that VALUES knows by their name. more: further arguments of `add_argument`, by
    the option's name.

    >>> parser = argparse.ArgumentParser()
    >>> add_options(parser, "--seed S  a number\\n--by a|b\\n    a turn\\n--force  a flag")
    >>> parser.parse_args(["--seed", "7", "--by", "b"])
    Namespace(seed=7, by='b', force=False)
    """
    for option in re.split(r"\n(?=-)", listed):
        head, meaning = re.split(r"\s{2,}", option, maxsplit=1)
        name, _, value = head.partition(" ")
        how: dict[str, Any] = {"help": " ".join(meaning.split())}
        if not value:
            how["action"] = "store_true"
        elif "|" in value:
            how["choices"] = value.split("|")
        else:
            how |= {"metavar": value, "type": VALUES.get(value)}
        command.add_argument(name, **how | more.get(name[2:].replace("-", "_"), {}))


def sources(args: argparse.Namespace) -> dict[str, object]:
    """Return the options VIA and ADDRESSES that were given, and the servers that --api implies."""
    from tcgamirror.mirror.settings import BUCKET, GDC, GDC_TILES, address

    options = ("via", "api", "tiles", "bucket")
    given = {name: value for name in options if (value := getattr(args, name, None)) is not None}
    if "api" not in given:
        return given
    api = address(given["api"], "--api")
    own = {"tiles": GDC_TILES, "bucket": BUCKET}
    return (own if api == GDC else {"tiles": f"{api}/tile", "bucket": "none"}) | given
