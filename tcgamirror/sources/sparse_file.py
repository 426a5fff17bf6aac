"""A sparse copy of a remote slide, and the record of its available bytes."""

from __future__ import annotations

import json
import os
import threading
import zlib
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Self

from tcgamirror.model.byteranges import Span, SpanSet
from tcgamirror.model.errors import NotFetched
from tcgamirror.system.files import PIECE, disk_errors, make_folder

RECORD_SUFFIX = ".spans"
"""End of the name of the file that records the available spans."""


class SparseFile:
    """A file of the slide's full size of which only some spans are available.

    Spans are written at their own offsets; the rest are holes. `<name>.spans` records them:
    the identity, then a line "start stop crc32" for each span, written after the span itself,
    and a line "etag origin value" for each origin of bytes. A killed run thus resumes inside a
    slide. Any number of threads may read and write. size: bytes.
    """

    def __init__(self, path: Path, title: bytes, size: int, handle: int, record: int) -> None:
        """Take over two open file descriptors. Use `open` to make one."""
        self.path = path
        self.size = size
        self._title = title
        self._handle = handle
        self._record = record
        self._available = SpanSet()
        self._etags: dict[str, str] = {}
        self._lock = threading.Lock()

    @classmethod
    def open(cls, path: Path, *, identity: str, size: int) -> Self:
        """Open what an earlier run left of the same file, or begin an empty one.

        Another identity or size, or a missing record, begins an empty file. A span whose
        CRC32 is not the recorded one is dropped. Raises what `disk_errors` does.

        Args:
            identity: differs for each file and each of its versions, such as file_id and md5.
        """
        title = json.dumps({"version": 2, "identity": identity, "size": size}).encode() + b"\n"
        with disk_errors(path), ExitStack() as on_error:
            make_folder(path.parent)
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            on_error.callback(os.close, handle)
            name = path.with_name(f"{path.name}{RECORD_SUFFIX}")
            record = os.open(name, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            on_error.callback(os.close, record)
            file = cls(path, title, size, handle, record)
            file._restore(name.read_bytes())
            on_error.pop_all()
        return file

    @property
    def available(self) -> SpanSet:
        """A copy of the set of bytes available now."""
        with self._lock:
            return SpanSet(self._available)

    def missing(self, span: Span) -> list[Span]:
        """Return the parts of `span` that are not available."""
        with self._lock:
            return self._available.gaps(span)

    def write(self, start: int, data: bytes | bytearray) -> None:
        """Write `data` at byte `start` and record it.

        Raises ValueError outside the file, DiskFull or UsageError as `disk_errors` does.
        """
        span = Span(start, start + len(data))
        if start < 0 or span.stop > self.size:
            raise ValueError(f"bytes {span} are outside of {self.path.name} of {self.size} bytes")
        if not data:
            return
        with disk_errors(self.path):
            _write_at(self._handle, data, start)
            line = f"{span.start} {span.stop} {zlib.crc32(data):08x}\n".encode()
            with self._lock:
                _append(self._record, line)
                self._available.add(span)

    def read(self, span: Span) -> bytes:
        """Return the bytes of `span`. Raises NotFetched if any was never written, or Damaged."""
        missing = self.missing(span)
        if missing or span.start < 0:
            named = ", ".join(map(str, missing[:4])) + (", …" if len(missing) > 4 else "")
            raise NotFetched(f"{self.path.name} lacks bytes {named or span} of {span}: fetch them")
        with disk_errors(self.path):
            data = os.pread(self._handle, span.length, span.start)
        if len(data) < span.length:
            end = span.start + len(data)
            raise NotFetched(f"{self.path.name} ends at byte {end}: another program cut it")
        return data

    def etag(self, origin: str) -> str | None:
        """Return the ETag that an origin's bytes came with; None if none is known."""
        return self._etags.get(origin)

    def check_etag(self, origin: str, etag: str) -> bool:
        """Keep an origin's first ETag, and return whether it is this one."""
        with disk_errors(self.path), self._lock:
            if origin not in self._etags:
                _append(self._record, f"etag {origin} {json.dumps(etag)}\n".encode())
                self._etags[origin] = etag
            return self._etags[origin] == etag

    def clear(self) -> None:
        """Drop all bytes. The record goes first, so that a kill leaves none of them available."""
        with disk_errors(self.path), self._lock:
            self._begin()
            self._available = SpanSet()
            self._etags.clear()

    def close(self) -> None:
        """Close both files and leave them for a later run."""
        os.close(self._handle)
        os.close(self._record)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _restore(self, text: bytes) -> None:
        """Read from the record's `text` which bytes are available; make both files writable on."""
        if not text.startswith(self._title) or os.fstat(self._handle).st_size > self.size:
            self._begin()
            text = self._title
        valid_bytes = len(self._title)
        for line in text[len(self._title) :].splitlines(keepends=True):
            match _parse_line(line, self.size):
                case None:
                    break
                case str(origin), str(etag):
                    self._etags[origin] = etag
                case Span() as span, crc:
                    if _crc(self._handle, span) == crc:
                        self._available.add(span)
            valid_bytes += len(line)
        # A line torn by a kill would corrupt the next one appended to it.
        os.ftruncate(self._record, valid_bytes)
        with suppress(OSError):
            # Where a file system refuses the full size at once, the file grows as it is written.
            os.ftruncate(self._handle, self.size)

    def _begin(self) -> None:
        os.ftruncate(self._record, 0)
        os.ftruncate(self._handle, 0)
        _append(self._record, self._title)


def _parse_line(line: bytes, size: int) -> tuple[Span, int] | tuple[str, str] | None:
    """Return a span and its CRC32, or an origin and its ETag; None for a line cut short.

    >>> _parse_line(b"0 16 89abcdef\\n", size=20) == (Span(0, 16), 0x89ABCDEF)
    True
    >>> _parse_line(b'etag gdc "\\\\"a\\\\""\\n', size=20), _parse_line(b"0 16 89ab", size=20)
    (('gdc', '"a"'), None)
    """
    try:
        first, second, last = line.decode("ascii").split(" ", 2)
        if first == "etag" and line.endswith(b"\n"):
            return second, str(json.loads(last))
        span, crc = Span(int(first), int(second)), int(last, 16)
    except ValueError:
        return None
    return (span, crc) if 0 <= span.start < span.stop <= size and len(last) == 9 else None


def _crc(handle: int, span: Span) -> int | None:
    """Return the CRC32 of the span's bytes; None if the file ends before."""
    crc = 0
    for start in range(span.start, span.stop, PIECE):
        piece = os.pread(handle, min(PIECE, span.stop - start), start)
        if len(piece) < min(PIECE, span.stop - start):
            return None
        crc = zlib.crc32(piece, crc)
    return crc


def _write_at(handle: int, data: bytes | bytearray, start: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(handle, view, start)
        view = view[written:]
        start += written


def _append(record: int, line: bytes) -> None:
    """Append the whole line; what a full disk took of it is removed again."""
    before = os.fstat(record).st_size
    try:
        written = os.write(record, line)
        if written < len(line):
            # The second write raises the reason why the first one stopped.
            os.write(record, line[written:])
    except OSError:
        with suppress(OSError):
            os.ftruncate(record, before)
        raise
