"""One level of a slide written out as a small slide of its own.

OpenSlide reads such a file at whole pixels, where in the slide itself a
downsample of 4.0003 stands in between; and of a remote slide nothing but this
level has to be there.
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

_LONG8 = 16
_PIECE = 1 << 20
"""Bytes copied at once."""


def write_single_level(
    file: BinaryIO,
    source: RandomAccess,
    slide: Svs,
    index: int,
    table: TileTable,
    size: Size | None = None,
) -> None:
    """Write level `index` of `slide` as a BigTIFF of one directory, at the start of `file`.

    Tiles are copied as they are; blank ones stay blank, and bytes that several
    tiles share stay shared. The level's tags are kept but for large ones, such
    as a colour profile.

    Args:
        size: pixels of the image that `table` is of, where that is a part of the level.
    """
    order = slide.layout.order
    begin = {"<": b"II", ">": b"MM"}[order]
    file.write(begin + struct.pack(order + "HHHQ", 43, 8, 0, 0))
    offsets = _copied(file, source, table)
    tags = list(slide.values(index))
    if size is not None:
        tags = [tag for tag in tags if tag[0] not in (Tag.WIDTH, Tag.HEIGHT)]
        for tag, side in zip((Tag.WIDTH, Tag.HEIGHT), size, strict=True):
            tags.append((tag, _LONG8, 1, struct.pack(order + "Q", side)))
    tags.append((Tag.TILE_OFFSETS, _LONG8, len(offsets), _packed(order, offsets)))
    tags.append((Tag.TILE_COUNTS, _LONG8, len(offsets), _packed(order, array("Q", table.counts))))
    place = file.tell() + -file.tell() % 8
    file.write(b"\0" * (place - file.tell()))
    file.write(_directory(place, order, sorted(tags)))
    file.seek(8)
    file.write(struct.pack(order + "Q", place))


def _copied(file: BinaryIO, source: RandomAccess, table: TileTable) -> array[int]:
    """Writes the bytes of all tiles, each byte once; where the tiles lie then, 0 if blank."""
    spans = list(table.runs(gap=0))
    starts = [span.start for span in spans]
    places = []
    for span in spans:
        places.append(file.tell())
        for start in range(span.start, span.stop, _PIECE):
            file.write(source.read(Span(start, min(start + _PIECE, span.stop))))
    offsets: array[int] = array("Q")
    for start, length in zip(table.offsets, table.counts, strict=True):
        index = bisect_right(starts, start) - 1
        offsets.append(places[index] + start - starts[index] if length else 0)
    return offsets


def _packed(order: str, values: array[int]) -> bytes:
    if (order == "<") != (sys.byteorder == "little"):
        values.byteswap()
    return values.tobytes()


def _directory(place: int, order: str, tags: list[tuple[int, int, int, bytes]]) -> bytes:
    """A BigTIFF directory, the last of its chain, and its values, to lie at `place`."""
    free = place + 8 + 20 * len(tags) + 8
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
