"""What the commands share: the mirror they work on, parsers, the end of a run."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from tcgamirror.cli import output
from tcgamirror.mirror.directory import Home
from tcgamirror.model.errors import TcgaMirrorError
from tcgamirror.system.interrupt import Brake


def home_of(given: argparse.Namespace) -> Home:
    """The mirror named, or that of the environment, or the nearest above the current directory."""
    named = given.mirror or os.environ.get("TCGAMIRROR")
    if named:
        return Home.find(Path(named), above=False)
    return Home.find(Path(), above=True)


def leave_if_busy(brake: Brake, error: TcgaMirrorError, *, as_json: bool) -> None:
    """End the program for that reason where workers were left behind; else do nothing.

    Python itself would wait for the threads that are still at work.
    """
    if brake.left_behind:
        output.fail(error, as_json=as_json)
        os._exit(error.exit_code)
