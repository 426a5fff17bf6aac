"""Write one level of a slide as a slide of its own.

OpenSlide reads such a file at whole pixels, without the slide's downsample of 4.0003.
Of a remote slide, only this level has to be fetched.
"""

from __future__ import annotations

import sys
from array import array
from bisect import bisect_right
from typing import BinaryIO

from tcgamirror.imaging.svs import Svs, TileTable
from tcgamirror.imaging.tiff import Layout, RandomAccess, Tag, Type
from tcgamirror.model.byteranges import Span
from tcgamirror.model.geometry import Size
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
    order = slide.layout.order
    layout = Layout(order, big=True)
    file.write(layout.pack_header(0))
    offsets = _copy_tiles(file, slide.source, table)
    tags = list(slide.tags(index))
    if size is not None:
        tags = [tag for tag in tags if tag[0] not in (Tag.WIDTH, Tag.HEIGHT)]
        for tag, side in zip((Tag.WIDTH, Tag.HEIGHT), size, strict=True):
            tags.append(layout.pack_tag(tag, Type.LONG8, side))
    counts = array("Q", table.counts)
    tags.append((Tag.TILE_OFFSETS, Type.LONG8, len(offsets), _pack(order, offsets)))
    tags.append((Tag.TILE_COUNTS, Type.LONG8, len(counts), _pack(order, counts)))
    start = file.tell() + -file.tell() % 8
    file.write(b"\0" * (start - file.tell()))
    file.write(layout.pack_directory(start, tags))
    file.seek(0)
    file.write(layout.pack_header(start))


def _copy_tiles(file: BinaryIO, source: RandomAccess, table: TileTable) -> array[int]:
    """Write the bytes of all tiles, each byte once. Return the tiles' offsets, 0 if blank."""
    spans = list(table.runs(gap=0))
    starts = [span.start for span in spans]
    copies = []
    for span in spans:
        copies.append(file.tell())
        for start in range(span.start, span.stop, PIECE):
            file.write(source.read(Span(start, min(start + PIECE, span.stop))))
    offsets: array[int] = array("Q")
    for start, length in zip(table.offsets, table.counts, strict=True):
        index = bisect_right(starts, start) - 1
        offsets.append(copies[index] + start - starts[index] if length else 0)
    return offsets


def _pack(order: str, values: array[int]) -> bytes:
    if (order == "<") != (sys.byteorder == "little"):
        values.byteswap()
    return values.tobytes()
