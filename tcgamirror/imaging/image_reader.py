"""Read back image files that `image_writer` wrote: their size and metadata, and every pixel.

Nothing in a file is trusted. Anything that `image_writer` never writes is refused by the
header, before pixels are decoded: other colours, progressive or interlaced pixels,
profiles, texts. Decoding takes a few megabytes, and no longer than the pixels explain.
Every fault raises Damaged, with a message that continues the file's name. Sources: PNG
(third edition), TIFF 6.0, JPEG (ITU T.81).
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from typing import BinaryIO, cast

from tcgamirror.imaging.bounded import (
    MAX_METADATA_BYTES,
    Header,
    Inflater,
    checked_size,
    read_exactly,
)
from tcgamirror.model.errors import Damaged
from tcgamirror.model.geometry import Size
from tcgamirror.model.slide import ImageFormat
from tcgamirror.system.files import PIECE

# Modules that bring decoders are imported late: they take longer to load than most checks take.

METADATA_KEY = "tcgamirror"
"""PNG keyword of the metadata; JPEG and TIFF have them in ImageDescription."""

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
"""The first bytes of a PNG."""

JPEG_MAX_PIXELS = 200_000_000
"""A JPEG is held in memory at four bytes a pixel: 800 MB at most."""

SECONDS, SECONDS_PER_PIXEL = 10.0, 1e-6
"""Processor time that decoding may take; a slow machine takes a tenth of it."""

MIN_LINES_BYTES, MAX_LINE_BYTES = 1 << 20, 1 << 21
"""Raw bytes of a PNG's lines that are unfiltered at once; of a line that is unfiltered at all.

Unfiltering takes twenty times as many, in each of several threads. The widest slides' lines have
a third of them.
"""

MAX_SEGMENTS = 16
"""Chunks of a PNG, or segments of a JPEG, before its pixels; `image_writer` writes nine."""


def read_header(file: BinaryIO, form: ImageFormat) -> Header:
    """Return the image's size and metadata without decoding pixels. Raises Damaged."""
    file.seek(0)
    match form:
        case ImageFormat.PNG:
            return _png_header(file)
        case ImageFormat.TIFF:
            from tcgamirror.imaging.tiff_reader import read_tiff_header

            return read_tiff_header(file)
        case ImageFormat.JPEG:
            return _jpeg_header(file)


def decode_all(
    file: BinaryIO, form: ImageFormat, check: Callable[[], None] = lambda: None
) -> str | None:
    """Decode every pixel, keep none, and return their SHA-256, row by row.

    It is None where pixels depend on the decoder, as those of a JPEG, and for an image that is too
    wide to be held by rows of tiles.

    Args:
        check: called many times a second; what it raises ends the decoding.

    Raises:
        Damaged: A pixel cannot be decoded, or decoding takes longer than its pixels explain.
    """
    size = read_header(file, form).size
    seconds = SECONDS + SECONDS_PER_PIXEL * size.width * size.height
    # Processor time, so that a slow disk or a busy machine makes no image count as damaged.
    end = time.thread_time() + seconds

    def check_time() -> None:
        check()
        if time.thread_time() > end:
            raise Damaged(f"its pixels are not decoded after {seconds:.0f} s")

    match form:
        case ImageFormat.PNG:
            return _decode_png(file, size, check_time)
        case ImageFormat.TIFF:
            from tcgamirror.imaging.tiff_reader import decode_tiff

            return decode_tiff(file, check_time)
        case ImageFormat.JPEG:
            _decode_jpeg(file, check_time)
            return None


# PNG -------------------------------------------------------------------------


def _png_header(file: BinaryIO) -> Header:
    """Read up to the first chunk of pixels."""
    if file.read(len(PNG_SIGNATURE)) != PNG_SIGNATURE:
        raise Damaged("it is no PNG")
    length, name = _chunk_head(file)
    if (length, name) != (13, b"IHDR"):
        raise Damaged("it does not begin as a PNG does")
    width, height, *kind = struct.unpack(">IIBBBBB", b"".join(_chunk_pieces(file, length, name)))
    if kind != [8, 2, 0, 0, 0]:
        raise Damaged("it is a PNG, but not of 8-bit RGB as this program writes them")
    metadata = ""
    for _ in range(MAX_SEGMENTS):
        length, name = _chunk_head(file)
        if name == b"IDAT":
            file.seek(-8, os.SEEK_CUR)
            return Header(checked_size(width, height), metadata)
        if name not in (b"pHYs", b"tEXt"):
            raise Damaged(f"it has a chunk {name!r}, which this program never writes there")
        if length > MAX_METADATA_BYTES:
            raise Damaged(f"its {name!r} chunk has {length:,} bytes")
        key, _, text = b"".join(_chunk_pieces(file, length, name)).partition(b"\0")
        if name == b"tEXt" and key == METADATA_KEY.encode():
            metadata = text.decode("latin-1")
    raise Damaged(f"more than {MAX_SEGMENTS} chunks come before its pixels")


def _chunk_head(file: BinaryIO) -> tuple[int, bytes]:
    """Return bytes and name of the next chunk."""
    length, name = struct.unpack(">I4s", read_exactly(file, 8))
    return length, name


def _chunk_pieces(file: BinaryIO, length: int, name: bytes) -> Iterator[bytes]:
    """Yield a chunk's bytes in pieces, and check its checksum after the last one."""
    checksum = zlib.crc32(name)
    while length:
        piece = read_exactly(file, min(length, PIECE))
        length -= len(piece)
        checksum = zlib.crc32(piece, checksum)
        yield piece
    if struct.unpack(">I", read_exactly(file, 4))[0] != checksum:
        raise Damaged(f"its {name.decode('latin-1')!r} chunk has another checksum than it says")


def _decode_png(file: BinaryIO, size: Size, check: Callable[[], None]) -> str | None:
    line = 1 + 3 * size.width
    inflater = Inflater(line * size.height, check)
    scanlines = _Scanlines(size.width) if line <= MAX_LINE_BYTES else None
    # One chunk for each strip, of at least one line, and one for the end.
    for _ in range(size.height + 1):
        length, name = _chunk_head(file)
        if name != b"IDAT":
            break
        for compressed in _chunk_pieces(file, length, name):
            for piece in inflater.pieces(compressed):
                # A known filter byte is all that a line needs to be valid.
                next_line = (inflater.left + len(piece)) % line
                if max(piece[next_line::line], default=0) > 4:
                    raise Damaged("a line of its pixels has an unknown filter")
                if scanlines is not None:
                    scanlines.add(piece)
    else:
        length, name = _chunk_head(file)
    inflater.check_end()
    if (length, name) != (0, b"IEND"):
        raise Damaged(f"it has a chunk {name!r}, which this program never writes there")
    b"".join(_chunk_pieces(file, length, name))
    if file.read(1):
        raise Damaged("bytes follow its end")
    return None if scanlines is None else scanlines.digest()


class _Scanlines:
    """The digest of pixels, from the scanlines of a PNG as they come."""

    def __init__(self, width: int) -> None:
        self._width = width
        # A line without filter stands above the first one, as PNG's filters have it.
        self._above = bytes(1 + 3 * width)
        self._lines = bytearray()
        self._digest = hashlib.sha256(usedforsecurity=False)

    def add(self, piece: bytes) -> None:
        """Add the next bytes of the lines, whose filters are known."""
        self._lines += piece
        if len(self._lines) >= max(MIN_LINES_BYTES, len(self._above)):
            self._unfilter()

    def digest(self) -> str:
        """Return the digest in hex, once all lines were added."""
        self._unfilter()
        return self._digest.hexdigest()

    def _unfilter(self) -> None:
        """Have Pillow undo the filters of all whole lines."""
        from PIL import Image

        rows = len(self._lines) // len(self._above)
        whole = rows * len(self._above)
        packed = zlib.compress(self._above + self._lines[:whole], 0)
        del self._lines[:whole]
        image = Image.frombytes("RGB", (self._width, rows + 1), packed, "zip", "RGB", 0)
        pixels = memoryview(image.tobytes())
        self._digest.update(pixels[3 * self._width :])
        self._above = bytes((0, *pixels[-3 * self._width :]))


# JPEG ------------------------------------------------------------------------

_FRAME, _SCAN, _EXIF = 0xC0, 0xDA, 0xE1
"""Markers of a baseline frame, a scan, and Exif's application segment."""

_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}

_WRITTEN_MARKERS = frozenset((_FRAME, 0xC4, 0xDB, 0xE0, _EXIF))
"""Markers before the scan: frame, Huffman and quantization tables, JFIF, Exif."""

_MARKER = re.compile(rb"\xff[^\0]")

_END = b"\xff\xd9"


def _jpeg_header(file: BinaryIO) -> Header:
    """Read up to the first byte of the scan."""
    from tcgamirror.imaging.tiff_reader import read_description

    metadata = ""
    sizes = []
    for marker, data in _segments(file):
        if marker == _EXIF and data.startswith(b"Exif\0\0"):
            metadata = read_description(io.BytesIO(data[6:]))
        if marker == _FRAME:
            sizes.append(_frame_size(data))
    if len(sizes) != 1:
        raise Damaged(f"it says {len(sizes)} times how many pixels it has")
    (size,) = sizes
    if size.width * size.height > JPEG_MAX_PIXELS:
        raise Damaged(f"it says that it has {size} pixels, more than this program writes")
    return Header(size, metadata)


def _segments(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Yield marker and bytes of each segment before the scan; leave the file where it begins.

    Raises Damaged for a segment that `image_writer` never writes: a progressive JPEG takes
    memory for all of its pixels and may have any number of scans.
    """
    if file.read(2) != b"\xff\xd8":
        raise Damaged("it is no JPEG")
    for _ in range(MAX_SEGMENTS):
        head = read_exactly(file, 4)
        marker, (length,) = head[1], struct.unpack(">H", head[2:])
        if head[0] != 0xFF or length < 2:
            raise Damaged("its segments do not follow each other as a JPEG's do")
        if marker in _FRAMES - {_FRAME}:
            raise Damaged("it is a JPEG, but not a baseline one as this program writes them")
        data = read_exactly(file, length - 2)
        if marker == _SCAN:
            if data[:1] != b"\3" or data[7:] != b"\0\x3f\0":
                raise Damaged("its scan does not hold all of its colours")
            return
        if marker not in _WRITTEN_MARKERS:
            raise Damaged(f"it has a segment {marker:02X}, which this program never writes")
        yield marker, data
    raise Damaged(f"more than {MAX_SEGMENTS} segments come before its pixels")


def _frame_size(data: bytes) -> Size:
    if len(data) != 15 or (data[0], data[5]) != (8, 3):
        raise Damaged("it is a JPEG, but not of 8-bit colours as this program writes them")
    height, width = struct.unpack(">HH", data[1:5])
    return checked_size(width, height)


def _decode_jpeg(file: BinaryIO, check: Callable[[], None]) -> None:
    from PIL.JpegImagePlugin import JpegImageFile

    _check_scan(file, check)
    file.seek(0)
    try:
        image = JpegImageFile(cast("BinaryIO", _CheckedFile(file, check)))
        # An eighth of each side bounds the memory, and still reads every coefficient.
        image.draft("RGB", (1, 1))
        image.load()
    except (OSError, SyntaxError, ValueError, TypeError, LookupError, struct.error) as error:
        raise Damaged(f"its pixels cannot be decoded ({error})") from error


def _check_scan(file: BinaryIO, check: Callable[[], None]) -> None:
    """Raise Damaged unless the scan is the only one and ends with the file."""
    kept = b""
    while piece := file.read(PIECE):
        check()
        data = kept + piece
        marker = _MARKER.search(data)
        if marker is not None:
            if marker.group() != _END or marker.end() != len(data) or file.read(1):
                raise Damaged("its pixels are followed by more than its end")
            return
        # A marker may be split between two pieces.
        kept = data[-1:]
    raise Damaged("it is cut off")


class _CheckedFile:
    """A file that calls `check` at each read of the decoder, which is every 64 kB."""

    def __init__(self, file: BinaryIO, check: Callable[[], None]) -> None:
        self._file = file
        self._check = check
        self.seek, self.tell = file.seek, file.tell

    def read(self, count: int = -1) -> bytes:
        self._check()
        return self._file.read(count)
