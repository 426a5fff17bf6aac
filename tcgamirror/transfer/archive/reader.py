"""Exports read, of which nothing is believed.

A reader gives an archive's plain files one after another and refuses all else
that an archive can hold. Nothing is ever unpacked by name: no name leads anywhere.

What an export holds, seen by going through it once: names, sizes, and its few small files.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import stat
import sys
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol, TypeVar

from tcgamirror.catalogue.journals import ROLLBACK, WAL
from tcgamirror.mirror.directory import CATALOGUE, WORK
from tcgamirror.mirror.settings import FILE_NAME
from tcgamirror.model.errors import BadExport, UsageError
from tcgamirror.system.files import disk_errors
from tcgamirror.system.openat import Tree
from tcgamirror.transfer.archive.format import (
    EARLIER,
    MOST_BYTES,
    MOST_LOCK,
    SUMS,
    Form,
    parsed_sums,
    refusal,
)
from tcgamirror.transfer.archive.members import Member, Names
from tcgamirror.transfer.archive.tar_reader import Tar

_HEADER = 100
"""Bytes at a catalogue's beginning that tell of its changes."""

Kept = TypeVar("Kept")

KEPT = (FILE_NAME, CATALOGUE, SUMS, EARLIER)

_MOST_SMALL = 16
"""Files at an export's top, or beside it: there are five."""


class Archive(Protocol):
    """Something that holds files. `members` may be gone through again and again."""

    def members(self) -> Iterator[Member]:
        """Every file, each name once. Raises BadExport for all that is no plain file."""
        ...


def opened(path: Path) -> Archive:
    """Return a reader of the export at `path`. Raises UsageError if there is none."""
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

    def _in_use(self) -> UsageError:
        return UsageError(f"{self._root} is a mirror in use: make an export of it and import that")

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


@dataclass(frozen=True, slots=True)
class Scan:
    """What was seen.

    top: begins every name; empty, or ends in a slash. sizes, small: of all
    files and where the small ones are kept, by path after it.
    """

    archive: Archive
    top: str
    sizes: dict[str, int]
    small: dict[str, Path]

    def members(self) -> Iterator[Member]:
        """What is in the export, by its paths in the mirror."""
        for member in read_through(self.archive):
            if member.name.startswith(self.top):
                name = member.name.removeprefix(self.top)
                yield Member(name, member.size, member.read)

    def text(self, path: str) -> str:
        """A small file that was kept, empty if there is none."""
        if path not in self.small:
            return ""
        return _text(self.small[path], f"{path} in it")


def scanned(path: Path | None, folder: Path, needed: str = FILE_NAME) -> Scan:
    """Go through all of the export at `path` and keep its small files in the empty `folder`.

    path: None for a tar archive on standard input, which is kept in the folder, too.
    needed: what lies at an export's top, which may be a directory in it that is all it
    holds. Raises BadExport for what is in no export, or if one has no such file.
    """
    archive = opened(_received(folder) if path is None else path)
    sizes: dict[str, int] = {}
    small: dict[str, Path] = {}
    for member in read_through(archive):
        sizes[member.name] = member.size
        if _is_small(member.name):
            if len(small) >= _MOST_SMALL:
                raise BadExport(f"it has too many files called {' or '.join(KEPT)}")
            small[member.name] = folder / str(len(small))
            _keep(member, small[member.name])
    tops = [name.removesuffix(needed) for name in sizes if name.split("/")[-1] == needed]
    tops = [top for top in tops if top.count("/") <= 1]
    if len(tops) != 1 and "" not in tops:
        raise BadExport(f"it has no {needed}" if not tops else f"it has {needed} more than once")
    top = "" if "" in tops else tops[0]
    if (
        path is not None
        and path.is_dir()
        and not all(name.startswith((top, ".")) for name in sizes)
    ):
        raise BadExport(f"it holds other things beside {top}: name that directory itself")
    return Scan(archive, top, _below(top, sizes), _below(top, small))


def _received(folder: Path) -> Path:
    """Write standard input to a file, as an archive is read twice: first all that is in it."""
    if sys.stdin.isatty():
        raise UsageError("standard input is a terminal: pipe a tar archive to import -")
    path = folder / "stdin.tar"
    with disk_errors(path), path.open("xb") as file:
        shutil.copyfileobj(sys.stdin.buffer, file, 1 << 20)
    return path


def _text(path: Path, called: str) -> str:
    """A small file. Raises BadExport for one that is no text, or too large to be what it is for."""
    most = max(MOST_BYTES[SUMS], MOST_LOCK)
    if path.stat().st_size > most:
        raise BadExport(f"{called} has {path.stat().st_size:,} bytes, more than any has")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise BadExport(f"{called} is no text") from error


def _below(top: str, named: dict[str, Kept]) -> dict[str, Kept]:
    return {name.removeprefix(top): value for name, value in named.items() if name.startswith(top)}


def _is_small(name: str) -> bool:
    parts = name.split("/")
    return len(parts) <= 2 and (parts[-1] in KEPT or parts[-1].endswith(".lock"))


def _keep(member: Member, path: Path) -> None:
    most = MOST_BYTES.get(member.name.split("/")[-1], MOST_LOCK)
    if member.size > most:
        raise BadExport(f"{member.name} in it has {member.size:,} bytes, more than any has")
    with disk_errors(path), path.open("wb") as file:
        for piece in member.pieces():
            file.write(piece)


def check_sums(scan: Scan) -> None:
    """Compares the small files with SHA256SUMS, if the export has it, as a mirror has not."""
    sums = parsed_sums(scan.text(SUMS), SUMS)
    for name, path in scan.small.items():
        taken = hashlib.sha256()
        with path.open("rb") as file:
            while piece := file.read(1 << 20):
                taken.update(piece)
        told = name in sums or (sums and name in KEPT and name != SUMS)
        if told and sums.get(name) != taken.hexdigest():
            raise BadExport(f"{name} in it is not what {SUMS} says: it was damaged on its way")


def sums_of(path: Path) -> dict[str, str]:
    """Digests by path of all that an export and those before it hold.

    path: of a directory, an archive, or a SHA256SUMS beside which lies what it was made since.
    """
    if path.is_file() and Form.of(path) is Form.DIRECTORY:
        earlier = path.with_name(EARLIER)
        texts = [_text(file, str(file)) for file in (earlier, path) if file.is_file()]
    else:
        with TemporaryDirectory() as folder:
            scan = scanned(path, Path(folder), needed=SUMS)
            texts = [scan.text(EARLIER), scan.text(SUMS)]
    sums: dict[str, str] = {}
    for text in texts:
        sums.update(parsed_sums(text, f"{SUMS} of {path}"))
    return sums
