"""The files of an export: their content, and the place that they are written to."""

from __future__ import annotations

import hashlib
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from io import BufferedReader
from pathlib import Path
from typing import NamedTuple

from tcgamirror.catalogue.images import Image
from tcgamirror.model.errors import Damaged
from tcgamirror.system.files import open_file_digest, open_regular
from tcgamirror.transfer.archive.format import read_errors

IN_MEMORY_BYTES = 1 << 17
"""A larger file is read twice: for its digest, and to be written.

That costs no more than to hold it in memory, because each piece stays in the processor's cache.
"""

_PIECE = 1 << 19


class FileContent(NamedTuple):
    """The content of one file; another may have replaced it since it was opened.

    data: all of it; of a large file, the file itself, open and at its start.
    """

    data: bytes | BufferedReader
    size: int
    sha256: str
    mtime_ns: int

    @classmethod
    def of_text(cls, text: str) -> FileContent:
        """Return a new file that has this text."""
        data = text.encode()
        return cls(data, len(data), hashlib.sha256(data).hexdigest(), time.time_ns())

    def pieces(self, name: str) -> Iterator[bytes | memoryview]:
        """Yield all of it, and close it. A piece is valid until the next one.

        Raises:
            BadExport: with `name`, for what cannot be read.
            Damaged: for a large file that was written to since its digest was made.
        """
        if isinstance(self.data, bytes):
            yield self.data
            return
        memory, left = memoryview(bytearray(_PIECE)), self.size
        with self.data:
            while left:
                with read_errors(name):
                    count = self.data.readinto(memory[:left])
                if not count:
                    break
                yield memory[:count]
                left -= count
            status = os.fstat(self.data.fileno())
        if left or (status.st_size, status.st_mtime_ns) != (self.size, self.mtime_ns):
            raise Damaged(f"{name}: was changed during the export. Export again")

    def close(self) -> None:
        """Close content that is not written."""
        if isinstance(self.data, BufferedReader):
            self.data.close()


def read_content(path: Path, sha256: str | None = None) -> FileContent | None:
    """Return the content of the file at `path`.

    Args:
        sha256: the digest that the file is to have; None for any.

    Returns:
        None if there is no plain file, it cannot be read, or it has another digest.
    """
    with suppress(OSError), ExitStack() as stack:
        file = stack.enter_context(open_regular(path))
        status = os.fstat(file.fileno())
        if status.st_size <= IN_MEMORY_BYTES:
            data = file.read(status.st_size)
            found = hashlib.sha256(data, usedforsecurity=False).hexdigest()
            if sha256 in (None, found):
                return FileContent(data, len(data), found, status.st_mtime_ns)
        else:
            found = open_file_digest(file, "sha256")
            file.seek(0)
            if sha256 in (None, found):
                stack.pop_all()
                return FileContent(file, status.st_size, found, status.st_mtime_ns)
    return None


class Destination(ABC):
    """An export that is being written.

    in_order: whether one thread has to write its files, one after the other.
    """

    in_order = True

    def holds(self, image: Image) -> bool:
        """Return whether a killed export left the image there. Any thread may call it."""
        del image
        return False

    @abstractmethod
    def write(self, name: str, content: FileContent) -> None:
        """Write one file, and close its content."""
