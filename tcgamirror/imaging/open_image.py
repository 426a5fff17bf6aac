"""Open image files by Pillow, after a check that they are what `image_writer` writes."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

from tcgamirror.imaging.image_reader import read_header
from tcgamirror.model.errors import Damaged
from tcgamirror.model.slide import ImageFormat
from tcgamirror.system.files import open_regular

MOST_PIXELS_PER_BYTE = 344
"""Limit for a file: a byte unpacks to at most 1,032, and a pixel has three (RFC 1951)."""

_READERS: dict[str, tuple[ImageFormat, type[ImageFile]]] = {
    ".png": (ImageFormat.PNG, PngImageFile),
    ".jpg": (ImageFormat.JPEG, JpegImageFile),
    ".tif": (ImageFormat.TIFF, TiffImageFile),
}
_UNREADABLE = (SyntaxError, ValueError, TypeError, LookupError, struct.error, zlib.error)


@contextmanager
def open_image(path: Path) -> Iterator[ImageFile]:
    """Yield the image, to be decoded within the block.

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
        size = read_header(file, form).size
        if size.width * size.height > MOST_PIXELS_PER_BYTE * file.seek(0, os.SEEK_END):
            raise Damaged("it says that it has more pixels than its bytes can hold")
        file.seek(0)
        try:
            # Image.open would refuse large images and accept any format.
            with reader(file) as image:
                yield image
        except (*_UNREADABLE, OSError) as error:
            raise Damaged(f"its pixels cannot be decoded ({error})") from error
