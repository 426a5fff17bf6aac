"""A large image as rows of blocks of pixels, each in memory only while it is used."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from tcgamirror.imaging.decode import Pixels
from tcgamirror.model.geometry import Size

STRIP_PIXELS = 1_000_000
"""Most pixels of a strip of several rows: encoding takes many times its bytes."""

Number = TypeVar("Number", np.uint8, np.float32)


class Memory(Generic[Number]):
    """Reusable memory, because getting new memory takes as long as filling it."""

    def __init__(self, kind: type[Number]) -> None:
        self._numbers: NDArray[Number] = np.empty(0, kind)

    def array(self, *shape: int) -> NDArray[Number]:
        """Return an array of arbitrary contents, which overwrites the one before."""
        count = math.prod(shape)
        if self._numbers.size < count:
            self._numbers = np.empty(count, self._numbers.dtype)
        array: NDArray[Number] = self._numbers[:count].reshape(shape)
        return array


class Block(NamedTuple):
    """Pixels of an image, the first of them at column `left`; overwritten by the next block."""

    left: int
    pixels: Pixels

    @property
    def right(self) -> int:
        return self.left + int(self.pixels.shape[1])


class Row(NamedTuple):
    """Blocks from left to right, all from row `top` up to `bottom`.

    They can be read once, and have to be read to their end before the next row.
    """

    top: int
    bottom: int
    blocks: Iterator[Block]


FirstNeeded = Callable[[int], int]
"""Returns the first column, or row, that is still needed once all before the given one are done."""


def windows(
    rows: Iterable[Row], kept: Size, across: FirstNeeded, down: FirstNeeded
) -> Iterator[Row]:
    """Yield each block together with the pixels on its left and above that are still needed.

    kept: the most pixels above that can be needed, as wide as the image.
    """
    memory = Memory(np.uint8)
    rows_above: Pixels = np.empty((kept.height, kept.width, 3), np.uint8)

    def enlarge(row: Row, above: int, below: int) -> Iterator[Block]:
        """Yield each block under the `above` rows kept; keep its last `below` rows."""
        edge: Pixels = np.empty((above + row.bottom - row.top, 0, 3), np.uint8)
        for left, pixels in row.blocks:
            start, right = left - edge.shape[1], left + pixels.shape[1]
            window = pixels
            if above or start < left:
                window = memory.array(len(edge), right - start, 3)
                window[:, : left - start] = edge
                window[:above, left - start :] = rows_above[:above, left:right]
                window[above:, left - start :] = pixels
            rows_above[:below, left:right] = window[len(window) - below :, left - start :]
            edge = window[:, across(right) - start :].copy()
            yield Block(start, window)

    above = 0
    for row in rows:
        below = row.bottom - down(row.bottom)
        yield Row(row.top - above, row.bottom, enlarge(row, above, below))
        above = below


def split(strip: Pixels) -> Iterator[Pixels]:
    """Yield the strip in parts of at most STRIP_PIXELS, or of one row.

    Parts are copies, so that a reference to the last one does not keep the whole strip.
    """
    rows = max(1, STRIP_PIXELS // strip.shape[1])
    if len(strip) <= rows:
        yield strip
    else:
        yield from (strip[top : top + rows].copy() for top in range(0, len(strip), rows))
