"""Which images were compared with their digests, and what the file system said of them then.

An image that nothing has touched since need not be read again only to be copied. A disk's own
file system tells when a file's bytes, name, owner or links last changed (its ctime), and lets no
program set that: git's index and backup programs believe files by the same signs. What the disk
itself makes of the bytes is another matter, for `verify`. The note lies beside the catalogue,
not in it, because a mirror that moved to another disk, or whose note was lost, is right all the
same: its images are read then.
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Container, Iterable
from contextlib import suppress
from pathlib import Path

from tcgamirror.errors import Damaged, NoRoom, WrongUse
from tcgamirror.files import replacing

FILE = ".compared.txt"

MOST_BYTES = 256 << 20
"""Of the note: a million images take half of it. What is more is nobody's note."""

_SIGN = 110
"""Bytes of one sign, about."""

_STALE = 10_000
"""Signs of images that are no more, which are put up with beside as many as there are images."""


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


class Compared:
    """The note of one mirror. For any number of threads, and processes."""

    def __init__(self, mirror: Path) -> None:
        self._path = mirror / FILE

    def signs(self) -> frozenset[str]:
        """All that were added; none of a note that cannot be read."""
        with suppress(OSError), self._opened(os.O_RDONLY) as file:
            # Not to the file's end: it may grow meanwhile.
            note = file.read(min(os.fstat(file.fileno()).st_size, MOST_BYTES))
            return frozenset((note or b"").decode("ascii", "replace").splitlines())
        return frozenset()

    def add(self, signs: Iterable[str]) -> None:
        """Adds them; a mirror that cannot be written goes without."""
        # Each on a new line, whatever a killed program left of the last one, and all by one call.
        text = "".join(f"\n{each}" for each in signs)
        if text:
            with suppress(OSError), self._opened(os.O_WRONLY | os.O_APPEND | os.O_CREAT) as file:
                file.write(f"{text}\n".encode())

    def take_back(self, digests: Container[str | None]) -> None:
        """Forgets all images of these digests: one of them was read and had another."""
        there = self.signs()
        kept = [each for each in there if each.partition(" ")[0] not in digests]
        if len(kept) == len(there):
            return
        # What somebody adds meanwhile is lost, and read again.
        try:
            with replacing(self._path) as file:
                file.write("\n".join([*kept, ""]).encode())
        except (OSError, NoRoom, WrongUse, Damaged):
            # On a full disk, say: without the note all is read.
            with suppress(OSError):
                self._path.unlink()

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
