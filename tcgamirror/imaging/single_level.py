"""Write one level of a slide as a slide of its own.

OpenSlide reads such a file at whole pixels, without the slide's downsample of 4.0003.
Of a remote slide, only this level has to be fetched.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import BinaryIO

from tcgamirror.imaging.svs import Svs, TileTable
from tcgamirror.imaging.tiff import RandomAccess
from tcgamirror.imaging.tiff_writer import TiffWriter
from tcgamirror.model.byteranges import Span
from tcgamirror.model.geometry import Grid, Size
from tcgamirror.system.files import PIECE


def write_single_level(
    file: BinaryIO, slide: Svs, index: int, table: TileTable, size: Size | None = None
) -> None:
    """Write tiles of level `index` as a BigTIFF of one directory, at the start of `file`.

    Tiles are copied unchanged. Blank tiles stay blank, and bytes shared by several tiles
    stay shared. The level's tags are kept, except large ones such as a colour profile.

    Args:
        table: the tiles to write.
        size: pixels of their image, if they are not the whole level.
    """
    out = TiffWriter(file, big=True, order=slide.layout.order)
    grid = slide.levels[index].level.grid
    offsets = _copy_tiles(out, slide.source, table)
    places = out.tile_tags(Grid(size or grid.size, grid.tile), offsets, table.counts)
    out.write_directories([[*slide.tags(index), *places]])


def _copy_tiles(out: TiffWriter, source: RandomAccess, table: TileTable) -> list[int]:
    """Write the bytes of all tiles, each byte once. Return the tiles' offsets, 0 if blank."""
    starts, moved = [], []
    for span in table.runs(gap=0):
        pieces = range(span.start, span.stop, PIECE)
        places = [out.write(source.read(Span(at, min(at + PIECE, span.stop)))) for at in pieces]
        starts.append(span.start)
        moved.append(places[0] - span.start)
    return [
        start + moved[bisect_right(starts, start) - 1] if length else 0
        for start, length in zip(table.offsets, table.counts, strict=True)
    ]
