"""What every kind of export gives when it is read: plain files, one after another."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from tcgamirror.errors import BadExport
from tcgamirror.transfer.layout import MOST_ENTRIES, checked_name

MOST_RATIO = 100
"""Bytes unpacked for each packed one. A catalogue packs to a fifth, images hardly at all."""

FREE_RATIO = 64 << 20
"""Bytes unpacked before that is looked at."""

PIECE = 1 << 20


@dataclass(frozen=True, slots=True)
class Member:
    """A regular file in an export. read: the next bytes of it, valid until the next member."""

    name: str
    size: int
    read: Callable[[int], bytes]

    def pieces(self) -> Iterator[bytes]:
        """All of it. Raises BadExport if it is shorter than it says."""
        left = self.size
        while left:
            try:
                piece = self.read(min(left, PIECE))
            except OSError as error:
                raise BadExport(f"{self.name} cannot be read ({error.strerror})") from error
            if not piece:
                raise BadExport(f"{self.name} is cut off")
            left -= len(piece)
            yield piece


class Names:
    """The names met so far. Raises BadExport for one that comes twice, or that none may have."""

    def __init__(self) -> None:
        self._seen: set[str] = set()

    def checked(self, name: str) -> str:
        name = checked_name(name)
        if name in self._seen:
            raise BadExport(f"it has {name} twice")
        self._seen.add(name)
        if len(self._seen) > MOST_ENTRIES:
            raise BadExport(f"it has more than {MOST_ENTRIES:,} files")
        return name


class Joined(io.RawIOBase):
    """Several files read as one; seekable."""

    def __init__(self, files: list[Path]) -> None:
        super().__init__()
        self._files = files
        self._sizes = [file.stat().st_size for file in files]
        self._place = 0
        self._open: tuple[int, BinaryIO] | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: sum(self._sizes)}[whence]
        self._place = max(0, start + offset)
        return self._place

    def read(self, count: int = -1) -> bytes:
        """At most so many bytes; fewer where one file ends."""
        before = 0
        for number, size in enumerate(self._sizes):
            if self._place < before + size:
                file = self._file(number)
                file.seek(self._place - before)
                data = file.read(count)
                self._place += len(data)
                return data
            before += size
        return b""

    def readinto(self, buffer: object) -> int:
        view = memoryview(buffer)  # type: ignore[arg-type]
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)

    def _file(self, number: int) -> BinaryIO:
        if self._open is None or self._open[0] != number:
            self.close_file()
            self._open = number, self._files[number].open("rb")
        return self._open[1]

    def close_file(self) -> None:
        if self._open is not None:
            self._open[1].close()
            self._open = None

    def close(self) -> None:
        self.close_file()
        super().close()
