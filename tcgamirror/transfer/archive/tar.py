"""Tar archives read and written. Source: POSIX.1-2001, pax.

`tarfile` reads headers of any length into memory, follows chains of them by recursion, and
knows links, devices and sparse files. So this program reads archives itself, and refuses all
that is not a plain file or a directory.
"""

from __future__ import annotations

import os
import struct
import tarfile
from collections.abc import Callable, Iterator
from io import BufferedWriter
from pathlib import Path
from typing import BinaryIO

from tcgamirror.model.errors import BadExport, DiskFull
from tcgamirror.system.files import disk_errors, free_bytes
from tcgamirror.transfer.archive.format import (
    COPY_AGAIN,
    MAX_FILES,
    PIECE,
    Member,
    checked_name,
)
from tcgamirror.transfer.content import Destination, FileContent

_BLOCK, _RECORD = 512, 10240
_MODE = 0o644
_NAME, _PREFIX, _MAX_OCTAL = 100, 155, 8**11 - 1
_USTAR = struct.Struct(f"{_NAME}s48s8s1s100x8s80x{_PREFIX}s12x")
"""A header: name; mode, owner, group, size and time; checksum, type; magic; directory."""

_MAX_EXTENDED = 1 << 14
"""Bytes of one extended header: a name and little else."""

_MAX_HEADERS = 4 * MAX_FILES
"""Headers of all kinds. A file has one or two, and there are directories."""

_MAX_BYTES = 1 << 50

_MAX_FILLING = 16 << 20
"""Bytes read after an archive's end. Records have 10 kB, unless `tar` has an option for more."""


# Reading ---------------------------------------------------------------------------


def tar_members(path: Path) -> Iterator[Member]:
    """Yield every file. Raises BadExport for anything but files and directories."""
    with path.open("rb") as file:
        yield from _members(_Archive(file))


class _Archive:
    """An archive's bytes, read forwards. position: bytes that were read or skipped.

    copy: an open file to which an archive that comes from a pipe is written.
    """

    def __init__(self, file: BinaryIO, copy: BufferedWriter | None = None) -> None:
        self._file = file
        self._copy = copy
        self._size = 0 if copy else os.fstat(file.fileno()).st_size
        self.position = 0

    def read(self, count: int) -> bytes:
        data = self._file.read(count)
        self.position += len(data)
        if self._copy is not None:
            self._copy.write(data)
        if len(data) < count:
            raise BadExport(f"it is cut off. {COPY_AGAIN}")
        return data

    def skip(self, count: int) -> None:
        if self._copy is None:
            self.position += count
            if self.position > self._size:
                raise BadExport(f"it is cut off. {COPY_AGAIN}")
            self._file.seek(self.position)
            return
        folder = Path(self._copy.name).parent
        if count > free_bytes(folder):
            raise DiskFull(
                f"{folder}: no room for a file of {count:,} bytes in the archive. Free some"
            )
        while count:
            count -= len(self.read(min(count, PIECE)))


def receive(pipe: BinaryIO, path: Path) -> None:
    """Write a tar archive that comes from a pipe to a new file, up to the archive's end.

    What is not an archive, or has no end, is refused before it fills the disk.

    Raises:
        BadExport: as `tar_members` does.
        DiskFull: if a file in it is larger than what is free.
    """
    with disk_errors(path), path.open("xb") as file:
        for _ in _members(_Archive(pipe, file)):
            pass
    # The process that writes to the pipe fills up the last record, and should not fail at that.
    for _ in range(_MAX_FILLING // PIECE):
        if not pipe.read(PIECE):
            return


def _members(archive: _Archive) -> Iterator[Member]:
    long_name: str | None = None
    for _ in range(_MAX_HEADERS):
        header = _header(archive)
        if header is None:
            return
        if header.type in (tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME):
            text = _extended(archive, header.size)
            found = _pax_path(text) if header.type == tarfile.XHDTYPE else _c_text(text)
            long_name = found or long_name
            continue
        name, long_name = long_name or header.name, None
        if header.type == tarfile.DIRTYPE:
            continue
        if header.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
            raise BadExport(f"{name[:80]!r} in it is a link, a device or nothing for an export")
        yield Member(checked_name(name), header.size, archive.position)
        archive.skip(header.size + -header.size % _BLOCK)
    raise BadExport(f"it has more than {_MAX_HEADERS:,} headers")


def _header(archive: _Archive) -> tarfile.TarInfo | None:
    """Return the next header; None at the archive's end."""
    block = archive.read(_BLOCK)
    if block == bytes(_BLOCK):
        return None
    try:
        header = tarfile.TarInfo.frombuf(block, "utf-8", "strict")
    except (tarfile.HeaderError, ValueError, struct.error) as error:
        raise BadExport(f"it is not a tar archive, or damaged ({error})") from error
    if header.size < 0 or header.size > _MAX_BYTES:
        raise BadExport(f"{header.name[:80]!r} in it says that it has {header.size} bytes")
    return header


def _extended(archive: _Archive, size: int) -> bytes:
    if size > _MAX_EXTENDED:
        raise BadExport(f"it has a header of {size:,} bytes")
    return archive.read(size + -size % _BLOCK)[:size]


def _c_text(data: bytes) -> str:
    try:
        return data.partition(b"\0")[0].decode()
    except UnicodeDecodeError as error:
        raise BadExport("it has a name that is not UTF-8") from error


def _pax_path(data: bytes) -> str | None:
    """Return the path in an extended header, if there is one.

    A header with a size is refused: only files of 8 GB and more need it.
    """
    path = None
    while data:
        length, blank, _ = data.partition(b" ")
        count = int(length) if len(length) < 6 and length.isdigit() else 0
        record = data[len(length) + len(blank) : count]
        key, equals, value = record.partition(b"=")
        if not equals or not record.endswith(b"\n") or key in (b"size", b"linkpath"):
            raise BadExport("it has an extended header that no export has")
        if key.startswith(b"GNU.sparse"):
            raise BadExport("it has a sparse file")
        if key == b"path":
            path = _c_text(value[:-1])
        data = data[count:]
    return path


# Writing ---------------------------------------------------------------------------


def _file_header(path: str, size: int, mtime: int) -> bytes:
    """Return the header of a plain file.

    `tarfile` takes as long to make one as it takes to write a small image.
    """
    folder, _, name = path.rpartition("/")
    fits = path.isascii() and len(folder) <= _PREFIX and len(name) <= _NAME
    if not fits or max(size, mtime) > _MAX_OCTAL or mtime < 0:
        header = tarfile.TarInfo(path)
        header.size, header.mtime, header.mode = size, mtime, _MODE
        return header.tobuf(tarfile.PAX_FORMAT, "utf-8", "strict")
    facts = b"%07o\0%07o\0%07o\0%011o\0%011o\0" % (_MODE, 0, 0, size, mtime)
    rest = (tarfile.REGTYPE, tarfile.POSIX_MAGIC, folder.encode())
    checksum = sum(_USTAR.pack(name.encode(), facts, b" " * 8, *rest))
    return _USTAR.pack(name.encode(), facts, b"%06o\0 " % checksum, *rest)


class TarWriter(Destination):
    """A tar archive that is written forwards, so that it may go through a pipe."""

    def __init__(self, sink: Callable[[bytes | memoryview], object], top: str) -> None:
        """Write to `sink`, with all files in the directory `top`."""
        self._sink = sink
        self._top = top
        self._length = 0

    def write(self, name: str, content: FileContent) -> None:
        self._write(_file_header(f"{self._top}/{name}", content.size, content.mtime_ns // 10**9))
        for piece in content.pieces(name):
            self._write(piece)
        self._write(bytes(-self._length % _BLOCK))

    def finish(self) -> None:
        """Write the archive's end."""
        self._write(bytes(2 * _BLOCK))
        self._write(bytes(-self._length % _RECORD))

    def _write(self, data: bytes | memoryview) -> None:
        self._sink(data)
        self._length += len(data)
