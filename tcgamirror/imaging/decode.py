"""Read a level's tiles: JPEG and uncompressed ones directly, all others through OpenSlide.

`TileReader.read_tile` is the only source of pixels; every image is derived from it.
A tile is an array of shape (rows, columns, 3), uint8 RGB, cut off at the level's edge.
None stands for a blank tile. A tile that cannot be read whole raises BadTile.

JPEG tiles can be decoded at 1/2, 1/4 or 1/8 of their width and height. JPEG stores blocks
of 8 × 8 pixels as frequencies (ITU-T T.81), of which only the lowest are used then. The
result is close to the mean of each square of pixels, and is faster than decoding all.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from tcgamirror.imaging.svs import Photometric, TiledLevel, TileTable
from tcgamirror.imaging.tiff import RandomAccess
from tcgamirror.model.byteranges import Span
from tcgamirror.model.errors import BadTile, UnsupportedSlide
from tcgamirror.model.geometry import Grid, Size, reduction

if TYPE_CHECKING:
    from openslide import OpenSlide

Pixels = NDArray[np.uint8]
"""RGB, of shape (rows, columns, 3)."""

WHITE = 255

JPEG_BLOCK = 16
"""Pixels a side of the largest blocks of a JPEG, those of 4:2:0 subsampling."""

OPENSLIDE_CACHE_BYTES = 1 << 20
"""Decoded tiles that OpenSlide keeps; its own default is 32 MB a slide."""


class TileReader:
    """One level as a grid of tiles, readable one by one in any order.

    size: pixels of the level. scale: pixels of the level, across and down, that become one
    pixel of `grid`; 1 unless the tiles are decoded smaller. The last pixels of `grid` may
    stand for fewer.
    """

    def __init__(self, level: Grid, scale: int = 1) -> None:
        self.size, self.scale = level.size, scale
        self.grid = Grid(_scaled(level.size, scale), _scaled(level.tile, scale))

    def read_tile(self, column: int, row: int) -> Pixels | None:
        """Return pixels of the size of `grid.box(column, row)`; None for a blank tile."""
        raise NotImplementedError


def choose_jpeg_scale(level: Grid, size: Size) -> int:
    """Return the `scale` at which JPEG tiles are decoded for an image of `size`: 1, 2, 4 or 8.

    It is at most `reduction`. Tiles that are not whole blocks get 1, since their last
    pixels would be mixed with padding.

    >>> level = Grid(Size(9000, 9000), Size(240, 240))
    >>> [choose_jpeg_scale(level, Size(width, width)) for width in (3001, 3000, 150)]
    [1, 2, 8]
    """
    if level.tile.width % JPEG_BLOCK or level.tile.height % JPEG_BLOCK:
        return 1
    largest = min(map(reduction, level.size, size))
    return max(scale for scale in (1, 2, 4, 8) if scale <= largest)


class JpegTiles(TileReader):
    """JPEG tiles, decoded as strictly as OpenSlide does: a guess at pixels is BadTile."""

    def __init__(
        self, source: RandomAccess, tiled: TiledLevel, table: TileTable, scale: int = 1
    ) -> None:
        super().__init__(tiled.level.grid, scale)
        self._level = tiled.level.grid
        self._source = source
        self._table = table
        self._rgb = tiled.photometric == Photometric.RGB

    def read_tile(self, column: int, row: int) -> Pixels | None:
        span = self._table.span(column, row)
        if span is None:
            return None
        size = self._level.box(column, row).size
        # The padding of a tile at the level's edge would be mixed into a scaled one.
        cut_off = size != self._level.tile
        try:
            pixels = decode_jpeg_tile(
                self._source.read(span),
                self._table.tables,
                self._level.tile,
                rgb=self._rgb,
                scale=1 if cut_off else self.scale,
            )
        except BadTile as error:
            raise BadTile(f"the tile at column {column}, row {row} is damaged: {error}") from error
        if not cut_off:
            return pixels
        return area_average(pixels[: size.height, : size.width], self.scale, self.scale)


def area_average(pixels: Pixels, fx: int, fy: int) -> Pixels:
    """Return the mean of each `fx` × `fy` pixels; the last ones may be of fewer."""
    if (fx, fy) == (1, 1):
        return pixels
    return np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).reduce((fx, fy)))


class UncompressedTiles(TileReader):
    """Tiles of plain 8-bit RGB."""

    def __init__(self, source: RandomAccess, tiled: TiledLevel, table: TileTable) -> None:
        super().__init__(tiled.level.grid)
        self._source = source
        self._table = table

    def read_tile(self, column: int, row: int) -> Pixels | None:
        span = self._table.span(column, row)
        if span is None:
            return None
        width, height = self.grid.tile
        if span.length < width * height * 3:
            raise BadTile(
                f"the tile at column {column}, row {row} is damaged: it has {span.length} bytes "
                f"instead of {width * height * 3}"
            )
        data = self._source.read(Span(span.start, span.start + width * height * 3))
        size = self.grid.box(column, row).size
        return np.frombuffer(data, np.uint8).reshape(height, width, 3)[: size.height, : size.width]


class OpenSlideTiles(TileReader):
    """Tiles of a file with a single level, read through OpenSlide.

    In a file with several levels a downsample of 4.0003 would stand between the level's
    pixels and the coordinates that OpenSlide takes.
    """

    def __init__(self, path: Path, level: Grid) -> None:
        """Raise UnsupportedSlide if OpenSlide refuses the file or finds another size in it."""
        self._path = path
        self._slide = self._open()
        size = Size(*self._slide.dimensions)
        if size != level.size:
            self._slide.close()
            raise UnsupportedSlide(f"OpenSlide sees {size} pixels in the level, not {level.size}")
        super().__init__(level)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._slide.close()

    def _open(self) -> OpenSlide:
        # Imported late, because few slides need it.
        from openslide import OpenSlide, OpenSlideCache, OpenSlideError

        try:
            slide = OpenSlide(self._path)
        except OpenSlideError as error:
            raise UnsupportedSlide(f"OpenSlide cannot read the level: {error}") from error
        # Each tile is read once, so a larger cache is never used.
        slide.set_cache(OpenSlideCache(OPENSLIDE_CACHE_BYTES))
        return slide

    def read_tile(self, column: int, row: int) -> Pixels | None:
        from openslide import OpenSlideError

        box = self.grid.box(column, row)
        try:
            region = self._slide.read_region((box.left, box.top), 0, box.size)
        except OpenSlideError as error:
            # After its first error OpenSlide fails every call for this slide.
            self._slide.close()
            self._slide = self._open()
            raise BadTile(f"the tile at column {column}, row {row} is damaged: {error}") from error
        return blend_over_white(np.asarray(region))


def blend_over_white(rgba: NDArray[np.uint8]) -> Pixels:
    """Return an RGBA array of shape (rows, columns, 4) laid over white."""
    alpha = rgba[..., 3:]
    if alpha.min(initial=WHITE) == WHITE:
        return rgba[..., :3]
    colour = rgba[..., :3].astype(np.uint16) * alpha + WHITE * (WHITE - alpha.astype(np.uint16))
    return ((colour + WHITE // 2) // WHITE).astype(np.uint8)


# JPEG streams as TIFF keeps them ----------------------------------------------

_SOI, _EOI, _SOS = 0xD8, 0xD9, 0xDA

_APP0, _APP14 = 0xE0, 0xEE

_END = b"\xff\xd9"

_IDLE_BYTES = re.compile(r"(\d+) extraneous bytes before marker 0xd9")


def complete_jpeg(tile: bytes, tables: bytes, *, rgb: bool) -> bytes:
    """Return a stream that any decoder takes, with shared tables and colours in it.

    The TIFF directory, not the tile, tells RGB from YCbCr. JFIF and Adobe segments are
    therefore replaced by an Adobe one that says it (Adobe TN 5116). Raises ValueError
    if the tile is no JPEG stream.
    """
    adobe = struct.pack(">BBH5sHHHB", 0xFF, _APP14, 14, b"Adobe", 100, 0, 0, 0 if rgb else 1)
    shared, _ = _split_at_scan(tables) if tables else (b"", b"")
    own, scan = _split_at_scan(tile)
    return b"\xff\xd8" + adobe + shared + own + scan


def decode_jpeg_tile(stream: bytes, tables: bytes, tile: Size, *, rgb: bool, scale: int) -> Pixels:
    """Return a tile's pixels, each side divided by `scale`. Raises BadTile.

    tables: JPEG tables that the tile shares with others.
    """
    try:
        complete = complete_jpeg(stream, tables, rgb=rgb)
        return _decode_jpeg(complete, tile, "RGB" if rgb else "YCbCr", scale)
    except (ValueError, IndexError, struct.error) as error:
        raise BadTile(str(error)) from error


def _decode_jpeg(stream: bytes, size: Size, colours: str, scale: int) -> Pixels:
    """Return the pixels of a stream that must have this size and these colours.

    libjpeg reads the header first, so nothing is allocated for a tile of another size.
    Bytes between the last block and the end do no harm and OpenSlide ignores them: they
    are cut out, and the rest is decoded strictly. Scaled or not, the whole stream is read.
    """
    scaled = _scaled(size, scale)
    try:
        height, width, found, _ = simplejpeg.decode_jpeg_header(stream)
    except KeyError as error:
        raise ValueError("its colours are subsampled as in no slide") from error
    if (width, height) != size:
        raise ValueError(f"it has {Size(width, height)} pixels instead of {size}")
    if found != colours:
        raise ValueError(f"its colours are {found} instead of {colours}")
    try:
        return _decode_strictly(stream, scaled)
    except ValueError as error:
        idle = _IDLE_BYTES.search(str(error))
        if idle is None:
            raise
        end = stream.rindex(_END)
        return _decode_strictly(stream[: end - int(idle[1])] + _END, scaled)


def _scaled(size: Size, scale: int) -> Size:
    return Size(-(-size.width // scale), -(-size.height // scale))


def _decode_strictly(stream: bytes, size: Size) -> Pixels:
    """Return the pixels at the scale that gives `size`."""
    pixels: Pixels = simplejpeg.decode_jpeg(
        stream, colorspace="RGB", strict=True, min_width=size.width, min_height=size.height
    )
    return pixels


def _split_at_scan(stream: bytes) -> tuple[bytes, bytes]:
    """Return the segments before the scan, without JFIF's and Adobe's, and the scan."""
    kept: list[bytes] = []
    for marker, segment in _segments(stream):
        if marker in (_SOS, _EOI):
            return b"".join(kept), segment
        if marker not in (_APP0, _APP14):
            kept.append(segment)
    return b"".join(kept), b""


def _segments(stream: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield each marker with its segment; that of the scan or the end is all the rest."""
    if stream[:2] != b"\xff\xd8":
        raise ValueError("it does not begin as a JPEG does")
    offset = 2
    while offset + 4 <= len(stream):
        if stream[offset] != 0xFF:
            raise ValueError(f"byte {offset} of its header is no marker")
        marker = stream[offset + 1]
        if marker == 0xFF:
            offset += 1
            continue
        if marker in (_SOS, _EOI):
            yield marker, stream[offset:]
            return
        (length,) = struct.unpack_from(">H", stream, offset + 2)
        yield marker, stream[offset : offset + 2 + length]
        offset += 2 + length
