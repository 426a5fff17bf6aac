"""Read back TIFF images that this program wrote, whatever is in the file.

Older versions wrote a TIFF in strips. Their limits are those of `image_reader`.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO, Self

import numpy as np

from tcgamirror.imaging.bounded import (
    MAX_METADATA_BYTES,
    FileBytes,
    Header,
    Inflater,
    max_compressed,
)
from tcgamirror.imaging.decode import Pixels
from tcgamirror.imaging.metadata import text_in
from tcgamirror.imaging.svs import MAX_TILE_SIDE
from tcgamirror.imaging.tiff import Directory, Tag, Tiff, Type
from tcgamirror.imaging.tiff_writer import (
    MAX_TILES,
    RGB_TAGS,
    TILE,
    reduced_sizes,
)
from tcgamirror.imaging.tile_codec import COMPRESSIONS, REDUCED, TileCodec
from tcgamirror.model.byteranges import Span
from tcgamirror.model.errors import BadSlide, BadTile, Damaged
from tcgamirror.model.geometry import Grid, Size

MAX_STRIPS_BYTES = 4_000_000_000
"""Raw bytes of an image in strips, which was always a classic TIFF."""
STRIP_BYTES = 1 << 17
"""Raw bytes of a strip, unless one line has more."""
MAX_STRIP_BYTES = 1 << 26
MAX_BAND_BYTES = 1 << 27
"""Raw bytes of a row of tiles that is held for the digest of its pixels."""

COPIED_TAGS = {Tag.BITS: (8, 8, 8), Tag.SAMPLES: (3,), Tag.PLANAR: (1,)}
"""Tags that are the same in every image of tiles that were copied from a slide."""

_TILES = (Tag.TILE_OFFSETS, Tag.TILE_COUNTS)
_STRIPS = (Tag.STRIP_OFFSETS, Tag.STRIP_COUNTS)

Check = Callable[[], None]


@dataclass(frozen=True, slots=True)
class _Level:
    """A directory like those that are written.

    codec: None for compression by Deflate. Tiles of the first level were copied from a slide else.
    """

    directory: Directory
    codec: TileCodec | None


def read_tiff_header(file: BinaryIO) -> Header:
    """Return the image's size and metadata. Raises Damaged."""
    with _tiff_errors():
        first = _open(file)[0]
        compression = None if first.codec is None else first.codec.compression
        return Header(first.directory.size, text_in(_description(first.directory)), compression)


def read_description(file: BinaryIO) -> str:
    """Return the description of a TIFF's first directory, such as Exif is. Raises Damaged."""
    with _tiff_errors():
        return _description(next(Tiff(FileBytes(file)).directories()))


def decode_tiff(file: BinaryIO, check: Check) -> str | None:
    """Decode every pixel, keep none, and return the SHA-256 of the first directory's, row by row.

    It is None for tiles that were copied, and for rows of tiles too wide to be held. Raises
    Damaged, and what `check` raises.
    """
    with _tiff_errors():
        first, *_ = [_decode_level(level, check) for level in _open(file)]
        return first


@dataclass(frozen=True, slots=True)
class CopiedLevel:
    """A level of an image whose tiles were copied from a slide, with offsets and bytes of them."""

    codec: TileCodec
    grid: Grid
    tiff: Tiff
    offsets: array[int]
    counts: array[int]

    @classmethod
    def of(cls, directory: Directory, codec: TileCodec) -> Self:
        """Return the level of a directory. Raises Damaged."""
        grid = Grid(directory.size, codec.tile)
        places = _places(directory, _TILES, grid.columns * grid.rows)
        return cls(codec, grid, directory.tiff, *places)

    def stream(self, column: int, row: int) -> bytes:
        """Return the bytes of a tile."""
        index = row * self.grid.columns + column
        return self._read(self.offsets[index], self.counts[index])

    def streams(self) -> Iterator[bytes]:
        """Yield each stream once, however many tiles share it. Raises Damaged unless it is plain.

        A small file whose tiles overlap otherwise would have any number of pixels.
        """
        starts, first, which = np.unique(self.offsets, return_index=True, return_inverse=True)
        counts = np.asarray(self.counts)[first]
        same = counts[which] == self.counts
        if not same.all() or (starts[1:] < (starts + counts)[:-1]).any():
            raise Damaged("its tiles overlap")
        if counts.max() > 1024 + 8 * self.codec.tile.width * self.codec.tile.height:
            raise Damaged("one of its tiles is longer than its pixels")
        for start, length in zip(starts.tolist(), counts.tolist(), strict=True):
            stream = self._read(start, length)
            if not self.codec.is_plain(stream):
                raise Damaged("one of its tiles is not whole")
            yield stream

    def _read(self, start: int, length: int) -> bytes:
        return self.tiff.read(Span(start, start + length))


def read_copied(file: BinaryIO, *, smallest: bool) -> CopiedLevel:
    """Return the first or the smallest level of an image whose tiles were copied.

    Raises Damaged unless all of its tiles are plain, so that any decoder may read them.
    """
    with _tiff_errors():
        found = _open(file)[-1 if smallest else 0]
        if found.codec is None:
            raise Damaged("its tiles were not copied")
        level = CopiedLevel.of(found.directory, found.codec)
        for _ in level.streams():
            pass
        return level


@contextmanager
def _tiff_errors() -> Iterator[None]:
    """Raise Damaged in place of the errors of reading a TIFF's directories."""
    try:
        yield
    except BadSlide as error:
        raise Damaged(str(error)) from error


def _open(file: BinaryIO) -> Sequence[_Level]:
    """Return the image's levels. Raises Damaged for other directories than are written."""
    source = FileBytes(file)
    levels = [_Level(each, _codec(each)) for each in Tiff(source).directories()]
    for directory, codec in ((level.directory, level.codec) for level in levels):
        kind = RGB_TAGS if codec is None else COPIED_TAGS
        if any(entry.span.stop > source.size for entry in directory.entries.values()):
            raise Damaged("it is cut off")
        if {tag: _short_numbers(directory, tag) for tag in kind} != kind:
            raise Damaged("it is a TIFF, but not of packed 8-bit RGB as this program writes them")
    first, *others = levels
    size, *sizes = (level.directory.size for level in levels)
    tiled = Tag.TILE_WIDTH in first.directory.entries
    if sizes != (reduced_sizes(size) if tiled else []):
        raise Damaged("it is a TIFF, but not of the levels that this program writes")
    copied = first.codec
    known = copied is None or (copied.can_be_copied and copied.tile.longer <= MAX_TILE_SIDE)
    if not known or any(level.codec != (copied and REDUCED) for level in others):
        raise Damaged("it is a TIFF, but not of tiles that this program copies")
    if copied is None and tiled and any(level.directory.tile != TILE for level in levels):
        raise Damaged(f"its tiles have not {TILE} pixels, as this program writes them")
    return levels


def _codec(directory: Directory) -> TileCodec | None:
    """Return how tiles that were copied from a slide are stored, None for an image without."""
    compression = directory.number(Tag.COMPRESSION, 0)
    if compression not in COMPRESSIONS:
        return None
    photometric = directory.number(Tag.PHOTOMETRIC, 0)
    return TileCodec(compression, photometric, directory.tile, directory.raw(Tag.JPEG_TABLES))


def _short_numbers(directory: Directory, tag: int) -> tuple[int, ...]:
    entry = directory.entries.get(tag)
    if entry is None or entry.type != Type.SHORT or not 1 <= entry.count <= 3:
        return ()
    return directory.tiff.layout.unpack(f"{entry.count}H", directory.raw(tag))


def _description(directory: Directory) -> str:
    entry = directory.entries.get(Tag.DESCRIPTION)
    if entry is None or entry.span.length > MAX_METADATA_BYTES:
        return ""
    return directory.raw(Tag.DESCRIPTION).rstrip(b"\0").decode("latin-1")


def _decode_level(level: _Level, check: Check) -> str | None:
    """Decode the pixels of a directory, see `decode_tiff`."""
    directory, size = level.directory, level.directory.size
    if level.codec is not None:
        _decode_copied(CopiedLevel.of(directory, level.codec), check)
        return None
    if directory.is_tiled:
        return _inflate_all(directory, _TILES, Grid(size, TILE), MAX_BAND_BYTES, check)
    strip = Size(size.width, _strip_rows(directory))
    return _inflate_all(directory, _STRIPS, Grid(size, strip), MAX_STRIP_BYTES, check)


def _decode_copied(level: CopiedLevel, check: Check) -> None:
    for stream in level.streams():
        check()
        try:
            level.codec.decode(stream, 8 if level.codec.is_jpeg else 1)
        except BadTile as error:
            raise Damaged(f"one of its tiles is damaged: {error}") from error


def _strip_rows(directory: Directory) -> int:
    """Return the rows of a strip. Raises Damaged for strips that older versions did not write."""
    size = directory.size
    line = 3 * size.width
    if line * size.height > MAX_STRIPS_BYTES:
        raise Damaged(f"it says that it has {size} pixels, more than this program writes")
    rows = min(directory.number(Tag.ROWS_PER_STRIP), size.height)
    count = -(-size.height // max(rows, 1))
    # A strip has less than half of STRIP_BYTES only where a line is longer.
    if not STRIP_BYTES // 2 * (count - 1) <= line * size.height or not rows:
        raise Damaged(f"its strips of {rows:,} rows are smaller than this program writes them")
    if rows * line > MAX_STRIP_BYTES and rows != 1:
        raise Damaged(f"its strips of {rows:,} rows are larger than this program writes them")
    return rows


def _inflate_all(
    directory: Directory, tags: tuple[int, int], grid: Grid, most: int, check: Check
) -> str | None:
    """Decode strips or tiles. Return the digest of rows of them, None if they take over `most`."""
    width, height = grid.tile
    fits = 3 * grid.columns * width * height <= most
    band: Pixels = np.empty((height, grid.columns * width if fits else 0, 3), np.uint8)
    digest = hashlib.sha256(usedforsecurity=False)
    spans = _spans(directory, tags, grid.columns * grid.rows)
    for number, span in enumerate(spans):
        row, column = divmod(number, grid.columns)
        rows = grid.box(column, row).size.height
        # A tile at the edge is padded, and a strip is not.
        part = band[: height if tags is _TILES else rows, column * width : (column + 1) * width]
        pieces = _inflate(directory.tiff, span, 3 * width * len(part), check)
        if not fits:
            deque(pieces, 0)
            continue
        _add_differences(b"".join(pieces), part)
        if column == grid.columns - 1:
            # Line by line, as the band without its padding would have to be copied.
            for line in band[:rows, : grid.size.width]:
                digest.update(line.data)
    return digest.hexdigest() if fits else None


def _add_differences(data: bytes, pixels: Pixels) -> None:
    """Set pixels by their differences from the pixel on the left."""
    differences = np.frombuffer(data, np.uint8).reshape(pixels.shape)
    np.add.accumulate(differences, axis=1, dtype=np.uint8, out=pixels)


def _places(
    directory: Directory, tags: tuple[int, int], count: int
) -> tuple[array[int], array[int]]:
    """Return offsets and bytes of all strips or tiles."""
    if count > MAX_TILES:
        raise Damaged(f"it says that it has {count:,} strips or tiles")
    if not set(tags) <= set(directory.entries):
        raise Damaged("it has no pixels")
    offsets, lengths = (directory.numbers(tag, count) for tag in tags)
    return offsets, lengths


def _spans(directory: Directory, tags: tuple[int, int], count: int) -> Iterator[Span]:
    """Yield where the strips or tiles are, each after the one before, as they are written.

    A small file whose parts overlap would have any number of pixels.
    """
    free = 0
    for offset, length in zip(*_places(directory, tags, count), strict=True):
        if offset < free:
            raise Damaged("its strips or tiles overlap")
        free = offset + length
        yield Span(offset, free)


def _inflate(tiff: Tiff, span: Span, raw: int, check: Check) -> Iterator[bytes]:
    """Yield the bytes of a strip or tile in pieces, which must have `raw` in all."""
    if span.length > max_compressed(raw):
        raise Damaged("one of its strips or tiles is longer than its pixels")
    inflater = Inflater(raw, check)
    yield from inflater.pieces(tiff.read(span))
    inflater.check_end()
