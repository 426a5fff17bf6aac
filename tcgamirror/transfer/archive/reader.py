"""Untrusted exports, read from a directory, a tar archive or standard input.

All that is not a plain file is refused. Nothing is unpacked by its name, so no name can lead
out of a directory. The first pass copies the few small files.
"""

from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO

from tcgamirror.catalogue.images import Image
from tcgamirror.mirror.directory import CATALOGUE, WORK
from tcgamirror.mirror.settings import FILE_NAME
from tcgamirror.model.errors import BadExport, Damaged, UsageError
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

_LOCK_FILE = re.compile(r"[^/]+\.lock")

_MAX_KEPT = 16
"""Small files in an export. It has five."""

_MAX_DEPTH = 3


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
            yield Member(checked_name(path), status.st_size)
        else:
            raise BadExport(f"{path} in it is a link or not a plain file")


# All of an export ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Export:
    """The content of an export, by paths in the mirror.

    path: of the directory or archive. top: prefix of every name in it; empty, or ends in a
    slash. members: all files, in their order. small: copies of the small files.
    """

    path: Path
    top: str
    members: Mapping[str, Member]
    small: Mapping[str, Path]

    def required(self, name: str) -> Path:
        """Return the copy of a small file. Raises BadExport if there is none."""
        if name not in self.small:
            raise BadExport(f"it has no {name}")
        return self.small[name]

    def fetch(self, image: Image, file: BinaryIO) -> None:
        """Append the rest of the image to `file`. Raises Damaged if it is not as recorded."""
        member = self.members[image.path]
        if member.size != image.bytes:
            raise Damaged(f"{member.size:,} bytes instead of {image.bytes:,}")
        pieces = _pieces(self.path, member, file.seek(0, os.SEEK_END))
        try:
            for piece in pieces:
                file.write(piece)
        except BadExport as error:
            raise Damaged(str(error)) from error


def _pieces(path: Path, member: Member, start: int = 0) -> Iterator[bytes]:
    """Yield a file of the export at `path`, from a position on."""
    with ExitStack() as stack:
        with read_errors(member.name):
            opened = Tree(path).open(member.name) if path.is_dir() else path.open("rb")
            file = stack.enter_context(opened)
            file.seek(member.offset + start)
        yield from read_pieces(file.read, member.name, member.size - start)


def read_export(path: Path | None, folder: Path, required: str = FILE_NAME) -> Export:
    """List the files of the export at `path`, and copy the small ones to the empty `folder`.

    Args:
        path: None for a tar archive on standard input, which is copied to the folder, too.
        required: a file at an export's top. The top may be a directory that holds all else.

    Raises:
        BadExport: for what is in no export, and for one without the required file.
    """
    path = _copy_stdin(folder) if path is None else path
    found: dict[str, Member] = {}
    for member in members(path):
        if member.name in found:
            raise BadExport(f"it has {member.name} twice")
        if len(found) >= MAX_FILES:
            raise BadExport(f"it has more than {MAX_FILES:,} files")
        found[member.name] = member
    tops = [name.removesuffix(required) for name in found if name.split("/")[-1] == required]
    tops = [top for top in tops if top.count("/") <= 1]
    if len(tops) != 1 and "" not in tops:
        raise BadExport(f"it has {required} more than once" if tops else f"it has no {required}")
    top = "" if "" in tops else tops[0]
    if path.is_dir() and not all(name.startswith((top, ".")) for name in found):
        raise BadExport(f"it holds other things beside {top}: name that directory itself")
    inside = {
        name.removeprefix(top): member for name, member in found.items() if name.startswith(top)
    }
    kept = [name for name in inside if name in _KEPT or _LOCK_FILE.fullmatch(name)]
    if len(kept) > _MAX_KEPT:
        raise BadExport("it has too many lock files")
    small = {name: _copy(path, inside[name], folder / str(n)) for n, name in enumerate(kept)}
    return Export(path, top, inside, small)


def _copy_stdin(folder: Path) -> Path:
    """Write standard input to a file, because an archive is read twice."""
    if sys.stdin.isatty():
        raise UsageError("standard input: is a terminal. Pipe a tar archive to import -")
    path = folder / "stdin.tar"
    receive(sys.stdin.buffer, path)
    return path


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
        file.writelines(_pieces(path, member))
    return copy


# Digests ---------------------------------------------------------------------------


def check_sums(export: Export) -> None:
    """Compare the small files with SHA256SUMS, which a mirror does not have."""
    sums = read_sums(export.small[SUMS], f"{SUMS} in it") if SUMS in export.small else {}
    for name, path in export.small.items():
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
            files = dict(read_export(path, Path(folder), required=SUMS).small)
        sums: dict[str, str] = {}
        for name in (EARLIER, SUMS):
            if name in files and files[name].is_file():
                sums |= read_sums(files[name], f"{name} of {path}")
    return sums
