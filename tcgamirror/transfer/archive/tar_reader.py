"""Tar archives read. Source: POSIX.1-2001, pax.

The reader is this program's own, because `tarfile` reads headers of any length
into memory, and knows links, devices and sparse files.
"""

from __future__ import annotations

import os
import struct
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from tcgamirror.model.errors import BadExport
from tcgamirror.transfer.archive.format import MOST_ENTRIES
from tcgamirror.transfer.archive.members import Member, Names

_BLOCK = 512
_MOST_EXTENDED = 1 << 14
"""Bytes of one extended header: a name and little else."""

_MOST_HEADERS = 4 * MOST_ENTRIES
"""Of all kinds: a file has one or two, and there are folders."""

_MOST_BYTES = 1 << 50


class _Stream:
    """An archive's bytes, read forwards."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._size = file.seek(0, os.SEEK_END)
        file.seek(0)

    def read(self, count: int) -> bytes:
        return self._file.read(count)

    def skip(self, count: int) -> None:
        if self._file.seek(count, os.SEEK_CUR) > self._size:
            raise BadExport("it is cut off")


class Tar:
    """A tar archive in one file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def members(self) -> Iterator[Member]:
        with self._path.open("rb") as file:
            yield from self._of(_Stream(file))

    def _of(self, stream: _Stream) -> Iterator[Member]:
        names = Names()
        longer: str | None = None
        for _ in range(_MOST_HEADERS):
            head = _head(stream)
            if head is None:
                return
            if head.type in (tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME):
                text = _extended(stream, head.size)
                found = _pax_path(text) if head.type == tarfile.XHDTYPE else _c_text(text)
                longer = found or longer
                continue
            name, longer = longer or head.name, None
            if head.type == tarfile.DIRTYPE:
                continue
            if head.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
                raise BadExport(f"{name[:80]!r} in it is a link, a device or nothing for an export")
            left = _Left(stream, head.size)
            yield Member(names.checked(name), head.size, left.read)
            left.end()
        raise BadExport(f"it has more than {_MOST_HEADERS:,} headers")


def _head(stream: _Stream) -> tarfile.TarInfo | None:
    block = _exactly(stream, _BLOCK)
    if block == bytes(_BLOCK):
        return None
    try:
        head = tarfile.TarInfo.frombuf(block, "utf-8", "strict")
    except (tarfile.HeaderError, ValueError, struct.error) as error:
        raise BadExport(f"it is no tar archive, or damaged ({error})") from error
    if head.size < 0 or head.size > _MOST_BYTES:
        raise BadExport(f"{head.name[:80]!r} in it says that it has {head.size} bytes")
    return head


def _exactly(stream: _Stream, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = stream.read(count - len(data))
        if not piece:
            raise BadExport("it is cut off")
        data += piece
    return data


def _extended(stream: _Stream, size: int) -> bytes:
    if size > _MOST_EXTENDED:
        raise BadExport(f"it has a header of {size:,} bytes")
    return _exactly(stream, size + -size % _BLOCK)[:size]


def _c_text(data: bytes) -> str:
    try:
        return data.partition(b"\0")[0].decode()
    except UnicodeDecodeError as error:
        raise BadExport("it has a name that is not UTF-8") from error


def _pax_path(data: bytes) -> str | None:
    """The path in an extended header, if there is one. Sizes there are for files of 8 GB up."""
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


class _Left:
    """What is left of one member's data."""

    def __init__(self, stream: _Stream, size: int) -> None:
        self._stream = stream
        self._size = self._left = size

    def read(self, count: int) -> bytes:
        data = self._stream.read(min(count, self._left)) if self._left else b""
        self._left -= len(data)
        return data

    def end(self) -> None:
        self._stream.skip(self._left + -self._size % _BLOCK)
