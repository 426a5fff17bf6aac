"""Where an export is made: beside its place, by one run alone, and of nobody else's files."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from tcgamirror.mirror.directory import CATALOGUE, LOCK
from tcgamirror.model.errors import WrongUse
from tcgamirror.system.lock import Lock
from tcgamirror.transfer.layout import HELD, UNFINISHED, Form


def check_dest(root: Path, dest: Path | None) -> None:
    """Raise WrongUse where no export of the mirror at `root` can be made; None: standard output."""
    if dest is None:
        if sys.stdout.isatty():
            raise WrongUse("standard output is a terminal: pipe the archive, or name a file")
        return
    if dest.resolve().is_relative_to(root.resolve()):
        raise WrongUse(f"{dest} is in the mirror itself: name a place outside")
    if not dest.name or dest.is_mount():
        raise WrongUse(f"{dest} is no place of its own: name a directory or an archive in it")
    if not dest.absolute().parent.is_dir():
        raise WrongUse(f"{dest.absolute().parent} is no directory: make it, or name another place")
    _check_free(dest)


def _check_free(dest: Path) -> None:
    empty = dest.is_dir() and not dest.is_symlink() and not any(dest.iterdir())
    if os.path.lexists(dest) and not empty:
        raise WrongUse(f"{dest} is there already: name another place, or remove it first")


def are_apart(work: Path, root: Path) -> bool:
    """Whether the two lie on different disks, as far as the system tells."""
    return work.stat().st_dev != root.stat().st_dev


@contextmanager
def workplace(dest: Path | None, form: Form) -> Iterator[Path]:
    """The directory beside `dest` where it is made, held by this run alone.

    An archive's is removed at the end however it ends; a directory's is what it becomes.
    For standard output (None) it is among the temporary files.
    """
    if dest is None:
        with TemporaryDirectory(prefix="tcgamirror-") as folder:
            yield Path(folder)
        return
    work = dest.with_name(f"{dest.name}{UNFINISHED}")
    _check_ours(work, dest, form)
    with Lock(work / HELD, "export"):
        here = True
        try:
            _check_free(dest)
            if form is not Form.DIRECTORY:
                _remove_archive(work, dest)
            yield work
            here = form is not Form.DIRECTORY
        finally:
            # Once it is in its place, what lies here is another run's.
            if here:
                if form is not Form.DIRECTORY:
                    _remove_archive(work, dest)
                _remove_if_empty(work)


def _remove_if_empty(work: Path) -> None:
    """Removes the directory where nothing but the lock is left in it."""
    with suppress(OSError):
        if [path.name for path in work.iterdir()] == [HELD]:
            (work / HELD).unlink()
            work.rmdir()


def _check_ours(work: Path, dest: Path, form: Form) -> None:
    """Raises WrongUse for what no killed export left: it may be a mirror, or anybody's."""
    if not os.path.lexists(work):
        return
    # Whoever else made it may have put links there.
    if not work.is_symlink() and work.is_dir() and work.stat().st_uid == os.geteuid():
        there = {path.name: path for path in work.iterdir()}
        others = [name for name, path in there.items() if path.is_dir() or not _is_of(dest, name)]
        # A run that writes to a mirror leaves its own lock there.
        ours = HELD in there and LOCK not in there and (form is Form.DIRECTORY or not others)
        if ours or not there:
            return
    raise WrongUse(
        f"{work} is in the way, where the export would be made: move it, or remove it if it is "
        "what an older tcgamirror left of an export that was killed"
    )


def _is_of(dest: Path, name: str) -> bool:
    """Whether a file of that name is of an archive `dest` that is being made."""
    return name in (HELD, dest.name) or name.startswith(CATALOGUE)


def _remove_archive(work: Path, dest: Path) -> None:
    """What an archive was made of, and nothing else. The lock stays."""
    with suppress(OSError):
        for path in work.iterdir():
            if path.name != HELD and _is_of(dest, path.name):
                path.unlink()
