"""Tiles as slides store them, JPEG and JPEG 2000 streams: check, decode and encode them.

A stream is *plain* if it costs a decoder no more than its pixels explain. A plain JPEG is
sequential, with one scan of three components. A plain JPEG 2000 has one tile and few layers.
Scanners write no others. Sources: ITU-T T.81 and T.800, and Aperio's TIFF compressions 33003
and 33005.
"""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image
from PIL.Jpeg2KImagePlugin import Jpeg2KImageFile

from tcgamirror.imaging.decode import WHITE, Pixels, area_average, decode_jpeg_tile
from tcgamirror.imaging.svs import Compression, Photometric
from tcgamirror.imaging.tiff_writer import TILE
from tcgamirror.model.errors import BadTile
from tcgamirror.model.geometry import Size

BLOCK = 16
"""Pixels that the sides of a TIFF's tiles are multiples of."""
REENCODED_QUALITY = 100
"""JPEG quality of tiles that cannot be copied."""
MAX_LAYERS = 64
"""Quality layers of a JPEG 2000 stream; scanners write one."""

COMPRESSIONS = (Compression.JPEG, Compression.JPEG_2000_YCBCR, Compression.JPEG_2000_RGB)

Subsampling = tuple[int, int]
"""Pixels across and down for each value of a JPEG's chroma."""

_PILLOW_SUBSAMPLING = {(1, 1): 0, (2, 1): 1, (2, 2): 2}
"""Pillow's numbers of subsamplings."""


@dataclass(frozen=True, slots=True)
class TileCodec:
    """The way that all tiles of a level are stored. tables: JPEG tables that they share."""

    compression: int
    photometric: int
    tile: Size
    tables: bytes = b""

    @property
    def is_jpeg(self) -> bool:
        return self.compression == Compression.JPEG

    @property
    def can_be_copied(self) -> bool:
        """Return whether a TIFF of such tiles can be written and read, by OpenSlide too."""
        colours = (Photometric.RGB, Photometric.YCBCR)
        return (
            self.compression in COMPRESSIONS
            and (self.photometric in colours or not self.is_jpeg)
            and (not self.tables or _leaves_slots(self.tables))
            and not any(side % BLOCK for side in self.tile)
        )

    def is_plain(self, stream: bytes) -> bool:
        """Return whether the stream is whole and plain."""
        try:
            if self.is_jpeg:
                return _is_plain_jpeg(stream)
            return _is_plain_jpeg_2000(stream, self.tile)
        except (struct.error, IndexError):
            return False

    def decode(self, stream: bytes, scale: int) -> Pixels:
        """Return the pixels of a plain stream, each side divided by `scale`. Raises BadTile.

        scale: 1, 2, 4 or 8. At 1 every coefficient is read, in a JPEG always.
        """
        if self.is_jpeg:
            rgb = self.photometric == Photometric.RGB
            return decode_jpeg_tile(stream, self.tables, self.tile, rgb=rgb, scale=scale)
        reduction = min(scale.bit_length() - 1, _decompositions(stream))
        try:
            with Jpeg2KImageFile(io.BytesIO(stream)) as image:
                image.reduce = reduction
                image.load()
        except (OSError, SyntaxError, ValueError) as error:
            raise BadTile(f"it cannot be decoded ({error})") from error
        # Pillow converts YCbCr itself if it is subsampled.
        rgb = self.compression == Compression.JPEG_2000_RGB or stream[_CHROMA] != b"\1\1"
        pixels = image if rgb else Image.merge("YCbCr", image.split()).convert("RGB")
        rest = scale >> reduction
        return area_average(np.asarray(pixels), rest, rest)

    def encode(
        self, pixels: Pixels | None, subsampling: Subsampling, quality: int = REENCODED_QUALITY
    ) -> bytes:
        """Return a stream of pixels, or of white; at the image's edge they are fewer than a tile's.

        It is lossless, but for JPEG and for the rounding of YCbCr.
        """
        padded: Pixels = np.full((self.tile.height, self.tile.width, 3), WHITE, np.uint8)
        if pixels is not None:
            padded[: len(pixels), : pixels.shape[1]] = pixels
        image, file = Image.fromarray(padded), io.BytesIO()
        if not self.is_jpeg:
            if self.compression == Compression.JPEG_2000_YCBCR:
                image = Image.merge("RGB", image.convert("YCbCr").split())
            image.save(file, "JPEG2000", no_jp2=True, mct=0, irreversible=False)
        elif self.photometric == Photometric.RGB:
            image.save(file, "JPEG", quality=quality, keep_rgb=True, subsampling=0)
        else:
            image.save(file, "JPEG", quality=quality, subsampling=_PILLOW_SUBSAMPLING[subsampling])
        return _in_other_slots(file.getvalue()) if self.tables else file.getvalue()


REDUCED = TileCodec(Compression.JPEG, Photometric.YCBCR, TILE)
"""The way that reduced levels of copied ones are stored."""


# JPEG --------------------------------------------------------------------------------

_BASELINE, _EXTENDED, _HUFFMAN, _SCAN, _QUANTIZATION, _RESTART = 0xC0, 0xC1, 0xC4, 0xDA, 0xDB, 0xDD
_NO_PIXELS = (_HUFFMAN, _QUANTIZATION, _RESTART, *range(0xE0, 0xF0))
_FIRST_FREE = 2
"""The first of four slots for tables that encoders leave free."""
_MARKER = re.compile(rb"\xff[^\0\xd0-\xd7\xff]")
_END = b"\xff\xd9"


def jpeg_subsampling(stream: bytes) -> Subsampling | None:
    """Return the subsampling of a plain JPEG, None if Pillow cannot write it."""
    frames = (start for marker, start, _ in _segments(stream) if marker in (_BASELINE, _EXTENDED))
    luma = stream[next(frames) + 7]
    subsampling = luma >> 4, luma & 15
    return subsampling if subsampling in _PILLOW_SUBSAMPLING else None


def _is_plain_jpeg(stream: bytes) -> bool:
    """Return whether it is a sequential JPEG of one scan of three colours, up to its end."""
    frames, place = 0, 2
    if stream[:2] != b"\xff\xd8":
        return False
    for marker, start, stop in _segments(stream):
        if marker in (_BASELINE, _EXTENDED):
            frames += 1
        elif marker not in (*_NO_PIXELS, _SCAN):
            return False
        place = stop
        if marker == _SCAN:
            end = _MARKER.search(stream, place)
            whole = stream[start : start + 1] == b"\3" and stream[start + 7 : stop] == b"\0\x3f\0"
            return frames == 1 and whole and end is not None and end.group() == _END
    return False


def _segments(stream: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield marker, start and stop of the contents of each segment, the first scan's as the last.

    Raises struct.error if the stream ends before.
    """
    place, marker = 2, 0
    while marker != _SCAN and stream[place : place + 2] != _END:
        first, marker, length = struct.unpack_from(">BBH", stream, place)
        if first != 0xFF:
            return
        yield marker, place + 4, place + 2 + length
        place += 2 + length


def _table_id_offsets(stream: bytes) -> Iterator[int]:
    """Yield the offset of each table's slot number."""
    for marker, place, stop in _segments(stream):
        while marker in (_HUFFMAN, _QUANTIZATION) and place < stop:
            yield place
            if marker == _QUANTIZATION:
                place += 1 + (128 if stream[place] >> 4 else 64)
            else:
                place += 17 + sum(stream[place + 1 : place + 17])


def _leaves_slots(tables: bytes) -> bool:
    """Return whether shared tables leave the last slots free. Return False for invalid tables."""
    try:
        return all(tables[place] & 15 < _FIRST_FREE for place in _table_id_offsets(tables))
    except (struct.error, IndexError):
        return False


def _in_other_slots(stream: bytes) -> bytes:
    """Move the tables of Pillow's JPEG to free slots, and mark it as extended, as these need.

    libtiff keeps tables from tile to tile, and would decode the next tiles by Pillow's.
    """
    moved = bytearray(stream)
    for place in _table_id_offsets(stream):
        moved[place] += _FIRST_FREE
    for marker, start, _ in _segments(stream):
        if marker == _BASELINE:
            moved[start - 3] = _EXTENDED
            for component in range(3):
                moved[start + 8 + 3 * component] += _FIRST_FREE
        if marker == _SCAN:
            for component in range(3):
                moved[start + 2 + 2 * component] += 0x11 * _FIRST_FREE
    return bytes(moved)


# JPEG 2000 ---------------------------------------------------------------------------

_SIZE, _CODING, _COLOUR_CODING, _PART = 0xFF51, 0xFF52, 0xFF53, 0xFF90
_HEADER = (_SIZE, _CODING, _COLOUR_CODING, 0xFF5C, 0xFF5D, 0xFF64)
"""Markers of the header that scanners write; the last three are quantization and comments."""
_CHROMA = slice(46, 48)
"""Subsampling of the second component, in the size that comes first."""
_PART_BYTES = 12
_DATA = b"\xff\x93"
_END_OF_STREAM = b"\xff\xd9"


def _is_plain_jpeg_2000(stream: bytes, tile: Size) -> bool:
    """Return whether it is a codestream of one tile of three 8-bit colours, up to its end."""
    if stream[:4] != b"\xff\x4f\xff\x51":
        return False
    place, seen = 2, set[int]()
    while True:
        marker, length = struct.unpack_from(">HH", stream, place)
        if marker == _PART:
            return {_SIZE, _CODING} <= seen and _reaches_end(stream, place)
        segment = stream[place + 4 : place + 2 + length]
        if (
            marker not in _HEADER
            or (marker == _SIZE and not _is_one_tile(segment, tile))
            or (marker == _CODING and not _is_simple_coding(segment))
            or (marker == _COLOUR_CODING and segment[1] & _OWN_PRECINCTS)
        ):
            return False
        seen.add(marker)
        place += 2 + length


def _is_one_tile(segment: bytes, tile: Size) -> bool:
    _, *sides, components = struct.unpack_from(">H8IH", segment)
    width, height, left, top, tile_width, tile_height, tile_left, tile_top = sides
    return (
        (width, height, left, top, tile_left, tile_top) == (*tile, 0, 0, 0, 0)
        and tile_width >= width
        and tile_height >= height
        and components == 3
        and all(segment[36 + 3 * number] == 7 for number in range(3))
    )


def _decompositions(stream: bytes) -> int:
    """Return how many times a plain stream can be decoded at half the size."""
    return stream[stream.index(struct.pack(">H", _CODING)) + 9]


_OWN_PRECINCTS = 1
"""Flag of a coding style whose precincts are not as large as they can be."""


def _is_simple_coding(segment: bytes) -> bool:
    style, _, layers = struct.unpack_from(">BBH", segment)
    return not style & _OWN_PRECINCTS and layers <= MAX_LAYERS


def _reaches_end(stream: bytes, place: int) -> bool:
    """Return whether the parts of the tile follow each other up to the end of the stream."""
    while stream[place : place + 2] == b"\xff\x90":
        (length,) = struct.unpack_from(">I", stream, place + 6)
        if stream[place + _PART_BYTES : place + _PART_BYTES + 2] != _DATA:
            return False
        if length == 0:
            return stream.endswith(_END_OF_STREAM)
        if length < _PART_BYTES + 2:
            return False
        place += length
    return stream[place : place + 2] == _END_OF_STREAM
