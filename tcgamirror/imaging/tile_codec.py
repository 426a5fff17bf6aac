"""Tiles as slides store them, JPEG and JPEG 2000 streams: check, decode and encode them.

A stream is *plain* if it costs a decoder no more than its pixels explain. A plain JPEG is
sequential, with one scan of three components. A plain JPEG 2000 has one tile and few layers.
Scanners write no others. Source: ITU-T T.81.
"""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

from tcgamirror.imaging.decode import WHITE, Pixels, area_average, decode_jpeg_tile
from tcgamirror.imaging.jpeg2000 import JPEG_2000, decode_plain, is_plain
from tcgamirror.imaging.svs import Compression, Photometric
from tcgamirror.imaging.tiff_writer import TILE
from tcgamirror.model.geometry import Size

BLOCK = 16
"""Pixels that the sides of a TIFF's tiles are multiples of."""
REENCODED_QUALITY = 100
"""JPEG quality of tiles that cannot be copied."""
COMPRESSIONS = (Compression.JPEG, *JPEG_2000)

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
        if not self.is_jpeg:
            return is_plain(stream, self.tile)
        try:
            return _is_plain_jpeg(stream)
        except (struct.error, IndexError):
            return False

    def decode(self, stream: bytes, scale: int) -> Pixels:
        """Return the pixels of a plain stream, each side divided by `scale`. Raises BadTile.

        scale: 1, 2, 4 or 8. Every coefficient is read at each of them.
        """
        if self.is_jpeg:
            rgb = self.photometric == Photometric.RGB
            return decode_jpeg_tile(stream, self.tables, self.tile, rgb=rgb, scale=scale)
        # A wavelet's own reduction lies at the first of the pixels, not at their centre.
        rgb = self.compression == Compression.JPEG_2000_RGB
        return area_average(decode_plain(stream, rgb=rgb), scale, scale)

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
