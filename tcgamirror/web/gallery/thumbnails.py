"""Small JPEGs of images, as base64 text."""

from __future__ import annotations

import io
import os
import struct
import threading
import zlib
from base64 import b64encode
from pathlib import Path
from typing import BinaryIO

from PIL import Image
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

from tcgamirror.imaging.image_reader import read_header
from tcgamirror.model.errors import Damaged
from tcgamirror.model.slide import ImageFormat

LONGEST = 224
"""Pixels of the longer side: cards are 180 to 220 wide, and sharp enough on dense screens."""

QUALITY = 70
MOST_PIXELS = 200_000_000
"""Decoded whole, at four bytes a pixel. A larger image is shown without a thumbnail."""

MOST_PIXELS_PER_BYTE = 344
"""Of a file: a byte unpacks to 1,032 at most, and a pixel has three (RFC 1951)."""

LARGE = 25_000_000
"""Pixels above which images are decoded one at a time, whatever the number of threads."""

_READERS: dict[str, tuple[ImageFormat, type[ImageFile]]] = {
    ".png": (ImageFormat.PNG, PngImageFile),
    ".jpg": (ImageFormat.JPEG, JpegImageFile),
    ".tif": (ImageFormat.TIFF, TiffImageFile),
}
_NO_IMAGE = (
    Damaged,
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    struct.error,
    zlib.error,
)


class Thumbnails:
    """Makes thumbnails, from any number of threads, in bounded memory."""

    def __init__(self) -> None:
        self._large = threading.Lock()

    def of(self, path: Path) -> str | None:
        """The thumbnail of the image at `path`, or None if there is none to be had."""
        if path.suffix not in _READERS or not path.is_file():
            return None
        form, reader = _READERS[path.suffix]
        try:
            with path.open("rb") as file:
                # Pillow would decode far more than this program writes, in far more memory.
                size = read_header(file, form).size
                if size.width * size.height > MOST_PIXELS_PER_BYTE * file.seek(0, os.SEEK_END):
                    return None
                file.seek(0)
                return self._of(file, reader)
        except _NO_IMAGE:
            return None

    def _of(self, file: BinaryIO, reader: type[ImageFile]) -> str | None:
        # Not Image.open: to it a large image is an attack, and any format is welcome.
        with reader(file) as image:
            if isinstance(image, JpegImageFile):
                image.draft("RGB", (2 * LONGEST, 2 * LONGEST))
            pixels = image.width * image.height
            if pixels > MOST_PIXELS:
                return None
            if pixels <= LARGE:
                return _made(image)
            with self._large:
                return _made(image)


def _made(image: ImageFile) -> str:
    image.thumbnail((LONGEST, LONGEST), Image.Resampling.LANCZOS, reducing_gap=2.0)
    packed = io.BytesIO()
    # A new image: what the old one tells of itself would be larger than the thumbnail.
    plain = Image.new("RGB", image.size, "white")
    plain.paste(image.convert("RGB"))
    plain.save(packed, "JPEG", quality=QUALITY, optimize=True)
    return b64encode(packed.getvalue()).decode("ascii")
