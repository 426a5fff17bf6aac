"""A TIFF written front to back, each directory after its data, as libtiff leaves it."""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO, Literal

ByteOrder = Literal["<", ">"]

ASCII, SHORT, LONG, RATIONAL, UNDEFINED, LONG8 = 2, 3, 4, 5, 7, 16
_LETTERS = {SHORT: "H", LONG: "I", RATIONAL: "I", LONG8: "Q"}


@dataclass(frozen=True, slots=True)
class Field:
    """One directory entry; a rational's values are numerator, denominator in turn."""

    tag: int
    kind: int
    values: Sequence[int] | bytes

    def packed(self, order: ByteOrder) -> bytes:
        if isinstance(self.values, bytes):
            return self.values
        return struct.pack(f"{order}{len(self.values)}{_LETTERS[self.kind]}", *self.values)

    @property
    def count(self) -> int:
        return len(self.values) // 2 if self.kind == RATIONAL else len(self.values)


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
        self._order = order
        self._big = big
        self._word = "Q" if big else "I"
        mark = b"II" if order == "<" else b"MM"
        if big:
            file.write(mark + self._pack("HHHQ", 43, 8, 0, 0))
        else:
            file.write(mark + self._pack("HI", 42, 0) + (b"" if order == "<" else b"\0" * 4))
        self._link_place = self._word_bytes

    @property
    def _word_bytes(self) -> int:
        return 8 if self._big else 4

    def offsets(self, tag: int, values: Sequence[int]) -> Field:
        """A field of file offsets or byte counts, as wide as the file's own words."""
        return Field(tag, LONG8 if self._big else LONG, values)

    @staticmethod
    def narrow(tag: int, values: Sequence[int]) -> Field:
        """A field of byte counts, as narrow as they allow: newer versions of libtiff do that."""
        return Field(tag, SHORT if max(values) < 1 << 16 else LONG, values)

    def write(self, data: bytes) -> int:
        """Appends data and returns its offset."""
        place = self._file.tell()
        if not self._big and place + len(data) >= 1 << 32:
            raise ValueError("a classic TIFF ends at 4 GiB: ask for big=True")
        self._file.write(data)
        return place

    def write_directory(self, fields: Sequence[Field]) -> int:
        """Appends a directory, then those of its values that do not fit in their entries."""
        self._align()
        start = self._file.tell()
        ordered = sorted(fields, key=lambda field: field.tag)
        count = self._pack("Q" if self._big else "H", len(ordered))
        entry_bytes = 20 if self._big else 12
        free = start + len(count) + entry_bytes * len(ordered) + self._word_bytes
        entries, values = b"", b""
        for field in ordered:
            value = field.packed(self._order)
            if len(value) > self._word_bytes:
                values += b"\0" * ((free + len(values)) % 2)
                place = self._pack(self._word, free + len(values))
                values += value
            else:
                place = value.ljust(self._word_bytes, b"\0")
            entries += self._pack("HH" + self._word, field.tag, field.kind, field.count) + place
        self.write(count + entries + self._pack(self._word, 0) + values)
        self._link(start, free - self._word_bytes)
        return start

    def _link(self, directory: int, next_link_place: int) -> None:
        """Points the header or the directory before at this one.

        OpenSlide looks whether a classic TIFF is Hamamatsu's, which has a header link of eight
        bytes, and then keeps the last four of them: wrong if the first come first. So a classic
        header's link stands there twice, which does no harm to other readers.
        """
        link = self._pack(self._word, directory)
        in_classic_header = self._link_place == 4
        self._file.seek(self._link_place)
        self._file.write(link * 2 if in_classic_header and self._order == ">" else link)
        self._file.seek(0, 2)
        self._link_place = next_link_place

    def _align(self) -> None:
        if self._file.tell() % 2:
            self._file.write(b"\0")

    def _pack(self, layout: str, *values: int) -> bytes:
        return struct.pack(self._order + layout, *values)


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
