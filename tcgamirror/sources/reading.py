"""What `whole` and `range` share: from a slide's bytes to the tiles of one level."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tcgamirror.alone import write_alone
from tcgamirror.decode import JpegTiles, OpenSlideTiles, is_plain_jpeg, scale_for
from tcgamirror.files import room
from tcgamirror.model import Resample, Target
from tcgamirror.sources import Opened
from tcgamirror.svs import Svs
from tcgamirror.tiff import ReadAt


@contextmanager
def opened(
    source: ReadAt, target: Target, folder: Path, whole: Path | None = None
) -> Iterator[Opened]:
    """The slide in `source`, of which all that `target` needs must be had.

    JPEG tiles are decoded directly; of anything else OpenSlide is given the
    level alone, written into `folder`, or the slide itself if it is there as a
    file, `whole`, and the level is its base.
    """
    slide = Svs(source)
    rendition = target.rendition(slide.pyramid)
    tiled = slide.levels[rendition.level]
    table = slide.tile_table(rendition.level)
    if is_plain_jpeg(tiled):
        fast = rendition.resample is Resample.FAST
        scale = scale_for(tiled.level.grid, rendition.size) if fast else 1
        yield Opened(slide.pyramid, rendition, JpegTiles(source, tiled, table, scale))
        return
    path = folder / "level.svs"
    if whole is not None and not rendition.level:
        path = whole
    else:
        with room(path), path.open("wb") as file:
            write_alone(file, source, slide, rendition.level, table)
    with OpenSlideTiles(path, tiled.level.grid) as tiles:
        yield Opened(slide.pyramid, rendition, tiles)
