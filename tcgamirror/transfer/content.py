"""The files of an export: their content, and the place that they are written to."""

from __future__ import annotations

import hashlib
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from io import FileIO
from pathlib import Path
from typing import NamedTuple

from tcgamirror.catalogue.images import Image
from tcgamirror.model.errors import Damaged
from tcgamirror.system.files import open_file_digest, open_unbuffered
from tcgamirror.transfer.archive.format import read_errors

IN_MEMORY_BYTES = 1 << 17
"""Largest file that is held in memory. A larger one is read for its digest, and again to write it.

Reading twice costs no more, because each piece stays in the processor's cache.
"""

_PIECE = 1 << 19


class FileContent(NamedTuple):
    """The content of a file as it was opened; another file may have replaced it since.

    data: all bytes; of a large file, the file itself, open at its start.
    """

    data: bytes | FileIO
    size: int
    sha256: str
    mtime_ns: int

    @classmethod
    def of_text(cls, text: str) -> FileContent:
        """Return the content of a new file with this text."""
        data = text.encode()
        return cls(data, len(data), hashlib.sha256(data).hexdigest(), time.time_ns())

    def pieces(self, name: str) -> Iterator[bytes | memoryview]:
        """Yield all bytes, then close the file. A piece is valid until the next one is asked for.

        Raises:
            BadExport: if the file cannot be read. Both errors name `name`.
            Damaged: if a large file was changed since its digest was computed.
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
        """Close the file of content that was not written."""
        if isinstance(self.data, FileIO):
            self.data.close()


def read_content(path: str | Path, sha256: str | None = None) -> FileContent | None:
    """Return the content of the file at `path`.

    Args:
        sha256: the digest that the file must have; None for any.

    Returns:
        None if there is no regular file, it cannot be read, or it has another digest.
    """
    with suppress(OSError), ExitStack() as stack:
        file = stack.enter_context(open_unbuffered(path))
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

    in_order: whether a single thread has to write all files, one after the other.
    """

    in_order = True

    def holds(self, image: Image) -> bool:
        """Return whether a killed export left the image there. Any thread may call it."""
        del image
        return False

    @abstractmethod
    def write(self, name: str, content: FileContent) -> None:
        """Write a file named `name`, and close its content."""
