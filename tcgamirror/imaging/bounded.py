"""Read and inflate bytes that nothing is known of, no more of them than expected."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from tcgamirror.model.byteranges import Span
from tcgamirror.model.errors import Damaged
from tcgamirror.model.geometry import Size
from tcgamirror.system.files import PIECE

MAX_METADATA_BYTES = 1 << 16
"""Bytes of an image's metadata; those that are written are about a thousand."""


@dataclass(frozen=True, slots=True)
class Header:
    """The contents of an image before its pixels.

    metadata: JSON text, empty if missing. compression: of a TIFF whose tiles were copied from a
    slide.
    """

    size: Size
    metadata: str
    compression: int | None = None


def read_exactly(file: BinaryIO, count: int) -> bytes:
    """Return `count` bytes. Raises Damaged if there are fewer."""
    data = file.read(count)
    if len(data) != count:
        raise Damaged("it is cut off")
    return data


def checked_size(width: int, height: int) -> Size:
    """Return the size of an image. Raises Damaged if it has no pixels."""
    if not width or not height:
        raise Damaged(f"it says that it has {width}×{height} pixels")
    return Size(width, height)


class FileBytes:
    """An open file, readable at any offset. size: bytes."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.size = file.seek(0, os.SEEK_END)

    def read(self, span: Span) -> bytes:
        self._file.seek(span.start)
        return read_exactly(self._file, span.length)


class Inflater:
    """Decompresses a zlib stream that must give `size` bytes and be hardly longer than they."""

    def __init__(self, size: int, check: Callable[[], None]) -> None:
        self.left = size
        self._compressed_left = max_compressed(size)
        self._check = check
        self._stream = zlib.decompressobj()

    def pieces(self, compressed: bytes) -> Iterator[bytes]:
        """Decompress the next bytes of the stream. Raises Damaged."""
        self._compressed_left -= len(compressed)
        while compressed:
            self._check()
            if self._stream.eof or self._compressed_left < 0:
                raise Damaged("it has more bytes than its pixels take")
            try:
                piece = self._stream.decompress(compressed, PIECE)
            except zlib.error as error:
                raise Damaged(f"its pixels cannot be unpacked ({error})") from error
            self.left -= len(piece)
            if self.left < 0:
                raise Damaged("it has more pixels than it says")
            yield piece
            compressed = self._stream.unconsumed_tail or self._stream.unused_data

    def check_end(self) -> None:
        """Raise Damaged unless the stream is at its end, where its checksum is."""
        if self.left or not self._stream.eof:
            raise Damaged("it has fewer pixels than it says")


def max_compressed(size: int) -> int:
    """Return the most bytes that `size` bytes compress to."""
    return size + size // 100 + 1000
