"""Deep Zoom's arithmetic and its tiles, as the GDC's viewer is served them.

Levels are counted from the coarsest: 0 is one pixel, the last is full size.
The tile size is without the overlap, which a tile has on each side that has a
neighbour. Source: the Deep Zoom file format, and OpenSlide's DeepZoomGenerator.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import simplejpeg
from PIL import Image

from tcgamirror.imaging.decode import Pixels
from tcgamirror.model.errors import BadTile, TooLong, WrongContent
from tcgamirror.model.geometry import Box, Grid, Size, halved
from tcgamirror.model.slide import Level, Mpp, Pyramid

MAX_SIDE = 2_000_000
MAX_TILE_SIDE = 2048
MAX_OVERLAP = 64

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8\xff"
_CRITICAL = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ"
"""First letters of the PNG chunks that pixels need."""
_MARKERS_KEPT = frozenset({0xE0, 0xEE})
"""JPEG's application segments that pixels need: JFIF's, and Adobe's with the colour transform."""
_MARKERS_BESIDE = frozenset({*range(0xE0, 0xF0), 0xFE}) - _MARKERS_KEPT
_START_OF_SCAN = 0xDA
_PIECE = 1 << 16


@dataclass(frozen=True, slots=True)
class DeepZoom:
    """A slide as Deep Zoom cuts it. size: full size; tile: without overlap; all in pixels."""

    size: Size
    tile: int
    overlap: int

    @classmethod
    def of(cls, answer: object) -> DeepZoom:
        """Reads the tile server's metadata, whose values are all strings. Raises WrongContent."""
        if not isinstance(answer, Mapping) or "Format" not in answer:
            raise WrongContent("the tile server's metadata names no tile format")
        width, height, tile, overlap = (
            _whole_number(answer, key) for key in ("Width", "Height", "TileSize", "Overlap")
        )
        sane = (
            1 <= min(width, height) <= max(width, height) <= MAX_SIDE
            and 16 <= tile <= MAX_TILE_SIDE
            and 0 <= overlap <= min(tile // 2, MAX_OVERLAP)
        )
        if not sane:
            raise WrongContent(
                f"the tile server's metadata cannot be: {width}×{height} pixels "
                f"in tiles of {tile} with an overlap of {overlap}"
            )
        return cls(Size(width, height), tile, overlap)

    @property
    def last_level(self) -> int:
        """The level of full size.

        >>> DeepZoom(Size(109559, 89665), 512, 1).last_level
        17
        """
        return (self.size.longer - 1).bit_length()

    @property
    def finest_single(self) -> int:
        """The finest level that is one tile.

        >>> DeepZoom(Size(109559, 89665), 512, 1).finest_single
        9
        """
        return max(
            level
            for level in range(self.last_level + 1)
            if self.grid(level).size.longer <= self.tile
        )

    def pyramid(self, mpp: Mpp) -> Pyramid:
        """All levels, full size first: level `dz_level` is number `last_level - dz_level`."""
        tile = Size(self.tile, self.tile)
        return Pyramid(
            tuple(
                Level(halved(self.size, times), tile, float(2**times))
                for times in range(self.last_level + 1)
            ),
            mpp,
        )

    def grid(self, dz_level: int) -> Grid:
        return Grid(halved(self.size, self.last_level - dz_level), Size(self.tile, self.tile))

    def served_box(self, grid: Grid, column: int, row: int) -> Box:
        """What the tile as served covers of its level, overlap and all.

        >>> zoom = DeepZoom(Size(1000, 1000), 254, 1)
        >>> zoom.served_box(zoom.grid(10), 1, 0)
        Box(left=253, top=0, right=509, bottom=255)
        """
        box = grid.box(column, row)
        return Box(
            max(0, box.left - self.overlap),
            max(0, box.top - self.overlap),
            min(grid.size.width, box.right + self.overlap),
            min(grid.size.height, box.bottom + self.overlap),
        )


class Stream:
    """Bytes that come in pieces and are read in other ones; fewer come at the end."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = iter(pieces)
        self._piece = b""
        self._at = 0

    def peek(self, count: int) -> bytes:
        """Return the next `count` bytes and leave them to be read."""
        while len(self._piece) - self._at < count:
            piece = next(self._pieces, b"")
            if not piece:
                break
            self._piece = self._piece[self._at :] + piece
            self._at = 0
        return self._piece[self._at : self._at + count]

    def take(self, count: int) -> bytes:
        """Return the next `count` bytes."""
        taken = self.peek(count)
        self._at += len(taken)
        return taken

    def skip(self, count: int) -> None:
        """Pass over the next `count` bytes, of which one piece is in memory at a time."""
        self._at += count
        while self._at > len(self._piece):
            self._at -= len(self._piece)
            self._piece = next(self._pieces, b"")
            if not self._piece:
                self._at = 0

    def rest(self) -> Iterator[bytes]:
        """Yield all that is left, piece by piece."""
        yield self.take(len(self._piece) - self._at)
        yield from self._pieces


def is_png_or_jpeg(start: bytes) -> bool:
    """Return whether a file with these first eight bytes is a PNG or a JPEG."""
    return start == _PNG or start.startswith(_JPEG)


def remove_ancillary_data(stream: Stream, most: int) -> bytes:
    """Return a PNG or JPEG without what its pixels do not need, such as a colour profile.

    A profile may be far larger than the pixels, and larger still unpacked; it is
    passed over as it comes. Raises TooLong if more than `most` bytes are left.
    """
    kept: list[bytes] = []
    count = 0
    for piece in _png(stream) if stream.peek(len(_PNG)) == _PNG else _jpeg(stream):
        kept.append(piece)
        count += len(piece)
        if count > most:
            raise TooLong(f"longer than {most:,} bytes without its colour profile")
    return b"".join(kept)


def _png(stream: Stream) -> Iterator[bytes]:
    """Yield the signature and the critical chunks, the larger ones in pieces."""
    yield stream.take(len(_PNG))
    while head := stream.take(8):
        left = int.from_bytes(head[:4], "big") + 4  # with the checksum
        if head[4:5] not in _CRITICAL:
            stream.skip(left)
            continue
        yield head
        while left > 0 and (piece := stream.take(min(left, _PIECE))):
            yield piece
            left -= len(piece)
        if head[4:] == b"IEND":
            break
    for _ in stream.rest():
        pass  # read to its end, so that the connection can be used again


def _jpeg(stream: Stream) -> Iterator[bytes]:
    """Yield all segments up to the scan but those beside the pixels, and the scan as it is."""
    yield stream.take(2)
    while (head := stream.peek(4))[:1] == b"\xff" and len(head) == 4 and head[1] != _START_OF_SCAN:
        length = 2 + int.from_bytes(head[2:], "big")
        if head[1] == 0xFF:  # a fill byte
            yield stream.take(1)
        elif head[1] in _MARKERS_BESIDE:
            stream.skip(length)
        else:
            yield stream.take(length)
    yield from stream.rest()


def decoded(data: bytes, served: Box, own: Box) -> Pixels:
    """A served tile's pixels without its overlap: those of `own`, which lies in `served`.

    A tile one pixel off its arithmetic is resized to it: servers that shrink a
    tile by its aspect ratio make such. Raises BadTile for anything else.
    """
    if not data:
        raise BadTile("it is empty")
    data = remove_ancillary_data(Stream([data]), len(data))
    try:
        image = Image.open(io.BytesIO(data), formats=("PNG", "JPEG"))
        size = Size(*image.size)
        if any(abs(side - nominal) > 1 for side, nominal in zip(size, served.size, strict=True)):
            raise BadTile(f"it has {size} pixels instead of {served.size}")
        pixels = _rgb(image, data)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise BadTile(f"it cannot be decoded: {_first_line(error)}") from error
    if size != served.size:
        resized = Image.fromarray(pixels).resize(served.size, Image.Resampling.BICUBIC)
        pixels = np.asarray(resized)
    top, left = own.top - served.top, own.left - served.left
    return pixels[top : top + own.size.height, left : left + own.size.width]


def _rgb(image: Image.Image, data: bytes) -> Pixels:
    """A JPEG's pixels by the strict decoder: Pillow fills in grey for what it cannot read."""
    if image.format == "PNG":
        return np.asarray(image.convert("RGB"))
    pixels: Pixels = simplejpeg.decode_jpeg(data, colorspace="RGB", strict=True)
    return pixels


def _whole_number(answer: Mapping[object, object], key: str) -> int:
    text = str(answer.get(key, ""))
    if not (text.isascii() and text.isdigit() and len(text) <= 12):
        raise WrongContent(f"the tile server's metadata has no usable {key}")
    return int(text)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
