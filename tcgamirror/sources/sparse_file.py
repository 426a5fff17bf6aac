"""A remote slide's sparse copy, and the record of which of its bytes are had."""

from __future__ import annotations

import json
import os
import threading
import zlib
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from tcgamirror.model.byteranges import Span, SpanSet
from tcgamirror.model.errors import NotFetched
from tcgamirror.system.files import disk_errors, make_folder

_CHUNK = 1 << 20
RECORD = ".spans"
"""How the name ends of the record of what is had."""


class SparseFile:
    """A file of the slide's full size of which only some spans are had; the rest are holes.

    Spans are written at their own place. What is had stands beside the file in
    `<name>.spans`: the identity, then a line "start stop crc32" for each span,
    written after the span itself, so that a killed run goes on inside a slide.
    Any number of threads may write and read. size: bytes.
    """

    def __init__(self, path: Path, size: int, handle: int, log: int, had: SpanSet) -> None:
        """Takes over two open file descriptors; `open` is the way to make one."""
        self.path = path
        self.size = size
        self._handle = handle
        self._log = log
        self._had = had
        self._lock = threading.Lock()
        self._closed = False

    @classmethod
    def open(cls, path: Path, *, identity: str, size: int) -> Self:
        """Opens what an earlier run left of the same file, or begins anew.

        identity: what tells this file from any other and from its own other
        versions (file_id and md5, say). Another identity, another size or a
        missing record begin anew; a span whose CRC32 is not the recorded one is
        forgotten. Raises DiskFull or UsageError as `files.disk_errors` does.
        """
        with disk_errors(path):
            make_folder(path.parent)
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                log = os.open(_beside(path), os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
                try:
                    had = _reopened(handle, log, _title(identity, size), size)
                except BaseException:
                    os.close(log)
                    raise
            except BaseException:
                os.close(handle)
                raise
        return cls(path, size, handle, log, had)

    @property
    def had(self) -> SpanSet:
        """The bytes had at this moment; a copy of one's own."""
        with self._lock:
            return SpanSet(self._had)

    def write(self, start: int, data: bytes) -> None:
        """Puts `data` at byte `start` and records it.

        Raises ValueError outside the file, DiskFull or UsageError as `files.disk_errors` does.
        """
        span = Span(start, start + len(data))
        if start < 0 or span.stop > self.size:
            raise ValueError(f"bytes {span} do not lie in {self.path.name} of {self.size} bytes")
        if not data:
            return
        with disk_errors(self.path):
            _write_at(self._handle, data, start)
            line = f"{span.start} {span.stop} {zlib.crc32(data):08x}\n".encode()
            with self._lock:
                _append(self._log, line)
                self._had.add(span)

    def read(self, span: Span) -> bytes:
        """The bytes of `span`. Raises NotFetched if any of them was never written.

        Raises Damaged where the disk fails, as `files.disk_errors` does.
        """
        with self._lock:
            missing = self._had.gaps(span)
        if missing or span.start < 0:
            named = ", ".join(map(str, missing[:4])) + (", …" if len(missing) > 4 else "")
            raise NotFetched(f"{self.path.name} lacks bytes {named or span} of {span}: fetch them")
        pieces = []
        place = span.start
        while place < span.stop:
            with disk_errors(self.path):
                piece = os.pread(self._handle, span.stop - place, place)
            if not piece:
                raise NotFetched(
                    f"{self.path.name} ends at byte {place}: another program truncated it"
                )
            pieces.append(piece)
            place += len(piece)
        return b"".join(pieces)

    def close(self) -> None:
        """Closes both files and leaves them for a later run."""
        if not self._closed:
            self._closed = True
            os.close(self._handle)
            os.close(self._log)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}{RECORD}")


def _title(identity: str, size: int) -> bytes:
    return json.dumps({"identity": identity, "size": size}).encode() + b"\n"


def _reopened(handle: int, log: int, title: bytes, size: int) -> SpanSet:
    """What is had, after both files were brought into a state to write on."""
    text = _whole_file(log)
    if not text.startswith(title) or os.fstat(handle).st_size > size:
        os.ftruncate(log, 0)
        os.ftruncate(handle, 0)
        _append(log, title)
        text = title
    had = SpanSet()
    place = len(title)
    for line in text[len(title) :].splitlines(keepends=True):
        recorded = _recorded(line, size)
        if recorded is None:
            break
        place += len(line)
        span, crc = recorded
        if _crc(handle, span) == crc:
            had.add(span)
    # A line torn by a kill would swallow the next one appended to it.
    os.ftruncate(log, place)
    with suppress(OSError):
        # Where a file cannot be made to its full size at once, it grows as it is written.
        os.ftruncate(handle, size)
    return had


def _recorded(line: bytes, size: int) -> tuple[Span, int] | None:
    """A record's span and CRC32; None for a line that was not written whole.

    >>> _recorded(b"0 16 89abcdef\\n", size=20) == (Span(0, 16), 0x89ABCDEF)
    True
    >>> _recorded(b"0 16 89ab", size=20) is None
    True
    """
    words = line.split(b" ")
    if len(words) != 3 or len(words[2]) != 9 or not line.endswith(b"\n"):
        return None
    try:
        span, crc = Span(int(words[0]), int(words[1])), int(words[2], 16)
    except ValueError:
        return None
    return (span, crc) if 0 <= span.start < span.stop <= size else None


def _crc(handle: int, span: Span) -> int | None:
    """CRC32 of the span's bytes; None if the file ends before."""
    crc = 0
    place = span.start
    while place < span.stop:
        piece = os.pread(handle, min(_CHUNK, span.stop - place), place)
        if not piece:
            return None
        crc = zlib.crc32(piece, crc)
        place += len(piece)
    return crc


def _whole_file(handle: int) -> bytes:
    pieces = []
    place = 0
    while piece := os.pread(handle, _CHUNK, place):
        pieces.append(piece)
        place += len(piece)
    return b"".join(pieces)


def _write_at(handle: int, data: bytes, start: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(handle, view, start)
        view = view[written:]
        start += written


def _append(log: int, line: bytes) -> None:
    """Appends the line, whole: what a full disk took of it is taken back."""
    before = os.fstat(log).st_size
    try:
        written = os.write(log, line)
        if written < len(line):
            # The second write tells why the first one stopped.
            os.write(log, line[written:])
    except OSError:
        with suppress(OSError):
            os.ftruncate(log, before)
        raise
