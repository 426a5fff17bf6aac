"""`export` and `import`: the mirror carried to other machines."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import time
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

from tcgamirror.cli import output
from tcgamirror.cli.common import home_of
from tcgamirror.errors import ExitCode
from tcgamirror.transfer.export import Asked, Exported, export
from tcgamirror.transfer.layout import check_ending

if TYPE_CHECKING:
    from tcgamirror.transfer.importing import Imported

SHOWN = 20
"""Images named on the terminal."""


class _Told:
    """Tells how it goes: over and over on a terminal, a line now and then elsewhere."""

    def __init__(self, word: str, *, quiet: bool) -> None:
        self._word = word
        self._quiet = quiet
        self._terminal = sys.stderr.isatty()
        self._said = time.monotonic()

    def __call__(self, got: int, total: int, size: int) -> None:
        every = 0.2 if self._terminal else output.QUIET_SECONDS
        now = time.monotonic()
        if self._quiet or (now - self._said < every and got < total):
            return
        words = f"{self._word} {got:,} of {total:,} images, {output.in_bytes(size)}"
        if self._terminal:
            end = "\r\033[K" if got >= total else f"\r\033[K{words} "
            print(end, end="", file=sys.stderr, flush=True)
        elif now - self._said >= every:
            output.say(words)
        self._said = now


def export_mirror(given: argparse.Namespace) -> ExitCode:
    home = home_of(given)
    if given.dest is not None:
        check_ending(given.dest)
    asked = Asked(given.only, given.since)
    made = export(home, given.dest, asked, _Told("exported", quiet=given.json))
    code = ExitCode.DAMAGED if made.lacking else ExitCode.DONE
    # Standard output may be the archive itself.
    with redirect_stdout(sys.stderr) if given.dest is None else nullcontext():
        if given.json:
            print(json.dumps({**dataclasses.asdict(made), "exit_code": int(code)}))
        else:
            _tell_exported(made)
    return code


def _tell_exported(made: Exported) -> None:
    where = "standard output" if made.dest == "-" else made.dest
    rate = output.in_bytes(made.bytes / max(made.seconds, 0.001))
    print(
        f"{output.slides(sum(made.slides.values()))} with {output.images(made.images)} in "
        f"{where}: {output.in_bytes(made.bytes)} at {rate}/s in {output.in_time(made.seconds)}"
    )
    if made.earlier:
        print(f"{output.images(made.earlier)} left out, because an earlier export has them")
    if made.lacking:
        _name([(path, "damaged or missing") for path in made.lacking], "not exported")
        print("tcgamirror verify --repair fetches them again; in the export they are pending")


def import_into(given: argparse.Namespace) -> ExitCode:
    # Only now: an export decodes nothing.
    from tcgamirror.transfer.importing import import_export

    # A new mirror is made where it is named, as init does; one that is there may be above.
    named = given.mirror or os.environ.get("TCGAMIRROR")
    root = Path(named) if named else home_of(given).root
    made = import_export(root, given.source, _Told("imported", quiet=given.json))
    if given.json:
        print(json.dumps({**dataclasses.asdict(made), "exit_code": int(made.exit_code)}))
    else:
        _tell_imported(made)
    return made.exit_code


def _tell_imported(made: Imported) -> None:
    print(
        f"{'made a mirror in ' if made.new else ''}{made.root}: {output.slides(made.slides)} "
        f"added, {output.images(made.images)} taken in ({output.in_bytes(made.bytes)}), "
        f"{made.same:,} here already"
    )
    if made.older:
        print(f"{output.images(made.older)} left out, because what is here is newer")
    if made.lacking:
        print(
            f"{output.images(made.lacking)} {output.are(made.lacking)} not in the export: import "
            "the earlier one that it was made since, or run tcgamirror update"
        )
    for words in made.dropped:
        print(output.text(f"not taken over, because it names a file of the other machine: {words}"))
    if made.refused:
        _name([(stray.path, stray.what) for stray in made.refused], "not taken in")
        print("these slides stay as they were; tcgamirror update fetches what is pending")


def _name(rows: list[tuple[str, str]], title: str) -> None:
    print(output.table((title, "what"), rows[:SHOWN]))
    if len(rows) > SHOWN:
        print(f"... and {len(rows) - SHOWN:,} more (all of them with --json)")
