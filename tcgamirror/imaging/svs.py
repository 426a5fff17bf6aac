"""A slide's pyramid as its TIFF directories tell it. Nothing here decodes pixels.

The first directory is the base. Every further tiled directory of the same shape
is a level, in the order of the file, unless it says that it is something else:
labels, macros and thumbnails of some writers are tiled, too.

What a slide's resolution is, and how far that can be trusted.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from tcgamirror.imaging.tiff import MOST_VALUE_BYTES, Directory, Entry, RandomAccess, Tag, Tiff
from tcgamirror.model.byteranges import Span
from tcgamirror.model.errors import BadSlide
from tcgamirror.model.geometry import Size, downsample, is_reduced
from tcgamirror.model.slide import UNKNOWN_MPP, Level, Mpp, MppSource, Pyramid

MAX_TILES = 4_000_000

MAX_SIDE = 2_000_000

LONGEST_NUMBER = 8
"""Bytes of an offset or a count in a tile array."""

MAX_TILE_SIDE = 4096

OTHER_IMAGES = (1, 9)
"""Values of NewSubfileType of thumbnails and labels, and of macros."""

PLAUSIBLE_MPP = (0.05, 20.0)
"""µm per pixel: outside of it a number is no microscope's, but a screen's or a printer's."""


def aperio_properties(description: str) -> dict[str, str]:
    """The `key = value` pairs of an Aperio ImageDescription; of a key given twice the last one.

    >>> aperio_properties("Aperio Image Library v10|AppMag = 40|MPP = 0.2520")
    {'AppMag': '40', 'MPP': '0.2520'}
    """
    properties: dict[str, str] = {}
    for part in description.split("|")[1:]:
        key, equals, value = part.partition("=")
        if equals:
            properties[key.strip()] = value.strip()
    return properties


def choose_mpp(properties: Mapping[str, str], x: float | None, y: float | None, unit: int) -> Mpp:
    """The base level's MPP, from the best place that has a plausible one.

    Aperio's MPP first, then the TIFF resolution (pixels per inch where `unit`
    is 2, per centimetre where it is 3) if it is the same along both sides, then
    AppMag, by the convention that 40 is 0.25 µm per pixel.

    >>> choose_mpp({"MPP": "0.2325", "AppMag": "20"}, None, None, 2)
    Mpp(value=0.2325, source=<MppSource.HEADER: 'header'>)
    >>> choose_mpp({}, 40000.0, 40000.0, 3).value
    0.25
    >>> choose_mpp({}, 72.0, 72.0, 2).value is None
    True
    >>> choose_mpp({"AppMag": "40.000000"}, None, None, 2)
    Mpp(value=0.25, source=<MppSource.APPMAG: 'appmag'>)
    """
    header = _plausible(_decimal(properties.get("MPP")))
    if header is not None:
        return Mpp(header, MppSource.HEADER)
    micrometres = {2: 25_400.0, 3: 10_000.0}.get(unit)
    if micrometres and x and y and math.isclose(x, y, rel_tol=0.01):
        tiff = _plausible(micrometres / x)
        if tiff is not None:
            return Mpp(tiff, MppSource.TIFF)
    magnification = _decimal(properties.get("AppMag"))
    if magnification is not None and 1 <= magnification <= 100:
        return Mpp(10 / magnification, MppSource.APPMAG)
    return UNKNOWN_MPP


def _decimal(text: str | None) -> float | None:
    try:
        value = float((text or "").replace(",", "."))
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _plausible(mpp: float | None) -> float | None:
    low, high = PLAUSIBLE_MPP
    return mpp if mpp is not None and low <= mpp <= high else None


class Compression:
    """Values of the compression tag seen in TCGA's slides, and that of bare pixels."""

    NONE = 1
    JPEG = 7
    JPEG2000_YCBCR = 33003
    JPEG2000_RGB = 33005


class Photometric:
    RGB = 2
    YCBCR = 6


@dataclass(frozen=True, slots=True)
class TileTable:
    """Where a level's tiles lie, row after row; a tile of no bytes is a blank area.

    tables: the JPEG tables that the tiles share, tag 347; empty if each has its own.
    """

    columns: int
    offsets: array[int]
    counts: array[int]
    tables: bytes = b""

    def span(self, column: int, row: int) -> Span | None:
        """The tile's bytes; None where the slide is blank."""
        index = row * self.columns + column
        if not self.counts[index]:
            return None
        return Span(self.offsets[index], self.offsets[index] + self.counts[index])

    def runs(self, gap: int) -> Iterator[Span]:
        """Ascending spans of all tiles' bytes, joined where `gap` bytes or fewer lie between.

        As `coalesce` of each tile's span, without a list of 100,000 of them.
        """
        run: Span | None = None
        for index in sorted(range(len(self.offsets)), key=self.offsets.__getitem__):
            start, length = self.offsets[index], self.counts[index]
            if not length:
                continue
            if run is not None and start - run.stop <= gap:
                run = Span(run.start, max(run.stop, start + length))
                continue
            if run is not None:
                yield run
            run = Span(start, start + length)
        if run is not None:
            yield run


@dataclass(frozen=True, slots=True)
class TiledLevel:
    """A level and how its tiles are stored."""

    level: Level
    directory: Directory
    compression: int
    photometric: int
    plain_rgb: bool


@dataclass(frozen=True, slots=True)
class SlideHeader:
    """What the first directory alone tells: the slide's size in pixels and its resolution."""

    size: Size
    mpp: Mpp


def read_slide_header(source: RandomAccess) -> SlideHeader:
    """Reads the header and the first directory, no more. Raises BadSlide."""
    tiff = Tiff(source)
    return _base(tiff, next(tiff.directories()))


class Svs:
    """A slide's levels; their tile arrays are read only when asked for."""

    def __init__(self, source: RandomAccess, directories: Sequence[Directory] = ()) -> None:
        """Reads header and directories. Raises BadSlide if they are not a slide's.

        directories: what to take them for instead of walking the whole chain.
        """
        self._source = source
        self._tiff = Tiff(source)
        self.layout = self._tiff.layout
        self._directories = directories or list(self._tiff.directories())
        self.base = _base(self._tiff, self._directories[0])
        self.levels = self._tiled_levels(self._directories)
        self.pyramid = Pyramid(tuple(tiled.level for tiled in self.levels), self.base.mpp)

    @property
    def descends(self) -> bool:
        """Whether no tiled image, level or not, is larger than the one before it.

        OpenSlide divides by the rounded ratio of two successive ones, which must not be 0.
        """
        sizes = [
            _size(self._tiff, directory, Tag.WIDTH, Tag.HEIGHT)
            for directory in self._directories
            if _is_tiled(directory)
        ]
        return all(
            later.width <= size.width and later.height <= size.height
            for size, later in pairwise(sizes)
        )

    def tile_table(self, index: int) -> TileTable:
        """Return where the tiles of level `index` lie.

        Raises BadSlide for a tile of the base that cannot lie there; one of a coarser
        level counts as a tile without bytes, because the base has its pixels too.
        """
        tiled = self.levels[index]
        grid = tiled.level.grid
        offsets, counts = self._numbers(index, Tag.TILE_OFFSETS), self.tile_counts(index)
        most = 1024 + 8 * tiled.level.tile.width * tiled.level.tile.height
        for place, (start, length) in enumerate(zip(offsets, counts, strict=True)):
            outside = length and not 8 <= start <= self._source.size - length
            if index and (outside or length > most):
                counts[place] = 0
            elif outside:
                raise BadSlide(f"a tile lies at byte {start}, outside of the file")
            elif length > most:
                raise BadSlide(f"a tile of {length} bytes is more than its pixels can need")
        tables = self._tiff.bytes_of(tiled.directory, Tag.JPEG_TABLES)
        return TileTable(grid.columns, offsets, counts, tables)

    def tile_counts(self, index: int) -> array[int]:
        """Return the bytes of each tile of level `index`, 0 where it has none. Raises BadSlide."""
        return self._numbers(index, Tag.TILE_COUNTS)

    def _numbers(self, index: int, tag: int) -> array[int]:
        tiled = self.levels[index]
        grid = tiled.level.grid
        return self._tiff.numbers(tiled.directory, tag, grid.columns * grid.rows)

    def array_spans(self, index: int) -> list[Span]:
        """The bytes that `tile_table` reads. Raises BadSlide if they are more than it can need."""
        arrays = [self._array_span(index, tag) for tag in (Tag.TILE_OFFSETS, Tag.TILE_COUNTS)]
        tables = self.levels[index].directory.entries.get(Tag.JPEG_TABLES)
        small = tables is not None and tables.span.length <= MOST_VALUE_BYTES
        return [*arrays, tables.span] if tables is not None and small else arrays

    def counts_span(self, index: int) -> Span:
        """Return the bytes that `tile_counts` reads. Raises BadSlide as `array_spans`."""
        return self._array_span(index, Tag.TILE_COUNTS)

    def _array_span(self, index: int, tag: int) -> Span:
        tiled = self.levels[index]
        span = tiled.directory.entries[tag].span
        if span.length > LONGEST_NUMBER * tiled.level.grid.columns * tiled.level.grid.rows:
            raise BadSlide(f"the array at bytes {span} is too long for its level's tiles")
        return span

    def data_before(self, index: int) -> Span | None:
        """The bytes between the directory before level `index`'s and its own.

        There its tiles lie in a file that was written from begin to end; None
        for the base, which has no directory before its own.
        """
        place = self._directories.index(self.levels[index].directory)
        if not place:
            return None
        before = self._directories[place - 1]
        stops = [entry.span.stop for entry in before.entries.values()]
        return Span(max((stop for stop in stops if stop <= before.next), default=0), before.next)

    def values(self, index: int) -> Iterator[tuple[int, int, int, bytes]]:
        """Tag, type, count and bytes of a level's tags, but for tile arrays and large ones.

        The description is the base's, which alone says whose slide it is.
        """
        for tag, entry in self._small_entries(index):
            yield tag, entry.type, entry.count, self._tiff.read(entry.span)

    def value_spans(self, index: int) -> list[Span]:
        """Return the bytes that `values` reads."""
        return [entry.span for _, entry in self._small_entries(index)]

    def _small_entries(self, index: int) -> Iterator[tuple[int, Entry]]:
        entries = {
            **self.levels[index].directory.entries,
            Tag.DESCRIPTION: self.levels[0].directory.entries.get(Tag.DESCRIPTION),
        }
        left_out = (Tag.TILE_OFFSETS, Tag.TILE_COUNTS, Tag.ICC_PROFILE, Tag.SUB_DIRECTORIES)
        for tag, entry in entries.items():
            small = entry is not None and entry.span.length <= MOST_VALUE_BYTES
            if entry is not None and small and tag not in left_out:
                yield tag, entry

    def _tiled_levels(self, directories: Sequence[Directory]) -> tuple[TiledLevel, ...]:
        base, *others = directories
        if not _is_tiled(base):
            raise BadSlide("its first directory is not tiled, as a slide's is")
        levels = (directory for directory in others if self._is_level(directory))
        return tuple(self._tiled_level(directory) for directory in (base, *levels))

    def _is_level(self, directory: Directory) -> bool:
        """Return whether a directory after the base is another level of it."""
        return (
            _is_tiled(directory)
            and self._tiff.number(directory, Tag.SUBFILE, 0) not in OTHER_IMAGES
            and is_reduced(self.base.size, _size(self._tiff, directory, Tag.WIDTH, Tag.HEIGHT))
        )

    def _tiled_level(self, directory: Directory) -> TiledLevel:
        size = _size(self._tiff, directory, Tag.WIDTH, Tag.HEIGHT)
        tile = _size(self._tiff, directory, Tag.TILE_WIDTH, Tag.TILE_HEIGHT)
        level = Level(size, tile, downsample(self.base.size, size))
        if size.longer > MAX_SIDE or tile.longer > MAX_TILE_SIDE:
            raise BadSlide(f"a level of {size} pixels in tiles of {tile} cannot be")
        if level.grid.columns * level.grid.rows > MAX_TILES:
            raise BadSlide(f"a level has {level.grid.columns * level.grid.rows} tiles")
        bits = directory.entries.get(Tag.BITS)
        plain = (
            self._tiff.number(directory, Tag.SAMPLES, 1) == 3
            and self._tiff.number(directory, Tag.PLANAR, 1) == 1
            and bits is not None
            and self._tiff.number(directory, Tag.BITS) == 8
        )
        return TiledLevel(
            level=level,
            directory=directory,
            compression=self._tiff.number(directory, Tag.COMPRESSION, 1),
            photometric=self._tiff.number(directory, Tag.PHOTOMETRIC, 0),
            plain_rgb=plain,
        )


def _is_tiled(directory: Directory) -> bool:
    return {Tag.TILE_WIDTH, Tag.TILE_OFFSETS, Tag.TILE_COUNTS} <= directory.entries.keys()


def _base(tiff: Tiff, directory: Directory) -> SlideHeader:
    text = tiff.bytes_of(directory, Tag.DESCRIPTION).split(b"\0")[0].decode("utf-8", "replace")
    mpp = choose_mpp(
        aperio_properties(text),
        tiff.rational(directory, Tag.X_RESOLUTION),
        tiff.rational(directory, Tag.Y_RESOLUTION),
        tiff.number(directory, Tag.RESOLUTION_UNIT, 2),
    )
    return SlideHeader(_size(tiff, directory, Tag.WIDTH, Tag.HEIGHT), mpp)


def _size(tiff: Tiff, directory: Directory, width: int, height: int) -> Size:
    size = Size(tiff.number(directory, width), tiff.number(directory, height))
    if min(size) < 1:
        raise BadSlide(f"a level or tile of {size} pixels cannot be")
    return size
