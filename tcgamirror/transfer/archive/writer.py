"""A tar archive written from its beginning to its end, so that it may go through a pipe."""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterable

_BLOCK, _RECORD = 512, 10240
_MODE = 0o644


class TarWriter:
    """Files put into a tar archive, one after another, all in the directory `top`.

    sink: called with all bytes of the archive, in order.
    """

    def __init__(self, sink: Callable[[bytes], object], top: str) -> None:
        self._sink = sink
        self._top = top
        self._length = 0

    def put(self, name: str, size: int, made: float, pieces: Iterable[bytes]) -> None:
        """Write one file of `size` bytes. made: seconds since the epoch."""
        head = tarfile.TarInfo(f"{self._top}/{name}")
        head.size, head.mtime, head.mode = size, int(made), _MODE
        self._write(head.tobuf(tarfile.PAX_FORMAT, "utf-8", "strict"))
        for piece in pieces:
            self._write(piece)
        self._write(bytes(-self._length % _BLOCK))

    def end(self) -> None:
        """Write what ends an archive."""
        self._write(bytes(2 * _BLOCK))
        self._write(bytes(-self._length % _RECORD))

    def _write(self, data: bytes) -> None:
        self._sink(data)
        self._length += len(data)
