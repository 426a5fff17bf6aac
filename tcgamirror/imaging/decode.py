"""Readers of one level's tiles: JPEG ones directly, all others through OpenSlide.

A tile is an array of shape (rows, columns, 3), uint8 RGB, cut off at the
level's edge; None is a blank area. A tile that cannot be had whole is an
error, never a black square.

JPEG tiles can also be had at a half, a quarter or an eighth of their width and
height: of each block of 8 × 8 pixels only the lowest frequencies are then made
into pixels (ITU-T T.81 keeps blocks as frequencies), which lies close to the mean
of each square of pixels and takes less time than all of them.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

import numpy as np
import openslide
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from tcgamirror.imaging.svs import Compression, Photometric, TiledLevel, TileTable
from tcgamirror.imaging.tiff import RandomAccess
from tcgamirror.model.byteranges import Span
from tcgamirror.model.errors import BadTile, UnsupportedSlide
from tcgamirror.model.geometry import Grid, Size, reduction
from tcgamirror.model.slide import Pyramid, Rendition

Pixels = NDArray[np.uint8]
"""RGB, of shape (rows, columns, 3)."""

WHITE = 255

REGION_WIDTH = 1024
"""Pixels of a row of tiles read from OpenSlide at once: a call costs more than a tile."""

BLOCK = 16
"""Pixels a side of the largest squares that JPEG keeps together, those of 4:2:0."""

CACHE_BYTES = 1 << 20
"""That OpenSlide may keep of decoded tiles; by itself it keeps 32 MB a slide."""


class TileReader(Protocol):
    """One level as a grid of tiles, each of which can be had alone, in any order.

    size: the level's own, in its pixels. scale: so many of them, across and down, become
    one of `grid`, of which the last ones may cover the level in part; in general 1.
    """

    @property
    def size(self) -> Size: ...

    @property
    def scale(self) -> int: ...

    @property
    def grid(self) -> Grid: ...

    def tile(self, column: int, row: int) -> Pixels | None:
        """The tile's pixels, of the size of `grid.box(column, row)`; None where blank."""
        ...


def is_rgb_or_ycbcr_jpeg(tiled: TiledLevel) -> bool:
    """Whether the tiles can be decoded without OpenSlide: 8-bit JPEG, RGB or YCbCr."""
    return (
        tiled.compression == Compression.JPEG
        and tiled.photometric in (Photometric.RGB, Photometric.YCBCR)
        and tiled.plain_rgb
    )


def choose_jpeg_scale(level: Grid, size: Size) -> int:
    """The `scale` at which JPEG tiles can be decoded for an image of `size`: 1, 2, 4 or 8.

    As `reduction` does, it leaves at least a factor of 2 to the exact resize. Tiles that
    are not whole blocks are left at 1: their last pixels would be mixed with padding.

    >>> level = Grid(Size(9000, 9000), Size(240, 240))
    >>> [choose_jpeg_scale(level, Size(width, width)) for width in (2251, 2250, 150)]
    [1, 2, 8]
    """
    if level.tile.width % BLOCK or level.tile.height % BLOCK:
        return 1
    most = min(map(reduction, level.size, size))
    return max(scale for scale in (1, 2, 4, 8) if scale <= most)


class JpegTiles:
    """JPEG tiles read from `source` and decoded one by one.

    The decoder is strict, as OpenSlide's is: what it only could guess is BadTile.
    """

    def __init__(
        self, source: RandomAccess, tiled: TiledLevel, table: TileTable, scale: int = 1
    ) -> None:
        """scale: as `choose_jpeg_scale` gives it, or 1."""
        self._level = tiled.level.grid
        self.size = self._level.size
        self.scale = scale
        self.grid = Grid(_scaled(self.size, scale), _scaled(self._level.tile, scale))
        self._source = source
        self._table = table
        self._rgb = tiled.photometric == Photometric.RGB

    def tile(self, column: int, row: int) -> Pixels | None:
        span = self._table.span(column, row)
        if span is None:
            return None
        size = self._level.box(column, row).size
        # Scaled, what pads a tile that the level's edge cuts off would show within the level.
        cut = size != self._level.tile
        try:
            stream = complete_jpeg(self._source.read(span), self._table.tables, rgb=self._rgb)
            colours = "RGB" if self._rgb else "YCbCr"
            pixels = _decoded(stream, self._level.tile, colours, 1 if cut else self.scale)
        except (ValueError, IndexError, struct.error) as error:
            raise BadTile(f"the tile at column {column}, row {row} is damaged: {error}") from error
        if not cut:
            return pixels
        return area_average(pixels[: size.height, : size.width], self.scale, self.scale)


def area_average(pixels: Pixels, fx: int, fy: int) -> Pixels:
    """Each `fx` × `fy` pixels as their mean; the last ones may be of fewer."""
    if (fx, fy) == (1, 1):
        return pixels
    return np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).reduce((fx, fy)))


def is_uncompressed_rgb(tiled: TiledLevel) -> bool:
    """Return whether the tiles are not compressed: whole pixels of 8-bit RGB.

    OpenSlide's libtiff refuses those whose bytes are not a multiple of 1,024, as
    those of 240 × 240 pixels are not.
    """
    return (
        tiled.compression == Compression.NONE
        and tiled.photometric == Photometric.RGB
        and tiled.plain_rgb
    )


class UncompressedTiles:
    """Tiles that are not compressed, read from `source`."""

    def __init__(self, source: RandomAccess, tiled: TiledLevel, table: TileTable) -> None:
        self.grid = tiled.level.grid
        self.size = self.grid.size
        self.scale = 1
        self._source = source
        self._table = table

    def tile(self, column: int, row: int) -> Pixels | None:
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


class OpenSlideTiles:
    """The tiles of a file that holds one level alone, through OpenSlide.

    Alone, because a level's pixels lie at whole coordinates only if no
    downsample of 4.0003 stands between them and the caller.
    """

    def __init__(self, path: Path, level: Grid) -> None:
        """Raise UnsupportedSlide if OpenSlide refuses the file or sees another level in it."""
        self._path = path
        self._slide = self._opened()
        seen = Size(*self._slide.dimensions)
        if seen != level.size:
            self._slide.close()
            raise UnsupportedSlide(f"OpenSlide sees {seen} pixels in the level, not {level.size}")
        tiles = max(1, REGION_WIDTH // level.tile.width)
        self.size = level.size
        self.scale = 1
        self.grid = Grid(level.size, Size(level.tile.width * tiles, level.tile.height))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._slide.close()

    def _opened(self) -> openslide.OpenSlide:
        try:
            slide = openslide.OpenSlide(self._path)
        except openslide.OpenSlideError as error:
            raise UnsupportedSlide(f"OpenSlide cannot read the level: {error}") from error
        # Regions are whole tiles, each read once: what OpenSlide would keep is never asked again.
        slide.set_cache(openslide.OpenSlideCache(CACHE_BYTES))
        return slide

    def tile(self, column: int, row: int) -> Pixels | None:
        box = self.grid.box(column, row)
        try:
            region = self._slide.read_region((box.left, box.top), 0, box.size)
        except openslide.OpenSlideError as error:
            # OpenSlide refuses all that is asked of a slide after its first error.
            self._slide.close()
            self._slide = self._opened()
            raise BadTile(f"the tiles at {box.left}, {box.top} are damaged: {error}") from error
        return blend_over_white(np.asarray(region))


def blend_over_white(rgba: NDArray[np.uint8]) -> Pixels:
    """An RGBA array, of shape (rows, columns, 4), laid over white."""
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
    """A stream any decoder takes: with the level's shared tables, and its colours stated.

    Whether the components are RGB or YCbCr stands in the TIFF directory, not in
    the tile, so JFIF and Adobe segments are replaced by an Adobe one that says
    so (Adobe TN 5116). Raises ValueError if the tile is no JPEG stream.
    """
    adobe = struct.pack(">BBH5sHHHB", 0xFF, _APP14, 14, b"Adobe", 100, 0, 0, 0 if rgb else 1)
    shared, _ = _segments(tables) if tables else (b"", b"")
    own, scan = _segments(tile)
    return b"\xff\xd8" + adobe + shared + own + scan


def _decoded(stream: bytes, size: Size, colours: str, scale: int) -> Pixels:
    """The pixels of a stream of `size` and `colours`, as libjpeg itself reads its header.

    The header comes first: nothing is allocated for a tile of another size.
    Bytes between the last block and the end do no harm, and OpenSlide does not
    look at them: they are cut out, and all the rest judged as strictly as ever.
    Scaled or not, all of the stream is read and judged.
    """
    wanted = _scaled(size, scale)
    try:
        height, width, found, _ = simplejpeg.decode_jpeg_header(stream)
    except KeyError as error:
        raise ValueError("its colours are subsampled as in no slide") from error
    if (width, height) != size:
        raise ValueError(f"it has {Size(width, height)} pixels instead of {size}")
    if found != colours:
        raise ValueError(f"its colours are {found} instead of {colours}")
    try:
        return _strictly(stream, wanted)
    except ValueError as error:
        idle = _IDLE_BYTES.search(str(error))
        if idle is None:
            raise
        end = stream.rindex(_END)
        return _strictly(stream[: end - int(idle[1])] + _END, wanted)


def _scaled(size: Size, scale: int) -> Size:
    return Size(-(-size.width // scale), -(-size.height // scale))


def _strictly(stream: bytes, size: Size) -> Pixels:
    """The pixels, at the scale that gives so many of them."""
    pixels: Pixels = simplejpeg.decode_jpeg(
        stream, colorspace="RGB", strict=True, min_width=size.width, min_height=size.height
    )
    return pixels


def _segments(stream: bytes) -> tuple[bytes, bytes]:
    """The segments before the scan, but for JFIF's and Adobe's, and all from the scan on."""
    kept: list[bytes] = []
    for marker, segment in _walk(stream):
        if marker in (_SOS, _EOI):
            return b"".join(kept), segment
        if marker not in (_APP0, _APP14):
            kept.append(segment)
    return b"".join(kept), b""


def _walk(stream: bytes) -> Iterator[tuple[int, bytes]]:
    """Markers with their segments; the scan's, or the end's, is all the rest."""
    if stream[:2] != b"\xff\xd8":
        raise ValueError("it does not begin as a JPEG does")
    place = 2
    while place + 4 <= len(stream):
        if stream[place] != 0xFF:
            raise ValueError(f"byte {place} of its header is no marker")
        marker = stream[place + 1]
        if marker == 0xFF:
            place += 1
            continue
        if marker in (_SOS, _EOI):
            yield marker, stream[place:]
            return
        (length,) = struct.unpack_from(">H", stream, place + 2)
        yield marker, stream[place : place + 2 + length]
        place += 2 + length


@dataclass(frozen=True, slots=True)
class LevelReader:
    """A slide made ready: reading `tiles`, of `pyramid`'s level, gives what `rendition` asks.

    patched: returns how many tiles of the level are rendered from finer ones, which reading
    all of them tells for sure; None from a source that knows no tiles of a level.
    """

    pyramid: Pyramid
    rendition: Rendition
    tiles: TileReader
    patched: Callable[[], int | None] = lambda: None
