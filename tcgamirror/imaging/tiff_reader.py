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
    checked_size,
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
class _Image:
    """An image whose directories are like those that are written.

    sizes, codecs: one for each directory. A codec is None for compression by Deflate; in the
    first one's other codecs tiles were copied from a slide.
    """

    tiff: Tiff
    directories: Sequence[Directory]
    sizes: Sequence[Size]
    codecs: Sequence[TileCodec | None]


def read_tiff_header(file: BinaryIO) -> Header:
    """Return the image's size and metadata. Raises Damaged."""
    with _tiff_errors():
        image = _open(file)
        metadata = text_in(_description(image.tiff, image.directories[0]))
        compression = None if image.codecs[0] is None else image.codecs[0].compression
        return Header(image.sizes[0], metadata, compression)


def read_description(file: BinaryIO) -> str:
    """Return the description of a TIFF's first directory, such as Exif is. Raises Damaged."""
    with _tiff_errors():
        tiff = Tiff(FileBytes(file))
        return _description(tiff, next(tiff.directories()))


def decode_tiff(file: BinaryIO, check: Check) -> str | None:
    """Decode every pixel, keep none, and return the SHA-256 of the first directory's, row by row.

    It is None for tiles that were copied, and for rows of tiles too wide to be held. Raises
    Damaged, and what `check` raises.
    """
    with _tiff_errors():
        image = _open(file)
        first, *_ = [_decode_level(image, number, check) for number in range(len(image.codecs))]
        return first


def _decode_level(image: _Image, number: int, check: Check) -> str | None:
    """Decode the pixels of a directory, see `decode_tiff`."""
    directory, size, codec = image.directories[number], image.sizes[number], image.codecs[number]
    if codec is not None:
        _decode_copied(CopiedLevel.of(image, number, codec), check)
        return None
    if Tag.TILE_WIDTH in directory.entries:
        return _decode_tiles(image.tiff, directory, Grid(size, TILE), check)
    return _decode_strips(image.tiff, directory, size, check)


@dataclass(frozen=True, slots=True)
class CopiedLevel:
    """A level of an image whose tiles were copied from a slide, with offsets and bytes of them."""

    codec: TileCodec
    grid: Grid
    tiff: Tiff
    offsets: array[int]
    counts: array[int]

    @classmethod
    def of(cls, image: _Image, number: int, codec: TileCodec) -> Self:
        """Return the level of a directory. Raises Damaged."""
        grid = Grid(image.sizes[number], codec.tile)
        count = grid.columns * grid.rows
        places = _places(image.tiff, image.directories[number], _TILES, count)
        return cls(codec, grid, image.tiff, *places)

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
        image = _open(file)
        number = len(image.codecs) - 1 if smallest else 0
        codec = image.codecs[number]
        if codec is None:
            raise Damaged("its tiles were not copied")
        level = CopiedLevel.of(image, number, codec)
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


def _open(file: BinaryIO) -> _Image:
    """Return the image. Raises Damaged for other directories than are written."""
    source = FileBytes(file)
    tiff = Tiff(source)
    directories = list(tiff.directories())
    sizes = [
        checked_size(*(tiff.read_number(each, tag) for tag in (Tag.WIDTH, Tag.HEIGHT)))
        for each in directories
    ]
    codecs = [_codec(tiff, directory) for directory in directories]
    for directory, codec in zip(directories, codecs, strict=True):
        kind = RGB_TAGS if codec is None else COPIED_TAGS
        if any(entry.span.stop > source.size for entry in directory.entries.values()):
            raise Damaged("it is cut off")
        if {tag: _short_numbers(tiff, directory, tag) for tag in kind} != kind:
            raise Damaged("it is a TIFF, but not of packed 8-bit RGB as this program writes them")
    first = codecs[0]
    tiled = Tag.TILE_WIDTH in directories[0].entries
    if sizes[1:] != (reduced_sizes(sizes[0]) if tiled else []):
        raise Damaged("it is a TIFF, but not of the levels that this program writes")
    known = first is None or (first.can_be_copied and first.tile.longer <= MAX_TILE_SIDE)
    if not known or any(codec != (first and REDUCED) for codec in codecs[1:]):
        raise Damaged("it is a TIFF, but not of tiles that this program copies")
    for directory, codec in zip(directories, codecs, strict=True):
        tile = [tiff.read_number(directory, tag, 0) for tag in (Tag.TILE_WIDTH, Tag.TILE_HEIGHT)]
        if codec is None and tiled and tile != [*TILE]:
            raise Damaged(f"its tiles have not {TILE} pixels, as this program writes them")
    return _Image(tiff, directories, sizes, codecs)


def _codec(tiff: Tiff, directory: Directory) -> TileCodec | None:
    """Return how tiles that were copied from a slide are stored, None for an image without."""
    compression = tiff.read_number(directory, Tag.COMPRESSION, 0)
    if compression not in COMPRESSIONS:
        return None
    return TileCodec(
        compression,
        tiff.read_number(directory, Tag.PHOTOMETRIC, 0),
        checked_size(
            *(tiff.read_number(directory, tag) for tag in (Tag.TILE_WIDTH, Tag.TILE_HEIGHT))
        ),
        tiff.read_bytes(directory, Tag.JPEG_TABLES),
    )


def _short_numbers(tiff: Tiff, directory: Directory, tag: int) -> tuple[int, ...]:
    entry = directory.entries.get(tag)
    if entry is None or entry.type != Type.SHORT or not 1 <= entry.count <= 3:
        return ()
    return tiff.layout.unpack(f"{entry.count}H", tiff.read(entry.span))


def _description(tiff: Tiff, directory: Directory) -> str:
    entry = directory.entries.get(Tag.DESCRIPTION)
    if entry is None or entry.span.length > MAX_METADATA_BYTES:
        return ""
    return tiff.read_bytes(directory, Tag.DESCRIPTION).rstrip(b"\0").decode("latin-1")


def _decode_copied(level: CopiedLevel, check: Check) -> None:
    for stream in level.streams():
        check()
        try:
            level.codec.decode(stream, 8 if level.codec.is_jpeg else 1)
        except BadTile as error:
            raise Damaged(f"one of its tiles is damaged: {error}") from error


def _decode_tiles(tiff: Tiff, directory: Directory, grid: Grid, check: Check) -> str | None:
    width, height = grid.tile
    raw = width * height * 3
    fits = grid.columns * raw <= MAX_BAND_BYTES
    band: Pixels = np.empty((height, grid.columns * width if fits else 0, 3), np.uint8)
    digest = hashlib.sha256(usedforsecurity=False)
    spans = _spans(tiff, directory, _TILES, grid.columns * grid.rows)
    for number, span in enumerate(spans):
        pieces = _inflate(tiff, span, raw, check)
        if not fits:
            deque(pieces, 0)
            continue
        row, column = divmod(number, grid.columns)
        tile = band[:, column * width : (column + 1) * width]
        _add_differences(b"".join(pieces), tile)
        if column == grid.columns - 1:
            # Line by line, as the band without its padding would have to be copied.
            for line in band[: grid.box(column, row).size.height, : grid.size.width]:
                digest.update(line.data)
    return digest.hexdigest() if fits else None


def _add_differences(data: bytes, pixels: Pixels) -> None:
    """Set pixels by their differences from the pixel on the left."""
    differences = np.frombuffer(data, np.uint8).reshape(pixels.shape)
    np.add.accumulate(differences, axis=1, dtype=np.uint8, out=pixels)


def _decode_strips(tiff: Tiff, directory: Directory, size: Size, check: Check) -> str | None:
    line = 3 * size.width
    if line * size.height > MAX_STRIPS_BYTES:
        raise Damaged(f"it says that it has {size} pixels, more than this program writes")
    rows = min(tiff.read_number(directory, Tag.ROWS_PER_STRIP), size.height)
    count = -(-size.height // max(rows, 1))
    # A strip has less than half of STRIP_BYTES only where a line is longer.
    if not STRIP_BYTES // 2 * (count - 1) <= line * size.height or not rows:
        raise Damaged(f"its strips of {rows:,} rows are smaller than this program writes them")
    if rows * line > MAX_STRIP_BYTES and rows != 1:
        raise Damaged(f"its strips of {rows:,} rows are larger than this program writes them")
    digest = hashlib.sha256(usedforsecurity=False)
    spans = _spans(tiff, directory, _STRIPS, count)
    for number, span in enumerate(spans):
        height = min(rows, size.height - number * rows)
        pieces = _inflate(tiff, span, height * line, check)
        if rows * line > MAX_STRIP_BYTES:
            deque(pieces, 0)
            continue
        strip: Pixels = np.empty((height, size.width, 3), np.uint8)
        _add_differences(b"".join(pieces), strip)
        digest.update(strip.data)
    return digest.hexdigest() if rows * line <= MAX_STRIP_BYTES else None


def _places(
    tiff: Tiff, directory: Directory, tags: tuple[int, int], count: int
) -> tuple[array[int], array[int]]:
    """Return offsets and bytes of all strips or tiles."""
    if count > MAX_TILES:
        raise Damaged(f"it says that it has {count:,} strips or tiles")
    if not set(tags) <= set(directory.entries):
        raise Damaged("it has no pixels")
    offsets, lengths = (tiff.read_numbers(directory, tag, count) for tag in tags)
    return offsets, lengths


def _spans(tiff: Tiff, directory: Directory, tags: tuple[int, int], count: int) -> Iterator[Span]:
    """Yield where the strips or tiles are, each after the one before, as they are written.

    A small file whose parts overlap would have any number of pixels.
    """
    free = 0
    for offset, length in zip(*_places(tiff, directory, tags, count), strict=True):
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
