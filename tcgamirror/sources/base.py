"""Ways to get one slide's pixels. Each is a `Source`; the ladder tries them in order.

What `whole` and `range` share: from a slide's bytes to the tiles of one level.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np

from tcgamirror.imaging.decode import (
    JpegTiles,
    LevelReader,
    OpenSlideTiles,
    Pixels,
    TileReader,
    UncompressedTiles,
    choose_jpeg_scale,
    is_rgb_or_ycbcr_jpeg,
    is_uncompressed_rgb,
)
from tcgamirror.imaging.patches import Fetch, PatchedTiles
from tcgamirror.imaging.resample import render
from tcgamirror.imaging.single_level import write_single_level
from tcgamirror.imaging.svs import Compression, Svs, TileTable
from tcgamirror.imaging.tiff import RandomAccess
from tcgamirror.model.byteranges import Span
from tcgamirror.model.errors import BadTile, UnsupportedSlide
from tcgamirror.model.geometry import Grid
from tcgamirror.model.slide import Rendition, Resample, Slide, Target
from tcgamirror.net.throttle import Meter
from tcgamirror.system.files import disk_errors


class Source(Protocol):
    """One way to get a slide.

    Opening is idempotent: what an earlier, cut-off try left in `work/` is gone
    on with. It raises SlideError or NetworkError where this way fails (another
    may do better), and DiskFull, UsageError or Interrupted where all would. Leaving
    the context well removes what lies in `work/`; leaving it by a SlideError
    does too, for the bytes are then in doubt; any other end keeps it.
    """

    @property
    def name(self) -> str:
        """As in the settings and the catalogue."""
        ...

    def open(
        self, slide: Slide, target: Target, meter: Meter
    ) -> AbstractContextManager[LevelReader]:
        """Fetches what `target` needs of the slide; its network use is counted in `meter`."""
        ...


def nothing(_: Sequence[Span]) -> None:
    """Fetch nothing, where all of the slide is there."""


@contextmanager
def opened(
    source: RandomAccess,
    target: Target,
    folder: Path,
    whole: Path | None = None,
    fetch: Fetch = nothing,
) -> Iterator[LevelReader]:
    """Open the slide in `source` for the level that `target` needs.

    JPEG tiles and bare ones are decoded directly. Of anything else OpenSlide is given
    the level alone, written into `folder`, or the slide itself if the level is its base.

    Args:
        source: has all of the directories, of the level and of the base's tile counts.
        whole: the slide as a file, if it is there as one.
        fetch: called for what else is needed before it is read, also while tiles are read.
    """
    slide = Svs(source)
    rendition = target.rendition(slide.pyramid)

    def decoder(index: int, table: TileTable) -> TileReader:
        direct = _direct(source, slide, index, table)
        return direct or _SingleTiles(source, slide, index, table, folder / "tile.svs")

    index = rendition.level
    table = slide.tile_table(index)
    with _level(source, slide, rendition, table, folder, whole) as tiles:
        patched = PatchedTiles(slide, index, table, tiles, decoder, fetch)
        yield LevelReader(slide.pyramid, rendition, patched, lambda: patched.patched)


@contextmanager
def _level(
    source: RandomAccess,
    slide: Svs,
    rendition: Rendition,
    table: TileTable,
    folder: Path,
    whole: Path | None,
) -> Iterator[TileReader]:
    """Open the level of `rendition` for all of its tiles."""
    index = rendition.level
    tiled = slide.levels[index]
    fast = rendition.resample is Resample.FAST
    scale = choose_jpeg_scale(tiled.level.grid, rendition.size) if fast else 1
    direct = _direct(source, slide, index, table, scale)
    if direct is not None:
        yield direct
        return
    path = folder / "level.svs"
    if whole is not None and not index and slide.descends:
        path = whole
    else:
        with disk_errors(path), path.open("wb") as file:
            write_single_level(file, source, slide, index, table)
    with OpenSlideTiles(path, tiled.level.grid) as tiles:
        yield tiles


def _direct(
    source: RandomAccess, slide: Svs, index: int, table: TileTable, scale: int = 1
) -> TileReader | None:
    """Return a reader of a level's tiles without OpenSlide; None if only OpenSlide can.

    Raises UnsupportedSlide for tiles that OpenSlide would take for damaged.
    """
    tiled = slide.levels[index]
    if is_rgb_or_ycbcr_jpeg(tiled):
        return JpegTiles(source, tiled, table, scale)
    if is_uncompressed_rgb(tiled):
        return UncompressedTiles(source, tiled, table)
    if tiled.compression == Compression.NONE:
        raise UnsupportedSlide("its tiles are not compressed, and not 8-bit RGB")
    return None


class _SingleTiles:
    """Tiles of a level that OpenSlide decodes, each alone in a file of its own.

    OpenSlide does not tell which of several tiles is damaged, and the rest of
    a finer level need not be there.
    """

    def __init__(
        self, source: RandomAccess, slide: Svs, index: int, table: TileTable, path: Path
    ) -> None:
        """path: where the file is written."""
        self.grid = slide.levels[index].level.grid
        self.size = self.grid.size
        self.scale = 1
        self._source = source
        self._slide = slide
        self._index = index
        self._table = table
        self._path = path

    def tile(self, column: int, row: int) -> Pixels | None:
        span = self._table.span(column, row)
        if span is None:
            return None
        alone = TileTable(1, array("Q", [span.start]), array("Q", [span.length]))
        side = self.grid.tile
        with disk_errors(self._path), self._path.open("wb") as file:
            write_single_level(file, self._source, self._slide, self._index, alone, side)
        try:
            with OpenSlideTiles(self._path, Grid(side, side)) as tiles:
                pixels = np.concatenate(list(render(tiles, side)))
        except BadTile as error:
            raise BadTile(f"the tile at column {column}, row {row} is damaged: {error}") from error
        size = self.grid.box(column, row).size
        return pixels[: size.height, : size.width]
