"""Exports read, of which nothing is believed.

A reader yields an export's plain files one after another and refuses all else. Nothing is ever
unpacked by its name, so no name leads anywhere. The first pass keeps the few small files.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

from tcgamirror.catalogue.journals import ROLLBACK, WAL
from tcgamirror.mirror.directory import CATALOGUE, WORK
from tcgamirror.mirror.settings import FILE_NAME
from tcgamirror.model.errors import BadExport, UsageError
from tcgamirror.system.files import disk_errors, file_digest
from tcgamirror.system.openat import Tree
from tcgamirror.transfer.archive.format import (
    EARLIER,
    MAX_BYTES,
    MAX_LOCK_BYTES,
    SUMS,
    Form,
    Member,
    Names,
    parse_sums,
    refusal,
)
from tcgamirror.transfer.archive.tar import receive, tar_members

_HEADER = 100
"""Bytes of a catalogue's header, which any change changes."""

_KEPT = (FILE_NAME, CATALOGUE, SUMS, EARLIER)

_MAX_KEPT = 16
"""Small files at an export's top, or beside it. An export has five."""

_MAX_DEPTH = 3

Value = TypeVar("Value")


Reader = Callable[[], Iterator[Member]]
"""An export in any form: each call yields all of its files, each name once.

Raises BadExport for all that is not a plain file.
"""


def open_export(path: Path) -> Reader:
    """Return a reader of the export at `path`. Raises UsageError if there is none."""
    if path.is_dir():
        return _DirectoryReader(path).members
    if Form.of(path) is Form.TAR and path.is_file():
        return partial(tar_members, path)
    raise refusal(path)


def _members(reader: Reader) -> Iterator[Member]:
    """Yield all members. Raises BadExport where the system lets one not be read."""
    members = reader()
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


class _DirectoryReader:
    """A directory: an export, an unpacked one, or a mirror."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._tree = Tree(root)
        if _state(self._tree, CATALOGUE) is None:
            raise self._in_use()

    def _in_use(self) -> UsageError:
        return UsageError(f"{self._root}: is a mirror in use. Export it, and import the export")

    def members(self) -> Iterator[Member]:
        names = Names()
        for path, size in self._files("", depth=0):
            yield from self._member(names.checked(path), size)

    def _member(self, path: str, size: int) -> Iterator[Member]:
        """Yield one file, which is opened when it is first read: most are not."""
        before = _state(self._tree, path)
        with ExitStack() as stack:
            opened = cache(lambda: stack.enter_context(self._tree.open(path)))
            yield Member(path, size, lambda count: opened().read(count))
            is_read = opened.cache_info().currsize > 0
            if is_read and (before is None or _state(self._tree, path) != before):
                raise self._in_use()

    def _files(self, folder: str, depth: int) -> Iterator[tuple[str, int]]:
        """Yield path and size of every plain file. Raises BadExport for links and the like."""
        for entry, status in self._tree.entries(folder):
            path = f"{folder}/{entry}" if folder else entry
            # File managers and runs leave such beside an export.
            if entry.startswith(".") or path == WORK:
                continue
            if stat.S_ISDIR(status.st_mode):
                if depth < _MAX_DEPTH:
                    yield from self._files(path, depth + 1)
            elif stat.S_ISREG(status.st_mode):
                yield path, status.st_size
            else:
                raise BadExport(f"{path} in it is a link or not a plain file")


def _state(tree: Tree, path: str) -> tuple[object, ...] | None:
    """Return a value that differs after any change of a catalogue; None during a change.

    It is empty for any other file. A change counts up in the file's header, or lies in a
    journal, or at least sets the file's time. Source: SQLite's file format, the database header.
    """
    if path.split("/")[-1] != CATALOGUE:
        return ()
    for suffix in (WAL, ROLLBACK):
        with suppress(OSError):
            if tree.stat(path + suffix).st_size:
                return None
    with suppress(OSError), tree.open(path) as file:
        status = os.fstat(file.fileno())
        return status.st_ino, status.st_size, status.st_mtime_ns, file.read(_HEADER)
    return ()


# All of an export ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Scan:
    """The content of an export, by paths in the mirror.

    top: prefix of every name; empty, or ends in a slash. sizes: of all files.
    small: copies of the small files.
    """

    reader: Reader
    top: str
    sizes: dict[str, int]
    small: dict[str, Path]

    def members(self) -> Iterator[Member]:
        """Yield every file."""
        for member in _members(self.reader):
            if member.name.startswith(self.top):
                name = member.name.removeprefix(self.top)
                yield Member(name, member.size, member.read)

    def text(self, path: str) -> str:
        """Return a small file's text, empty if there is none."""
        return _text(self.small[path], f"{path} in it") if path in self.small else ""


def scan_export(path: Path | None, folder: Path, required: str = FILE_NAME) -> Scan:
    """Read all of the export at `path`, and copy its small files to the empty `folder`.

    Args:
        path: None for a tar archive on standard input, which is copied to the folder, too.
        required: a file at an export's top. The top may be a directory that holds all else.

    Raises:
        BadExport: for what is in no export, and for one without the required file.
    """
    reader = open_export(_copy_stdin(folder) if path is None else path)
    sizes: dict[str, int] = {}
    small: dict[str, Path] = {}
    for member in _members(reader):
        sizes[member.name] = member.size
        if _is_small(member.name):
            if len(small) >= _MAX_KEPT:
                raise BadExport(f"it has too many files called {' or '.join(_KEPT)}")
            small[member.name] = folder / str(len(small))
            _copy(member, small[member.name])
    tops = [name.removesuffix(required) for name in sizes if name.split("/")[-1] == required]
    tops = [top for top in tops if top.count("/") <= 1]
    if len(tops) != 1 and "" not in tops:
        raise BadExport(f"it has {required} more than once" if tops else f"it has no {required}")
    top = "" if "" in tops else tops[0]
    is_alone = all(name.startswith((top, ".")) for name in sizes)
    if path is not None and path.is_dir() and not is_alone:
        raise BadExport(f"it holds other things beside {top}: name that directory itself")
    return Scan(reader, top, _below(top, sizes), _below(top, small))


def _copy_stdin(folder: Path) -> Path:
    """Write standard input to a file, because an archive is read twice."""
    if sys.stdin.isatty():
        raise UsageError("standard input: is a terminal. Pipe a tar archive to import -")
    path = folder / "stdin.tar"
    receive(sys.stdin.buffer, path)
    return path


def _below(top: str, values: dict[str, Value]) -> dict[str, Value]:
    return {name.removeprefix(top): value for name, value in values.items() if name.startswith(top)}


def _is_small(name: str) -> bool:
    parts = name.split("/")
    return len(parts) <= 2 and (parts[-1] in _KEPT or parts[-1].endswith(".lock"))


def _copy(member: Member, path: Path) -> None:
    largest = MAX_BYTES.get(member.name.split("/")[-1], MAX_LOCK_BYTES)
    if member.size > largest:
        raise BadExport(f"{member.name} in it has {member.size:,} bytes, more than any has")
    with disk_errors(path), path.open("wb") as file:
        file.writelines(member.pieces())


def _text(path: Path, name: str) -> str:
    """Return a small file's text. Raises BadExport, which has `name`, for one that has none."""
    size = path.stat().st_size
    if size > max(MAX_BYTES[SUMS], MAX_LOCK_BYTES):
        raise BadExport(f"{name} has {size:,} bytes, more than any has")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise BadExport(f"{name} is not text") from error


# Digests ---------------------------------------------------------------------------


def check_sums(scan: Scan) -> None:
    """Compare the small files with SHA256SUMS, which a mirror does not have."""
    sums = parse_sums(scan.text(SUMS), SUMS)
    for name, path in scan.small.items():
        is_listed = name in sums or (sums and name in _KEPT and name != SUMS)
        if is_listed and sums.get(name) != file_digest(path, "sha256"):
            raise BadExport(f"{name} in it does not have its digest in {SUMS}: it was damaged")


def sums_of(path: Path) -> dict[str, str]:
    """Return digests by path of all files in an export and those before it.

    path: of a directory, an archive, or a SHA256SUMS.
    """
    if path.is_file() and Form.of(path) is Form.DIRECTORY:
        files = (path.with_name(EARLIER), path)
        texts = [_text(file, str(file)) for file in files if file.is_file()]
    else:
        with TemporaryDirectory() as folder:
            scan = scan_export(path, Path(folder), required=SUMS)
            texts = [scan.text(EARLIER), scan.text(SUMS)]
    sums: dict[str, str] = {}
    for text in texts:
        sums.update(parse_sums(text, f"{SUMS} of {path}"))
    return sums
