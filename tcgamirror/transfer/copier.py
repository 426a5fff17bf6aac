"""Images copied or loaded for an export, and compared with their digests on the way."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import stat
import threading
import time
from collections.abc import Container, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from tcgamirror.imaging.verified import same, sign
from tcgamirror.model.errors import Damaged
from tcgamirror.system.files import PIECE, Reader, disk_errors, sync_disk

WHOLE = 16 << 20
"""Bytes of an image that is kept in memory between being read and being written."""

_AT_ONCE = 64 << 20
"""Bytes that the system copies by one call, which nothing can stop."""

_EARLY_SECONDS = 0.2


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
        """All of it, once; closes the file. Raises Damaged if it is another one by now."""
        with self.file as file:
            if self.data is not None:
                yield self.data
                return
            file.seek(0)
            taken = hashlib.sha256(usedforsecurity=False)
            while piece := file.read(PIECE):
                taken.update(piece)
                yield piece
        if taken.hexdigest() != self.sha256:
            raise Damaged(
                f"{file.name} was read twice and was not the same: nothing should write to it, so "
                "look at the system's log for what its disk met, then export again"
            )


def loaded(path: Path) -> Loaded | None:
    """The image at `path`, None if there is none or it cannot be read."""
    with ExitStack() as opened:
        try:
            file = opened.enter_context(_opened(path))
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                return None
            data = file.read() if found.st_size <= WHOLE else None
            sha256 = _sha256(file) if data is None else hashlib.sha256(data).hexdigest()
        except OSError:
            return None
        opened.pop_all()
    return Loaded(found.st_size, sha256, found.st_mtime, data, file)


def _opened(path: Path | str, more: int = 0) -> io.FileIO:
    """A file to read. Should something else lie there, nobody waits for it."""
    return io.FileIO(path, opener=lambda name, flags: os.open(name, flags | more | os.O_NONBLOCK))


def _begun(target: str) -> int:
    """A file to write, empty; a link that lies there is replaced, and not followed."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        return os.open(target, flags, 0o644)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
    Path(target).unlink()
    return os.open(target, flags, 0o644)


def _sha256(file: io.FileIO) -> str:
    return hashlib.file_digest(file, "sha256").hexdigest()


class Copier:
    """Copies files that have their digests; for any number of threads.

    signs: of files that are known to have them, see `compared`; all others are
    compared on the way.
    """

    def __init__(self, signs: Container[str] = ()) -> None:
        self._signs = signs
        self._reader = Reader()

    def copied(self, source: str, target: str, sha256: str) -> bool:
        """Copies a file, its time too, if it has that digest; whether it had.

        The folder of `target` is there. What lies at `target` with that digest is
        left alone; what has another one is not left there. Raises OSError, which
        names `target`, where it cannot be written.
        """
        with suppress(OSError), _opened(target, os.O_NOFOLLOW) as file:
            if _sha256(file) == sha256:
                return True
        return self.copied_anew(source, target, sha256)

    def copied_anew(self, source: str, target: str, sha256: str) -> bool:
        """As `copied`, without a look at what lies at `target`."""
        # Bare calls and no Path: with files of some kilobytes these would cost as much as copying.
        try:
            reading = os.open(source, os.O_RDONLY | os.O_NONBLOCK)
        except OSError:
            return False
        try:
            found = os.fstat(reading)
            if not stat.S_ISREG(found.st_mode):
                return False
            try:
                writing = _begun(target)
                try:
                    right = self._passed(reading, found, writing, sha256)
                    os.utime(writing, ns=(found.st_mtime_ns, found.st_mtime_ns))
                finally:
                    # Network file systems tell only now that there was no room.
                    os.close(writing)
            except OSError as error:
                error.filename = target
                raise
        finally:
            os.close(reading)
        if not right:
            Path(target).unlink()
        return right

    def _passed(self, reading: int, found: os.stat_result, writing: int, sha256: str) -> bool:
        """Writes all of what is read; whether it has that digest. What cannot be read has none."""
        if sign(found, sha256) not in self._signs:
            return self._digest_of_rest(reading, writing) == sha256
        # Whatever the system refuses, reading and writing will do, or tell better what is wrong.
        whole = _handed_over(reading, writing, found.st_size)
        if not whole and self._digest_of_rest(reading, writing) is None:
            return False
        try:
            return same(found, os.fstat(reading))
        except OSError:
            # On a network file system, where another one took its place.
            return False

    def _digest_of_rest(self, reading: int, writing: int) -> str | None:
        """Writes what is left to read; its digest, None if it cannot be read."""
        taken = hashlib.sha256(usedforsecurity=False)
        pieces = self._reader.pieces(reading)
        while True:
            try:
                piece = next(pieces, None)
            except OSError:
                return None
            if piece is None:
                return taken.hexdigest()
            taken.update(piece)
            while piece:
                piece = piece[os.write(writing, piece) :]


def _handed_over(reading: int, writing: int, size: int) -> bool:
    """Has the system itself copy a file of `size` bytes; whether it copied all of it.

    Some file systems copy nothing then, but share the blocks, or have the server copy.
    """
    if not hasattr(os, "copy_file_range"):
        return False
    try:
        while size and (count := os.copy_file_range(reading, writing, min(size, _AT_ONCE))):
            size -= count
    except OSError:
        return False
    return size == 0


@contextmanager
def writing_early(path: Path) -> Iterator[None]:
    """Has the disk begin with what the block writes to it, so that little is left for the end.

    `sync_disk` or fsync have to follow all the same. Raises as `disk_errors` does.
    """
    ended = threading.Event()

    def write() -> None:
        while not ended.wait(_EARLY_SECONDS):
            sync_disk(path)

    with ThreadPoolExecutor(1, "early") as pool:
        work = pool.submit(write)
        try:
            yield
        finally:
            ended.set()
    with disk_errors(path):
        work.result()
