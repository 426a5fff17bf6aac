"""Write a level of a slide as a TIFF image, its tiles byte for byte as the slide stores them.

Tiles that cannot be copied are re-encoded in the level's own compression: patched and
blank ones (see `patched_tiles`), and those that are not plain (see `tile_codec`).

OpenSlide decodes JPEG 2000 only in a slide of Aperio's. The description of such an image
therefore begins like Aperio's, and has the metadata in a property of it.

Reduced levels are JPEG, each at a quarter of the level above.
"""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import BinaryIO

import numpy as np

from tcgamirror.imaging.decode import WHITE, Pixels, area_average
from tcgamirror.imaging.metadata import as_aperio
from tcgamirror.imaging.patched_tiles import PatchedTiles
from tcgamirror.imaging.svs import Photometric, Svs, TileTable
from tcgamirror.imaging.tiff import Tag, TagValue, Type
from tcgamirror.imaging.tiff_writer import (
    MAX_CLASSIC_BYTES,
    REDUCTION,
    LevelWriter,
    PixelSize,
    TiffWriter,
    reduced_sizes,
)
from tcgamirror.imaging.tile_codec import REDUCED, Subsampling, TileCodec, jpeg_subsampling
from tcgamirror.model.errors import BadTile
from tcgamirror.model.geometry import Grid, Size
from tcgamirror.model.slide import Rendition, Resample

MAX_MPP_DIFFERENCE = 1e-4
"""µm per pixel between both axes, which Aperio's description cannot tell apart."""

_MAX_KNOWN_BYTES = MAX_CLASSIC_BYTES // 2
"""Largest estimate for a classic TIFF. The other half is reserved for tiles that are re-encoded."""
_REDUCED_QUALITY, _REDUCED_SUBSAMPLING = 90, (2, 2)


@dataclass(frozen=True, slots=True)
class _Copy:
    """A tile's own bytes, and its pixels at a quarter of its sides where they were decoded."""

    stream: bytes
    reduced: Pixels | None


@dataclass(frozen=True, slots=True)
class StoredLevel:
    """A level whose tiles can be copied. subsampling: of those that are encoded."""

    codec: TileCodec
    grid: Grid
    table: TileTable
    tiles: PatchedTiles
    subsampling: Subsampling

    def read(self, column: int, row: int, *, needs_reduced: bool) -> _Copy | None:
        """Return a tile's own bytes, None if it has to be encoded.

        A JPEG is always decoded, which reads every coefficient. One that does not decode is
        patched. JPEG 2000 tells damage by its structure, so it is decoded for the reduced levels
        alone. One that does not decode there is re-encoded.

        Raises:
            BadTile: a JPEG at the base does not decode.
        """
        size = self.grid.box(column, row).size

        def take(stream: bytes) -> _Copy | None:
            if not self.codec.is_plain(stream):
                return None
            if self.codec.is_jpeg:
                return _Copy(stream, self._decode_reduced(stream, size))
            try:
                return _Copy(stream, self._decode_reduced(stream, size) if needs_reduced else None)
            except BadTile:
                return None

        return self.tiles.read_stored(column, row, take)

    def _decode_reduced(self, stream: bytes, size: Size) -> Pixels:
        """Return a tile of `size` pixels at a quarter of its sides."""
        if size == self.codec.tile:
            return self.codec.decode(stream, REDUCTION)
        # At the image's edge, padding would be mixed into the pixels.
        pixels = self.codec.decode(stream, 1)[: size.height, : size.width]
        return area_average(pixels, REDUCTION, REDUCTION)


def stored_level(slide: Svs, rendition: Rendition, tiles: PatchedTiles) -> StoredLevel | None:
    """Return the image's level, None if its tiles cannot be copied.

    They can if the image is the level itself, its codec is known, it is compact and a tile is
    plain. JPEG needs a subsampling that Pillow can write, JPEG 2000 square pixels. Tiles are
    read up to the first plain one.

    Args:
        tiles: of the level.

    Raises:
        BadTile: a JPEG tile at the base does not decode.
    """
    if rendition.resample is not Resample.NATIVE:
        return None
    tiled, table = slide.levels[rendition.level], slide.tile_table(rendition.level)
    codec = TileCodec(tiled.compression, tiled.photometric, tiled.level.tile, table.tables)
    if not (codec.can_be_copied and tiled.has_three_bytes):
        return None
    if not _is_compact(table, slide.source.size):
        return None
    x, y = rendition.mpp_x or 0.0, rendition.mpp_y or 0.0
    if not codec.is_jpeg and abs(x - y) > MAX_MPP_DIFFERENCE:
        return None
    level = StoredLevel(codec, tiled.level.grid, table, tiles, (1, 1))
    places = product(range(level.grid.rows), range(level.grid.columns))
    copies = (level.read(column, row, needs_reduced=False) for row, column in places)
    first = next((copy.stream for copy in copies if copy is not None), None)
    if first is None:
        return None
    if not codec.is_jpeg:
        return level
    subsampling = jpeg_subsampling(first)
    allowed = subsampling == (1, 1) or codec.photometric == Photometric.YCBCR
    if subsampling is None or not allowed:
        return None
    return StoredLevel(codec, level.grid, table, tiles, subsampling)


def _is_compact(table: TileTable, size: int) -> bool:
    """Return whether the copy takes no more than the slide's file, of `size` bytes.

    Tiles at the same offset must have equally many bytes, as `_TileWriter` writes them once.
    """
    counts = np.asarray(table.counts, np.uint64)
    offsets = np.asarray(table.offsets)[counts > 0]
    counts = counts[counts > 0]
    _, first, which = np.unique(offsets, return_index=True, return_inverse=True)
    return bool((counts == counts[first][which]).all()) and int(counts[first].sum()) <= size


def write_copied_tiff(
    file: BinaryIO,
    level: StoredLevel,
    mpp: PixelSize,
    describe: Callable[[], Mapping[str, object]],
) -> None:
    """Write the level from the current position. Raises BadTile.

    describe: returns the metadata, once all tiles were read. Numbers of tiles are added to them.
    """
    grid, codec = level.grid, level.codec
    sizes = reduced_sizes(grid.size)
    total = sum(level.table.counts) + 16 * len(level.table.counts) + 3 * sum(map(math.prod, sizes))
    out = TiffWriter(file, big=total > _MAX_KNOWN_BYTES)
    tiles = _TileWriter(out, level)
    below = _reduced_writer(out, sizes) if sizes else None
    for row in range(grid.rows):
        height = -(-grid.box(0, row).size.height // REDUCTION)
        band: Pixels = np.full((height, -(-grid.size.width // REDUCTION), 3), WHITE, np.uint8)
        for column in range(grid.columns):
            reduced = tiles.add(column, row, needs_reduced=below is not None)
            if reduced is not None:
                left = column * codec.tile.width // REDUCTION
                band[:, left : left + reduced.shape[1]] = reduced
        if below is not None:
            below.add(band)
    text = json.dumps({**describe(), **tiles.tile_counts()}, sort_keys=True)
    if not codec.is_jpeg:
        text = as_aperio(text, None if mpp is None else sum(mpp) / 2)
    others = below.directories() if below is not None else ()
    first = [*tiles.tags(), *out.metadata_tags(mpp, text)]
    out.write_directories([first, *map(out.as_reduced, others)])


class _TileWriter:
    """Writer of a level's tiles. Bytes that several of them share are written once."""

    def __init__(self, out: TiffWriter, level: StoredLevel) -> None:
        self._out = out
        self._level = level
        # Map each tile to its stream, and each stream to its offset in the copy.
        starts, self._streams = np.unique(np.asarray(level.table.offsets), return_inverse=True)
        self._copies = np.zeros(len(starts), np.uint64)
        self._white: tuple[int, int] | None = None
        self._copied = 0
        self._offsets, self._counts = array("Q"), array("Q")

    def add(self, column: int, row: int, *, needs_reduced: bool) -> Pixels | None:
        """Write the next tile. Return its pixels at a quarter of its sides, if it has any.

        needs_reduced: whether the caller uses these pixels.
        """
        copy = self._level.read(column, row, needs_reduced=needs_reduced)
        if copy is not None:
            stream = self._streams[len(self._offsets)]
            self._copies[stream] = self._copies[stream] or self._out.write(copy.stream)
            self._copied += 1
            self._place(int(self._copies[stream]), len(copy.stream))
            return copy.reduced
        pixels = self._level.tiles.read_tile(column, row)
        if pixels is None:
            self._white = self._white or self._encode(None)
            self._place(*self._white)
            return None
        self._place(*self._encode(pixels))
        return area_average(pixels, REDUCTION, REDUCTION)

    def _encode(self, pixels: Pixels | None) -> tuple[int, int]:
        """Write an encoded tile, or a white one. Return its offset and bytes."""
        stream = self._level.codec.encode(pixels, self._level.subsampling)
        return self._out.write(stream), len(stream)

    def _place(self, offset: int, count: int) -> None:
        self._offsets.append(offset)
        self._counts.append(count)

    def tile_counts(self) -> Mapping[str, int]:
        """Return how many tiles were copied, and how many encoded."""
        encoded = len(self._offsets) - self._copied
        return {"copied_tiles": self._copied, "encoded_tiles": encoded}

    def tags(self) -> list[TagValue]:
        """Return the tags of the level, once all tiles were added."""
        places = self._out.tile_tags(self._level.grid, self._offsets, self._counts)
        return [*places, *_kind_tags(self._out, self._level.codec, self._level.subsampling)]


def _reduced_writer(out: TiffWriter, sizes: Sequence[Size]) -> LevelWriter:
    """Return a writer of reduced levels, which are JPEG."""

    def encode(tile: Pixels) -> bytes:
        return REDUCED.encode(tile, _REDUCED_SUBSAMPLING, _REDUCED_QUALITY)

    return LevelWriter(out, sizes, encode, _kind_tags(out, REDUCED, _REDUCED_SUBSAMPLING))


def _kind_tags(out: TiffWriter, codec: TileCodec, subsampling: Subsampling) -> list[TagValue]:
    pack = out.layout.pack_tag
    tags = [
        pack(Tag.BITS, Type.SHORT, 8, 8, 8),
        pack(Tag.COMPRESSION, Type.SHORT, codec.compression),
        pack(Tag.PHOTOMETRIC, Type.SHORT, codec.photometric),
        pack(Tag.SAMPLES, Type.SHORT, 3),
        pack(Tag.PLANAR, Type.SHORT, 1),
    ]
    if codec.tables:
        tags.append((Tag.JPEG_TABLES, Type.UNDEFINED, len(codec.tables), codec.tables))
    if codec.is_jpeg and codec.photometric == Photometric.YCBCR:
        tags.append(pack(Tag.SUBSAMPLING, Type.SHORT, *subsampling))
    return tags
