"""Which images were compared with their digests, and what the file system said of them then.

An image that nothing has touched since need not be read again only to be copied. A disk's own
file system tells when a file's bytes, name, owner or links last changed (its ctime), and lets no
program set that: git's index and backup programs believe files by the same signs. What the disk
itself makes of the bytes is another matter, for `verify`. The note lies beside the catalogue,
not in it, because a mirror that moved to another disk, or whose note was lost, is right all the
same: its images are read then.
"""

from __future__ import annotations

import errno
import io
import logging
import os
import re
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

_LOG = logging.getLogger(__name__)

FILE = ".compared.txt"

MOST_BYTES = 256 << 20
"""Of the note: a million images take half of it. What is more is nobody's note."""

_SIGN = 110
"""Bytes of one sign, about."""

_STALE = 10_000
"""Signs of images that are no more, which are put up with beside as many as there are images."""


_NOT = "not"
"""Before a digest whose signs count no more."""

_LINE = re.compile(
    rb"^(?:([0-9a-f]{64}(?: [0-9]{1,20}){3})|" + _NOT.encode() + rb" ([0-9a-f]{64}))$",
    re.MULTILINE,
)
_LONGEST = 160
"""Bytes of a line, at most."""

_PIECE = 1 << 20
"""Bytes of the note that are looked through at once."""


def same(before: os.stat_result, after: os.stat_result) -> bool:
    """Whether nothing touched a file between two looks at it."""
    return (
        before.st_ctime_ns == after.st_ctime_ns
        and before.st_size == after.st_size
        and before.st_ino == after.st_ino
    )


def sign(look: os.stat_result, sha256: str) -> str | None:
    """What stands for a file with that digest that looks so; None if its look tells too little.

    That is on a file system that tells whole seconds: there two changes may look like one.
    """
    if look.st_ctime_ns % 1_000_000_000 == 0:
        return None
    return f"{sha256} {look.st_ino} {look.st_size} {look.st_ctime_ns}"


def _in_force(file: BinaryIO, size: int) -> frozenset[str]:
    """The signs in the first `size` bytes that were not taken back later."""
    signs: list[str] = []
    taken_back: dict[str, int] = {}
    for lines in _whole_lines(file, size):
        for found in _LINE.finditer(lines):
            if found[1] is not None:
                signs.append(found[1].decode("ascii"))
            else:
                taken_back[found[2].decode("ascii")] = len(signs)
    if not taken_back:
        return frozenset(signs)
    return frozenset(
        each
        for place, each in enumerate(signs)
        if place >= taken_back.get(each.partition(" ")[0], 0)
    )


def _whole_lines(file: BinaryIO, size: int) -> Iterator[bytes]:
    """Its first `size` bytes by and by, no line cut in two but those that no program wrote."""
    rest = b""
    while size > 0 and (piece := file.read(min(size, _PIECE))):
        size -= len(piece)
        lines, newline, rest = (rest[-_LONGEST:] + piece).rpartition(b"\n")
        yield lines + newline
    yield rest


class Compared:
    """The note of one mirror. For any number of threads, and processes."""

    def __init__(self, mirror: Path) -> None:
        self._path = mirror / FILE

    def signs(self) -> frozenset[str]:
        """All that were added, and not taken back since; none of a note that cannot be read."""
        with suppress(OSError), self._opened(os.O_RDONLY) as file:
            # Not to the file's end: it may grow meanwhile.
            size = os.fstat(file.fileno()).st_size
            if size <= MOST_BYTES:
                return _in_force(file, size)
        return frozenset()

    def add(self, signs: Iterable[str]) -> None:
        """Adds them; a mirror that cannot be written goes without."""
        with suppress(OSError):
            self._append(signs, os.O_CREAT)

    def take_back(self, digests: Iterable[str | None]) -> None:
        """Has no sign of these digests count any more: an image was read and had another one."""
        try:
            self._append((f"{_NOT} {each}" for each in digests if each), 0)
        except FileNotFoundError:
            return
        except OSError:
            self._remove()

    def _append(self, lines: Iterable[str], flags: int) -> None:
        # Each on a new line, whatever a killed program left of the last one, and all by one call.
        data = "".join(f"\n{each}" for each in lines).encode()
        if not data:
            return
        with self._opened(os.O_WRONLY | os.O_APPEND | flags) as file:
            if file.write(data + b"\n") <= len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))

    def _remove(self) -> None:
        """On a full disk, say: without the note all is read."""
        try:
            self._path.unlink()
        except OSError as error:
            _LOG.warning(
                "%s cannot be changed (%s) and takes a damaged image for right: "
                "an export into a directory would hold it, an archive would not",
                self._path,
                error.strerror,
            )

    def trim(self, images: int) -> None:
        """Begins the note anew if it tells of far more than there are images."""
        with suppress(OSError):
            size = self._path.lstat().st_size
            if size > min((2 * images + _STALE) * _SIGN, MOST_BYTES):
                self._path.unlink()

    def _opened(self, flags: int) -> io.FileIO:
        """The note. Should something else lie there, nobody reads it or waits for it."""
        safe = flags | os.O_NONBLOCK | os.O_NOFOLLOW
        mode = "rb" if flags == os.O_RDONLY else "ab"
        file = io.FileIO(self._path, mode, opener=lambda name, _: os.open(name, safe, 0o644))
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            file.close()
            raise FileNotFoundError(self._path)
        return file
