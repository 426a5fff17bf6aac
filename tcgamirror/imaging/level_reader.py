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
    is_rgb_or_ycbcr_jpeg,
    is_uncompressed_rgb,
)
from tcgamirror.imaging.jpeg2000 import JPEG_2000, Jpeg2000Tiles
from tcgamirror.imaging.patched_tiles import Fetch, PatchedTiles
from tcgamirror.imaging.single_level import write_single_level
from tcgamirror.imaging.svs import Compression, Svs, TiledLevel, TileTable
from tcgamirror.model.errors import BadTile, UnsupportedSlide
from tcgamirror.model.geometry import Grid
from tcgamirror.model.slide import Pyramid, Rendition, Resample, Target
from tcgamirror.system.files import disk_errors


@dataclass(frozen=True, slots=True)
class LevelReader:
    """One level of a slide, open for reading.

    rendition: the image to make, whose level `tiles` reads. count_patched: returns the tiles
    that are rendered from finer levels, final once all tiles were read; None from a source
    that cannot tell. stored: the level, if the image has its own pixels and tiles can be copied.
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

    JPEG, uncompressed and plain JPEG 2000 tiles are decoded directly. For all others OpenSlide
    gets a copy of the level in `folder`, or the slide itself if the level is its base.

    Args:
        slide: its bytes hold the level's tiles and the base's tile counts.
        slide_file: the whole slide, if it is a local file.
        fetch: called before anything else of the slide is read, also while tiles are read.
    """
    rendition = target.rendition(slide.pyramid)
    index = rendition.level
    grid = slide.levels[index].level.grid
    fast = rendition.resample is Resample.FAST
    scale = choose_jpeg_scale(grid, rendition.size) if fast else 1
    alone = slide_file if not index and slide.has_descending_sizes else None

    def open_single_tiles(index: int) -> TileReader:
        return _tile_reader(slide, index, _SingleTiles(slide, index, folder / "tile.svs"))

    with ExitStack() as stack:
        by_openslide = _OpenSlideLevel(slide, index, alone, folder / "level.svs", stack)
        tiles = _tile_reader(slide, index, by_openslide, scale)
        patched = PatchedTiles(slide, index, tiles, open_single_tiles, fetch)
        stored = stored_level(slide, rendition, patched)
        yield LevelReader(slide.pyramid, rendition, patched, patched.count_patched, stored)


def may_need_openslide(tiled: TiledLevel) -> bool:
    """Return whether some of a level's tiles may be such that only OpenSlide can decode them."""
    return not (is_rgb_or_ycbcr_jpeg(tiled) or is_uncompressed_rgb(tiled))


def _tile_reader(slide: Svs, index: int, by_openslide: TileReader, scale: int = 1) -> TileReader:
    """Return a reader that does without OpenSlide as far as it can.

    Raises UnsupportedSlide for tiles that OpenSlide would take for damaged.
    """
    tiled = slide.levels[index]
    if is_rgb_or_ycbcr_jpeg(tiled):
        return JpegTiles(slide.source, tiled, slide.tile_table(index), scale)
    if is_uncompressed_rgb(tiled):
        return UncompressedTiles(slide.source, tiled, slide.tile_table(index))
    if tiled.compression == Compression.NONE:
        raise UnsupportedSlide("its tiles are not compressed, and not 8-bit RGB")
    if tiled.compression in JPEG_2000 and tiled.has_three_bytes:
        return Jpeg2000Tiles(slide.source, tiled, slide.tile_table(index), by_openslide)
    return by_openslide


class _OpenSlideLevel(TileReader):
    """A level's tiles by OpenSlide, which opens the level once a tile is read."""

    def __init__(
        self, slide: Svs, index: int, alone: Path | None, path: Path, stack: ExitStack
    ) -> None:
        """Write nothing yet.

        Args:
            alone: the slide's file if OpenSlide can read the level there.
            path: of a copy of the level otherwise.
            stack: closes the file.
        """
        super().__init__(slide.levels[index].level.grid)
        self._slide = slide
        self._index = index
        self._alone = alone
        self._path = path
        self._stack = stack

    def read_tile(self, column: int, row: int) -> Pixels | None:
        return self._tiles.read_tile(column, row)

    @cached_property
    def _tiles(self) -> OpenSlideTiles:
        return self._stack.enter_context(OpenSlideTiles(self._alone or self._copy(), self.grid))

    def _copy(self) -> Path:
        with disk_errors(self._path), self._path.open("wb") as file:
            write_single_level(file, self._slide, self._index, self._slide.tile_table(self._index))
        return self._path


class _SingleTiles(TileReader):
    """A finer level's tiles, each in a file of its own for OpenSlide: others may not be fetched."""

    def __init__(self, slide: Svs, index: int, path: Path) -> None:
        """Read level `index`; each tile is written to `path`."""
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
