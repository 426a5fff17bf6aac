"""Write one level of a slide as a slide of its own.

OpenSlide reads such a file at whole pixels, without the slide's downsample of 4.0003.
Of a remote slide, only this level has to be fetched.
"""

from __future__ import annotations

import struct
import sys
from array import array
from bisect import bisect_right
from typing import BinaryIO

from tcgamirror.imaging.svs import Svs, TileTable
from tcgamirror.imaging.tiff import RandomAccess, Tag
from tcgamirror.model.byteranges import Span
from tcgamirror.model.geometry import Size
from tcgamirror.system.files import PIECE

_LONG8 = 16


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
    begin = {"<": b"II", ">": b"MM"}[order]
    file.write(begin + struct.pack(order + "HHHQ", 43, 8, 0, 0))
    offsets = _copy_tiles(file, slide.source, table)
    tags = list(slide.tags(index))
    if size is not None:
        tags = [tag for tag in tags if tag[0] not in (Tag.WIDTH, Tag.HEIGHT)]
        for tag, side in zip((Tag.WIDTH, Tag.HEIGHT), size, strict=True):
            tags.append((tag, _LONG8, 1, struct.pack(order + "Q", side)))
    tags.append((Tag.TILE_OFFSETS, _LONG8, len(offsets), _pack(order, offsets)))
    tags.append((Tag.TILE_COUNTS, _LONG8, len(offsets), _pack(order, array("Q", table.counts))))
    start = file.tell() + -file.tell() % 8
    file.write(b"\0" * (start - file.tell()))
    file.write(_pack_directory(start, order, sorted(tags)))
    file.seek(8)
    file.write(struct.pack(order + "Q", start))


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


def _pack_directory(start: int, order: str, tags: list[tuple[int, int, int, bytes]]) -> bytes:
    """Return a BigTIFF directory, the last of its chain, and its values, to lie at `start`."""
    free = start + 8 + 20 * len(tags) + 8
    entries, values = [], []
    for tag, kind, count, data in tags:
        if len(data) > 8:
            field = struct.pack(order + "Q", free)
            values.append(data + b"\0" * (-len(data) % 8))
            free += len(values[-1])
        else:
            field = data.ljust(8, b"\0")
        entries.append(struct.pack(order + "HHQ", tag, kind, count) + field)
    head = struct.pack(order + "Q", len(tags))
    return b"".join([head, *entries, struct.pack(order + "Q", 0), *values])
