"""Arithmetic of sizes, tiles and pyramid levels.

Sizes are (width, height) and positions (column, row), in pixels or in tiles. Sources: TIFF
6.0, section 15 (tiles), and the Deep Zoom format.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

LEVEL_TOLERANCE = 0.01
"""A level, the base included, is fine enough if its µm/px exceed the target's by this fraction.

Bases vary: TCGA's of 40x have 0.25 or 0.252 µm/px, those of 20x 0.5 or 0.5026.
"""
ROUNDING = 1e-9
"""Absolute excess of a computed downsample that floating point may cause."""
SHAPE_TOLERANCE = 0.02
"""Relative difference of horizontal and vertical downsample above which it is not a level."""


class Size(NamedTuple):
    """Width and height in pixels."""

    width: int
    height: int

    @property
    def longer(self) -> int:
        return max(self)

    def __str__(self) -> str:
        return f"{self.width}×{self.height}"


class Box(NamedTuple):
    """Half-open rectangle of pixels, without column `right` and row `bottom`."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def size(self) -> Size:
        return Size(self.right - self.left, self.bottom - self.top)


class Grid(NamedTuple):
    """An image of `size` pixels cut into tiles of `tile` pixels; the last ones may be smaller."""

    size: Size
    tile: Size

    @property
    def columns(self) -> int:
        return -(-self.size.width // self.tile.width)

    @property
    def rows(self) -> int:
        return -(-self.size.height // self.tile.height)

    def box(self, column: int, row: int) -> Box:
        """Return the pixels of a tile, cut off at the image's edge.

        >>> Grid(Size(1000, 500), Size(240, 240)).box(4, 2)
        Box(left=960, top=480, right=1000, bottom=500)
        """
        left, top = column * self.tile.width, row * self.tile.height
        return Box(
            left,
            top,
            min(left + self.tile.width, self.size.width),
            min(top + self.tile.height, self.size.height),
        )


def halved(size: Size, times: int) -> Size:
    """Return the size after `times` halvings, each side rounded up, as in Deep Zoom.

    >>> halved(Size(109559, 89665), 6)
    Size(width=1712, height=1402)
    """
    return Size(-(-size.width >> times), -(-size.height >> times))


def halvings_to_fit(size: Size, limit: int) -> int:
    """Return the number of halvings after which the longer side has at most `limit` pixels.

    >>> halvings_to_fit(Size(109559, 89665), 2048)
    6
    """
    times = 0
    while halved(size, times).longer > max(1, limit):
        times += 1
    return times


def at_mpp(size: Size, base_mpp: float, mpp: float) -> Size:
    """Return the size of a slide at `mpp` µm per pixel, rounded to whole pixels, at least one.

    >>> at_mpp(Size(46000, 32914), 0.499, 15)
    Size(width=1530, height=1095)
    """
    return Size(
        max(1, round(size.width * base_mpp / mpp)), max(1, round(size.height * base_mpp / mpp))
    )


def downsample(base: Size, level: Size) -> float:
    """Return base pixels per pixel of a level: the mean of both axes, as OpenSlide defines it.

    >>> downsample(Size(46000, 32914), Size(11500, 8228))
    4.000121536217793
    """
    return (base.width / level.width + base.height / level.height) / 2


def is_reduced(base: Size, level: Size) -> bool:
    """Return whether `level` has the shape of `base` and is not larger.

    Horizontal and vertical downsample may differ by 2 % from each other, and each side may
    be rounded by a pixel.

    >>> is_reduced(Size(46000, 32914), Size(11500, 8228))
    True
    >>> is_reduced(Size(46000, 32914), Size(1280, 431))
    False
    >>> is_reduced(Size(64000, 210), Size(1000, 3))
    True
    """
    least = max(whole / (part + 1) for whole, part in zip(base, level, strict=True))
    most = min(
        whole / (part - 1) if part > 1 else math.inf
        for whole, part in zip(base, level, strict=True)
    )
    fits = level.width <= base.width and level.height <= base.height
    return fits and least <= most * (1 + SHAPE_TOLERANCE)


def coarsest_serving(downsamples: Sequence[float], wanted: float) -> int | None:
    """Return the index of the coarsest level that is at most 1 % coarser than `wanted`.

    It is None if every level is coarser.

    >>> coarsest_serving((1.0, 4.0003, 16.002, 32.01), 32.0)
    3
    >>> coarsest_serving((1.0, 4.0003, 16.002, 32.01), 31.0)
    2
    """
    most = wanted * (1 + LEVEL_TOLERANCE) + ROUNDING
    serving = [index for index, value in enumerate(downsamples) if value <= most]
    return max(serving, key=lambda index: downsamples[index], default=None)


def reduction(side: int, wanted_side: int) -> int:
    """Return the integer factor to reduce a side of an image by before the exact resize.

    It is 2 from a factor of 3 on, and leaves at least a factor of 2 to the resize from 4 on.

    >>> [reduction(side, 1000) for side in (2999, 3000, 5999, 6000)], reduction(24000, 400)
    ([1, 2, 2, 3], 30)
    """
    factor = side / wanted_side
    return max(1 if factor < 3 else 2, int(factor / 2))
