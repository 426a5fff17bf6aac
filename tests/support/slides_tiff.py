"""A TIFF written front to back, each directory after its data, as libtiff leaves it."""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO, Literal

from tcgamirror.imaging.tiff import Layout, TagValue

ByteOrder = Literal["<", ">"]

ASCII, SHORT, LONG, RATIONAL, UNDEFINED, LONG8 = 2, 3, 4, 5, 7, 16


@dataclass(frozen=True, slots=True)
class Field:
    """One directory entry; a rational's values are numerator, denominator in turn."""

    tag: int
    kind: int
    values: Sequence[int] | bytes

    def packed(self, layout: Layout) -> TagValue:
        if isinstance(self.values, bytes):
            return self.tag, self.kind, len(self.values), self.values
        return layout.pack_tag(self.tag, self.kind, *self.values)


def short(tag: int, *values: int) -> Field:
    return Field(tag, SHORT, values)


def long(tag: int, *values: int) -> Field:
    return Field(tag, LONG, values)


def text(tag: int, value: str) -> Field:
    return Field(tag, ASCII, value.encode("ascii") + b"\0")


def rational(tag: int, value: float) -> Field:
    fraction = Fraction(value).limit_denominator(10_000)
    return Field(tag, RATIONAL, (fraction.numerator, fraction.denominator))


class TiffWriter:
    """Writes data and directories in the order they are given, and links the directories."""

    def __init__(self, file: BinaryIO, *, big: bool, order: ByteOrder) -> None:
        self._file = file
        self._layout = Layout(order, big)
        self._link_place = 8 if big else 4
        # A classic big-endian file has its first link twice: see `write_directory`.
        file.write(self._layout.pack_header(0).ljust(8 if order == "<" else 12, b"\0"))

    def offsets(self, tag: int, values: Sequence[int]) -> Field:
        """A field of file offsets or byte counts, as wide as the file's own words."""
        return Field(tag, LONG8 if self._layout.big else LONG, values)

    @staticmethod
    def narrow(tag: int, values: Sequence[int]) -> Field:
        """A field of byte counts, as narrow as they allow: newer versions of libtiff do that."""
        return Field(tag, SHORT if max(values) < 1 << 16 else LONG, values)

    def write(self, data: bytes) -> int:
        """Append data and return its offset."""
        place = self._file.tell()
        if not self._layout.big and place + len(data) >= 1 << 32:
            raise ValueError("a classic TIFF ends at 4 GiB: ask for big=True")
        self._file.write(data)
        return place

    def write_directory(self, fields: Sequence[Field]) -> None:
        """Append a directory and its long values, and point the one before or the header at it.

        OpenSlide looks whether a classic TIFF is Hamamatsu's, which has a header link of eight
        bytes, and then keeps the last four of them: wrong if the first come first. So a classic
        header's link stands there twice, which does no harm to other readers.
        """
        layout, start = self._layout, self._file.seek(0, 2)
        start += self._file.write(b"\0" * (start % 2))
        self.write(layout.pack_directory(start, [field.packed(layout) for field in fields]))
        link = struct.pack(layout.order + layout.offset_code, start)
        self._file.seek(self._link_place)
        self._file.write(link * 2 if self._link_place == 4 and layout.order == ">" else link)
        self._file.seek(0, 2)
        count = 8 if layout.big else 2
        self._link_place = start + count + layout.entry_bytes * len(fields)


def write_tiles(
    path: Path,
    tiles: Sequence[bytes],
    size: tuple[int, int],
    changes: Mapping[int, Field | None],
    *,
    big: bool = False,
) -> Path:
    """Write a slide of one level, of RGB JPEG tiles of 64 × 64 pixels, with these very bytes.

    changes: other fields by tag; None leaves one out.
    """
    with path.open("wb") as file:
        tiff = TiffWriter(file, big=big, order="<")
        fields: Sequence[Field] = [
            *(long(256, size[0]), long(257, size[1]), long(322, 64), long(323, 64)),
            *(short(258, 8, 8, 8), short(259, 7), short(262, 2), short(277, 3), short(284, 1)),
            text(270, "Aperio Image Library v10\r\n|MPP = 0.25"),
            tiff.offsets(324, [tiff.write(tile) for tile in tiles]),
            tiff.offsets(325, [len(tile) for tile in tiles]),
        ]
        by_tag = {field.tag: field for field in fields} | dict(changes)
        tiff.write_directory([field for field in by_tag.values() if field])
    return path
