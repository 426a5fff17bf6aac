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

    JPEG and uncompressed tiles are decoded directly. For all others OpenSlide gets a copy
    of the level in `folder`, or the slide itself if the level is its base.

    Args:
        slide: its bytes hold the level's tiles and the base's tile counts.
        slide_file: the whole slide, if it is a local file.
        fetch: called before anything else of the slide is read, also while tiles are read.
    """
    rendition = target.rendition(slide.pyramid)

    def open_single_tiles(index: int) -> TileReader:
        return _direct_reader(slide, index) or _SingleTiles(slide, index, folder / "tile.svs")

    with _open_all_tiles(slide, rendition, folder, slide_file) as tiles:
        patched = PatchedTiles(slide, rendition.level, tiles, open_single_tiles, fetch)
        stored = stored_level(slide, rendition, patched)
        yield LevelReader(slide.pyramid, rendition, patched, patched.count_patched, stored)


def needs_openslide(tiled: TiledLevel) -> bool:
    """Return whether only OpenSlide can decode a level's tiles."""
    return not (is_rgb_or_ycbcr_jpeg(tiled) or is_uncompressed_rgb(tiled))


@contextmanager
def _open_all_tiles(
    slide: Svs, rendition: Rendition, folder: Path, slide_file: Path | None
) -> Iterator[TileReader]:
    index = rendition.level
    grid = slide.levels[index].level.grid
    fast = rendition.resample is Resample.FAST
    direct = _direct_reader(slide, index, choose_jpeg_scale(grid, rendition.size) if fast else 1)
    if direct is not None:
        yield direct
        return
    if slide_file is not None and not index and slide.has_descending_sizes:
        with OpenSlideTiles(slide_file, grid) as tiles:
            yield tiles
        return
    with ExitStack() as stack:
        yield _LevelCopy(slide, index, folder / "level.svs", stack)


def _direct_reader(slide: Svs, index: int, scale: int = 1) -> TileReader | None:
    """Return a reader that does without OpenSlide; None if only OpenSlide can decode.

    Raises UnsupportedSlide for tiles that OpenSlide would take for damaged.
    """
    tiled = slide.levels[index]
    if is_rgb_or_ycbcr_jpeg(tiled):
        return JpegTiles(slide.source, tiled, slide.tile_table(index), scale)
    if is_uncompressed_rgb(tiled):
        return UncompressedTiles(slide.source, tiled, slide.tile_table(index))
    if tiled.compression == Compression.NONE:
        raise UnsupportedSlide("its tiles are not compressed, and not 8-bit RGB")
    return None


class _LevelCopy(TileReader):
    """A level's tiles by OpenSlide, which gets a copy of the level once a tile is read."""

    def __init__(self, slide: Svs, index: int, path: Path, stack: ExitStack) -> None:
        """Write nothing yet. stack: closes the copy at `path`."""
        super().__init__(slide.levels[index].level.grid)
        self._slide = slide
        self._index = index
        self._path = path
        self._stack = stack

    def read_tile(self, column: int, row: int) -> Pixels | None:
        return self._tiles.read_tile(column, row)

    @cached_property
    def _tiles(self) -> OpenSlideTiles:
        with disk_errors(self._path), self._path.open("wb") as file:
            write_single_level(file, self._slide, self._index, self._slide.tile_table(self._index))
        return self._stack.enter_context(OpenSlideTiles(self._path, self.grid))


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
