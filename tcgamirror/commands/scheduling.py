"""`schedule`: ready files for whatever runs the nightly update."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from pathlib import Path

from tcgamirror.cli import schedule as kinds
from tcgamirror.cli.common import home_of
from tcgamirror.errors import ExitCode, WrongUse


def schedule(given: argparse.Namespace) -> ExitCode:
    try:
        hour, minute = kinds.time_of_day(given.time)
    except ValueError as error:
        raise WrongUse(f"--time: {error}") from None
    mirror = os.path.normpath(home_of(given).root.absolute())
    night = kinds.Night(_program(), mirror, hour, minute)
    write = {"cron": kinds.cron, "systemd": kinds.systemd, "slurm": kinds.slurm}[given.system]
    print(write(night), end="")
    return ExitCode.DONE


def _program() -> tuple[str, ...]:
    """The words that started this program, so that they work from anywhere.

    Links stay as they are: they outlast the versions they point to, and a
    virtual environment is known by its own link to Python.
    """
    if getattr(sys, "frozen", False):
        return (sys.executable,)
    started = sys.argv[0]
    found = Path(started if os.sep in started else shutil.which(started) or started).absolute()
    if found.suffix == ".py" or not os.access(found, os.X_OK):
        return sys.executable, str(found)
    return (str(found),)
