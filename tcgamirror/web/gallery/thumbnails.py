"""Thumbnails of images: small JPEGs as base64 text."""

from __future__ import annotations

import io
import threading
from base64 import b64encode
from contextlib import nullcontext
from pathlib import Path

from PIL import Image

from tcgamirror.imaging.open_image import open_image
from tcgamirror.model.errors import Damaged

LONGEST = 224
"""Pixels of the longer side; cards are 180 to 220 wide."""

QUALITY = 70
MOST_PIXELS = 200_000_000
"""Limit of pixels, at four bytes each; a larger image is shown without a thumbnail."""

LARGE = 25_000_000
"""Pixels above which images are decoded one at a time, whatever the number of threads."""


class Thumbnails:
    """Maker of thumbnails for any number of threads, in bounded memory."""

    def __init__(self) -> None:
        self._large = threading.Lock()

    def make(self, path: Path) -> str | None:
        """Return the thumbnail of an image file, or None if it cannot be made."""
        if not path.is_file():
            return None
        try:
            with open_image(path, 2 * LONGEST) as image:
                pixels = image.width * image.height
                if pixels > MOST_PIXELS:
                    return None
                with self._large if pixels > LARGE else nullcontext():
                    return _encode(image)
        except (Damaged, OSError):
            return None


def _encode(image: Image.Image) -> str:
    image.thumbnail((LONGEST, LONGEST), Image.Resampling.LANCZOS, reducing_gap=2.0)
    packed = io.BytesIO()
    # A new image, because the metadata of the old one would be larger than the thumbnail.
    plain = Image.new("RGB", image.size, "white")
    plain.paste(image.convert("RGB"))
    plain.save(packed, "JPEG", quality=QUALITY, optimize=True)
    return b64encode(packed.getvalue()).decode("ascii")
