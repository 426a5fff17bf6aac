"""Image files as `encode` writes them, read back: their size, their facts, whether all decodes.

Nothing in a file is trusted. What `encode` never writes is refused by its header, before
anything is decoded: other colours, progressive and interlaced pixels, profiles, texts.
What is decoded takes a few megabytes, and no longer than its pixels explain. All that is
wrong is raised as Damaged, in words that continue the file's name. Sources: PNG (third
edition), TIFF 6.0, JPEG (ITU T.81).
"""

from __future__ import annotations

import io
import os
import re
import struct
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, cast

from PIL.JpegImagePlugin import JpegImageFile

from tcgamirror.imaging.image_writer import (
    JPEG_MOST_PIXELS,
    METADATA_KEY,
    STRIP_BYTES,
    TIFF_MOST_BYTES,
)
from tcgamirror.imaging.tiff import Directory, Tag, Tiff
from tcgamirror.model.byteranges import Span
from tcgamirror.model.errors import BadSlide, Damaged
from tcgamirror.model.geometry import Size
from tcgamirror.model.slide import ImageFormat

MOST_FACTS = 1 << 16
"""Bytes of an image's facts; those that `encode` writes have about a thousand."""

SECONDS, SECONDS_PER_PIXEL = 10.0, 1e-6
"""Processor time that decoding may take; a slow machine takes a tenth of it."""

_PIECE = 1 << 20

_MOST_STRIP = 1 << 26

_ROWS_PER_STRIP, _STRIP_OFFSETS, _STRIP_COUNTS = 278, 273, 279

_TIFF_WRITTEN = {Tag.COMPRESSION: (8,), Tag.SAMPLES: (3,), Tag.BITS: (8, 8, 8)}

MOST_SEGMENTS = 16
"""Chunks of a PNG, or segments of a JPEG, before its pixels; `encode` writes at most nine."""

SIGNATURE = b"\x89PNG\r\n\x1a\n"
"""The first bytes of a PNG."""

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


_TIFF_WRITTEN |= {Tag.PHOTOMETRIC: (2,), Tag.PREDICTOR: (2,)}

_MARKER = re.compile(rb"\xff[^\0]")

_END = b"\xff\xd9"

_SHORT = 3
"""The TIFF type of numbers of two bytes."""


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
    """Decode every pixel and keep none.

    Args:
        check: Called many times a second. What it raises ends the decoding.

    Raises:
        Damaged: A pixel cannot be decoded, or decoding takes longer than its pixels explain.
    """
    size = read_header(file, form).size
    seconds = SECONDS + SECONDS_PER_PIXEL * size.width * size.height
    # Of the processor, so that a slow disk or a busy machine damages nothing.
    end = time.thread_time() + seconds

    def checked() -> None:
        check()
        if time.thread_time() > end:
            raise Damaged(f"its pixels are not decoded after {seconds:.0f} s")

    match form:
        case ImageFormat.PNG:
            _decode_png(file, size, checked)
        case ImageFormat.TIFF:
            _decode_tiff(file, size, checked)
        case ImageFormat.JPEG:
            _decode_jpeg(file, checked)


class _Unpacker:
    """One zlib stream that unpacks to so many bytes, and is hardly longer than they are."""

    def __init__(self, size: int, check: Callable[[], None]) -> None:
        self.left = size
        self._packed_left = _longest(size)
        self._check = check
        self._stream = zlib.decompressobj()

    def pieces(self, packed: bytes) -> Iterator[bytes]:
        """Unpack the next bytes of the stream. Raises Damaged."""
        self._packed_left -= len(packed)
        while packed:
            self._check()
            if self._stream.eof or self._packed_left < 0:
                raise Damaged("it has more bytes than its pixels take")
            try:
                piece = self._stream.decompress(packed, _PIECE)
            except zlib.error as error:
                raise Damaged(f"its pixels cannot be unpacked ({error})") from error
            self.left -= len(piece)
            if self.left < 0:
                raise Damaged("it has more pixels than it says")
            yield piece
            packed = self._stream.unconsumed_tail or self._stream.unused_data

    def end(self) -> None:
        """Raise Damaged if the stream is not at its end: its checksum comes last."""
        if self.left or not self._stream.eof:
            raise Damaged("it has fewer pixels than it says")


def _longest(size: int) -> int:
    """Return the most bytes that so many pack to: what cannot be packed gets little longer."""
    return size + size // 100 + 1000


# PNG -------------------------------------------------------------------------


def _png_header(file: BinaryIO) -> Header:
    """Leaves the file before the first chunk of pixels."""
    size = png_size(file)
    facts = ""
    for _ in range(MOST_SEGMENTS):
        place = file.tell()
        length, name = chunk_head(file)
        if name == b"IDAT":
            file.seek(place)
            return Header(size, facts)
        if name not in (b"pHYs", b"tEXt"):
            raise Damaged(f"it has a chunk {name!r}, which this program never writes there")
        if length > MOST_FACTS:
            raise Damaged(f"its {name!r} chunk has {length:,} bytes")
        key, _, text = b"".join(chunk_pieces(file, length, name)).partition(b"\0")
        if name == b"tEXt" and key == METADATA_KEY.encode():
            facts = text.decode("latin-1")
    raise Damaged(f"more than {MOST_SEGMENTS} chunks come before its pixels")


def _decode_png(file: BinaryIO, size: Size, check: Callable[[], None]) -> None:
    line = 1 + 3 * size.width
    unpacker = _Unpacker(line * size.height, check)
    # One chunk for each strip, of at least one line, and one for the end.
    for _ in range(size.height + 1):
        length, name = chunk_head(file)
        if name != b"IDAT":
            break
        for packed in chunk_pieces(file, length, name):
            for piece in unpacker.pieces(packed):
                # Filters need not be undone to be right.
                next_line = (unpacker.left + len(piece)) % line
                if max(piece[next_line::line], default=0) > 4:
                    raise Damaged("a line of its pixels has an unknown filter")
    else:
        length, name = chunk_head(file)
    unpacker.end()
    if (length, name) != (0, b"IEND"):
        raise Damaged(f"it has a chunk {name!r}, which this program never writes there")
    b"".join(chunk_pieces(file, length, name))
    if file.read(1):
        raise Damaged("bytes follow its end")


# TIFF ------------------------------------------------------------------------


def _tiff_header(file: BinaryIO) -> Header:
    tiff, directory = _checked_tiff(file)
    return Header(tiff_size(tiff, directory), _description(tiff, directory))


def _checked_tiff(file: BinaryIO) -> tuple[Tiff, Directory]:
    """Return the only directory. Raises Damaged for one that `encode` does not write."""
    source = Bytes(file)
    tiff, directory = first_directory(source)
    if any(entry.span.stop > source.size for entry in directory.entries.values()):
        raise Damaged("it is cut off")
    found = {tag: _short_numbers(tiff, directory, tag) for tag in _TIFF_WRITTEN}
    if found != _TIFF_WRITTEN or directory.next:
        raise Damaged("it is a TIFF, but not of packed 8-bit RGB as this program writes them")
    return tiff, directory


def _short_numbers(tiff: Tiff, directory: Directory, tag: int) -> tuple[int, ...]:
    entry = directory.entries.get(tag)
    if entry is None or entry.type != _SHORT or not 1 <= entry.count <= 3:
        return ()
    return tiff.layout.unpack(f"{entry.count}H", tiff.read(entry.span))


def _description(tiff: Tiff, directory: Directory) -> str:
    entry = directory.entries.get(Tag.DESCRIPTION)
    if entry is None or entry.span.length > MOST_FACTS:
        return ""
    try:
        return tiff.bytes_of(directory, Tag.DESCRIPTION).rstrip(b"\0").decode("latin-1")
    except BadSlide as error:
        raise Damaged(str(error)) from error


def _decode_tiff(file: BinaryIO, size: Size, check: Callable[[], None]) -> None:
    tiff, directory = _checked_tiff(file)
    line = 3 * size.width
    if line * size.height > TIFF_MOST_BYTES:
        raise Damaged(f"it says that it has {size} pixels, more than this program writes")
    try:
        rows = min(tiff.number(directory, _ROWS_PER_STRIP), size.height)
        count = -(-size.height // max(rows, 1))
        # Less than half as many bytes as may be are packed at once only where a line is longer.
        if not STRIP_BYTES // 2 * (count - 1) <= line * size.height or not rows:
            raise Damaged(f"its strips of {rows:,} rows are smaller than this program writes them")
        if rows * line > _MOST_STRIP and rows != 1:
            raise Damaged(f"its strips of {rows:,} rows are larger than this program writes them")
        if not {_STRIP_OFFSETS, _STRIP_COUNTS} <= set(directory.entries):
            raise Damaged("it has no strips")
        offsets = tiff.numbers(directory, _STRIP_OFFSETS, count)
        counts = tiff.numbers(directory, _STRIP_COUNTS, count)
        free = 0
        for number, (offset, length) in enumerate(zip(offsets, counts, strict=True)):
            raw = min(rows, size.height - number * rows) * line
            if offset < free:
                raise Damaged("its strips overlap")
            free = offset + length
            if length > _longest(raw):
                raise Damaged("one of its strips is longer than its pixels")
            unpacker = _Unpacker(raw, check)
            for _ in unpacker.pieces(tiff.read(Span(offset, free))):
                pass
            unpacker.end()
    except BadSlide as error:
        raise Damaged(str(error)) from error


# JPEG ------------------------------------------------------------------------


def _jpeg_header(file: BinaryIO) -> Header:
    """Leaves the file at the scan's first byte."""
    facts = ""
    sizes = []
    for marker, data in segments(file):
        if marker == 0xE1 and data.startswith(b"Exif\0\0"):
            facts = _description(*first_directory(Bytes(io.BytesIO(data[6:]))))
        sizes.append(frame_size(marker, data))
    size = jpeg_size(sizes)
    if size.width * size.height > JPEG_MOST_PIXELS:
        raise Damaged(f"it says that it has {size} pixels, more than this program writes")
    return Header(size, facts)


def _decode_jpeg(file: BinaryIO, check: Callable[[], None]) -> None:
    _check_scan(file, check)
    file.seek(0)
    try:
        image = JpegImageFile(cast("BinaryIO", _Watched(file, check)))
        # An eighth of each side: every coefficient is read all the same, but memory is bounded.
        image.draft("RGB", (1, 1))
        image.load()
    except (OSError, SyntaxError, ValueError, TypeError, LookupError, struct.error) as error:
        raise Damaged(f"its pixels cannot be decoded ({error})") from error


def _check_scan(file: BinaryIO, check: Callable[[], None]) -> None:
    """Raise Damaged unless the scan is the only one and ends with the file."""
    kept = b""
    while piece := file.read(_PIECE):
        check()
        data = kept + piece
        marker = _MARKER.search(data)
        if marker is not None:
            if marker.group() != _END or marker.end() != len(data) or file.read(1):
                raise Damaged("its pixels are followed by more than its end")
            return
        # A marker may lie across two pieces.
        kept = data[-1:]
    raise Damaged("it is cut off")


class _Watched(io.RawIOBase):
    """A file that calls `check` whenever the decoder reads on, which is every 64 kB."""

    def __init__(self, file: BinaryIO, check: Callable[[], None]) -> None:
        super().__init__()
        self._file = file
        self._check = check

    def read(self, count: int = -1) -> bytes:
        self._check()
        return self._file.read(count)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()
