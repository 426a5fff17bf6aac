"""Open image files, after a check that they are what this program writes."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

from tcgamirror.imaging.decode import OpenSlideTiles, Pixels, TileReader, choose_jpeg_scale
from tcgamirror.imaging.image_reader import read_header
from tcgamirror.imaging.resample import render
from tcgamirror.imaging.svs import Compression
from tcgamirror.imaging.tiff_reader import CopiedLevel, read_copied
from tcgamirror.model.errors import Damaged, SlideError
from tcgamirror.model.geometry import Size
from tcgamirror.model.slide import ImageFormat
from tcgamirror.system.files import open_regular

MOST_PIXELS_PER_BYTE = 344
"""Limit for a file: a byte unpacks to at most 1,032, and a pixel has three (RFC 1951)."""


class _TiffImage(TiffImageFile):
    """A TIFF whose pixels may be more than Pillow allows: its bytes were checked for them."""

    def load_prepare(self) -> None:
        """Make the memory for the pixels, without the limit of the class above."""
        super(TiffImageFile, self).load_prepare()


_READERS: dict[str, tuple[ImageFormat, type[ImageFile]]] = {
    ".png": (ImageFormat.PNG, PngImageFile),
    ".jpg": (ImageFormat.JPEG, JpegImageFile),
    ".tif": (ImageFormat.TIFF, _TiffImage),
}
_UNREADABLE = (SyntaxError, ValueError, TypeError, LookupError, struct.error, zlib.error)


@contextmanager
def open_image(path: Path, enough: int | None = None) -> Iterator[Image.Image]:
    """Yield the image, to be decoded within the block.

    Args:
        enough: pixels of the longer side that suffice. The image is smaller then, if that is
            faster to decode.

    Raises:
        Damaged: it is not an image as this program writes them, or cannot be decoded. The
            message continues the file's name.
        OSError: the file cannot be opened.
    """
    if path.suffix not in _READERS:
        raise Damaged("it is not an image of this program")
    form, reader = _READERS[path.suffix]
    with open_regular(path) as file:
        # Pillow would decode more than this program writes, and in more memory.
        header = read_header(file, form)
        jpeg_2000 = header.compression not in (None, Compression.JPEG)
        if jpeg_2000 or (header.compression is not None and enough is not None):
            yield _read_copied(path, file, header.size, enough)
            return
        most = MOST_PIXELS_PER_BYTE * file.seek(0, os.SEEK_END)
        if header.compression is None and header.size.width * header.size.height > most:
            raise Damaged("it says that it has more pixels than its bytes can hold")
        file.seek(0)
        try:
            # Image.open would refuse large images and accept any format.
            with reader(file) as image:
                if enough is not None:
                    _choose_smaller(image, enough)
                yield image
        except (*_UNREADABLE, OSError) as error:
            raise Damaged(f"its pixels cannot be decoded ({error})") from error


def _choose_smaller(image: ImageFile, enough: int) -> None:
    """Have the smallest image decoded that the file has and that is large enough."""
    if isinstance(image, JpegImageFile):
        image.draft("RGB", (enough, enough))
    if isinstance(image, TiffImageFile):
        image.seek(image.n_frames - 1)


def _read_copied(path: Path, file: BinaryIO, size: Size, enough: int | None) -> Image.Image:
    """Return an image whose tiles were copied from a slide. Raises Damaged.

    Pillow decodes no JPEG 2000 in a TIFF, and JPEG there at full size alone.
    """
    try:
        level = read_copied(file, smallest=enough is not None)
        if enough is None:
            with OpenSlideTiles(path, level.grid) as tiles:
                return _rendered(tiles, size)
        factor = min(1.0, enough / size.longer)
        smaller = Size(*(max(1, round(side * factor)) for side in size))
        return _rendered(_ScaledTiles(level, choose_jpeg_scale(level.grid, smaller)), smaller)
    except SlideError as error:
        raise Damaged(f"its pixels cannot be decoded ({error})") from error


def _rendered(tiles: TileReader, size: Size) -> Image.Image:
    return Image.fromarray(np.concatenate(list(render(tiles, size))))


class _ScaledTiles(TileReader):
    """The tiles of an image, decoded smaller. Pixels at its edge may be mixed with padding."""

    def __init__(self, level: CopiedLevel, scale: int) -> None:
        super().__init__(level.grid, scale)
        self._level = level

    def read_tile(self, column: int, row: int) -> Pixels:
        width, height = self.grid.box(column, row).size
        stream = self._level.stream(column, row)
        return self._level.codec.decode(stream, self.scale)[:height, :width]
