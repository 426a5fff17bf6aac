"""Thumbnails of images: small JPEGs as base64 text."""

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
"""Pixels of the longer side; cards are 180 to 220 wide."""

QUALITY = 70
MOST_PIXELS = 200_000_000
"""Limit of pixels, at four bytes each; a larger image is shown without a thumbnail."""

MOST_PIXELS_PER_BYTE = 344
"""Limit for a file: a byte unpacks to at most 1,032, and a pixel has three (RFC 1951)."""

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
    """Maker of thumbnails for any number of threads, in bounded memory."""

    def __init__(self) -> None:
        self._large = threading.Lock()

    def make(self, path: Path) -> str | None:
        """Return the thumbnail of an image file, or None if it cannot be made."""
        if path.suffix not in _READERS or not path.is_file():
            return None
        form, reader = _READERS[path.suffix]
        try:
            with path.open("rb") as file:
                # Pillow would decode more than this program writes, and in more memory.
                size = read_header(file, form).size
                if size.width * size.height > MOST_PIXELS_PER_BYTE * file.seek(0, os.SEEK_END):
                    return None
                file.seek(0)
                return self._decode(file, reader)
        except _NO_IMAGE:
            return None

    def _decode(self, file: BinaryIO, reader: type[ImageFile]) -> str | None:
        # Image.open would refuse large images and accept any format.
        with reader(file) as image:
            if isinstance(image, JpegImageFile):
                image.draft("RGB", (2 * LONGEST, 2 * LONGEST))
            pixels = image.width * image.height
            if pixels > MOST_PIXELS:
                return None
            if pixels <= LARGE:
                return _encode(image)
            with self._large:
                return _encode(image)


def _encode(image: ImageFile) -> str:
    image.thumbnail((LONGEST, LONGEST), Image.Resampling.LANCZOS, reducing_gap=2.0)
    packed = io.BytesIO()
    # A new image, because the metadata of the old one would be larger than the thumbnail.
    plain = Image.new("RGB", image.size, "white")
    plain.paste(image.convert("RGB"))
    plain.save(packed, "JPEG", quality=QUALITY, optimize=True)
    return b64encode(packed.getvalue()).decode("ascii")
