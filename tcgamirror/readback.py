"""Image files as `encode` writes them, read back: their size, their facts, whether all decodes.

Only the three formats, and of them only what this program writes, is taken for
an image. Nothing in a file is trusted: memory is bounded by a few megabytes,
and everything that is wrong is raised as Damaged, in words that go on from the
file's name. Sources: PNG (third edition), TIFF 6.0, JPEG (ITU T.81).
"""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO

from PIL.JpegImagePlugin import JpegImageFile

from tcgamirror.dimensions import (
    MOST_SEGMENTS,
    SIGNATURE,
    Bytes,
    chunk_head,
    chunk_pieces,
    first_directory,
    frame_size,
    jpeg_size,
    png_size,
    segments,
    tiff_size,
)
from tcgamirror.encode import FACTS_KEY, JPEG_MOST_PIXELS
from tcgamirror.errors import BadSlide, Damaged
from tcgamirror.geometry import Size
from tcgamirror.model import ImageFormat
from tcgamirror.spans import Span
from tcgamirror.tiff import Directory, Tag, Tiff

MOST_FACTS = 1 << 16
"""Bytes of an image's facts; those that `encode` writes have about a thousand."""

_PIECE = 1 << 20
_MOST_STRIP = 1 << 26
_ROWS_PER_STRIP, _STRIP_OFFSETS, _STRIP_COUNTS = 278, 273, 279


@dataclass(frozen=True, slots=True)
class Header:
    """What an image says before its pixels. facts: JSON, as yet unread; empty if it has none."""

    size: Size
    facts: str


def read_header(file: BinaryIO, form: ImageFormat) -> Header:
    """The image's size and facts; decodes no pixel. Raises Damaged."""
    file.seek(0)
    match form:
        case ImageFormat.PNG:
            return _png_header(file)
        case ImageFormat.TIFF:
            return _tiff_header(file)
        case ImageFormat.JPEG:
            return _jpeg_header(file)


def unwatched() -> None:
    """For `decode_all`: nothing stops it."""


def decode_all(file: BinaryIO, form: ImageFormat, check: Callable[[], None] = unwatched) -> None:
    """Decodes every pixel and keeps none. Raises Damaged if one of them cannot be had.

    check: called between pieces of PNG and TIFF; what it raises ends it.
    """
    size = read_header(file, form).size
    file.seek(0)
    match form:
        case ImageFormat.PNG:
            _decode_png(file, size, check)
        case ImageFormat.TIFF:
            _decode_tiff(file, size, check)
        case ImageFormat.JPEG:
            _decode_jpeg(file, size)


# PNG -------------------------------------------------------------------------


def _png_header(file: BinaryIO) -> Header:
    size = png_size(file)
    facts = ""
    for _ in range(MOST_SEGMENTS):
        length, name = chunk_head(file)
        if name in (b"IDAT", b"IEND"):
            break
        if length > MOST_FACTS:
            raise Damaged(f"its {name!r} chunk has {length:,} bytes")
        key, _, text = b"".join(chunk_pieces(file, length, name)).partition(b"\0")
        if name == b"tEXt" and key == FACTS_KEY.encode():
            facts = text.decode("latin-1")
    return Header(size, facts)


def _decode_png(file: BinaryIO, size: Size, check: Callable[[], None]) -> None:
    file.seek(len(SIGNATURE))
    lines = _PngLines(size)
    name = b""
    while name != b"IEND":
        length, name = chunk_head(file)
        for piece in chunk_pieces(file, length, name):
            check()
            if name == b"IDAT":
                lines.add(piece)
    lines.end()
    if file.read(1):
        raise Damaged("bytes follow its end")


class _PngLines:
    """The scanlines of an RGB PNG, unpacked and counted: filters need not be undone to be right."""

    def __init__(self, size: Size) -> None:
        self._line = 1 + 3 * size.width
        self._left = self._line * size.height
        self._unpacker = zlib.decompressobj()

    def add(self, packed: bytes) -> None:
        while packed and not self._unpacker.eof:
            try:
                lines = self._unpacker.decompress(packed, _PIECE)
            except zlib.error as error:
                raise Damaged(f"its pixels cannot be unpacked ({error})") from error
            filters = lines[self._left % self._line :: self._line]
            if max(filters, default=0) > 4:
                raise Damaged("a line of its pixels has an unknown filter")
            self._left -= len(lines)
            if self._left < 0:
                raise Damaged("it has more pixels than it says")
            packed = self._unpacker.unconsumed_tail

    def end(self) -> None:
        # The checksum of zlib comes last: only then is it the end.
        if self._left or not self._unpacker.eof:
            raise Damaged("it has fewer pixels than it says")


# TIFF ------------------------------------------------------------------------


def _tiff_header(file: BinaryIO) -> Header:
    tiff, directory = first_directory(Bytes(file))
    return Header(tiff_size(tiff, directory), _description(tiff, directory))


def _description(tiff: Tiff, directory: Directory) -> str:
    entry = directory.entries.get(Tag.DESCRIPTION)
    if entry is None or entry.span.length > MOST_FACTS:
        return ""
    try:
        return tiff.bytes_of(directory, Tag.DESCRIPTION).rstrip(b"\0").decode("latin-1")
    except BadSlide as error:
        raise Damaged(str(error)) from error


def _decode_tiff(file: BinaryIO, size: Size, check: Callable[[], None]) -> None:
    source = Bytes(file)
    tiff, directory = first_directory(source)
    if any(entry.span.stop > source.size for entry in directory.entries.values()):
        raise Damaged("it is cut off")
    try:
        asked = {Tag.COMPRESSION: 8, Tag.SAMPLES: 3, Tag.BITS: 8, Tag.PHOTOMETRIC: 2}
        if any(tiff.number(directory, tag) != value for tag, value in asked.items()):
            raise Damaged("it is a TIFF, but not of packed 8-bit RGB as this program writes them")
        rows = min(tiff.number(directory, _ROWS_PER_STRIP), size.height)
        if not 0 < rows * size.width * 3 <= _MOST_STRIP and rows != 1:
            raise Damaged(f"its strips of {rows:,} rows are larger than this program writes them")
        count = -(-size.height // rows)
        if not {_STRIP_OFFSETS, _STRIP_COUNTS} <= set(directory.entries):
            raise Damaged("it has no strips")
        offsets = tiff.numbers(directory, _STRIP_OFFSETS, count)
        counts = tiff.numbers(directory, _STRIP_COUNTS, count)
        for number, (offset, length) in enumerate(zip(offsets, counts, strict=True)):
            check()
            raw = min(rows, size.height - number * rows) * size.width * 3
            _unpack_strip(tiff, Span(offset, offset + length), raw)
    except BadSlide as error:
        raise Damaged(str(error)) from error


def _unpack_strip(tiff: Tiff, span: Span, raw: int) -> None:
    """raw: bytes of the strip's pixels. Packed ones are little longer at worst."""
    if span.length > raw + raw // 100 + 1000:
        raise Damaged("one of its strips is longer than its pixels")
    unpacker = zlib.decompressobj()
    left, packed = raw, tiff.read(span)
    try:
        while packed and not unpacker.eof and left >= 0:
            left -= len(unpacker.decompress(packed, _PIECE))
            packed = unpacker.unconsumed_tail
    except zlib.error as error:
        raise Damaged(f"its pixels cannot be unpacked ({error})") from error
    if left or not unpacker.eof:
        raise Damaged("one of its strips has not the pixels that it says")


# JPEG ------------------------------------------------------------------------


def _jpeg_header(file: BinaryIO) -> Header:
    facts = ""
    sizes = []
    for marker, data in segments(file):
        if marker == 0xE1 and data.startswith(b"Exif\0\0"):
            facts = _description(*first_directory(Bytes(io.BytesIO(data[6:]))))
        sizes.append(frame_size(marker, data))
    return Header(jpeg_size(sizes), facts)


def _decode_jpeg(file: BinaryIO, size: Size) -> None:
    if size.width * size.height > JPEG_MOST_PIXELS:
        raise Damaged(f"it says that it has {size} pixels, more than this program writes")
    file.seek(-2, os.SEEK_END)
    if file.read() != b"\xff\xd9":
        raise Damaged("it is cut off")
    file.seek(0)
    try:
        image = JpegImageFile(file)
        # An eighth of each side: every coefficient is read all the same, but memory is bounded.
        image.draft("RGB", (1, 1))
        image.load()
    except (OSError, SyntaxError, ValueError, TypeError, LookupError, struct.error) as error:
        raise Damaged(f"its pixels cannot be decoded ({error})") from error
