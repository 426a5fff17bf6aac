"""Untrusted exports, read from a directory, a tar archive or standard input.

All that is not a plain file is refused. Nothing is unpacked by its name, so no name can lead
out of a directory. The first pass copies the few small files.
"""

from __future__ import annotations

import stat
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

from tcgamirror.mirror.directory import CATALOGUE, WORK
from tcgamirror.mirror.settings import FILE_NAME
from tcgamirror.model.errors import BadExport, UsageError
from tcgamirror.system.files import disk_errors, file_digest
from tcgamirror.system.openat import Tree
from tcgamirror.transfer.archive.format import (
    EARLIER,
    MAX_BYTES,
    MAX_FILES,
    MAX_LOCK_BYTES,
    SUMS,
    Member,
    checked_name,
    is_tar,
    read_errors,
    read_pieces,
    read_sums,
    refusal,
)
from tcgamirror.transfer.archive.tar import receive, tar_members
from tcgamirror.transfer.untrusted import copy_at_rest

_KEPT = (FILE_NAME, CATALOGUE, SUMS, EARLIER)

_MAX_KEPT = 16
"""Small files at an export's top, or beside it. An export has five."""

_MAX_DEPTH = 3

Value = TypeVar("Value")


def members(path: Path) -> Iterator[Member]:
    """Yield every file in the export at `path`.

    Raises:
        UsageError: if there is neither a directory nor a tar archive.
        BadExport: for all but plain files, and where one cannot be read.
    """
    if path.is_dir():
        found = _directory_members(Tree(path))
    elif is_tar(path) and path.is_file():
        found = tar_members(path)
    else:
        raise refusal(path)
    with read_errors("a file"):
        yield from found


def _directory_members(tree: Tree, folder: str = "", depth: int = 0) -> Iterator[Member]:
    """Yield every file of a directory: an export, an unpacked one, or a mirror."""
    for entry, status in tree.entries(folder):
        path = f"{folder}/{entry}" if folder else entry
        # File managers and runs leave such beside an export.
        if entry.startswith(".") or path == WORK:
            continue
        if stat.S_ISDIR(status.st_mode):
            if depth < _MAX_DEPTH:
                yield from _directory_members(tree, path, depth + 1)
        elif stat.S_ISREG(status.st_mode):
            name, size = checked_name(path), status.st_size
            yield Member(name, size, partial(_file_pieces, tree, path, size))
        else:
            raise BadExport(f"{path} in it is a link or not a plain file")


def _file_pieces(tree: Tree, path: str, size: int) -> Iterator[bytes]:
    with read_errors(path), tree.open(path) as file:
        yield from read_pieces(file.read, path, size)


# All of an export ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Scan:
    """The content of an export, by paths in the mirror.

    path: of the directory or archive. top: prefix of every name in it; empty, or ends in a
    slash. sizes: of all files. small: copies of the small files.
    """

    path: Path
    top: str
    sizes: dict[str, int]
    small: dict[str, Path]

    def members(self) -> Iterator[Member]:
        """Yield every file."""
        for member in members(self.path):
            if member.name.startswith(self.top):
                yield replace(member, name=member.name.removeprefix(self.top))

    def required(self, name: str) -> Path:
        """Return the copy of a small file. Raises BadExport if there is none."""
        if name not in self.small:
            raise BadExport(f"it has no {name}")
        return self.small[name]


def scan_export(path: Path | None, folder: Path, required: str = FILE_NAME) -> Scan:
    """Read all of the export at `path`, and copy its small files to the empty `folder`.

    Args:
        path: None for a tar archive on standard input, which is copied to the folder, too.
        required: a file at an export's top. The top may be a directory that holds all else.

    Raises:
        BadExport: for what is in no export, and for one without the required file.
    """
    path = _copy_stdin(folder) if path is None else path
    sizes: dict[str, int] = {}
    small: dict[str, Path] = {}
    for member in members(path):
        if member.name in sizes:
            raise BadExport(f"it has {member.name} twice")
        if len(sizes) >= MAX_FILES:
            raise BadExport(f"it has more than {MAX_FILES:,} files")
        sizes[member.name] = member.size
        if _is_small(member.name):
            if len(small) >= _MAX_KEPT:
                raise BadExport(f"it has too many files called {' or '.join(_KEPT)}")
            small[member.name] = _copy(path, member, folder / str(len(small)))
    tops = [name.removesuffix(required) for name in sizes if name.split("/")[-1] == required]
    tops = [top for top in tops if top.count("/") <= 1]
    if len(tops) != 1 and "" not in tops:
        raise BadExport(f"it has {required} more than once" if tops else f"it has no {required}")
    top = "" if "" in tops else tops[0]
    is_alone = all(name.startswith((top, ".")) for name in sizes)
    if path.is_dir() and not is_alone:
        raise BadExport(f"it holds other things beside {top}: name that directory itself")
    return Scan(path, top, _below(top, sizes), _below(top, small))


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


def _copy(path: Path, member: Member, copy: Path) -> Path:
    """Copy a small file of the export at `path`; return its copy."""
    name = member.name.split("/")[-1]
    largest = MAX_BYTES.get(name, MAX_LOCK_BYTES)
    if member.size > largest:
        raise BadExport(f"{member.name} in it has {member.size:,} bytes, more than any has")
    if name == CATALOGUE and path.is_dir():
        # A run may be writing to it.
        with read_errors(member.name):
            return copy_at_rest(Tree(path), member.name, copy)
    with disk_errors(copy), copy.open("wb") as file:
        file.writelines(member.pieces())
    return copy


# Digests ---------------------------------------------------------------------------


def check_sums(scan: Scan) -> None:
    """Compare the small files with SHA256SUMS, which a mirror does not have."""
    sums = read_sums(scan.small[SUMS], f"{SUMS} in it") if SUMS in scan.small else {}
    for name, path in scan.small.items():
        is_listed = name in sums or (sums and name in _KEPT and name != SUMS)
        if is_listed and sums.get(name) != file_digest(path, "sha256"):
            raise BadExport(f"{name} in it does not have its digest in {SUMS}: it was damaged")


def sums_of(path: Path) -> dict[str, str]:
    """Return digests by path of all files in an export and those before it.

    path: of a directory, an archive, or a SHA256SUMS.
    """
    with TemporaryDirectory() as folder:
        if path.is_file() and not is_tar(path):
            files = {EARLIER: path.with_name(EARLIER), SUMS: path}
        else:
            files = scan_export(path, Path(folder), required=SUMS).small
        sums: dict[str, str] = {}
        for name in (EARLIER, SUMS):
            if name in files and files[name].is_file():
                sums |= read_sums(files[name], f"{name} of {path}")
    return sums
