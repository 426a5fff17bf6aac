"""Images read once for an export: copied or loaded, and their digests taken on the way."""

from __future__ import annotations

import hashlib
import io
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeVar

from tcgamirror.files import room

WHOLE = 16 << 20
"""Bytes of an image that is kept in memory between being read and being written."""

MOST_THREADS = 4

_PIECE = 1 << 17
"""So little that it is still in the processor's cache when it is written."""

_READING = os.O_RDONLY | os.O_NONBLOCK
"""Should something else than a file lie there, nobody waits for it."""

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Loaded:
    """An image read whole. data: None for a large one, whose file is to be read again.

    file: open, so that it is the same image though another takes its place.
    """

    size: int
    sha256: str
    made: float
    data: bytes | None
    file: BinaryIO

    @classmethod
    def of_text(cls, text: str) -> Loaded:
        """A small file that is nowhere yet."""
        data = text.encode()
        return cls(len(data), hashlib.sha256(data).hexdigest(), time.time(), data, io.BytesIO())

    def pieces(self) -> Iterator[bytes]:
        """All of it, once; closes the file."""
        with self.file as file:
            if self.data is not None:
                yield self.data
                return
            file.seek(0)
            while piece := file.read(_PIECE):
                yield piece


def ahead(work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[tuple[Item, Result]]:
    """Each item with what `work` gives for it, in order, made by a few threads a little ahead."""
    waiting: deque[tuple[Item, Future[Result]]] = deque()
    threads = max(2, min(MOST_THREADS, len(os.sched_getaffinity(0))))
    with ThreadPoolExecutor(threads, "carry") as pool:
        try:
            for item in items:
                waiting.append((item, pool.submit(work, item)))
                if len(waiting) > 2 * threads:
                    first, result = waiting.popleft()
                    yield first, result.result()
            while waiting:
                first, result = waiting.popleft()
                yield first, result.result()
        finally:
            for _, future in waiting:
                future.cancel()


def loaded(path: Path) -> Loaded | None:
    """The image at `path`, None if there is none or it cannot be read."""
    try:
        file = os.fdopen(os.open(path, _READING), "rb", buffering=0)
    except OSError:
        return None
    try:
        found = os.fstat(file.fileno())
        data = file.read() if found.st_size <= WHOLE else None
        sha256 = hashlib.sha256(data).hexdigest() if data is not None else digest_of(file)
    except OSError:
        file.close()
        return None
    except BaseException:
        file.close()
        raise
    return Loaded(found.st_size, sha256, found.st_mtime, data, file)


def copied(source: Path, target: Path, sha256: str) -> bool:
    """Copies a file, its time too, if it has that digest; whether it had.

    The folder of `target` is there. What lies at `target` with that digest is
    left alone; what has another one is not left there.
    """
    with suppress(FileNotFoundError), target.open("rb", buffering=0) as file:
        if digest_of(file) == sha256:
            return True
    return copied_anew(source, target, sha256)


def copied_anew(source: Path, target: Path, sha256: str) -> bool:
    """As `copied`, without a look at what lies at `target`."""
    # Bare calls: with files of some kilobytes, file objects would cost more than the copying.
    try:
        reading = os.open(source, _READING)
    except OSError:
        return False
    try:
        with room(target):
            writing = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            try:
                right = _passed(reading, writing) == sha256
                made = os.fstat(reading).st_mtime_ns
                os.utime(writing, ns=(made, made))
            finally:
                os.close(writing)
            if not right:
                target.unlink()
    finally:
        os.close(reading)
    return right


def digest_of(file: BinaryIO) -> str:
    """SHA-256 of what is left to read of the file."""
    return _passed(file.fileno(), None)


def _passed(reading: int, writing: int | None) -> str:
    """Reads to the end, writes all of it if it is to be written; its digest.

    What cannot be read has none.
    """
    taken = hashlib.sha256()
    while True:
        try:
            piece = os.read(reading, _PIECE)
        except OSError:
            return ""
        if not piece:
            return taken.hexdigest()
        taken.update(piece)
        written = 0 if writing is not None else len(piece)
        while writing is not None and written < len(piece):
            written += os.write(writing, piece[written:] if written else piece)
