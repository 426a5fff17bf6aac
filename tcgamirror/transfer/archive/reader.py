"""Untrusted exports, read from a directory, a tar archive or standard input.

All that is not a plain file is refused. Nothing is unpacked by its name, so no name can lead
out of a directory. The first pass copies the few small files.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, nullcontext
from io import FileIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO

from tcgamirror.catalogue.images import Image
from tcgamirror.mirror import settings
from tcgamirror.mirror.directory import CATALOGUE, WORK
from tcgamirror.mirror.lockfile import MOST_BYTES
from tcgamirror.mirror.settings import FILE_NAME
from tcgamirror.model.errors import BadExport, Damaged, UsageError
from tcgamirror.system.files import disk_errors, file_digest
from tcgamirror.system.openat import Tree
from tcgamirror.transfer.archive.format import (
    COPY_AGAIN,
    EARLIER,
    MAX_FILES,
    MAX_SUMS,
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
from tcgamirror.transfer.fetching import check_size
from tcgamirror.transfer.objects import StoredArchive
from tcgamirror.transfer.untrusted import MAX_BYTES, copy_at_rest

_MAX_BYTES = {
    FILE_NAME: settings.MOST_BYTES,
    CATALOGUE: MAX_BYTES,
    SUMS: MAX_SUMS,
    EARLIER: MAX_SUMS,
}
"""Size of each small file but the lock file."""

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


class Export:
    """The content of an export, by paths in the mirror.

    members: all files, in their order. sums: digests by path, of SHA256SUMS; a mirror has none.
    """

    def __init__(self, path: Path | StoredArchive | None, folder: Path, stack: ExitStack) -> None:
        """Read the export at `path`, with copies in the private `folder`.

        Args:
            path: None for a tar archive on standard input. This and one in a bucket are copied
                to the folder.
            stack: closes the archive.

        Raises:
            BadExport: for what is in no export, and for one without settings.
        """
        self._path = path if isinstance(path, Path) else _copy_archive(path, folder)
        self._folder = folder
        self._tree = Tree(self._path) if self._path.is_dir() else None
        self.members = _members_of(self._path)
        if self._tree is None:
            # Opened once, because that takes as long as to read a small image.
            with read_errors(self._path.name):
                self._archive = stack.enter_context(FileIO(self._path))
        self.sums: Mapping[str, str] = {}
        if SUMS in self.members:
            self.sums = read_sums(self.copy(SUMS), f"{SUMS} in it")

    def copy(self, name: str) -> Path:
        """Return the path of a copy of a small file. Raises BadExport, Damaged, DiskFull."""
        if name not in self.members:
            raise BadExport(f"it has no {name}")
        member, copy = self.members[name], self._folder / f"copy-{Path(name).name}"
        if member.size > _MAX_BYTES.get(name, MOST_BYTES):
            raise BadExport(f"{member.name} in it has {member.size:,} bytes, more than any has")
        if name == CATALOGUE and self._tree is not None:
            # A run may be writing to it.
            with read_errors(name):
                copy_at_rest(self._tree, member.name, copy)
        else:
            with disk_errors(copy), copy.open("wb") as file:
                file.writelines(self._pieces(member))
        if self.sums and self.sums.get(name) != file_digest(copy, "sha256"):
            raise BadExport(f"{name} in it does not have its digest in {SUMS}. {COPY_AGAIN}")
        return copy

    def fetch(self, image: Image, file: BinaryIO) -> None:
        """Append the rest of the image to `file`. Raises Damaged if it is not as recorded."""
        member = self.members[image.path]
        check_size(image, member.size)
        pieces = self._pieces(member, file.seek(0, os.SEEK_END))
        try:
            for piece in pieces:
                file.write(piece)
        except BadExport as error:
            raise Damaged(str(error)) from error

    def _pieces(self, member: Member, start: int = 0) -> Iterator[bytes]:
        """Yield a file of the export, from a position on."""
        with read_errors(member.name):
            opened = self._tree.open(member.name) if self._tree else nullcontext(self._archive)
        with opened as file:
            left, offset = member.size - start, member.offset + start
            yield from read_pieces(file.fileno(), member.name, left, offset)


def _members_of(path: Path) -> dict[str, Member]:
    """Return all files by path in the mirror, which may be a directory in the export."""
    found: dict[str, Member] = {}
    for member in members(path):
        if member.name in found:
            raise BadExport(f"it has {member.name} twice")
        if len(found) >= MAX_FILES:
            raise BadExport(f"it has more than {MAX_FILES:,} files")
        found[member.name] = member
    tops = [name.removesuffix(FILE_NAME) for name in found if name.split("/")[-1] == FILE_NAME]
    tops = [top for top in tops if top.count("/") <= 1]
    if len(tops) != 1 and "" not in tops:
        raise BadExport(f"it has {FILE_NAME} more than once" if tops else f"it has no {FILE_NAME}")
    top = "" if "" in tops else tops[0]
    if path.is_dir() and not all(name.startswith(top) for name in found):
        raise BadExport(f"it holds other things beside {top}: name that directory itself")
    return {name.removeprefix(top): found[name] for name in found if name.startswith(top)}


def _copy_archive(source: StoredArchive | None, folder: Path) -> Path:
    """Write an archive to a file, because it is not read in its order. source: None for stdin."""
    path = folder / "copy.tar"
    if source is not None:
        source.copy(path)
    elif sys.stdin.isatty():
        raise UsageError("standard input: is a terminal. Pipe a tar archive to import -")
    else:
        receive(sys.stdin.buffer, path)
    return path


def sums_since(since: Path) -> Mapping[str, str]:
    """Return digests by path of all files in an export and those before it.

    since: a directory, an archive, or a SHA256SUMS. Raises BadExport for anything else.
    """
    try:
        if since.is_file() and not is_tar(since):
            earlier = since.with_name(EARLIER)
            sums = read_sums(earlier, str(earlier)) if earlier.is_file() else {}
            return {**sums, **read_sums(since, str(since))}
        with TemporaryDirectory() as folder, ExitStack() as stack:
            export = Export(since, Path(folder), stack)
            if not export.sums:
                raise BadExport(f"it has no {SUMS}")
            sums = read_sums(export.copy(EARLIER), EARLIER) if EARLIER in export.members else {}
            return {**sums, **export.sums}
    except BadExport as error:
        raise BadExport(
            f"{since}: is not an export that --since can continue ({error}). Name another"
        ) from error
