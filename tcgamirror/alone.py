"""One level of a slide written out as a small slide of its own.

OpenSlide reads such a file at whole pixels, where in the slide itself a
downsample of 4.0003 stands in between; and of a remote slide nothing but this
level has to be there.
"""

from __future__ import annotations

import struct
from array import array
from typing import BinaryIO

from tcgamirror.spans import Span
from tcgamirror.svs import Svs, TileTable
from tcgamirror.tiff import ReadAt, Tag

_LONG8 = 16


def write_alone(file: BinaryIO, source: ReadAt, slide: Svs, index: int, table: TileTable) -> None:
    """Writes level `index` of `slide` as a BigTIFF of one directory, at the start of `file`.

    Tiles are copied as they are, one at a time; blank ones stay blank. The
    level's tags are kept but for large ones, such as a colour profile.
    """
    order = slide.layout.order
    begin = {"<": b"II", ">": b"MM"}[order]
    file.write(begin + struct.pack(order + "HHHQ", 43, 8, 0, 0))
    offsets: array[int] = array("Q")
    for start, length in zip(table.offsets, table.counts, strict=True):
        offsets.append(file.tell() if length else 0)
        if length:
            file.write(source.read(Span(start, start + length)))
    count = len(offsets)
    tags = list(slide.values(index))
    tags.append((Tag.TILE_OFFSETS, _LONG8, count, struct.pack(f"{order}{count}Q", *offsets)))
    tags.append((Tag.TILE_COUNTS, _LONG8, count, struct.pack(f"{order}{count}Q", *table.counts)))
    place = file.tell() + -file.tell() % 8
    file.write(b"\0" * (place - file.tell()))
    file.write(_directory(place, order, sorted(tags)))
    file.seek(8)
    file.write(struct.pack(order + "Q", place))


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
