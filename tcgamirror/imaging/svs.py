"""Read a slide's pyramid from its TIFF directories, without decoding pixels.

The first directory is the base. Every later tiled directory of the same shape is a level,
in the order of the file. One that NewSubfileType declares to be another image is not a
level: some writers tile labels, macros and thumbnails too.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from tcgamirror.imaging.tiff import (
    MAX_VALUE_BYTES,
    Directory,
    Entry,
    RandomAccess,
    Tag,
    TagValue,
    Tiff,
)
from tcgamirror.model.byteranges import Span
from tcgamirror.model.errors import BadSlide
from tcgamirror.model.geometry import Size, downsample, is_reduced
from tcgamirror.model.slide import UNKNOWN_MPP, Level, Mpp, MppSource, Pyramid

MAX_TILES = 4_000_000

MAX_SIDE = 2_000_000

MAX_NUMBER_BYTES = 8
"""Bytes of an offset or a count in a tile array."""

MAX_TILE_SIDE = 2048
"""Pixels. A hostile JPEG 2000 tile may take 90 bytes of memory for each of its pixels."""

NON_LEVEL_SUBFILES = (1, 9)
"""NewSubfileType of thumbnails and labels (1), and of macros (9)."""

OTHER_TAGS = {
    *(Tag.WIDTH, Tag.HEIGHT, Tag.TILE_WIDTH, Tag.TILE_HEIGHT, Tag.TILE_OFFSETS, Tag.TILE_COUNTS),
    *(Tag.ICC_PROFILE, Tag.SUB_DIRECTORIES),
}
"""Tags of a level that a copy of it has otherwise, or does without."""

PLAUSIBLE_MPP = (0.05, 20.0)
"""µm per pixel of microscopes; a value outside is that of a screen or a printer."""


def aperio_properties(description: str) -> dict[str, str]:
    """Return the `key = value` pairs of an Aperio ImageDescription; the last one of a key wins.

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
    """Return the base's resolution from the first of three places with a plausible one.

    Aperio's MPP comes first. The TIFF resolution is next, if it is equal along both sides:
    pixels per inch where `unit` is 2, per centimetre where it is 3. AppMag is last, by the
    convention that 40 means 0.25 µm per pixel.

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
    """Values of TIFF's compression tag."""

    NONE = 1
    JPEG = 7
    JPEG_2000_YCBCR = 33003
    JPEG_2000_RGB = 33005


class Photometric:
    """Values of TIFF's photometric interpretation tag."""

    RGB = 2
    YCBCR = 6


@dataclass(frozen=True, slots=True)
class TileTable:
    """Offsets and byte counts of a level's tiles, row by row.

    tables: the JPEG tables that the tiles share (tag 347), empty if each has its own.
    """

    columns: int
    offsets: array[int]
    counts: array[int]
    tables: bytes = b""

    def span(self, column: int, row: int) -> Span | None:
        """Return where the tile's bytes are; None for a tile without bytes."""
        index = row * self.columns + column
        if not self.counts[index]:
            return None
        return Span(self.offsets[index], self.offsets[index] + self.counts[index])

    def runs(self, gap: int) -> Iterator[Span]:
        """Yield ascending spans of all tiles' bytes, joined across gaps of up to `gap` bytes.

        It is `coalesce` of the tiles' spans, without a list of 100,000 of them.
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
    """A level and how its tiles are stored.

    has_three_bytes: a pixel is three interleaved samples of 8 bits.
    """

    level: Level
    directory: Directory
    compression: int
    photometric: int
    has_three_bytes: bool

    @property
    def is_rgb_or_ycbcr_jpeg(self) -> bool:
        """Return whether simplejpeg can decode the tiles: JPEG of three 8-bit channels."""
        return (
            self.compression == Compression.JPEG
            and self.photometric in (Photometric.RGB, Photometric.YCBCR)
            and self.has_three_bytes
        )

    @property
    def is_uncompressed_rgb(self) -> bool:
        """Return whether the tiles are plain 8-bit RGB.

        OpenSlide's libtiff refuses such tiles if their bytes are not a multiple of 1,024,
        as those of 240 × 240 pixels are not.
        """
        return (
            self.compression == Compression.NONE
            and self.photometric == Photometric.RGB
            and self.has_three_bytes
        )

    @property
    def may_need_openslide(self) -> bool:
        """Return whether there may be tiles that only OpenSlide can decode."""
        return not (self.is_rgb_or_ycbcr_jpeg or self.is_uncompressed_rgb)


@dataclass(frozen=True, slots=True)
class SlideHeader:
    """Size and resolution of a slide's base, as the first directory tells them."""

    size: Size
    mpp: Mpp


def read_slide_header(source: RandomAccess) -> SlideHeader:
    """Return what the first directory tells; read nothing after it. Raises BadSlide."""
    return _slide_header(next(Tiff(source).directories()))


class Svs:
    """A slide's levels. Their tile arrays are read at their first use."""

    def __init__(self, source: RandomAccess, directories: Sequence[Directory] = ()) -> None:
        """Read the directories. Raises BadSlide if they are not a slide's.

        directories: those of the slide, if they were read before.
        """
        self.source = source
        self._tile_tables: dict[int, TileTable] = {}
        tiff = Tiff(source)
        self.layout = tiff.layout
        known = [replace(directory, tiff=tiff) for directory in directories]
        self.directories = known or list(tiff.directories())
        self.header = _slide_header(self.directories[0])
        self.levels = self._tiled_levels(self.directories)
        self.pyramid = Pyramid(tuple(tiled.level for tiled in self.levels), self.header.mpp)

    @property
    def has_descending_sizes(self) -> bool:
        """Return whether no tiled image, level or not, is larger than the one before it.

        OpenSlide divides by the rounded ratio of two successive ones, which is 0 otherwise.
        """
        sizes = [directory.size for directory in self.directories if directory.is_tiled]
        return all(
            later.width <= size.width and later.height <= size.height
            for size, later in pairwise(sizes)
        )

    def tile_table(self, index: int) -> TileTable:
        """Return where the tiles of level `index` are. Raises BadSlide for an invalid base tile.

        An invalid tile of a coarser level counts as one without bytes: the base has its pixels.
        """
        if index not in self._tile_tables:
            self._tile_tables[index] = self._read_tile_table(index)
        return self._tile_tables[index]

    def _read_tile_table(self, index: int) -> TileTable:
        tiled = self.levels[index]
        offsets, counts = self._numbers(index, Tag.TILE_OFFSETS), self.tile_counts(index)
        max_bytes = 1024 + 8 * tiled.level.tile.width * tiled.level.tile.height
        for tile, (start, length) in enumerate(zip(offsets, counts, strict=True)):
            outside = length and not 8 <= start <= self.source.size - length
            if index and (outside or length > max_bytes):
                counts[tile] = 0
            elif outside:
                raise BadSlide(f"a tile lies at byte {start}, outside of the file")
            elif length > max_bytes:
                raise BadSlide(f"a tile of {length} bytes is more than its pixels can need")
        tables = tiled.directory.raw(Tag.JPEG_TABLES)
        return TileTable(tiled.level.grid.columns, offsets, counts, tables)

    def tile_counts(self, index: int) -> array[int]:
        """Return the bytes of each tile of level `index`, 0 where it has none. Raises BadSlide."""
        return self._numbers(index, Tag.TILE_COUNTS)

    def _numbers(self, index: int, tag: int) -> array[int]:
        tiled = self.levels[index]
        grid = tiled.level.grid
        return tiled.directory.numbers(tag, grid.columns * grid.rows)

    def array_spans(self, index: int) -> list[Span]:
        """Return the bytes that `tile_table` reads. Raises BadSlide if they are too many."""
        arrays = [self._array_span(index, tag) for tag in (Tag.TILE_OFFSETS, Tag.TILE_COUNTS)]
        tables = self.levels[index].directory.entries.get(Tag.JPEG_TABLES)
        small = tables is not None and tables.span.length <= MAX_VALUE_BYTES
        return [*arrays, tables.span] if tables is not None and small else arrays

    def counts_span(self, index: int) -> Span:
        """Return the bytes that `tile_counts` reads. Raises BadSlide as `array_spans`."""
        return self._array_span(index, Tag.TILE_COUNTS)

    def _array_span(self, index: int, tag: int) -> Span:
        tiled = self.levels[index]
        span = tiled.directory.entries[tag].span
        if span.length > MAX_NUMBER_BYTES * tiled.level.grid.columns * tiled.level.grid.rows:
            raise BadSlide(f"the array at bytes {span} is too long for its level's tiles")
        return span

    def data_before(self, index: int) -> Span | None:
        """Return the bytes between the previous directory and that of level `index`.

        Sequential writers put the level's tiles there. None for the base, which is first.
        """
        position = self.directories.index(self.levels[index].directory)
        if not position:
            return None
        before = self.directories[position - 1]
        stops = [entry.span.stop for entry in before.entries.values()]
        return Span(max((stop for stop in stops if stop <= before.next), default=0), before.next)

    def tags(self, index: int) -> Iterator[TagValue]:
        """Yield a level's tags that are neither large nor tell of its size and tiles.

        The description is the base's, the only one that names the vendor.
        """
        for tag, entry in self._small_entries(index):
            yield tag, entry.type, entry.count, self.directories[0].tiff.read(entry.span)

    def tag_spans(self, index: int) -> list[Span]:
        """Return the bytes that `tags` reads."""
        return [entry.span for _, entry in self._small_entries(index)]

    def _small_entries(self, index: int) -> Iterator[tuple[int, Entry]]:
        entries = dict(self.levels[index].directory.entries)
        base = self.levels[0].directory.entries
        if Tag.DESCRIPTION in base:
            entries[Tag.DESCRIPTION] = base[Tag.DESCRIPTION]
        for tag, entry in entries.items():
            if tag not in OTHER_TAGS and entry.span.length <= MAX_VALUE_BYTES:
                yield tag, entry

    def _tiled_levels(self, directories: Sequence[Directory]) -> tuple[TiledLevel, ...]:
        base, *others = directories
        if not base.is_tiled:
            raise BadSlide("its first directory is not tiled, as a slide's is")
        levels = (directory for directory in others if self._is_level(directory))
        return tuple(self._tiled_level(directory) for directory in (base, *levels))

    def _is_level(self, directory: Directory) -> bool:
        """Return whether a directory after the base is another level of it."""
        return (
            directory.is_tiled
            and directory.number(Tag.SUBFILE, 0) not in NON_LEVEL_SUBFILES
            and is_reduced(self.header.size, directory.size)
        )

    def _tiled_level(self, directory: Directory) -> TiledLevel:
        size, tile = directory.size, directory.tile
        level = Level(size, tile, downsample(self.header.size, size))
        if size.longer > MAX_SIDE or tile.longer > MAX_TILE_SIDE:
            raise BadSlide(f"invalid level of {size} pixels in tiles of {tile}")
        if level.grid.columns * level.grid.rows > MAX_TILES:
            raise BadSlide(f"a level has {level.grid.columns * level.grid.rows} tiles")
        bits = directory.entries.get(Tag.BITS)
        has_three_bytes = (
            directory.number(Tag.SAMPLES, 1) == 3
            and directory.number(Tag.PLANAR, 1) == 1
            and bits is not None
            and directory.number(Tag.BITS) == 8
        )
        return TiledLevel(
            level=level,
            directory=directory,
            compression=directory.number(Tag.COMPRESSION, 1),
            photometric=directory.number(Tag.PHOTOMETRIC, 0),
            has_three_bytes=has_three_bytes,
        )


def _slide_header(directory: Directory) -> SlideHeader:
    text = directory.raw(Tag.DESCRIPTION).split(b"\0")[0].decode("utf-8", "replace")
    mpp = choose_mpp(
        aperio_properties(text),
        directory.rational(Tag.X_RESOLUTION),
        directory.rational(Tag.Y_RESOLUTION),
        directory.number(Tag.RESOLUTION_UNIT, 2),
    )
    return SlideHeader(directory.size, mpp)
