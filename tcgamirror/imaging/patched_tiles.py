"""Read one level's tiles; those that cannot be used are patched from finer levels.

A coarser level is evidence of what the base shows, not the truth. Encoders omit or
overwrite tiles. Above a missing base tile they write black and misplaced pixels, in tiles
that decode well. A tile is therefore *usable* only if its bytes are in the file (else
`Svs.tile_table` gives it none), it decodes, and no base tile under it is missing. A tile is
*blank* if all base tiles under it are missing: only there the image is white. Any other
tile is *patched*: it is the area average of the next finer level, whose tiles are judged by
the same rules. A base tile that does not decode fails the slide.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from tcgamirror.imaging.decode import WHITE, Pixels, TileReader, area_average
from tcgamirror.imaging.svs import Svs, TileTable
from tcgamirror.model.byteranges import Span
from tcgamirror.model.errors import BadTile
from tcgamirror.model.geometry import Box, Grid, Size
from tcgamirror.model.slide import Level

CELL = Size(512, 512)
"""Pixels averaged from a finer level at once, at most: their sums take 8 bytes each."""

Flags = NDArray[np.bool_]
"""One flag for each tile, of shape (rows, columns)."""
Fetch = Callable[[Sequence[Span]], None]
"""Makes spans of the slide's bytes readable."""
Taken = TypeVar("Taken")
OpenTiles = Callable[[int], TileReader]
"""Opens a level, by its index, at scale 1."""


@dataclass(frozen=True, slots=True)
class _Level:
    """A level and what is known of its tiles.

    usable: tiles to read; cleared for one that turns out not to decode. blank: tiles over
    nothing but missing base tiles.
    """

    grid: Grid
    table: TileTable
    tiles: TileReader
    usable: Flags
    blank: Flags


class PatchedTiles(TileReader):
    """The tiles of one level of a slide, each usable, blank or patched."""

    def __init__(
        self, slide: Svs, index: int, tiles: TileReader, open_tiles: OpenTiles, fetch: Fetch
    ) -> None:
        """Fetch what patches take, as far as the tile tables tell.

        Args:
            index: of the level.
            tiles: reads the level.
            open_tiles: opens a finer level.
            fetch: called before anything of a finer level is read.
        """
        super().__init__(slide.levels[index].level.grid, tiles.scale)
        self._tiles = tiles
        self._slide = slide
        self._open_tiles = open_tiles
        self._fetch = fetch
        # From the base, at depth 0, to the level itself, at depth `_last`.
        self._chain = _chain_to_base(slide.pyramid.levels, index)
        self._last = len(self._chain) - 1
        base = slide.levels[0].level.grid
        self._base_has_bytes = _has_bytes(slide.tile_counts(0), base)
        self._levels: dict[int, _Level] = {}
        level = self._level(self._last)
        to_patch = np.argwhere(~level.usable & ~level.blank)
        self._fetch_finer(self._last, [(column, row) for row, column in to_patch.tolist()])

    def count_patched(self) -> int:
        """Return the patched tiles of the level known so far; all, once every tile was read."""
        level = self._level(self._last)
        return int((~level.usable & ~level.blank).sum())

    def read_stored(
        self, column: int, row: int, take: Callable[[bytes], Taken | None]
    ) -> Taken | None:
        """Return what `take` makes of the bytes of one of the level's own tiles.

        It is None for a blank or patched tile. A tile for which `take` raises BadTile is damaged.
        """
        level = self._level(self._last)
        span = level.table.span(column, row)
        if span is None or not level.usable[row, column]:
            return None
        try:
            return take(self._slide.source.read(span))
        except BadTile as error:
            where = f"the tile at column {column}, row {row} is damaged: {error}"
            self._drop(self._last, column, row, BadTile(where))
            return None

    def read_tile(self, column: int, row: int) -> Pixels | None:
        return self._read_tile(self._last, column, row)

    def _read_tile(self, depth: int, column: int, row: int) -> Pixels | None:
        """Return one tile of a level of the chain, its own or patched; None if it is blank."""
        level = self._level(depth)
        if level.blank[row, column]:
            return None
        if level.usable[row, column]:
            try:
                return level.tiles.read_tile(column, row)
            except BadTile as error:
                self._drop(depth, column, row, error)
        scale = level.tiles.scale
        return area_average(self._patch(depth, level.grid.box(column, row)), scale, scale)

    def _drop(self, depth: int, column: int, row: int, error: BadTile) -> None:
        """Have a tile patched that does not decode. Raise BadTile if it is the base's."""
        if not depth:
            raise BadTile(f"at the base, {error}") from error
        self._level(depth).usable[row, column] = False
        self._fetch_finer(depth, [(column, row)])

    def _patch(self, depth: int, box: Box) -> Pixels:
        """Return `box` of a level as the area average of the next finer one."""
        pixels = np.empty((box.size.height, box.size.width, 3), np.uint8)
        cells = Grid(box.size, CELL)
        for column, row in _touched_tiles(cells, Box(0, 0, *box.size)):
            left, top, right, bottom = cells.box(column, row)
            cell = Box(box.left + left, box.top + top, box.left + right, box.top + bottom)
            pixels[top:bottom, left:right] = self._average_finer(depth, cell)
        return pixels

    def _average_finer(self, depth: int, box: Box) -> Pixels:
        """Return the mean of the finer pixels under each pixel of `box`.

        The sums are of whole numbers below 2**53, so the order of summing changes nothing.
        """
        finer = self._level(depth - 1).grid
        finer_box = _to_finer(box, self._level(depth).grid.size, finer.size)
        sums = np.zeros((box.size.height, box.size.width, 3))
        for column, row in _touched_tiles(finer, finer_box):
            tile = finer.box(column, row)
            left, right = max(tile.left, finer_box.left), min(tile.right, finer_box.right)
            top, bottom = max(tile.top, finer_box.top), min(tile.bottom, finer_box.bottom)
            x, across = _area_weights(
                left - finer_box.left, right - finer_box.left, finer_box.size.width, box.size.width
            )
            y, down = _area_weights(
                top - finer_box.top, bottom - finer_box.top, finer_box.size.height, box.size.height
            )
            pixels = self._read_tile(depth - 1, column, row)
            part: NDArray[np.float64]
            if pixels is None:
                part = WHITE * np.outer(down.sum(axis=1), across.sum(axis=1))[..., None]
            else:
                cut = pixels[top - tile.top : bottom - tile.top]
                cut = cut[:, left - tile.left : right - tile.left]
                rows = down @ cut.reshape(len(cut), -1).astype(np.float64)
                part = across @ rows.reshape(len(down), -1, 3)
            sums[y : y + len(down), x : x + len(across)] += part
        total = finer_box.size.width * finer_box.size.height
        return ((sums.astype(np.int64) + total // 2) // total).astype(np.uint8)

    def _fetch_finer(self, depth: int, tiles: Iterable[tuple[int, int]]) -> None:
        """Fetch the finer tiles that patch these tiles of a level."""
        spans = list(self._finer_spans(depth, tiles))
        if spans:
            self._fetch(spans)

    def _finer_spans(self, depth: int, tiles: Iterable[tuple[int, int]]) -> Iterator[Span]:
        boxes = [self._level(depth).grid.box(*tile) for tile in tiles]
        if not boxes:
            return
        size, finer = self._level(depth).grid.size, self._level(depth - 1)
        under: Flags = np.zeros_like(finer.usable)
        for box in boxes:
            under[_touched(finer.grid, _to_finer(box, size, finer.grid.size))] = True
        for row, column in np.argwhere(under & finer.usable).tolist():
            span = finer.table.span(column, row)
            if span is not None:
                yield span
        to_patch = np.argwhere(under & ~finer.usable & ~finer.blank)
        yield from self._finer_spans(
            depth - 1, [(column, row) for row, column in to_patch.tolist()]
        )

    def _level(self, depth: int) -> _Level:
        """Return a level of the chain, opened at its first use."""
        if depth not in self._levels:
            index = self._chain[depth]
            if depth < self._last:
                self._fetch([*self._slide.array_spans(index), *self._slide.tag_spans(index)])
            table, grid = self._slide.tile_table(index), self._slide.levels[index].level.grid
            base = self._slide.levels[0].level.grid
            missing, in_all = _count_base_tiles(self._base_has_bytes, base, grid)
            self._levels[depth] = _Level(
                grid=grid,
                table=table,
                tiles=self._tiles if depth == self._last else self._open_tiles(index),
                usable=(missing == 0) & _has_bytes(table.counts, grid),
                blank=missing == in_all,
            )
        return self._levels[depth]


def _chain_to_base(levels: Sequence[Level], index: int) -> list[int]:
    """Return indexes, finest first: the base, each level that patches the next, and `index`."""
    chain = [index]
    finest_first = sorted(range(len(levels)), key=lambda other: levels[other].downsample)
    for other in reversed(finest_first):
        level, next_coarser = levels[other], levels[chain[-1]]
        larger = all(a >= b for a, b in zip(level.size, next_coarser.size, strict=True))
        if other and level.downsample < next_coarser.downsample and larger:
            chain.append(other)
    return [0, *reversed(chain)] if index else [0]


def _has_bytes(counts: Sequence[int], grid: Grid) -> Flags:
    return (np.asarray(counts) > 0).reshape(grid.rows, grid.columns)


def _count_base_tiles(
    base_has_bytes: Flags, base: Grid, level: Grid
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return how many base tiles lie under each tile of a level: the missing ones, and all."""
    sums = np.zeros((base.rows + 1, base.columns + 1), np.int64)
    sums[1:, 1:] = (~base_has_bytes).cumsum(axis=0).cumsum(axis=1)
    row_of_tiles = (level.box(column, 0) for column in range(level.columns))
    column_of_tiles = (level.box(0, row) for row in range(level.rows))
    across = [_touched(base, _to_finer(box, level.size, base.size))[1] for box in row_of_tiles]
    down = [_touched(base, _to_finer(box, level.size, base.size))[0] for box in column_of_tiles]
    left, right = np.transpose([(part.start, part.stop) for part in across])
    top, bottom = np.transpose([(part.start, part.stop) for part in down])
    missing = (
        sums[np.ix_(bottom, right)]
        - sums[np.ix_(top, right)]
        - sums[np.ix_(bottom, left)]
        + sums[np.ix_(top, left)]
    )
    return missing, np.outer(bottom - top, right - left)


def _to_finer(box: Box, coarse: Size, fine: Size) -> Box:
    """Return where `box` of a level lies in a finer one, to its nearest whole pixels.

    >>> _to_finer(Box(240, 0, 480, 240), Size(1000, 1000), Size(4003, 4003))
    Box(left=961, top=0, right=1921, bottom=961)
    """

    def scale(edge: int, coarse_side: int, fine_side: int) -> int:
        return (2 * edge * fine_side + coarse_side) // (2 * coarse_side)

    return Box(
        scale(box.left, coarse.width, fine.width),
        scale(box.top, coarse.height, fine.height),
        scale(box.right, coarse.width, fine.width),
        scale(box.bottom, coarse.height, fine.height),
    )


def _touched(grid: Grid, box: Box) -> tuple[slice, slice]:
    """Return the rows and columns of the tiles that `box` touches."""
    width, height = grid.tile
    return (
        slice(box.top // height, -(-box.bottom // height)),
        slice(box.left // width, -(-box.right // width)),
    )


def _touched_tiles(grid: Grid, box: Box) -> Iterator[tuple[int, int]]:
    """Yield column and row of each tile that `box` touches."""
    rows, columns = _touched(grid, box)
    for row in range(rows.start, rows.stop):
        for column in range(columns.start, columns.stop):
            yield column, row


def _area_weights(
    start: int, stop: int, length: int, count: int
) -> tuple[int, NDArray[np.float64]]:
    """Return how pixels `start` to `stop` of `length` are shared among `count` larger ones.

    Returns:
        The first larger pixel with a share, and weights of shape (larger pixels, pixels).
        All weights of a pixel add up to `count`, those of a larger pixel to `length`.

    >>> _area_weights(2, 4, 5, 2)
    (0, array([[1., 0.],
           [1., 2.]]))
    """
    first = start * count // length
    larger = np.arange(first, -(-stop * count // length))[:, None] * length
    pixels = np.arange(start, stop)[None, :] * count
    weights = np.minimum(larger + length, pixels + count) - np.maximum(larger, pixels)
    return first, np.maximum(weights, 0).astype(np.float64)
