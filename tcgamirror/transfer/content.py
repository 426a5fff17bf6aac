"""The content of files to export, read and compared with their digests."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from tcgamirror.model.errors import Damaged
from tcgamirror.system.files import PIECE, open_file_digest, open_regular

IN_MEMORY_BYTES = 16 << 20
"""A larger file is read twice, once for its digest and once to be written."""


@dataclass(frozen=True, slots=True)
class FileContent:
    """One file as it was when it was read; another may have replaced it since.

    path: None for a file that is made by this program. size: bytes.
    data: None for a large file. file: that one, open.
    """

    path: Path | None
    size: int
    sha256: str
    mtime_ns: int
    data: bytes | None
    file: BinaryIO | None = None

    @classmethod
    def of_text(cls, text: str) -> FileContent:
        """Return a new file that has this text."""
        data = text.encode()
        return cls(None, len(data), hashlib.sha256(data).hexdigest(), time.time_ns(), data)

    def pieces(self) -> Iterator[bytes]:
        """Yield all of it, once.

        Raises:
            Damaged: if a large file has other bytes now than when it was first read.
        """
        if self.data is not None:
            yield self.data
        if self.file is None:
            return
        with self.file:
            self.file.seek(0)
            sha256 = hashlib.sha256(usedforsecurity=False)
            while piece := self.file.read(PIECE):
                sha256.update(piece)
                yield piece
        if sha256.hexdigest() != self.sha256:
            raise Damaged(
                f"{self.path}: read twice, and the bytes differ. See the system's log for errors "
                "of its disk, then export again"
            )

    def close(self) -> None:
        """Close the file of content that is not written."""
        if self.file is not None:
            self.file.close()


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
            data = file.read()
            found = hashlib.sha256(data, usedforsecurity=False).hexdigest()
            content = FileContent(path, len(data), found, status.st_mtime_ns, data)
        else:
            found = open_file_digest(file, "sha256")
            content = FileContent(path, status.st_size, found, status.st_mtime_ns, None, file)
        if sha256 in (None, found):
            if content.file is not None:
                stack.pop_all()
            return content
    return None
