"""Check and decode JPEG 2000 tiles.

OpenSlide decodes such tiles with OpenJPEG. imagecodecs uses the same library, and spares
OpenSlide's other work. Only *plain* streams (see `tile_codec`) are decoded here. `Jpeg2000Tiles`
leaves damaged streams and all others to OpenSlide. Sources: ITU-T T.800, and Aperio's TIFF
compressions 33003 and 33005.
"""

from __future__ import annotations

import struct

import numpy as np

from tcgamirror.imaging.decode import Pixels, TileReader
from tcgamirror.imaging.svs import Compression, TiledLevel, TileTable
from tcgamirror.imaging.tiff import RandomAccess
from tcgamirror.model.errors import BadTile
from tcgamirror.model.geometry import Size

MAX_LAYERS = 64
"""Most quality layers of a plain stream. Scanners write one."""

JPEG_2000 = (Compression.JPEG_2000_YCBCR, Compression.JPEG_2000_RGB)
"""Compressions of JPEG 2000 tiles in a slide."""


class Jpeg2000Tiles(TileReader):
    """Tiles of a JPEG 2000 level, without OpenSlide where imagecodecs gives the same pixels."""

    def __init__(
        self, source: RandomAccess, tiled: TiledLevel, table: TileTable, others: TileReader
    ) -> None:
        """others: reads the tiles that need OpenSlide."""
        super().__init__(tiled.level.grid)
        self._source = source
        self._table = table
        self._rgb = tiled.compression == Compression.JPEG_2000_RGB
        self._others = others

    def read_tile(self, column: int, row: int) -> Pixels | None:
        span = self._table.span(column, row)
        if span is None:
            return None
        pixels = decode_as_openslide(self._source.read(span), self.grid.tile, rgb=self._rgb)
        if pixels is None:
            return self._others.read_tile(column, row)
        size = self.grid.box(column, row).size
        return pixels[: size.height, : size.width]


def decode_as_openslide(stream: bytes, tile: Size, *, rgb: bool) -> Pixels | None:
    """Return the pixels of a stream; None if OpenSlide has to decode or refuse it.

    rgb: whether the TIFF directory says RGB. OpenSlide takes all other components for YCbCr.
    """
    # Pillow could give subsampled components as they are, but never decodes two tiles at once.
    if not is_plain(stream, tile) or stream[_COMPONENTS] != _SAME_SIZE:
        return None
    try:
        return decode_plain(stream, rgb=rgb)
    except BadTile:
        return None


def decode_plain(stream: bytes, *, rgb: bool) -> Pixels:
    """Return the pixels of a plain stream, those of YCbCr 4:2:2 within a grey level of OpenSlide's.

    Raises BadTile for other subsampling, for a damaged stream, and if memory is short.
    """
    subsampled = stream[_COMPONENTS] != _SAME_SIZE
    if subsampled and (rgb or stream[_COMPONENTS] != _HALF_WIDTH):
        raise BadTile("its components are subsampled as in no slide")
    # Imported late, because few slides need it.
    import imagecodecs

    try:
        pixels: Pixels = imagecodecs.jpeg2k_decode(stream, numthreads=1)
    except (RuntimeError, ImportError) as error:
        # The tile may be sound: a lack of memory may raise either error.
        raise BadTile(f"it cannot be decoded ({error})") from error
    # imagecodecs converts subsampled YCbCr by itself.
    return pixels if rgb or subsampled else _to_rgb(pixels)


def is_plain(stream: bytes, tile: Size) -> bool:
    """Return whether a stream is plain and whole: one tile with three components of 8 bits."""
    try:
        return _is_plain(stream, tile)
    except (struct.error, IndexError):
        return False


# Colours ------------------------------------------------------------------------------

# What Cr adds to red, Cb to blue, and both to green (ITU-R BT.601), rounded as OpenSlide does.
_CHROMA = np.arange(256) - 128
_RED = np.rint(1.402 * _CHROMA).astype(np.int16)
_BLUE = np.rint(1.772 * _CHROMA).astype(np.int16)
_GREEN_OF_CB, _GREEN_OF_CR = (np.rint(k * 2**16 * _CHROMA) / 2**16 for k in (-0.34414, -0.71414))
_GREEN = np.floor(_GREEN_OF_CB[:, None] + _GREEN_OF_CR + 0.5).astype(np.int16).ravel()


def _to_rgb(ycbcr: Pixels) -> Pixels:
    """Return the RGB of YCbCr, as OpenSlide computes it."""
    luma, cb, cr = (ycbcr[..., component] for component in range(3))
    rgb = np.empty(ycbcr.shape, np.int16)
    np.add(luma, _RED.take(cr), out=rgb[..., 0])
    np.add(luma, _GREEN.take(cb.astype(np.uint16) << 8 | cr), out=rgb[..., 1])
    np.add(luma, _BLUE.take(cb), out=rgb[..., 2])
    return rgb.clip(0, 255, out=rgb).astype(np.uint8)


# Codestreams --------------------------------------------------------------------------

_SIZE, _CODING, _COLOUR_CODING, _PART = 0xFF51, 0xFF52, 0xFF53, 0xFF90
_HEADER = (_SIZE, _CODING, _COLOUR_CODING, 0xFF5C, 0xFF5D, 0xFF64)
"""Markers in the header of a plain stream; the last three are quantization and comments."""
_COMPONENTS = slice(42, 51)
"""Bytes of a stream that tell the depth and subsampling of three components."""
_SAME_SIZE = b"\7\1\1" * 3
"""The same bytes for 8-bit components that are not subsampled."""
_HALF_WIDTH = b"\7\1\1" + b"\7\2\1" * 2
"""The same bytes for 4:2:2, whose second and third component are half as wide as the first."""
_PART_BYTES = 12
"""Bytes from a tile-part's marker to its data."""
_DATA = b"\xff\x93"
_END_OF_STREAM = b"\xff\xd9"
_OWN_PRECINCTS = 1
"""Flag of a coding style that sets the sizes of precincts. Without it they are the largest."""


def _is_plain(stream: bytes, tile: Size) -> bool:
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
            or (marker == _SIZE and (seen or not _is_one_tile(segment, tile)))
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


def _is_simple_coding(segment: bytes) -> bool:
    style, _, layers = struct.unpack_from(">BBH", segment)
    return not style & _OWN_PRECINCTS and layers <= MAX_LAYERS


def _reaches_end(stream: bytes, place: int) -> bool:
    """Return whether tile-parts, the first at `place`, fill the stream up to its end marker."""
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
