"""What the commands share: the mirror they work on, parsers, the end of a run."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import NoReturn

from tcgamirror.cli import output
from tcgamirror.mirror.directory import Mirror
from tcgamirror.model.errors import TcgaMirrorError, UsageError
from tcgamirror.system.interrupt import Shutdown


def home_of(given: argparse.Namespace) -> Mirror:
    """The mirror named, or that of the environment, or the nearest above the current directory."""
    named = given.mirror or os.environ.get("TCGAMIRROR")
    if named:
        return Mirror.find(Path(named), above=False)
    return Mirror.find(Path(), above=True)


def leave_if_busy(shutdown: Shutdown, error: TcgaMirrorError, *, as_json: bool) -> None:
    """End the program for that reason where workers were left behind; else do nothing.

    Python itself would wait for the threads that are still at work.
    """
    if shutdown.workers_abandoned:
        output.fail(error, as_json=as_json)
        os._exit(error.exit_code)


class Parser(argparse.ArgumentParser):
    """One sentence for a mistake, instead of all that might have been said."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see {self.prog} --help)")


def add_command(
    commands: argparse._SubParsersAction[Parser], name: str, about: str, examples: str = ""
) -> argparse.ArgumentParser:
    command = commands.add_parser(
        name,
        help=about,
        description=about[0].upper() + about[1:] + ".",
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    # Either place is natural. Without a default, so that what stands before is not undone.
    command.add_argument(
        "--mirror", type=Path, metavar="DIR", default=argparse.SUPPRESS, help=argparse.SUPPRESS
    )
    return command


def say_addresses(command: argparse._ActionsContainer) -> None:
    command.add_argument(
        "--api", metavar="URL", help="another GDC (default: https://api.gdc.cancer.gov)"
    )
    command.add_argument("--tiles", metavar="URL", help="its tile server (default: the GDC's own)")
    command.add_argument(
        "--bucket",
        metavar="URL",
        help="the open-data bucket, or none (default: that of TCGA; none with another GDC)",
    )


def say_log(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--log", type=Path, metavar="FILE", help="append what is done to FILE as JSON lines"
    )
