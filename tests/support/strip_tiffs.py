"""TIFF images in strips, as older versions wrote them; mirrors may still hold them."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import struct
import zlib
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
from PIL import Image

from tcgamirror.imaging.decode import Pixels
from tcgamirror.imaging.image_reader import read_header
from tcgamirror.imaging.tiff import Layout, Tag, Type
from tcgamirror.imaging.tiff_writer import RGB_TAGS, rational
from tcgamirror.model.geometry import Size
from tcgamirror.model.slide import ImageFormat


def strip_tiff(pixels: Pixels, mpp: float, metadata: Mapping[str, object]) -> bytes:
    """An image of the pixels."""
    height, width, _ = pixels.shape
    rows = max(1, min(height, (1 << 17) // (3 * width)))
    data, offsets, counts = b"", [], []
    for top in range(0, height, rows):
        differences = pixels[top : top + rows].copy()
        differences[:, 1:] -= pixels[top : top + rows, :-1]
        packed = zlib.compress(differences.tobytes())
        offsets.append(8 + len(data))
        counts.append(len(packed))
        data += packed
    data += b"\0" * (len(data) % 2)
    text = json.dumps(metadata, sort_keys=True)
    return forged_tiff(data, Size(width, height), rows, offsets, counts, mpp, text)


def forged_tiff(
    data: bytes,
    size: Size,
    rows: int,
    offsets: Sequence[int],
    counts: Sequence[int],
    mpp: float,
    text: str,
) -> bytes:
    """An image whose strips lie anywhere. data: all between the header and the directory."""
    layout = Layout("<", big=False)
    description = text.encode("ascii") + b"\0"
    tags = [
        layout.pack_tag(Tag.WIDTH, Type.LONG, size.width),
        layout.pack_tag(Tag.HEIGHT, Type.LONG, size.height),
        *(layout.pack_tag(tag, Type.SHORT, *values) for tag, values in RGB_TAGS.items()),
        (Tag.DESCRIPTION, Type.ASCII, len(description), description),
        layout.pack_tag(Tag.STRIP_OFFSETS, Type.LONG, *offsets),
        layout.pack_tag(Tag.ROWS_PER_STRIP, Type.LONG, rows),
        layout.pack_tag(Tag.STRIP_COUNTS, Type.LONG, *counts),
        layout.pack_tag(Tag.X_RESOLUTION, Type.RATIONAL, *rational(10_000 / mpp)),
        layout.pack_tag(Tag.Y_RESOLUTION, Type.RATIONAL, *rational(10_000 / mpp)),
        layout.pack_tag(Tag.RESOLUTION_UNIT, Type.SHORT, 3),
    ]
    place = 8 + len(data)
    return b"II" + struct.pack("<HI", 42, place) + data + layout.pack_directory(place, tags)


def put_in_strips(root: Path) -> None:
    """Make a mirror's TIFF images those of an older version."""
    with closing(sqlite3.connect(root / "catalogue.db")) as connection:
        for path, mpp in connection.execute("SELECT path, mpp_x FROM mirror").fetchall():
            file = root / path
            with file.open("rb") as image:
                metadata = json.loads(read_header(image, ImageFormat.TIFF).metadata)
            data = strip_tiff(np.asarray(Image.open(file)), mpp, metadata)
            file.write_bytes(data)
            digest = hashlib.sha256(data).hexdigest()
            connection.execute(
                "UPDATE images SET sha256 = ?, bytes = ? WHERE path = ?", (digest, len(data), path)
            )
        connection.commit()
