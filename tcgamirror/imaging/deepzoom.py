"""Deep Zoom's geometry and tiles, as the server of the GDC's viewer serves them.

Deep Zoom levels are numbered from the coarsest: 0 is one pixel, the last is full size.
The tile size excludes the overlap, which a tile has on each side with a neighbour.
Sources: the Deep Zoom file format and OpenSlide's DeepZoomGenerator.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import simplejpeg
from PIL import Image

from tcgamirror.imaging.decode import Pixels
from tcgamirror.imaging.image_reader import PNG_SIGNATURE
from tcgamirror.model.errors import BadTile, TooLong, WrongContent
from tcgamirror.model.geometry import Box, Grid, Size, halved
from tcgamirror.model.slide import Level, Mpp, Pyramid
from tcgamirror.system.files import PIECE

MAX_SIDE = 2_000_000
MAX_TILE_SIDE = 2048
MAX_OVERLAP = 64

_JPEG_SIGNATURE = b"\xff\xd8\xff"
_CRITICAL = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ"
"""First letters of the names of PNG's critical chunks, those that pixels need."""
_ANCILLARY_MARKERS = frozenset({*range(0xE0, 0xF0), 0xFE}) - {0xE0, 0xEE}
"""JPEG's comments and application segments, except JFIF's and Adobe's, which pixels need."""
_START_OF_SCAN = 0xDA


@dataclass(frozen=True, slots=True)
class DeepZoom:
    """A slide cut for Deep Zoom. size: full size. tile: without overlap. All in pixels."""

    size: Size
    tile: int
    overlap: int

    @classmethod
    def from_metadata(cls, answer: object) -> DeepZoom:
        """Parse the tile server's metadata, whose values are strings. Raises WrongContent."""
        if not isinstance(answer, Mapping) or "Format" not in answer:
            raise WrongContent("the tile server's metadata have no tile format")
        width, height, tile, overlap = (
            _whole_number(answer, key) for key in ("Width", "Height", "TileSize", "Overlap")
        )
        valid = (
            1 <= min(width, height) <= max(width, height) <= MAX_SIDE
            and 16 <= tile <= MAX_TILE_SIDE
            and 0 <= overlap <= min(tile // 2, MAX_OVERLAP)
        )
        if not valid:
            raise WrongContent(
                f"invalid metadata of the tile server: {width}×{height} pixels "
                f"in tiles of {tile} with an overlap of {overlap}"
            )
        return cls(Size(width, height), tile, overlap)

    @property
    def last_dz_level(self) -> int:
        """The Deep Zoom level of full size.

        >>> DeepZoom(Size(109559, 89665), 512, 1).last_dz_level
        17
        """
        return (self.size.longer - 1).bit_length()

    @property
    def finest_one_tile_dz_level(self) -> int:
        """The finest Deep Zoom level that is one tile.

        >>> DeepZoom(Size(109559, 89665), 512, 1).finest_one_tile_dz_level
        9
        """
        return max(
            dz_level
            for dz_level in range(self.last_dz_level + 1)
            if self.grid(dz_level).size.longer <= self.tile
        )

    def pyramid(self, mpp: Mpp) -> Pyramid:
        """Return all levels, full size first: level `last_dz_level - dz_level` is `dz_level`."""
        tile = Size(self.tile, self.tile)
        return Pyramid(
            tuple(
                Level(halved(self.size, times), tile, float(2**times))
                for times in range(self.last_dz_level + 1)
            ),
            mpp,
        )

    def grid(self, dz_level: int) -> Grid:
        """Return the level's grid, whose tiles have no overlap."""
        return Grid(halved(self.size, self.last_dz_level - dz_level), Size(self.tile, self.tile))

    def served_box(self, grid: Grid, column: int, row: int) -> Box:
        """Return where the tile as served lies in its level, with its overlap.

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


class PieceReader:
    """Reads any number of bytes from a series of pieces; fewer at its end."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = iter(pieces)
        self._piece = b""
        self._at = 0

    def peek(self, count: int) -> bytes:
        """Return the next `count` bytes without passing over them."""
        while len(self._piece) - self._at < count:
            piece = next(self._pieces, b"")
            if not piece:
                break
            self._piece = self._piece[self._at :] + piece
            self._at = 0
        return self._piece[self._at : self._at + count]

    def read(self, count: int) -> bytes:
        """Return the next `count` bytes."""
        data = self.peek(count)
        self._at += len(data)
        return data

    def skip(self, count: int) -> None:
        """Pass over the next `count` bytes, with one piece in memory at a time."""
        self._at += count
        while self._at > len(self._piece):
            self._at -= len(self._piece)
            self._piece = next(self._pieces, b"")
            if not self._piece:
                self._at = 0

    def rest(self) -> Iterator[bytes]:
        """Yield all that is left, piece by piece."""
        yield self.read(len(self._piece) - self._at)
        yield from self._pieces


def is_png_or_jpeg(start: bytes) -> bool:
    """Return whether a file with these first eight bytes is a PNG or a JPEG."""
    return start == PNG_SIGNATURE or start.startswith(_JPEG_SIGNATURE)


def remove_ancillary_data(reader: PieceReader, max_bytes: int) -> bytes:
    """Return a PNG or JPEG without what its pixels do not need, such as a colour profile.

    A profile may be far larger than the pixels, so it is never held in memory. Raises
    TooLong if more than `max_bytes` are left.
    """
    kept: list[bytes] = []
    count = 0
    is_png = reader.peek(len(PNG_SIGNATURE)) == PNG_SIGNATURE
    for piece in _png_pieces(reader) if is_png else _jpeg_pieces(reader):
        kept.append(piece)
        count += len(piece)
        if count > max_bytes:
            raise TooLong(f"longer than {max_bytes:,} bytes without its colour profile")
    return b"".join(kept)


def _png_pieces(reader: PieceReader) -> Iterator[bytes]:
    """Yield the signature and the critical chunks, large ones in pieces."""
    yield reader.read(len(PNG_SIGNATURE))
    while head := reader.read(8):
        left = int.from_bytes(head[:4], "big") + 4  # with the checksum
        if head[4:5] not in _CRITICAL:
            reader.skip(left)
            continue
        yield head
        while left > 0 and (piece := reader.read(min(left, PIECE))):
            yield piece
            left -= len(piece)
        if head[4:] == b"IEND":
            break
    for _ in reader.rest():
        pass  # The connection can be reused once its answer is read to the end.


def _jpeg_pieces(reader: PieceReader) -> Iterator[bytes]:
    """Yield the segments that pixels need, and the scan."""
    yield reader.read(2)
    while (head := reader.peek(4))[:1] == b"\xff" and len(head) == 4 and head[1] != _START_OF_SCAN:
        length = 2 + int.from_bytes(head[2:], "big")
        if head[1] == 0xFF:  # a fill byte
            yield reader.read(1)
        elif head[1] in _ANCILLARY_MARKERS:
            reader.skip(length)
        else:
            yield reader.read(length)
    yield from reader.rest()


def decode_tile(data: bytes, served: Box, own: Box) -> Pixels:
    """Return a tile's pixels without its overlap.

    A tile within one pixel of its nominal size is resized to it: servers that keep a tile's
    aspect ratio send such tiles. Raises BadTile for any other tile.

    Args:
        served: where the tile with its overlap lies in its level.
        own: where it lies without.
    """
    if not data:
        raise BadTile("it is empty")
    data = remove_ancillary_data(PieceReader([data]), len(data))
    try:
        image = Image.open(io.BytesIO(data), formats=("PNG", "JPEG"))
        size = Size(*image.size)
        if any(abs(side - nominal) > 1 for side, nominal in zip(size, served.size, strict=True)):
            raise BadTile(f"it has {size} pixels instead of {served.size}")
        pixels = _decode_rgb(image, data)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise BadTile(f"it cannot be decoded: {_first_line(error)}") from error
    if size != served.size:
        resized = Image.fromarray(pixels).resize(served.size, Image.Resampling.BICUBIC)
        pixels = np.asarray(resized)
    top, left = own.top - served.top, own.left - served.left
    return pixels[top : top + own.size.height, left : left + own.size.width]


def _decode_rgb(image: Image.Image, data: bytes) -> Pixels:
    """Return the pixels; a JPEG's by a strict decoder, since Pillow fills in missing ones."""
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
