"""The files of an export: their content, and the place that they are written to."""

from __future__ import annotations

import hashlib
import os
import time
from abc import ABC, abstractmethod
from contextlib import ExitStack, suppress
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, NamedTuple

from tcgamirror.catalogue.images import Image
from tcgamirror.system.files import open_file_digest, open_regular


class FileContent(NamedTuple):
    """One open file, at its start; another may have replaced it since it was opened."""

    file: BinaryIO
    size: int
    sha256: str
    mtime_ns: int

    @classmethod
    def of_text(cls, text: str) -> FileContent:
        """Return a new file that has this text."""
        data = text.encode()
        return cls(BytesIO(data), len(data), hashlib.sha256(data).hexdigest(), time.time_ns())


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
        found = open_file_digest(file, "sha256")
        if sha256 in (None, found):
            file.seek(0)
            stack.pop_all()
            return FileContent(file, status.st_size, found, status.st_mtime_ns)
    return None


class Destination(ABC):
    """An export that is being written by one thread."""

    def holds(self, image: Image) -> bool:
        """Return whether a killed export left the image there. Any thread may call it."""
        del image
        return False

    @abstractmethod
    def write(self, name: str, content: FileContent) -> None:
        """Write one file, and close its content."""
