"""One level's tiles, those that cannot be used rendered from finer levels.

A coarser level is evidence of what the base shows, not the truth. Encoders leave
tiles of it out, write others over, and above a base tile that is missing they write
black and shuffled pixels that decode well. So a tile is used only if its bytes are
there, it decodes, and no tile of the base under it is missing. Every other tile is
the area average of the next finer level, whose tiles are judged likewise. The image
is white only where the base has no tile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tcgamirror.imaging.decode import WHITE, Pixels, TileReader, area_average
from tcgamirror.imaging.svs import Svs, TileTable
from tcgamirror.model.byteranges import Span
from tcgamirror.model.errors import BadTile
from tcgamirror.model.geometry import Box, Grid, Size
from tcgamirror.model.slide import Level

PATCH = Size(512, 512)
"""Pixels that are rendered from a finer level at once, at most: they are held as 8-byte numbers."""

Flags = NDArray[np.bool_]
Fetch = Callable[[Sequence[Span]], None]
"""Makes spans of the slide's bytes readable."""
Decoder = Callable[[int, TileTable], TileReader]
"""Opens a level, by its index, for single tiles in their own size."""


@dataclass(frozen=True, slots=True)
class _Judged:
    """A level with its judgement of each tile, in arrays of shape (rows, columns).

    usable: tiles to be used; one that does not decode is taken out when it is met.
    blank: tiles under which the base has none.
    """

    grid: Grid
    table: TileTable
    tiles: TileReader
    usable: Flags
    blank: Flags


class PatchedTiles:
    """The tiles of one level of a slide, each usable or rendered from finer levels."""

    def __init__(
        self,
        slide: Svs,
        index: int,
        table: TileTable,
        tiles: TileReader,
        decoder: Decoder,
        fetch: Fetch,
    ) -> None:
        """Fetch what is needed beside the level's own tiles, as far as the tile tables tell.

        Args:
            index: of the level.
            table: of the level.
            tiles: reads the level; a tile of it may be several of the level's.
            fetch: called before anything of a finer level is read.
        """
        self.size = tiles.size
        self.scale = tiles.scale
        self.grid = tiles.grid
        self._tiles = tiles
        self._slide = slide
        self._table = table
        self._decoder = decoder
        self._fetch = fetch
        self._chain = _chain(slide.pyramid.levels, index)
        self._last = len(self._chain) - 1
        grid = slide.levels[0].level.grid
        counts = np.asarray(slide.tile_counts(0))
        self._there: Flags = (counts > 0).reshape(grid.rows, grid.columns)
        self._judged: dict[int, _Judged] = {}
        level = self._judge(self._last)
        self._empty: Flags = level.blank & ~_with_bytes(level.table, level.grid)
        wanting = np.argwhere(~level.usable & ~level.blank)
        self._prepare(self._last, [(column, row) for row, column in wanting.tolist()])

    @property
    def patched(self) -> int:
        """Tiles of the level that are rendered from finer ones, as far as is known by now."""
        level = self._judge(self._last)
        return int((~level.usable & ~level.blank).sum())

    def tile(self, column: int, row: int) -> Pixels | None:
        level = self._judge(self._last)
        box = self.grid.box(column, row)
        area = Box(
            box.left * self.scale,
            box.top * self.scale,
            min(box.right * self.scale, self.size.width),
            min(box.bottom * self.scale, self.size.height),
        )
        inside = _within(level.grid, area)
        if (level.usable[inside] | self._empty[inside]).all():
            try:
                return self._tiles.tile(column, row)
            except BadTile:
                if not self._last:
                    raise
        pixels = self._pasted(self._last, area)
        return None if pixels is None else area_average(pixels, self.scale, self.scale)

    def _pasted(self, depth: int, area: Box) -> Pixels | None:
        """Return whole tiles of a level, one by one; None if all are blank."""
        pixels: Pixels | None = None
        grid = self._judge(depth).grid
        for column, row in _places(grid, area):
            own = self._own(depth, column, row)
            if own is not None:
                if pixels is None:
                    pixels = np.full((area.size.height, area.size.width, 3), WHITE, np.uint8)
                box = grid.box(column, row)
                pixels[
                    box.top - area.top : box.bottom - area.top,
                    box.left - area.left : box.right - area.left,
                ] = own
        return pixels

    def _own(self, depth: int, column: int, row: int) -> Pixels | None:
        """Return one tile of a level of the chain, judged; None where it is blank."""
        level = self._judge(depth)
        if level.blank[row, column]:
            return None
        if level.usable[row, column]:
            try:
                return level.tiles.tile(column, row)
            except BadTile as error:
                if not depth:
                    raise BadTile(f"at the base, {error}") from error
                level.usable[row, column] = False
                self._prepare(depth, [(column, row)])
        return self._rendered(depth, level.grid.box(column, row))

    def _rendered(self, depth: int, box: Box) -> Pixels:
        """Return `box` of a level as the area average of the next finer one."""
        pixels = np.empty((box.size.height, box.size.width, 3), np.uint8)
        cells = Grid(box.size, PATCH)
        for column, row in _places(cells, Box(0, 0, *box.size)):
            left, top, right, bottom = cells.box(column, row)
            cell = Box(box.left + left, box.top + top, box.left + right, box.top + bottom)
            pixels[top:bottom, left:right] = self._average(depth, cell)
        return pixels

    def _average(self, depth: int, box: Box) -> Pixels:
        """Return the mean of what lies under each pixel of `box`, in whole numbers.

        All sums are of whole numbers below 2**53, which are exact in any order of summing.
        """
        finer = self._judge(depth - 1).grid
        under = _under(self._judge(depth).grid.size, finer.size, box)
        sums = np.zeros((box.size.height, box.size.width, 3))
        for column, row in _places(finer, under):
            tile = finer.box(column, row)
            left, right = max(tile.left, under.left), min(tile.right, under.right)
            top, bottom = max(tile.top, under.top), min(tile.bottom, under.bottom)
            x, across = _shares(
                left - under.left, right - under.left, under.size.width, box.size.width
            )
            y, down = _shares(
                top - under.top, bottom - under.top, under.size.height, box.size.height
            )
            pixels = self._own(depth - 1, column, row)
            part: NDArray[np.float64]
            if pixels is None:
                part = WHITE * np.outer(down.sum(axis=1), across.sum(axis=1))[..., None]
            else:
                piece = pixels[top - tile.top : bottom - tile.top]
                piece = piece[:, left - tile.left : right - tile.left]
                rows = down @ piece.reshape(len(piece), -1).astype(np.float64)
                part = across @ rows.reshape(len(down), -1, 3)
            sums[y : y + len(down), x : x + len(across)] += part
        whole = under.size.width * under.size.height
        return ((sums.astype(np.int64) + whole // 2) // whole).astype(np.uint8)

    def _prepare(self, depth: int, places: Iterable[tuple[int, int]]) -> None:
        """Fetch the finer tiles that these tiles of a level are to be rendered from."""
        spans = list(self._needed(depth, places))
        if spans:
            self._fetch(spans)

    def _needed(self, depth: int, places: Iterable[tuple[int, int]]) -> Iterator[Span]:
        boxes = [self._judge(depth).grid.box(*place) for place in places]
        if not boxes:
            return
        size, finer = self._judge(depth).grid.size, self._judge(depth - 1)
        under: Flags = np.zeros_like(finer.usable)
        for box in boxes:
            under[_within(finer.grid, _under(size, finer.grid.size, box))] = True
        for row, column in np.argwhere(under & finer.usable).tolist():
            span = finer.table.span(column, row)
            if span is not None:
                yield span
        wanting = np.argwhere(under & ~finer.usable & ~finer.blank)
        yield from self._needed(depth - 1, [(column, row) for row, column in wanting.tolist()])

    def _judge(self, depth: int) -> _Judged:
        """Return the level at a place of the chain, judged at its first use."""
        if depth not in self._judged:
            index = self._chain[depth]
            table = self._table
            if depth < self._last:
                spans = [*self._slide.array_spans(index), *self._slide.value_spans(index)]
                self._fetch(spans)
                table = self._slide.tile_table(index)
            grid = self._slide.levels[index].level.grid
            missing, tiles = _missing(self._there, self._slide.levels[0].level.grid, grid)
            self._judged[depth] = _Judged(
                grid=grid,
                table=table,
                tiles=self._decoder(index, table),
                usable=(missing == 0) & _with_bytes(table, grid),
                blank=missing == tiles,
            )
        return self._judged[depth]


def _chain(levels: Sequence[Level], index: int) -> list[int]:
    """Return the levels that `index` may be rendered from, the base first, and itself."""
    chain = [index]
    finest_first = sorted(range(len(levels)), key=lambda other: levels[other].downsample)
    for other in reversed(finest_first):
        level, next_coarser = levels[other], levels[chain[-1]]
        larger = all(a >= b for a, b in zip(level.size, next_coarser.size, strict=True))
        if other and level.downsample < next_coarser.downsample and larger:
            chain.append(other)
    return [0, *reversed(chain)] if index else [0]


def _with_bytes(table: TileTable, grid: Grid) -> Flags:
    return (np.asarray(table.counts) > 0).reshape(grid.rows, grid.columns)


def _missing(there: Flags, base: Grid, level: Grid) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return how many base tiles lie under each tile of a level: the missing ones, and all."""
    sums = np.zeros((base.rows + 1, base.columns + 1), np.int64)
    sums[1:, 1:] = (~there).cumsum(axis=0).cumsum(axis=1)
    boxes = [_under(level.size, base.size, level.box(column, 0)) for column in range(level.columns)]
    columns = [(box.left // base.tile.width, -(-box.right // base.tile.width)) for box in boxes]
    boxes = [_under(level.size, base.size, level.box(0, row)) for row in range(level.rows)]
    rows = [(box.top // base.tile.height, -(-box.bottom // base.tile.height)) for box in boxes]
    (left, right), (top, bottom) = np.transpose(columns), np.transpose(rows)
    missing = (
        sums[np.ix_(bottom, right)]
        - sums[np.ix_(top, right)]
        - sums[np.ix_(bottom, left)]
        + sums[np.ix_(top, left)]
    )
    return missing, np.outer(bottom - top, right - left)


def _under(coarse: Size, fine: Size, box: Box) -> Box:
    """Return where `box` of a level lies in a finer one, to its nearest whole pixels.

    >>> _under(Size(1000, 1000), Size(4003, 4003), Box(240, 0, 480, 240))
    Box(left=961, top=0, right=1921, bottom=961)
    """

    def place(at: int, coarse_side: int, fine_side: int) -> int:
        return (2 * at * fine_side + coarse_side) // (2 * coarse_side)

    return Box(
        place(box.left, coarse.width, fine.width),
        place(box.top, coarse.height, fine.height),
        place(box.right, coarse.width, fine.width),
        place(box.bottom, coarse.height, fine.height),
    )


def _within(grid: Grid, box: Box) -> tuple[slice, slice]:
    """Return the rows and columns of the tiles that `box` touches."""
    width, height = grid.tile
    return (
        slice(box.top // height, -(-box.bottom // height)),
        slice(box.left // width, -(-box.right // width)),
    )


def _places(grid: Grid, box: Box) -> Iterator[tuple[int, int]]:
    """Yield column and row of the tiles that `box` touches."""
    rows, columns = _within(grid, box)
    for row in range(rows.start, rows.stop):
        for column in range(columns.start, columns.stop):
            yield column, row


def _shares(start: int, stop: int, length: int, count: int) -> tuple[int, NDArray[np.float64]]:
    """Return how the pixels `start` to `stop` of `length` are shared by `count` larger ones.

    Returns:
        The first larger pixel that has a share, and an array of shape (larger pixels, pixels).
        Of a pixel all shares together are `count`, of a larger one `length`.

    >>> _shares(2, 4, 5, 2)
    (0, array([[1., 0.],
           [1., 2.]]))
    """
    first = start * count // length
    larger = np.arange(first, -(-stop * count // length))[:, None] * length
    pixels = np.arange(start, stop)[None, :] * count
    shares = np.minimum(larger + length, pixels + count) - np.maximum(larger, pixels)
    return first, np.maximum(shares, 0).astype(np.float64)
