"""From a level's tiles to the image, in memory bounded by rows of tiles.

The whole level is reduced by a whole factor, then resized exactly by Lanczos,
first across and then down; the latter is left a factor of at least two, as by
Pillow's `reducing_gap=2`. (Pillow's own two passes change their order with the
sizes and with its version, so each is asked for alone.) The image comes out in
strips, arrays of shape (rows, width, 3), top to bottom. Held at a time are one
reduced row of tiles, of at most MAX_PIXELS_IN_MEMORY pixels, and the rows a kernel spans.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from PIL import Image

from tcgamirror.imaging.decode import WHITE, Pixels, TileReader, area_average
from tcgamirror.model.errors import BadSlide, BadTile
from tcgamirror.model.geometry import Grid, Size, reduction

CHUNK_PIXELS = 500_000
"""Of a row of tiles, that are assembled at once, more or less; one tile at least."""

STRIP_PIXELS = 4_000_000
"""Of a strip, at most, but for one row: to resize or encode it takes many times its bytes."""

MAX_PIXELS_IN_MEMORY = 75_000_000
"""Pixels, of three bytes each, that a level may need at a time; wider ones are refused."""

MAX_REDUCTION = 64
"""So many rows of a level wait at most until they can be reduced to one."""

LANCZOS_REACH = 3
"""Source pixels a Lanczos kernel spans on either side, per pixel of downsample."""


def render(reader: TileReader, size: Size) -> Iterator[Pixels]:
    """The level at `size` pixels, in strips. Raises BadTile at the first tile that is not whole.

    At the level's own size the pixels are the level's, untouched. Tiles may come
    scaled as `choose_jpeg_scale` allows for `size`. Raises BadSlide for one too wide to be held.
    """
    level, scale = reader.size, reader.scale
    if size == level:
        return _reduced(reader, 1, 1)
    fx = min(MAX_REDUCTION, reduction(level.width, size.width) // scale)
    fy = min(MAX_REDUCTION, reduction(level.height, size.height) // scale)
    narrow = _across(_reduced(reader, fx, fy), level.width / (scale * fx), size.width)
    return _down(narrow, level.height / (scale * fy), size)


def _reduced(reader: TileReader, fx: int, fy: int) -> Iterator[Pixels]:
    """The level with each `fx` × `fy` pixels area_average to one, in strips.

    A row of tiles seldom ends at a whole multiple of `fy`: the rows left over
    wait in `rest` for the next row of tiles.
    """
    grid = reader.grid
    _refuse_too_wide(grid, fx, fy)
    rest: Pixels = np.empty((0, grid.size.width, 3), np.uint8)
    for row in range(grid.rows):
        height = len(rest) + grid.box(0, row).size.height
        usable = height if row == grid.rows - 1 else height // fy * fy
        later: Pixels = np.empty((height - usable, grid.size.width, 3), np.uint8)
        # One array to paste into: to join the bands in the end would need twice the room.
        strip: Pixels = np.empty((-(-usable // fy), -(-grid.size.width // fx), 3), np.uint8)
        left = 0
        for band in _bands(reader, row, rest, later, fx):
            if usable:
                shrunk = area_average(band[:usable], fx, fy)
                strip[:, left : left + shrunk.shape[1]] = shrunk
                left += shrunk.shape[1]
        rest = later
        yield from _cut(strip)


def _refuse_too_wide(grid: Grid, fx: int, fy: int) -> None:
    """Tells a level whose rows of tiles, reduced, would fill the memory, before it is read."""
    reduced = -(-grid.size.width // fx) * -(-grid.tile.height // fy)
    waiting = 2 * (fy - 1) * grid.size.width
    if reduced + waiting > MAX_PIXELS_IN_MEMORY:
        raise BadSlide(
            f"a level of {grid.size} pixels in tiles {grid.tile.height} pixels high is too wide: "
            f"{reduced + waiting:,} pixels at a time, and {MAX_PIXELS_IN_MEMORY:,} are the most"
        )


def _cut(strip: Pixels) -> Iterator[Pixels]:
    """The strip, in parts of at most STRIP_PIXELS if it is larger.

    These are copies, so that who still has the last does not hold all of the strip.
    """
    rows = max(1, STRIP_PIXELS // strip.shape[1])
    if 0 < len(strip) <= rows:
        yield strip
    else:
        yield from (strip[top : top + rows].copy() for top in range(0, len(strip), rows))


def _bands(reader: TileReader, row: int, rest: Pixels, later: Pixels, fx: int) -> Iterator[Pixels]:
    """One row of tiles below the rows of `rest`, in chunks of whole multiples of `fx` columns.

    Fills `later` with the lowest rows, as many as it has.
    """
    grid = reader.grid
    step = max(1, CHUNK_PIXELS // (grid.tile.width * grid.tile.height))
    edge: Pixels = np.empty((len(rest) + grid.box(0, row).size.height, 0, 3), np.uint8)
    left = 0
    for first in range(0, grid.columns, step):
        columns = range(first, min(first + step, grid.columns))
        right = grid.box(columns[-1], row).right
        band: Pixels = np.full((len(edge), right - left, 3), WHITE, np.uint8)
        band[:, : edge.shape[1]] = edge
        fresh = left + edge.shape[1]
        band[: len(rest), fresh - left :] = rest[:, fresh:right]
        for column in columns:
            _paste(reader, column, row, band[len(rest) :], left)
        if len(later):
            later[:, left:right] = band[-len(later) :]
        whole = right - left if right == grid.size.width else (right - left) // fx * fx
        edge = band[:, whole:].copy()
        left += whole
        if whole:
            yield band[:, :whole]


def _paste(reader: TileReader, column: int, row: int, band: Pixels, left: int) -> None:
    pixels = reader.tile(column, row)
    if pixels is None:
        return
    box = reader.grid.box(column, row)
    if pixels.shape != (box.size.height, box.size.width, 3):
        raise BadTile(
            f"the tile at column {column}, row {row} has "
            f"{pixels.shape[1]}×{pixels.shape[0]} pixels instead of {box.size}"
        )
    band[:, box.left - left : box.right - left] = pixels


def _across(strips: Iterator[Pixels], span: float, width: int) -> Iterator[Pixels]:
    """Each strip resized to `width`; `span` is how much of it, in pixels, the image covers."""
    for strip in strips:
        image = Image.fromarray(strip)
        box = (0.0, 0.0, span, float(len(strip)))
        yield np.asarray(image.resize((width, len(strip)), Image.Resampling.LANCZOS, box))


def _down(strips: Iterator[Pixels], span: float, size: Size) -> Iterator[Pixels]:
    """The strips resized to `size.height` rows; `span` is how many rows the image covers."""
    scale = span / size.height
    reach = math.ceil(LANCZOS_REACH * max(scale, 1.0)) + 1
    held: Pixels = np.empty((0, size.width, 3), np.uint8)
    top = made = 0
    for strip in strips:
        held = np.concatenate([held, strip])
        complete = top + len(held) >= span
        ready = size.height if complete else int((top + len(held) - reach) / scale)
        if ready <= made:
            continue
        box = (0.0, made * scale - top, float(size.width), min(ready * scale - top, len(held)))
        image = Image.fromarray(held)
        yield np.asarray(image.resize((size.width, ready - made), Image.Resampling.LANCZOS, box))
        made = ready
        surplus = max(0, int(made * scale) - reach - top)
        held, top = held[surplus:].copy(), top + surplus
