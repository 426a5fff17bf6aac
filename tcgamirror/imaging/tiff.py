"""Read the directories of a TIFF file, local or remote.

Every read is small and bounded, whatever the bytes say. Sources: TIFF 6.0 and the
BigTIFF extension.
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

from tcgamirror.model.byteranges import Span
from tcgamirror.model.errors import BadSlide, SlideError
from tcgamirror.model.geometry import Size

MAX_DIRECTORIES = 64
MAX_ENTRIES = 512
MAX_VALUE_BYTES = 1 << 17
"""Bytes of one tag's values, tile arrays excepted."""


class Tag:
    """Numbers of TIFF tags."""

    SUBFILE = 254
    WIDTH = 256
    HEIGHT = 257
    BITS = 258
    COMPRESSION = 259
    PHOTOMETRIC = 262
    DESCRIPTION = 270
    STRIP_OFFSETS = 273
    SAMPLES = 277
    ROWS_PER_STRIP = 278
    STRIP_COUNTS = 279
    X_RESOLUTION = 282
    Y_RESOLUTION = 283
    PLANAR = 284
    RESOLUTION_UNIT = 296
    PREDICTOR = 317
    TILE_WIDTH = 322
    TILE_HEIGHT = 323
    TILE_OFFSETS = 324
    TILE_COUNTS = 325
    SUB_DIRECTORIES = 330
    JPEG_TABLES = 347
    SUBSAMPLING = 530
    ICC_PROFILE = 34675


class Type:
    """Numbers of TIFF types that are written."""

    ASCII = 2
    SHORT = 3
    LONG = 4
    RATIONAL = 5
    UNDEFINED = 7
    LONG8 = 16


TagValue = tuple[int, int, int, bytes]
"""Tag, type, count and packed values."""


class RandomAccess(Protocol):
    """Bytes that can be read at any offset: of a file, or of a remote slide."""

    @property
    def size(self) -> int:
        """Total bytes."""
        ...

    def read(self, span: Span) -> bytes:
        """Return exactly the bytes of `span`, which lies within `size`."""
        ...


@dataclass(frozen=True, slots=True)
class Layout:
    """The encoding of a file's numbers: byte order ("<" or ">"), and whether it is BigTIFF."""

    order: str
    big: bool

    @property
    def is_native(self) -> bool:
        """Return whether the byte order is the processor's."""
        return (self.order == "<") == (sys.byteorder == "little")

    @property
    def entry_bytes(self) -> int:
        return 20 if self.big else 12

    @property
    def offset_code(self) -> str:
        return "Q" if self.big else "I"

    def unpack(self, code: str, data: bytes) -> tuple[int, ...]:
        return struct.unpack(self.order + code, data)

    def pack_tag(self, tag: int, type_: int, *values: int) -> TagValue:
        """Return a tag with these values; a rational is two of them."""
        code = _TYPE_CODES[type_]
        data = struct.pack(f"{self.order}{len(values)}{code[0]}", *values)
        return tag, type_, len(values) // len(code), data

    def pack_header(self, first: int) -> bytes:
        """Return the file's first bytes. first: offset of its first directory."""
        begin = {"<": b"II", ">": b"MM"}[self.order]
        if self.big:
            return begin + struct.pack(self.order + "HHHQ", 43, 8, 0, first)
        return begin + struct.pack(self.order + "HI", 42, first)

    def pack_directory(self, offset: int, tags: Iterable[TagValue], following: int = 0) -> bytes:
        """Return a directory and its long values, to lie at `offset`.

        following: offset of the next directory, 0 for the last of its chain.
        """
        tags = sorted(tags)
        inline = struct.calcsize("=" + self.offset_code)
        align = 8 if self.big else 2
        head = struct.pack(self.order + ("Q" if self.big else "H"), len(tags))
        free = offset + len(head) + self.entry_bytes * len(tags) + inline
        entries, values = [], []
        for tag, type_, count, data in tags:
            field = data.ljust(inline, b"\0")
            if len(data) > inline:
                field = struct.pack(self.order + self.offset_code, free)
                values.append(data + b"\0" * (-len(data) % align))
                free += len(values[-1])
            entry = struct.pack(self.order + "HH" + self.offset_code, tag, type_, count)
            entries.append(entry + field)
        pointer = struct.pack(self.order + self.offset_code, following)
        return b"".join([head, *entries, pointer, *values])


_TYPE_CODES = {1: "B", 2: "s", 3: "H", 4: "I", 5: "II", 6: "b", 7: "s", 8: "h", 9: "i", 10: "ii"}
_TYPE_CODES |= {11: "f", 12: "d", 13: "I", 16: "Q", 17: "q", 18: "Q"}
_FIRST_ENTRIES = ((Tag.SUBFILE, 4), (Tag.WIDTH, 3), (Tag.WIDTH, 4))
"""Tag and type of the entries that directories begin with."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One tag of a directory. count: values. span: the bytes that hold them.

    data: those bytes, if they lie in the directory itself.
    """

    type: int
    count: int
    span: Span
    data: bytes | None = None


@dataclass(frozen=True, slots=True)
class Directory:
    """One TIFF directory at `offset`. next: offset of the next one, 0 at the end of the chain.

    Its values are read from `tiff` when they are asked for, and raise BadSlide if invalid.
    """

    tiff: Tiff = field(repr=False, compare=False)
    offset: int
    entries: Mapping[int, Entry]
    next: int

    @property
    def is_tiled(self) -> bool:
        return {Tag.TILE_WIDTH, Tag.TILE_OFFSETS, Tag.TILE_COUNTS} <= self.entries.keys()

    @property
    def size(self) -> Size:
        return self._size(Tag.WIDTH, Tag.HEIGHT)

    @property
    def tile(self) -> Size:
        return self._size(Tag.TILE_WIDTH, Tag.TILE_HEIGHT)

    def _size(self, *tags: int) -> Size:
        size = Size(*map(self.number, tags))
        if min(size) < 1:
            raise BadSlide(f"invalid level or tile of {size} pixels")
        return size

    @property
    def data_start(self) -> int:
        """Return the offset of the directory's first tile or strip."""
        for tag in (Tag.TILE_OFFSETS, Tag.STRIP_OFFSETS):
            if tag in self.entries:
                # The offset of a tile without bytes is 0.
                return min(filter(None, self.numbers(tag, self.entries[tag].count)), default=0)
        raise BadSlide("a directory has neither tiles nor strips")

    def raw(self, tag: int) -> bytes:
        entry = self.entries.get(tag)
        if entry is None:
            return b""
        if entry.span.length > MAX_VALUE_BYTES:
            raise BadSlide(f"its tag {tag} has {entry.span.length} bytes")
        return self._bytes(entry)

    def _bytes(self, entry: Entry) -> bytes:
        return self.tiff.read(entry.span) if entry.data is None else entry.data

    def number(self, tag: int, default: int | None = None) -> int:
        entry = self.entries.get(tag)
        if entry is None or not entry.count or _TYPE_CODES[entry.type] not in "BHIQ":
            if default is None:
                raise BadSlide(f"its tag {tag} is missing or no number")
            return default
        code = _TYPE_CODES[entry.type]
        length = struct.calcsize("=" + code)
        data = entry.data or self.tiff.read(Span(entry.span.start, entry.span.start + length))
        return self.tiff.layout.unpack(code, data[:length])[0]

    def numbers(self, tag: int, count: int) -> array[int]:
        entry = self.entries[tag]
        code = _TYPE_CODES[entry.type]
        if entry.count != count or code not in "HIQ":
            raise BadSlide(f"its tag {tag} has {entry.count} values for {count} tiles")
        values: array[int] = array(code, self._bytes(entry))
        if not self.tiff.layout.is_native:
            values.byteswap()
        return values

    def rational(self, tag: int) -> float | None:
        entry = self.entries.get(tag)
        if entry is None or entry.type != Type.RATIONAL or entry.count != 1:
            return None
        numerator, denominator = self.tiff.layout.unpack("II", self._bytes(entry))
        return numerator / denominator if denominator else None


class Tiff:
    """The directories of a TIFF file. Raises BadSlide for invalid bytes.

    first: offset of the first directory.
    """

    def __init__(self, source: RandomAccess) -> None:
        """Read the header."""
        self._source = source
        self.layout, self.first = self._header()

    def directories(self) -> Iterator[Directory]:
        """Yield the chain of directories; each is read when the iterator reaches it."""
        seen: set[int] = set()
        offset = self.first
        while offset or not seen:
            if offset in seen:
                raise BadSlide(f"its directories form a loop at byte {offset}")
            if len(seen) == MAX_DIRECTORIES:
                raise BadSlide(f"it has more than {MAX_DIRECTORIES} directories")
            seen.add(offset)
            directory = self._directory(offset)
            yield directory
            offset = directory.next

    def guess_directory(self, window: Span, following: int) -> Directory | None:
        """Return the directory in `window` that seems to lead to the one at `following`.

        Only the chain tells for sure where directories begin. This one is recognized by
        its first bytes, and must be confirmed by the chain.

        Args:
            following: 0 for the directory that ends the chain.
        """
        data = self.read(window)
        head = 8 if self.layout.big else 2
        for tag, kind in _FIRST_ENTRIES:
            begin = struct.pack(self.layout.order + "HH", tag, kind)
            offset = data.find(begin, head)
            while offset >= 0:
                with suppress(SlideError):
                    directory = self._directory(window.start + offset - head)
                    if directory.next == following:
                        return directory
                offset = data.find(begin, offset + 1)
        return None

    def read(self, span: Span) -> bytes:
        if span.start < 0 or span.stop > self._source.size:
            raise BadSlide(f"bytes {span} are outside of the file ({self._source.size} bytes)")
        return self._source.read(span)

    def _header(self) -> tuple[Layout, int]:
        if self._source.size < 16:
            raise BadSlide(f"a file of {self._source.size} bytes is not a slide")
        head = self._source.read(Span(0, 16))
        order = {b"II": "<", b"MM": ">"}.get(head[:2])
        if order is None:
            raise BadSlide("it does not begin as a TIFF file does")
        (version,) = struct.unpack(order + "H", head[2:4])
        if version == 42:
            return Layout(order, big=False), struct.unpack(order + "I", head[4:8])[0]
        if version == 43 and struct.unpack(order + "HH", head[4:8]) == (8, 0):
            return Layout(order, big=True), struct.unpack(order + "Q", head[8:16])[0]
        raise BadSlide(f"TIFF version {version} is neither classic nor BigTIFF")

    def _directory(self, offset: int) -> Directory:
        layout = self.layout
        head = 8 if layout.big else 2
        (count,) = layout.unpack("Q" if layout.big else "H", self.read(Span(offset, offset + head)))
        if not 0 < count <= MAX_ENTRIES:
            raise BadSlide(f"the directory at byte {offset} has {count} entries")
        start = offset + head
        pointer = start + count * layout.entry_bytes
        data = self.read(Span(start, pointer + (8 if layout.big else 4)))
        entries: dict[int, Entry] = {}
        for at in range(0, count * layout.entry_bytes, layout.entry_bytes):
            tag, entry = self._entry(data[at : at + layout.entry_bytes], start + at)
            if entry is not None:
                entries.setdefault(tag, entry)
        (next_,) = layout.unpack(layout.offset_code, data[count * layout.entry_bytes :])
        return Directory(self, offset, entries, next_)

    def _entry(self, data: bytes, offset: int) -> tuple[int, Entry | None]:
        """Return tag and entry of `data`, which lies at `offset`; no entry of an unknown type."""
        code = self.layout.offset_code
        tag, kind = self.layout.unpack("HH", data[:4])
        inline = 4 + struct.calcsize("=" + code)
        (count,) = self.layout.unpack(code, data[4:inline])
        if kind not in _TYPE_CODES:
            return tag, None
        length = count * struct.calcsize("=" + _TYPE_CODES[kind])
        if length <= len(data) - inline:
            start, stop = offset + inline, offset + inline + length
            return tag, Entry(kind, count, Span(start, stop), data[inline : inline + length])
        (start,) = self.layout.unpack(code, data[inline:])
        return tag, Entry(kind, count, Span(start, start + length))
