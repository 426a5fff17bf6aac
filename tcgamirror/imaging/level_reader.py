"""Open the level of a slide that an image is made of.

From a slide's bytes, local or remote, to a reader of one level's tiles.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tcgamirror.imaging.copied_tiff import StoredLevel, stored_level
from tcgamirror.imaging.decode import (
    JpegTiles,
    OpenSlideTiles,
    Pixels,
    TileReader,
    UncompressedTiles,
    choose_jpeg_scale,
)
from tcgamirror.imaging.jpeg2000 import JPEG_2000, Jpeg2000Tiles
from tcgamirror.imaging.patched_tiles import Fetch, PatchedTiles
from tcgamirror.imaging.single_level import write_single_level
from tcgamirror.imaging.svs import Compression, Svs, TileTable
from tcgamirror.model.errors import BadTile, UnsupportedSlide
from tcgamirror.model.geometry import Grid
from tcgamirror.model.slide import Pyramid, Rendition, Resample, Target
from tcgamirror.system.files import disk_errors


@dataclass(frozen=True, slots=True)
class LevelReader:
    """One level of a slide, open for reading.

    rendition: the image to make, whose level `tiles` reads. count_patched: returns how many tiles
    are rendered from finer levels, or None if the source cannot tell. The count is final once all
    tiles were read. stored: the level's stored tiles, if the image can be made of copies of them.
    """

    pyramid: Pyramid
    rendition: Rendition
    tiles: TileReader
    count_patched: Callable[[], int | None] = lambda: None
    stored: StoredLevel | None = None


@contextmanager
def open_level(
    slide: Svs,
    target: Target,
    folder: Path,
    *,
    slide_file: Path | None = None,
    fetch: Fetch = lambda _: None,
) -> Iterator[LevelReader]:
    """Open the level that `target` needs.

    JPEG, uncompressed and plain JPEG 2000 tiles are decoded directly. OpenSlide reads all others
    from a copy of the level in `folder`, or from `slide_file` if the level is the slide's base.

    Args:
        slide: its source holds the level's tiles and the base's tile counts.
        slide_file: the whole slide, if it is a local file.
        fetch: called with spans of finer levels before they are read, also during the block.
    """
    rendition = target.rendition(slide.pyramid)
    index = rendition.level
    grid = slide.levels[index].level.grid
    fast = rendition.resample is Resample.FAST
    scale = choose_jpeg_scale(grid, rendition.size) if fast else 1
    whole_slide = slide_file if not index and slide.has_descending_sizes else None

    def open_single_tiles(index: int) -> TileReader:
        return _tile_reader(slide, index, _SingleTiles(slide, index, folder / "tile.svs"))

    with ExitStack() as stack:
        through_openslide = _OpenSlideLevel(slide, index, whole_slide, folder / "level.svs", stack)
        tiles = _tile_reader(slide, index, through_openslide, scale)
        patched = PatchedTiles(slide, index, tiles, open_single_tiles, fetch)
        stored = stored_level(slide, rendition, patched)
        yield LevelReader(slide.pyramid, rendition, patched, patched.count_patched, stored)


def _tile_reader(
    slide: Svs, index: int, through_openslide: TileReader, scale: int = 1
) -> TileReader:
    """Return a reader of a level that uses `through_openslide` only where it must.

    Raises UnsupportedSlide for tiles that OpenSlide would mistake for damaged ones.
    """
    tiled = slide.levels[index]
    if tiled.is_rgb_or_ycbcr_jpeg:
        return JpegTiles(slide.source, tiled, slide.tile_table(index), scale)
    if tiled.is_uncompressed_rgb:
        return UncompressedTiles(slide.source, tiled, slide.tile_table(index))
    if tiled.compression == Compression.NONE:
        raise UnsupportedSlide("its tiles are not compressed, and not 8-bit RGB")
    if tiled.compression in JPEG_2000 and tiled.has_three_bytes:
        return Jpeg2000Tiles(slide.source, tiled, slide.tile_table(index), through_openslide)
    return through_openslide


class _OpenSlideLevel(TileReader):
    """A level's tiles, read through OpenSlide, which opens the level at the first of them."""

    def __init__(
        self, slide: Svs, index: int, whole_slide: Path | None, path: Path, stack: ExitStack
    ) -> None:
        """Open and write nothing yet.

        Args:
            whole_slide: the slide's file, if OpenSlide can read the level there.
            path: where a copy of the level is written otherwise.
            stack: closes OpenSlide's file.
        """
        super().__init__(slide.levels[index].level.grid)
        self._slide = slide
        self._index = index
        self._whole_slide = whole_slide
        self._path = path
        self._stack = stack

    def read_tile(self, column: int, row: int) -> Pixels | None:
        return self._tiles.read_tile(column, row)

    @cached_property
    def _tiles(self) -> OpenSlideTiles:
        path = self._whole_slide or self._copy()
        return self._stack.enter_context(OpenSlideTiles(path, self.grid))

    def _copy(self) -> Path:
        with disk_errors(self._path), self._path.open("wb") as file:
            write_single_level(file, self._slide, self._index, self._slide.tile_table(self._index))
        return self._path


class _SingleTiles(TileReader):
    """A finer level's tiles, read through OpenSlide from a file with one tile each.

    A copy of the level would need all its tiles, and some may not have been fetched.
    """

    def __init__(self, slide: Svs, index: int, path: Path) -> None:
        """Read level `index`. path: where each tile is written, one after the other."""
        super().__init__(slide.levels[index].level.grid)
        self._slide = slide
        self._index = index
        self._path = path

    def read_tile(self, column: int, row: int) -> Pixels | None:
        span = self._slide.tile_table(self._index).span(column, row)
        if span is None:
            return None
        table = TileTable(1, array("Q", [span.start]), array("Q", [span.length]))
        side = self.grid.tile
        with disk_errors(self._path), self._path.open("wb") as file:
            write_single_level(file, self._slide, self._index, table, side)
        try:
            with OpenSlideTiles(self._path, Grid(side, side)) as tiles:
                pixels = tiles.read_tile(0, 0)
        except BadTile as error:
            where = f"the tile at column {column}, row {row} is damaged"
            raise BadTile(f"{where}: {error.__cause__}") from error
        size = self.grid.box(column, row).size
        return None if pixels is None else pixels[: size.height, : size.width]
