"""`lock`: the sample as a list to be cited."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from tcgamirror.catalogue.catalogue import Catalogue
from tcgamirror.cli import output
from tcgamirror.cli.common import home_of
from tcgamirror.mirror.directory import CATALOGUE, Mirror
from tcgamirror.mirror.lockfile import Differences, compare, lock_lines, make_lock, read_lock
from tcgamirror.model import text
from tcgamirror.model.errors import ExitCode, UsageError
from tcgamirror.system.files import atomic_write, differs

MOST_NAMED = 5
"""Slides named in one line; `lock --check` names them all."""

LOCK = """\
examples:
  tcgamirror --mirror tcga lock sample.lock
  tcgamirror --mirror again init --lock sample.lock
  tcgamirror --mirror again lock --check sample.lock"""


def lock(given: argparse.Namespace) -> ExitCode:
    mirror = home_of(given)
    if given.check:
        return _check(mirror, given.file)
    with Catalogue.open(mirror.root / CATALOGUE, read_only=True) as catalogue:
        made = make_lock(mirror.settings, catalogue)
    if not made.planned:
        output.say(
            "the sample was drawn by more than one plan, or it is not known by which: the lock "
            "names its slides, and neither seed, order, by, kind nor projects"
        )
    if given.file is None:
        sys.stdout.buffer.writelines(lock_lines(made))
        return ExitCode.DONE
    _write(given.file, lock_lines(made))
    waiting = sum(slide.sha256 is None for slide in made.slides)
    without = f", {waiting:,} of them without an image yet" if waiting else ""
    print(f"{given.file} names {text.slides(len(made.slides))}{without}")
    return ExitCode.DONE


def _write(path: Path, lines: Iterable[bytes]) -> None:
    if path.is_dir():
        raise UsageError(f"{path} is a directory; name a file in it")
    if not path.absolute().parent.is_dir():
        raise UsageError(
            f"{path.absolute().parent}: not a directory. Make it, or name another place"
        )
    try:
        with atomic_write(path) as file:
            file.writelines(lines)
            if differs(path, file):
                raise UsageError(
                    f"{path} is there already and is not this lock: name another file, or remove "
                    "it first (lock --check compares a lock file with the mirror)"
                )
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise UsageError(f"{path} cannot be written ({why}); name another file") from error


def _check(mirror: Mirror, path: Path | None) -> ExitCode:
    """Names every slide that is not as locked, one a line."""
    if path is None:
        raise UsageError("lock --check needs the lock file to compare with: lock --check FILE")
    locked = read_lock(path)
    with Catalogue.open(mirror.root / CATALOGUE, read_only=True) as catalogue:
        found = compare(locked, catalogue)
        more = len(set(catalogue.sample.names()).difference(locked.names))
    for names, word in (
        (found.missing, "missing"),
        (found.changed, "changed"),
        (found.others, "other image"),
        (found.waiting, "waiting"),
    ):
        for name in names:
            print(f"{word:11}  {name}")
    differing = sum(map(len, found.lasting.values())) + len(found.waiting)
    same = len(locked.slides) - differing
    besides = f"; {text.slides(more)} here besides are not in it" if more else ""
    print(f"{same:,} of {text.slides(len(locked.slides))} are as locked{besides}")
    return ExitCode.SOME_FAILED if differing else ExitCode.DONE


def difference_words(found: Differences, name: str) -> Iterator[str]:
    """A line for each way in which slides of a lock file are not as locked."""
    for words, names in found.lasting.items():
        shown = ", ".join(names[:MOST_NAMED])
        more = f" and {len(names) - MOST_NAMED:,} more" if len(names) > MOST_NAMED else ""
        yield f"{text.slides(len(names))} of {name} {words}: {shown}{more}"
