"""`lock`: the sample as a text file that can be cited."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from tcgamirror.cli import output
from tcgamirror.cli.common import open_catalogue, replace_file
from tcgamirror.mirror.lockfile import (
    WAYS,
    Differences,
    LockFile,
    compare,
    compares_pixels,
    lock_lines,
    make_lock,
    read_lock,
)
from tcgamirror.mirror.settings import Settings
from tcgamirror.model import text
from tcgamirror.model.errors import ExitCode, UsageError
from tcgamirror.system.files import differs

MOST_NAMED = 5
"""Slides that one line names; `lock --check` names them all."""


_SHOWN = {"others": "other image", "excluded": "exclusion"}
"""Words of `lock --check` for ways of differing that have others in JSON."""


def do_lock(args: argparse.Namespace) -> ExitCode:
    if args.check:
        return _check(args)
    with open_catalogue(args) as (mirror, catalogue):
        made = make_lock(mirror.settings, catalogue)
    if not made.planned:
        output.say(
            "the sample's plan is unknown or was changed. The lock file names its slides, but no "
            "seed, order, by, kind or projects"
        )
    if args.file is None:
        sys.stdout.buffer.writelines(lock_lines(made))
        return ExitCode.DONE
    with replace_file(args.file) as file:
        file.writelines(lock_lines(made))
        if differs(args.file, file):
            raise UsageError(
                f"{args.file}: exists and is not this lock file. Name another file or remove it "
                "(lock --check compares a lock file with the mirror)"
            )
    pending = sum(slide.sha256 is None and not slide.excluded for slide in made.slides)
    without = f", {pending:,} of them without an image yet" if pending else ""
    print(f"{args.file} names {text.slides(len(made.slides))}{without}")
    return ExitCode.DONE


def _check(args: argparse.Namespace) -> ExitCode:
    """Print every slide that is not as locked, one a line."""
    if args.file is None:
        raise UsageError("lock --check: missing lock file. Add FILE")
    locked = read_lock(args.file, accept_altered=True)
    warn_if_altered(locked, args.file)
    with open_catalogue(args) as (mirror, catalogue):
        found = compare(locked, mirror.settings, catalogue)
        more = len(set(catalogue.sample.names()).difference(locked.names))
    for way, names in found.items():
        for name in names:
            print(f"{_SHOWN.get(way, way):11}  {name}")
    say_comparison(locked, args.file, mirror.settings)
    differing = sum(map(len, found.values()))
    same = len(locked.slides) - differing
    besides = f"; {text.slides(more)} of the mirror not in the lock file" if more else ""
    print(f"{same:,} of {text.slides(len(locked.slides))} are as locked{besides}")
    return ExitCode.SOME_FAILED if differing else ExitCode.DONE


def warn_if_altered(lock: LockFile, path: Path) -> None:
    """Warn of a lock file that was changed after it was written."""
    if lock.altered:
        output.say(
            f"{path}: changed since it was written, so it is not the lock file that was cited. Its "
            f"{text.slides(len(lock.slides))} are taken as they stand"
        )


def say_comparison(lock: LockFile, path: Path, settings: Settings) -> None:
    """Say how images of a mirror of other settings are compared with the locked ones."""
    if lock.settings.fixed != settings.fixed:
        by_pixels = compares_pixels(lock, settings)
        how = "compared by their pixels alone" if by_pixels else "not compared"
        output.say(f"images are {how}: {path} has {lock.settings.fixed}, not {settings.fixed}")


def difference_words(found: Differences, name: str) -> Iterator[str]:
    """Yield a line for each way in which slides of the lock file `name` differ from it."""
    for way, names in found.items():
        if not names or not WAYS[way]:
            continue
        shown = ", ".join(names[:MOST_NAMED])
        more = f" and {len(names) - MOST_NAMED:,} more" if len(names) > MOST_NAMED else ""
        yield f"{text.slides(len(names))} of {name} {WAYS[way]}: {shown}{more}"
