"""Exports read, of which nothing is believed.

A reader gives an archive's plain files one after another and refuses all else
that an archive can hold. Nothing is ever unpacked by name: no name leads anywhere.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import BinaryIO, Protocol

from tcgamirror.errors import BadExport, WrongUse
from tcgamirror.home import CATALOGUE, WORK
from tcgamirror.transfer.layout import Form, refusal
from tcgamirror.transfer.members import Member, Names
from tcgamirror.transfer.tars import Tar

_HEADER = 100
"""Bytes at a catalogue's beginning that tell of its changes."""


class Archive(Protocol):
    """Something that holds files. `members` may be gone through again and again."""

    def members(self) -> Iterator[Member]:
        """Every file, each name once. Raises BadExport for all that is no plain file."""
        ...


def opened(path: Path) -> Archive:
    """Return a reader of the export at `path`. Raises WrongUse if there is none."""
    if path.is_dir():
        return _Folder(path)
    if Form.of(path) is Form.TAR and path.is_file():
        return Tar(path)
    raise refusal(path)


def read_through(archive: Archive) -> Iterator[Member]:
    """All members. Raises BadExport where the disk or its permissions keep one from being read."""
    members = archive.members()
    while True:
        try:
            member = next(members, None)
        except OSError as error:
            what = f"{error.filename} in it" if error.filename else "it"
            raise BadExport(f"{what} cannot be read ({error.strerror})") from error
        if member is None:
            return
        yield member


# Directories -----------------------------------------------------------------------


class _Folder:
    """A directory: an export, one that was unpacked, or a mirror itself."""

    def __init__(self, root: Path) -> None:
        self._root = root
        if _state(root / CATALOGUE) is None:
            raise self._in_use()

    def _in_use(self) -> WrongUse:
        return WrongUse(f"{self._root} is a mirror in use: make an export of it and import that")

    def members(self) -> Iterator[Member]:
        yield from self._within(self._root, "", Names(), depth=0)

    def _within(self, folder: Path, prefix: str, names: Names, depth: int) -> Iterator[Member]:
        for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
            path = prefix + entry.name
            # What a file manager or a run leaves beside the export is nobody's harm.
            if entry.name.startswith(".") or path == WORK:
                continue
            if entry.is_dir(follow_symlinks=False):
                if depth < 3:
                    yield from self._within(Path(entry), f"{path}/", names, depth + 1)
                continue
            if not entry.is_file(follow_symlinks=False):
                raise BadExport(f"{path} in it is a link or no file")
            name = names.checked(path)
            with closing(_File(Path(entry))) as file:
                yield Member(name, entry.stat(follow_symlinks=False).st_size, file.read)
                if file.is_torn():
                    raise self._in_use()


def _state(catalogue: Path) -> tuple[object, ...] | None:
    """What is another one after any change of the catalogue; None during one, or before it.

    A change counts up in the file's first bytes, or lies in a journal, or at least sets the
    file's time: so what has the same state before and after it was read was read whole.
    Source: SQLite's file format, the database header.
    """
    for end in ("-wal", "-journal"):
        journal = catalogue.with_name(f"{catalogue.name}{end}")
        if journal.is_file() and journal.stat().st_size:
            return None
    if catalogue.is_symlink() or not catalogue.is_file():
        return ()
    with suppress(OSError), catalogue.open("rb", buffering=0) as file:
        found = os.fstat(file.fileno())
        return found.st_ino, found.st_size, found.st_mtime_ns, file.read(_HEADER)
    return ()


class _File:
    """One file of a directory, opened when it is first read: of most only the size is asked for."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._opened: BinaryIO | None = None
        self._before: tuple[object, ...] | None = ()

    def read(self, count: int) -> bytes:
        if self._opened is None:
            if self._path.name == CATALOGUE:
                self._before = _state(self._path)
            # Whatever it has become since it was seen.
            handle = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            self._opened = os.fdopen(handle, "rb")
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise BadExport(f"{self._path} is no file")
        return self._opened.read(count)

    def is_torn(self) -> bool:
        """Whether it is a catalogue that was written while it was read."""
        if self._opened is None or self._path.name != CATALOGUE:
            return False
        return self._before is None or _state(self._path) != self._before

    def close(self) -> None:
        if self._opened is not None:
            self._opened.close()
