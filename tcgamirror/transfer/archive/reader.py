"""Exports read, of which nothing is believed.

A reader gives an archive's plain files one after another and refuses all else
that an archive can hold. Nothing is ever unpacked by name: no name leads anywhere.
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Protocol

from tcgamirror.catalogue.journals import ROLLBACK, WAL
from tcgamirror.mirror.directory import CATALOGUE, WORK
from tcgamirror.model.errors import BadExport, WrongUse
from tcgamirror.system.openat import Tree
from tcgamirror.transfer.archive.format import Form, refusal
from tcgamirror.transfer.archive.members import Member, Names
from tcgamirror.transfer.archive.tar_reader import Tar

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
        self._tree = Tree(root)
        if _state(self._tree) is None:
            raise self._in_use()

    def _in_use(self) -> WrongUse:
        return WrongUse(f"{self._root} is a mirror in use: make an export of it and import that")

    def members(self) -> Iterator[Member]:
        yield from self._within("", Names(), depth=0)

    def _within(self, folder: str, names: Names, depth: int) -> Iterator[Member]:
        for entry, found in self._tree.entries(folder):
            path = f"{folder}/{entry}" if folder else entry
            # What a file manager or a run leaves beside the export is nobody's harm.
            if entry.startswith(".") or path == WORK:
                continue
            if stat.S_ISDIR(found.st_mode):
                if depth < 3:
                    yield from self._within(path, names, depth + 1)
                continue
            if not stat.S_ISREG(found.st_mode):
                raise BadExport(f"{path} in it is a link or no file")
            name = names.checked(path)
            with closing(_File(self._tree, path)) as file:
                yield Member(name, found.st_size, file.read)
                if file.is_torn():
                    raise self._in_use()


def _state(tree: Tree, path: str = CATALOGUE) -> tuple[object, ...] | None:
    """Return what is another one after any change of the catalogue; None during one.

    A change counts up in the file's first bytes, or lies in a journal, or at least sets the
    file's time: so what has the same state before and after it was read was read whole.
    Source: SQLite's file format, the database header.
    """
    for suffix in (WAL, ROLLBACK):
        with suppress(OSError):
            if tree.stat(path + suffix).st_size:
                return None
    with suppress(OSError), tree.open(path) as file:
        found = os.fstat(file.fileno())
        return found.st_ino, found.st_size, found.st_mtime_ns, file.read(_HEADER)
    return ()


class _File:
    """One file of a directory, opened when it is first read: of most only the size is asked for."""

    def __init__(self, tree: Tree, path: str) -> None:
        self._tree = tree
        self._path = path
        self._is_catalogue = path.split("/")[-1] == CATALOGUE
        self._opened: io.FileIO | None = None
        self._before: tuple[object, ...] | None = ()

    def read(self, count: int) -> bytes:
        if self._opened is None:
            if self._is_catalogue:
                self._before = _state(self._tree, self._path)
            self._opened = self._tree.open(self._path)
        return self._opened.read(count)

    def is_torn(self) -> bool:
        """Return whether it is a catalogue that was written while it was read."""
        if self._opened is None or not self._is_catalogue:
            return False
        return self._before is None or _state(self._tree, self._path) != self._before

    def close(self) -> None:
        if self._opened is not None:
            self._opened.close()
