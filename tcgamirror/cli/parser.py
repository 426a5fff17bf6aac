"""The parser of the command line, made of what each command's module adds."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from tcgamirror import __version__
from tcgamirror.cli import (
    exclude,
    get,
    help,
    init,
    lock,
    schedule,
    status,
    support,
    table,
    transfer,
    update,
    verify,
    web,
)
from tcgamirror.cli.common import HelpFormatter, Parser, did_you_mean_mirror
from tcgamirror.model.text import did_you_mean

VERSION = f"tcgamirror {__version__}"

_ABOUT = """\
An offline mirror of TCGA whole-slide images at a low, known resolution."""

_EXAMPLES = """\
examples:
  tcgamirror init tcga --slides 100 --mpp 15
  tcgamirror --mirror tcga update
  tcgamirror --mirror tcga status
  tcgamirror --mirror tcga query "select project_id, count(*) from mirror group by 1"

tcgamirror help COMMAND tells more about a command, tcgamirror help lists the manual's pages.

exit codes:
  0 all done   1 a bug   2 wrong use   3 finished, some slides failed
  4 a server cannot be reached   5 another run holds the lock   6 disk full
  7 catalogue or mirror damaged   130 interrupted"""

_MIRROR = (
    "the mirror's directory (default: $TCGAMIRROR, or the current directory or the nearest "
    "parent that is a mirror; for init: $TCGAMIRROR or the empty current directory)"
)


def make_parser() -> argparse.ArgumentParser:
    """Return the parser, also for the man page and the shells' completions."""
    parser = Parser(
        prog="tcgamirror",
        usage="tcgamirror [--mirror DIR] COMMAND ...",
        description=_ABOUT,
        epilog=_EXAMPLES,
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=VERSION)
    parser.add_argument("--mirror", metavar="DIR", help=_MIRROR)
    commands = parser.add_subparsers(
        title="commands", dest="command", metavar="COMMAND", prog="tcgamirror"
    )
    parser.set_defaults(parser=parser, run=help.introduce)
    # In the order in which --help shows them.
    first = (init, update, exclude, status, table, verify, schedule)
    for module in (*first, lock, transfer, web, get, help, support):
        module.add_commands(commands)
    return parser


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the parsed command line.

    Raises:
        UsageError: An argument is missing, unknown or invalid.
        SystemExit: --help or --version was printed.
    """
    if arguments == ["--version"]:
        # At once, without the parsers of all commands.
        print(VERSION)
        raise SystemExit
    parser = make_parser()
    args, unknown = parser.parse_known_args(arguments)
    if unknown:
        words = " ".join(map(repr, unknown))
        options = [name for action in args.parser._actions for name in action.option_strings]
        hint = did_you_mean_mirror(unknown[0]) or did_you_mean(unknown[0], options)
        args.parser.error(f"unknown argument {words}. {hint}".strip())
    args.program = parser
    return args
