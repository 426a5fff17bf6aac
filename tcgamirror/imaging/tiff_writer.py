"""Write TIFF images in tiles, with their resolution and metadata inside.

OpenSlide opens no other TIFF images. `write_tiff` compresses 8-bit RGB tiles by Deflate after
horizontal differencing. `copied_tiff` passes its own encoder. A large image also has reduced
levels, for viewers. Sources: TIFF 6.0 with Adobe's supplement 2, and the BigTIFF extension.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction
from typing import BinaryIO

import numpy as np
from isal import isal_zlib

from tcgamirror.imaging.decode import WHITE, Pixels, area_average
from tcgamirror.imaging.tiff import Layout, Tag, TagValue, Type
from tcgamirror.model.errors import TooLarge
from tcgamirror.model.geometry import Grid, Size

TILE = Size(256, 256)
MAX_SINGLE_SIDE = 4096
"""Pixels of the longer side of an image without reduced levels."""
REDUCTION = 4
"""Pixels of a level, across and down, that become one of the next."""
MAX_TILES = 4_000_000
"""Most tiles of an image that `write_tiff` writes and `tiff_reader` reads."""
MAX_CLASSIC_BYTES = 4_000_000_000
"""Raw bytes that 32-bit offsets of a classic TIFF can address, even if they do not compress."""
DEFLATE_LEVEL = 1
"""Level of ISA-L's Deflate.

On tissue it takes a quarter of the time of zlib's fastest way. Bytes are the same within 3 % for
reduced images, and up to a sixth more for a scanner's own pixels. They may differ between
processors.
"""
RGB_TAGS = {
    Tag.BITS: (8, 8, 8),
    Tag.COMPRESSION: (8,),
    Tag.PHOTOMETRIC: (2,),
    Tag.SAMPLES: (3,),
    Tag.PREDICTOR: (2,),
}
"""Tags of every image of `write_tiff`: 8-bit RGB, Deflate with differencing."""
CENTIMETRE = 3
"""TIFF's number of the unit of resolution."""

REDUCED_IMAGE = 1
"""NewSubfileType of a reduced level."""

PixelSize = tuple[float, float] | None
"""µm per pixel along x and y, or unknown."""


def write_tiff(
    file: BinaryIO, size: Size, strips: Iterable[Pixels], mpp: PixelSize, text: str
) -> None:
    """Write an image from the current position. text: its metadata, ASCII.

    Raises TooLarge, before anything is written, for more tiles than are read back.
    """
    sizes = [size, *reduced_sizes(size)]
    grids = [Grid(each, TILE) for each in sizes]
    if grids[0].columns * grids[0].rows > MAX_TILES:
        raise TooLarge(f"an image of {size} pixels does not fit in a TIFF; use --format png")
    raw = sum(grid.columns * grid.rows for grid in grids) * TILE.width * TILE.height * 3
    out = TiffWriter(file, big=raw > MAX_CLASSIC_BYTES)
    kind = [out.layout.pack_tag(tag, Type.SHORT, *values) for tag, values in RGB_TAGS.items()]
    image = LevelWriter(out, sizes, deflate, kind)
    for strip in strips:
        image.add(strip)
    first, *reduced = image.directories()
    out.write_directories([[*first, *out.metadata_tags(mpp, text)], *map(out.as_reduced, reduced)])


def reduced_sizes(size: Size) -> list[Size]:
    """Return the sizes of an image's reduced levels, the last one of at most 4,096 pixels a side.

    >>> reduced_sizes(Size(4096, 30)), reduced_sizes(Size(48_001, 36_000))
    ([], [Size(width=12001, height=9000), Size(width=3001, height=2250)])
    """
    sizes = []
    while size.longer > MAX_SINGLE_SIDE:
        size = Size(-(-size.width // REDUCTION), -(-size.height // REDUCTION))
        sizes.append(size)
    return sizes


def deflate(tile: Pixels) -> bytes:
    """Return a tile's differences from pixel to pixel, compressed."""
    differences = tile.copy()
    differences[:, 1:] -= tile[:, :-1]
    return isal_zlib.compress(differences.data, DEFLATE_LEVEL)


def rational(value: float) -> tuple[int, int]:
    """Return the value as TIFF encodes it, a fraction of two 32-bit numbers."""
    exact = Fraction(value).limit_denominator(min(100_000, int((2**32 - 1) / value)))
    return exact.numerator, exact.denominator


class TiffWriter:
    """A TIFF file in the making: the data of its images first, their directories at the end."""

    def __init__(self, file: BinaryIO, *, big: bool, order: str = "<") -> None:
        """Begin at the current position."""
        self.layout = Layout(order, big=big)
        self._file = file
        self._start = file.tell()
        file.write(self.layout.pack_header(0))

    def write(self, data: bytes) -> int:
        """Append `data` and return its offset."""
        offset = self._file.tell() - self._start
        self._file.write(data)
        return offset

    def tile_tags(
        self, grid: Grid, offsets: Sequence[int], counts: Sequence[int]
    ) -> list[TagValue]:
        """Return the tags of an image's size and tiles."""
        pack, place = self.layout.pack_tag, Type.LONG8 if self.layout.big else Type.LONG
        return [
            pack(Tag.WIDTH, Type.LONG, grid.size.width),
            pack(Tag.HEIGHT, Type.LONG, grid.size.height),
            pack(Tag.TILE_WIDTH, Type.LONG, grid.tile.width),
            pack(Tag.TILE_HEIGHT, Type.LONG, grid.tile.height),
            pack(Tag.TILE_OFFSETS, place, *offsets),
            pack(Tag.TILE_COUNTS, Type.LONG, *counts),
        ]

    def metadata_tags(self, mpp: PixelSize, text: str) -> list[TagValue]:
        """Return the tags of an image's description and of its resolution, if it is known."""
        description = text.encode("ascii") + b"\0"
        tags = [(Tag.DESCRIPTION, Type.ASCII, len(description), description)]
        if mpp is not None:
            pack = self.layout.pack_tag
            for tag, side in zip((Tag.X_RESOLUTION, Tag.Y_RESOLUTION), mpp, strict=True):
                tags.append(pack(tag, Type.RATIONAL, *rational(10_000 / side)))
            tags.append(pack(Tag.RESOLUTION_UNIT, Type.SHORT, CENTIMETRE))
        return tags

    def as_reduced(self, tags: Iterable[TagValue]) -> list[TagValue]:
        """Return the tags of a reduced level."""
        return [*tags, self.layout.pack_tag(Tag.SUBFILE, Type.LONG, REDUCED_IMAGE)]

    def write_directories(self, directories: Sequence[Iterable[TagValue]]) -> None:
        """Write the directories, the last one first, since each tells where the next one lies."""
        following = 0
        for tags in reversed(directories):
            offset = self._file.seek(0, 2) - self._start
            self._file.write(b"\0" * (-offset % 8))
            offset += -offset % 8
            self._file.write(self.layout.pack_directory(offset, tags, following))
            following = offset
        self._file.seek(self._start)
        self._file.write(self.layout.pack_header(following))
        self._file.seek(0, 2)


class LevelWriter:
    """A level of an image, compressed as its rows come, and the reduced levels below it."""

    def __init__(
        self,
        out: TiffWriter,
        sizes: Sequence[Size],
        encode: Callable[[Pixels], bytes],
        kind: Sequence[TagValue],
    ) -> None:
        """Write nothing yet.

        Args:
            sizes: of this level and of those below it.
            encode: compresses a tile.
            kind: tags that tell how tiles are compressed.
        """
        self._out = out
        self._grid = Grid(sizes[0], TILE)
        self._encode = encode
        self._kind = kind
        self._below = LevelWriter(out, sizes[1:], encode, kind) if sizes[1:] else None
        self._offsets, self._counts = array("Q"), array("Q")
        # One row of tiles. Beyond the image's edge it is white, which compresses best.
        width = self._grid.columns * TILE.width
        self._band: Pixels = np.full((TILE.height, width, 3), WHITE, np.uint8)
        self._rows = 0

    def directories(self) -> Iterator[list[TagValue]]:
        """Yield the tags of this level and of those below it, once all rows were added."""
        yield [*self._out.tile_tags(self._grid, self._offsets, self._counts), *self._kind]
        if self._below is not None:
            yield from self._below.directories()

    def add(self, strip: Pixels) -> None:
        """Add the next rows of the level."""
        while len(strip):
            part = strip[: TILE.height - self._rows]
            self._band[self._rows : self._rows + len(part), : self._grid.size.width] = part
            self._rows += len(part)
            strip = strip[len(part) :]
            written = len(self._offsets) // self._grid.columns * TILE.height
            if self._rows in (TILE.height, self._grid.size.height - written):
                self._write_band()

    def _write_band(self) -> None:
        """Write a row of tiles."""
        self._band[self._rows :] = WHITE
        width = self._grid.size.width
        below: Pixels = np.empty((-(-self._rows // REDUCTION), -(-width // REDUCTION), 3), np.uint8)
        for left in range(0, width, TILE.width):
            tile = self._band[:, left : left + TILE.width]
            data = self._encode(tile)
            self._offsets.append(self._out.write(data))
            self._counts.append(len(data))
            if self._below is not None:
                image = tile[: self._rows, : width - left]
                reduced = area_average(image, REDUCTION, REDUCTION)
                start = left // REDUCTION
                below[:, start : start + reduced.shape[1]] = reduced
        if self._below is not None:
            self._below.add(below)
        self._rows = 0
