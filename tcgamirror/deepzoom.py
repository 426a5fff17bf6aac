"""Deep Zoom's arithmetic and its tiles, as the GDC's viewer is served them.

Levels are counted from the coarsest: 0 is one pixel, the last is full size.
The tile size is without the overlap, which a tile has on each side that has a
neighbour. Source: the Deep Zoom file format, and OpenSlide's DeepZoomGenerator.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import simplejpeg
from PIL import Image

from tcgamirror.decode import Pixels
from tcgamirror.errors import BadTile, WrongContent
from tcgamirror.geometry import Box, Grid, Size, halved
from tcgamirror.model import Level, Mpp, Pyramid

LONGEST_SIDE = 2_000_000
LARGEST_TILE = 2048
LARGEST_OVERLAP = 64


@dataclass(frozen=True, slots=True)
class DeepZoom:
    """A slide as Deep Zoom cuts it. size: full size; tile: without overlap; all in pixels."""

    size: Size
    tile: int
    overlap: int

    @classmethod
    def of(cls, answer: object) -> DeepZoom:
        """Reads the tile server's metadata, whose values are all strings. Raises WrongContent."""
        if not isinstance(answer, Mapping) or "Format" not in answer:
            raise WrongContent("the tile server's metadata names no tile format")
        width, height, tile, overlap = (
            _whole_number(answer, key) for key in ("Width", "Height", "TileSize", "Overlap")
        )
        sane = (
            1 <= min(width, height) <= max(width, height) <= LONGEST_SIDE
            and 16 <= tile <= LARGEST_TILE
            and 0 <= overlap <= min(tile // 2, LARGEST_OVERLAP)
        )
        if not sane:
            raise WrongContent(
                f"the tile server's metadata cannot be: {width}×{height} pixels "
                f"in tiles of {tile} with an overlap of {overlap}"
            )
        return cls(Size(width, height), tile, overlap)

    @property
    def last_level(self) -> int:
        """The level of full size.

        >>> DeepZoom(Size(109559, 89665), 512, 1).last_level
        17
        """
        return (self.size.longer - 1).bit_length()

    def pyramid(self, mpp: Mpp) -> Pyramid:
        """All levels, full size first: level `dz_level` is number `last_level - dz_level`."""
        tile = Size(self.tile, self.tile)
        return Pyramid(
            tuple(
                Level(halved(self.size, times), tile, float(2**times))
                for times in range(self.last_level + 1)
            ),
            mpp,
        )

    def grid(self, dz_level: int) -> Grid:
        return Grid(halved(self.size, self.last_level - dz_level), Size(self.tile, self.tile))

    def served_box(self, grid: Grid, column: int, row: int) -> Box:
        """What the tile as served covers of its level, overlap and all.

        >>> zoom = DeepZoom(Size(1000, 1000), 254, 1)
        >>> zoom.served_box(zoom.grid(10), 1, 0)
        Box(left=253, top=0, right=509, bottom=255)
        """
        box = grid.box(column, row)
        return Box(
            max(0, box.left - self.overlap),
            max(0, box.top - self.overlap),
            min(grid.size.width, box.right + self.overlap),
            min(grid.size.height, box.bottom + self.overlap),
        )


def decoded(data: bytes, served: Box, own: Box) -> Pixels:
    """A served tile's pixels without its overlap: those of `own`, which lies in `served`.

    A tile one pixel off its arithmetic is resized to it: servers that shrink a
    tile by its aspect ratio make such. Raises BadTile for anything else.
    """
    if not data:
        raise BadTile("it is empty")
    try:
        image = Image.open(io.BytesIO(data), formats=("PNG", "JPEG"))
        size = Size(*image.size)
        if any(abs(side - nominal) > 1 for side, nominal in zip(size, served.size, strict=True)):
            raise BadTile(f"it has {size} pixels instead of {served.size}")
        pixels = _rgb(image, data)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise BadTile(f"it cannot be decoded: {_first_line(error)}") from error
    if size != served.size:
        resized = Image.fromarray(pixels).resize(served.size, Image.Resampling.BICUBIC)
        pixels = np.asarray(resized)
    top, left = own.top - served.top, own.left - served.left
    return pixels[top : top + own.size.height, left : left + own.size.width]


def _rgb(image: Image.Image, data: bytes) -> Pixels:
    """A JPEG's pixels by the strict decoder: Pillow fills in grey for what it cannot read."""
    if image.format == "PNG":
        return np.asarray(image.convert("RGB"))
    pixels: Pixels = simplejpeg.decode_jpeg(data, colorspace="RGB", strict=True)
    return pixels


def _whole_number(answer: Mapping[object, object], key: str) -> int:
    text = str(answer.get(key, ""))
    if not (text.isascii() and text.isdigit() and len(text) <= 12):
        raise WrongContent(f"the tile server's metadata has no usable {key}")
    return int(text)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
