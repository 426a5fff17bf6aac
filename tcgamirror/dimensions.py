"""How many pixels an image file says that it has, by its first few hundred bytes.

Nothing in a file is trusted: what is wrong is raised as Damaged, in words that
go on from the file's name. Sources: PNG (third edition), TIFF 6.0, JPEG (ITU T.81).
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterable, Iterator
from typing import BinaryIO

from tcgamirror.errors import BadSlide, Damaged
from tcgamirror.geometry import Size
from tcgamirror.model import ImageFormat
from tcgamirror.spans import Span
from tcgamirror.tiff import Directory, Tag, Tiff

MOST_SEGMENTS = 1000
"""Of a PNG or JPEG before its pixels; those that `encode` writes have four."""

SIGNATURE = b"\x89PNG\r\n\x1a\n"
"""The first bytes of a PNG."""

_PIECE = 1 << 20
_FRAMES = frozenset((0xC0, 0xC1, 0xC2))
"""JPEG markers that begin a baseline, extended or progressive frame."""
_PIXELS = 0xDA
"""The JPEG marker after which pixels come."""


def read_size(file: BinaryIO, form: ImageFormat) -> Size:
    """The image's size, from the file's beginning; decodes no pixel. Raises Damaged."""
    file.seek(0)
    match form:
        case ImageFormat.PNG:
            return png_size(file)
        case ImageFormat.TIFF:
            return tiff_size(*first_directory(Bytes(file)))
        case ImageFormat.JPEG:
            return jpeg_size(frame_size(*segment) for segment in segments(file))


def exactly(file: BinaryIO, count: int) -> bytes:
    """So many bytes. Raises Damaged if there are fewer."""
    data = file.read(count)
    if len(data) != count:
        raise Damaged("it is cut off")
    return data


def _size(width: int, height: int) -> Size:
    if not width or not height:
        raise Damaged(f"it says that it has {width}×{height} pixels")
    return Size(width, height)


# PNG -------------------------------------------------------------------------


def png_size(file: BinaryIO) -> Size:
    """Leaves the file after its first chunk."""
    if file.read(len(SIGNATURE)) != SIGNATURE:
        raise Damaged("it is no PNG")
    length, name = chunk_head(file)
    if (length, name) != (13, b"IHDR"):
        raise Damaged("it does not begin as a PNG does")
    width, height, *kind = struct.unpack(">IIBBBBB", b"".join(chunk_pieces(file, length, name)))
    if kind != [8, 2, 0, 0, 0]:
        raise Damaged("it is a PNG, but not of 8-bit RGB as this program writes them")
    return _size(width, height)


def chunk_head(file: BinaryIO) -> tuple[int, bytes]:
    """Bytes and name of the chunk that comes next."""
    length, name = struct.unpack(">I4s", exactly(file, 8))
    return length, name


def chunk_pieces(file: BinaryIO, length: int, name: bytes) -> Iterator[bytes]:
    """A chunk's bytes, in pieces; its checksum is checked after the last one."""
    checksum = zlib.crc32(name)
    while length:
        piece = exactly(file, min(length, _PIECE))
        length -= len(piece)
        checksum = zlib.crc32(piece, checksum)
        yield piece
    if struct.unpack(">I", exactly(file, 4))[0] != checksum:
        raise Damaged(f"its {name.decode('latin-1')!r} chunk has another checksum than it says")


# TIFF ------------------------------------------------------------------------


class Bytes:
    """A file as `tiff` reads one."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.size = file.seek(0, os.SEEK_END)

    def read(self, span: Span) -> bytes:
        self._file.seek(span.start)
        return exactly(self._file, span.length)


def first_directory(source: Bytes) -> tuple[Tiff, Directory]:
    """The TIFF and the only directory that this program writes. Raises Damaged."""
    try:
        tiff = Tiff(source)
        return tiff, next(tiff.directories())
    except BadSlide as error:
        raise Damaged(str(error)) from error


def tiff_size(tiff: Tiff, directory: Directory) -> Size:
    """Raises Damaged."""
    try:
        return _size(*(tiff.number(directory, tag) for tag in (Tag.WIDTH, Tag.HEIGHT)))
    except BadSlide as error:
        raise Damaged(str(error)) from error


# JPEG ------------------------------------------------------------------------


def segments(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Marker and bytes of each of a JPEG's segments before its pixels. Raises Damaged."""
    if file.read(2) != b"\xff\xd8":
        raise Damaged("it is no JPEG")
    for _ in range(MOST_SEGMENTS):
        mark = exactly(file, 4)
        (length,) = struct.unpack(">H", mark[2:])
        if mark[0] != 0xFF or length < 2:
            raise Damaged("its segments do not follow each other as a JPEG's do")
        data = exactly(file, length - 2)
        if mark[1] == _PIXELS:
            return
        yield mark[1], data


def frame_size(marker: int, data: bytes) -> Size | None:
    """The size that a segment tells; None if it tells none."""
    if marker not in _FRAMES or len(data) < 6:
        return None
    height, width = struct.unpack(">HH", data[1:5])
    return _size(width, height)


def jpeg_size(sizes: Iterable[Size | None]) -> Size:
    """The last that a segment told. Raises Damaged if none did."""
    told = [size for size in sizes if size is not None]
    if not told:
        raise Damaged("it says nowhere how many pixels it has")
    return told[-1]
