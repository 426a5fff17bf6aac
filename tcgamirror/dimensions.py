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
from tcgamirror.imaging.tiff import Directory, Tag, Tiff
from tcgamirror.model import ImageFormat
from tcgamirror.spans import Span

MOST_SEGMENTS = 16
"""Chunks of a PNG, or segments of a JPEG, before its pixels; `encode` writes at most nine."""

SIGNATURE = b"\x89PNG\r\n\x1a\n"
"""The first bytes of a PNG."""

_PIECE = 1 << 20
_FRAME, _SCAN = 0xC0, 0xDA
"""The JPEG markers that begin a baseline frame and a scan."""
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_WRITTEN = frozenset((_FRAME, 0xC4, 0xDB, 0xE0, 0xE1))
"""The JPEG markers before the scan: frame, Huffman and quantization tables, JFIF, Exif."""


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
    """Yield marker and bytes of each segment before the scan; leave the file where it begins.

    A segment that `encode` never writes is refused: a progressive JPEG needs memory for all of
    its pixels and may have any number of scans. Raises Damaged.
    """
    if file.read(2) != b"\xff\xd8":
        raise Damaged("it is no JPEG")
    for _ in range(MOST_SEGMENTS):
        mark = exactly(file, 4)
        marker, (length,) = mark[1], struct.unpack(">H", mark[2:])
        if mark[0] != 0xFF or length < 2:
            raise Damaged("its segments do not follow each other as a JPEG's do")
        if marker in _FRAMES - {_FRAME}:
            raise Damaged("it is a JPEG, but not a baseline one as this program writes them")
        data = exactly(file, length - 2)
        if marker == _SCAN:
            if data[:1] != b"\3" or data[7:] != b"\0\x3f\0":
                raise Damaged("its scan does not hold all of its colours")
            return
        if marker not in _WRITTEN:
            raise Damaged(f"it has a segment {marker:02X}, which this program never writes")
        yield marker, data
    raise Damaged(f"more than {MOST_SEGMENTS} segments come before its pixels")


def frame_size(marker: int, data: bytes) -> Size | None:
    """Return the size that a segment holds; None if it holds none. Raises Damaged."""
    if marker != _FRAME:
        return None
    if len(data) != 15 or (data[0], data[5]) != (8, 3):
        raise Damaged("it is a JPEG, but not of 8-bit colours as this program writes them")
    height, width = struct.unpack(">HH", data[1:5])
    return _size(width, height)


def jpeg_size(sizes: Iterable[Size | None]) -> Size:
    """Return the one size among them. Raises Damaged if there is none, or another."""
    found = [size for size in sizes if size is not None]
    if len(found) != 1:
        raise Damaged(f"it says {len(found)} times how many pixels it has")
    return found[0]
