"""Writing of image files strip by strip, with their resolution and metadata inside.

A strip is an array of shape (rows, width, 3), uint8 RGB. PNG and TIFF are written as the
strips come, so that an image of any size fits in memory. JPEG needs the whole image.
Sources: PNG (third edition), TIFF 6.0, Exif.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Iterator, Mapping
from fractions import Fraction
from typing import BinaryIO

import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray
from PIL import Image

from tcgamirror.imaging.decode import Pixels
from tcgamirror.imaging.image_reader import JPEG_MAX_PIXELS, METADATA_KEY, PNG_SIGNATURE
from tcgamirror.imaging.tiff import Tag
from tcgamirror.imaging.tiff_writer import (
    CENTIMETRE,
    DEFLATE_LEVEL,
    PixelSize,
    rational,
    write_tiff,
)
from tcgamirror.model.errors import TooLarge
from tcgamirror.model.geometry import Size
from tcgamirror.model.slide import ImageFormat

JPEG_QUALITY = 90
"""Quality of images in the format jpeg. Tiles of a copied TIFF have their own (`tile_codec`)."""
JPEG_MAX_SIDE = 65_500
PNG_MAX_SIDE = 2**31 - 1
Bytes = NDArray[np.uint8]
STRIP_BYTES = 1 << 17
"""Raw bytes compressed at once, few enough to stay in the processor's cache."""


def write_image(
    file: BinaryIO,
    form: ImageFormat,
    size: Size,
    strips: Iterable[Pixels],
    mpp: PixelSize,
    metadata: Mapping[str, object],
) -> None:
    """Write an image to `file` from its current position.

    Raises TooLarge, before anything is written, if the format cannot hold the image.
    """
    text = json.dumps(metadata, sort_keys=True)
    match form:
        case ImageFormat.PNG:
            _write_png(file, size, strips, mpp, text)
        case ImageFormat.TIFF:
            write_tiff(file, size, strips, mpp, text)
        case ImageFormat.JPEG:
            _write_jpeg(file, size, strips, mpp, text)


# PNG -------------------------------------------------------------------------


def _write_png(
    file: BinaryIO, size: Size, strips: Iterable[Pixels], mpp: PixelSize, text: str
) -> None:
    if size.longer > PNG_MAX_SIDE:
        raise TooLarge(f"an image of {size} pixels does not fit in a PNG")
    file.write(PNG_SIGNATURE)
    _write_chunk(file, b"IHDR", struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, 0))
    if mpp is not None:
        _write_chunk(file, b"pHYs", struct.pack(">IIB", *(round(1e6 / side) for side in mpp), 1))
    _write_chunk(file, b"tEXt", METADATA_KEY.encode() + b"\0" + text.encode("ascii"))
    packer = isal_zlib.compressobj(DEFLATE_LEVEL)
    above = np.zeros((1, size.width, 3), np.uint8)
    for strip in _restripe(strips, max(1, STRIP_BYTES // (3 * size.width))):
        _write_chunk(file, b"IDAT", packer.compress(_filter(strip, above).data))
        above = strip[-1:]
    _write_chunk(file, b"IDAT", packer.flush())
    _write_chunk(file, b"IEND", b"")


def _write_chunk(file: BinaryIO, name: bytes, data: bytes) -> None:
    if data or name == b"IEND":
        crc = isal_zlib.crc32(data, isal_zlib.crc32(name))
        file.write(struct.pack(">I", len(data)) + name + data + struct.pack(">I", crc))


def _filter(strip: Pixels, above: Pixels) -> NDArray[np.uint8]:
    """Return PNG scanlines: a filter byte and the differences from Paeth's prediction.

    Numbers stay bytes, which takes a fifth of the time of wider ones. Where `corner` is not between
    `left` and `over`, neither is farther from Paeth's estimate, so `corner` is never chosen.

    Args:
        above: the row before the strip, of shape (1, width, 3).
    """
    height, width, _ = strip.shape
    rows = strip.reshape(height, 3 * width)
    rows_above = np.concatenate([above.reshape(1, -1), rows[:-1]])
    lines = np.empty((height, 1 + 3 * width), np.uint8)
    lines[:, 0] = 4
    # The first pixel of a line has no left neighbour.
    np.subtract(rows[:, :3], rows_above[:, :3], out=lines[:, 1:4])
    left, over, corner = rows[:, :-3], rows_above[:, 3:], rows_above[:, :-3]
    to_left, to_over = _distance(over, corner), _distance(left, corner)
    to_corner = _distance(to_left, to_over)
    to_corner |= _mask((over > corner) == (left > corner))
    prediction = _choose(to_over <= to_corner, over, corner)
    prediction = _choose((to_left <= to_over) & (to_left <= to_corner), left, prediction)
    np.subtract(rows[:, 3:], prediction, out=lines[:, 4:])
    return lines


def _distance(one: Bytes, other: Bytes) -> Bytes:
    distance = np.maximum(one, other)
    distance -= np.minimum(one, other)
    return distance


def _mask(flags: NDArray[np.bool_]) -> Bytes:
    """Return 255 where a flag is set, else 0."""
    return np.negative(flags.view(np.uint8))


def _choose(flags: NDArray[np.bool_], one: Bytes, other: Bytes) -> Bytes:
    """Return `one` where a flag is set, else `other`. `np.where` takes five times as long."""
    chosen = one ^ other
    chosen &= _mask(flags)
    chosen ^= other
    return chosen


def _restripe(strips: Iterable[Pixels], rows: int) -> Iterator[Pixels]:
    """Yield the same rows in strips of `rows` each; the last one may have fewer."""
    rest: Pixels | None = None
    for strip in strips:
        joined = strip if rest is None else np.concatenate([rest, strip])
        whole = len(joined) // rows * rows
        yield from (joined[top : top + rows] for top in range(0, whole, rows))
        rest = joined[whole:] if whole < len(joined) else None
    if rest is not None:
        yield rest


# JPEG ------------------------------------------------------------------------


def _write_jpeg(
    file: BinaryIO, size: Size, strips: Iterable[Pixels], mpp: PixelSize, text: str
) -> None:
    if size.longer > JPEG_MAX_SIDE or size.width * size.height > JPEG_MAX_PIXELS:
        raise TooLarge(f"an image of {size} pixels does not fit in a JPEG; use --format png")
    image = Image.new("RGB", size)
    top = 0
    for strip in strips:
        image.paste(Image.fromarray(strip), (0, top))
        top += len(strip)
    exif = Image.Exif()
    exif[Tag.DESCRIPTION] = text
    if mpp is not None:
        for tag, side in zip((Tag.X_RESOLUTION, Tag.Y_RESOLUTION), mpp, strict=True):
            exif[tag] = Fraction(*rational(10_000 / side))
        exif[Tag.RESOLUTION_UNIT] = CENTIMETRE
    image.save(file, "JPEG", quality=JPEG_QUALITY, exif=exif)
