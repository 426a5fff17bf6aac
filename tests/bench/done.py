"""Make complete mirrors of any number of images, without a GDC to fetch them from."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import struct
import subprocess
import uuid
import zlib
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import numpy as np

from tcgamirror.catalogue.catalogue import Catalogue
from tcgamirror.imaging.image_reader import METADATA_KEY, PNG_SIGNATURE
from tcgamirror.imaging.metadata import build_metadata
from tcgamirror.imaging.store import Store
from tcgamirror.mirror.directory import CATALOGUE, Mirror
from tcgamirror.mirror.settings import Settings
from tcgamirror.model.geometry import Size
from tcgamirror.model.slide import Kind, Level, Listing, Mpp, MppSource, Pyramid, Slide, Target
from tests.gdc import made_up_name

PROJECTS = 30
BASE, TARGET = 0.25, Target(mpp=15.0, max_size=None)
NOW = 1_795_353_255.0


@dataclass(frozen=True, slots=True)
class Made:
    """A complete mirror. bytes: of all images."""

    root: Path
    images: int
    bytes: int


def mirror(root: Path, images: int, sizes: Sequence[Size]) -> Made:
    """Make a complete mirror at `root`, of images of these sizes in turn, with their metadata.

    SQL fills the catalogue, because `record` takes a transaction for each image.
    """
    mirror, slides = sampled(root, images)
    pixels = [(size, _noise(size)) for size in sizes]
    pictures = [
        _write(mirror, slide, *of) for slide, of in zip(slides, cycle(pixels), strict=False)
    ]
    columns = ("path", "bytes", "sha256", "width", "height", "mpp_x", "mpp_y")
    with closing(sqlite3.connect(root / CATALOGUE)) as connection, connection:
        connection.executemany(
            f"UPDATE images SET {', '.join(f'{column} = ?' for column in columns)}, "
            "status = 'done', attempts = 1, source = 'range', level = 1, level_downsample = 20.0, "
            f"base_mpp = {BASE}, mpp_source = 'header', fetched_at = '2026-11-22T13:57:58Z' "
            "WHERE file_name = ?",
            [(*picture, slide.file_name) for slide, picture in zip(slides, pictures, strict=True)],
        )
    return Made(root, images, sum(size for _, size, *_ in pictures))


def made_before(program: Sequence[str], call: str) -> None:
    """Have the version before make a mirror of its own. call: of a function of this module."""
    python, main = program
    script = f"from tests.bench.done import *; {call}"
    subprocess.run([python, "-c", script], check=True, cwd=Path(main).parent)


def sampled(root: Path, count: int) -> tuple[Mirror, list[Slide]]:
    """Make a mirror at `root` whose slides are all sampled and pending."""
    mirror = Mirror.create(root, Settings(TARGET, slides=count))
    slides = [_slide(number) for number in range(count)]
    release = "Data Release 45.0 - December 04, 2025"
    with Catalogue.open(root / CATALOGUE) as catalogue:
        catalogue.listing.merge(Listing(release, tuple(slides)), NOW)
        catalogue.sample.add([slide.file_name for slide in slides], NOW)
    return mirror, slides


Picture = tuple[str, int, str, int, int, float | None, float | None]
"""Path, bytes and SHA-256 of an image's file, its width and height, and its µm per pixel."""


def _slide(number: int) -> Slide:
    return Slide(
        file_id=str(uuid.UUID(int=number)),
        file_name=made_up_name(str(number)),
        md5=f"{number:032x}",
        size=10**9,
        kind=Kind.DIAGNOSTIC,
        project_id=f"TCGA-{number % PROJECTS:02}",
        primary_site="Breast",
    )


def _noise(size: Size) -> bytes:
    """Return a PNG's packed pixels, noisy enough to pack as stained tissue does, by a third."""
    random = np.random.default_rng(0)
    lines = np.zeros((size.height, 1 + 3 * size.width), np.uint8)
    lines[:, 1:] = random.integers(100, 132, (size.height, 3 * size.width), np.uint8)
    return zlib.compress(lines.tobytes(), 1)


def _write(mirror: Mirror, slide: Slide, size: Size, pixels: bytes) -> Picture:
    """Write the slide's image; return its facts."""
    levels = [Size(size.width * times, size.height * times) for times in (60, 3)]
    mpp = Mpp(BASE, MppSource.HEADER)
    tile = Size(240, 240)
    pyramid = Pyramid((Level(levels[0], tile, 1.0), Level(levels[1], tile, 20.0)), mpp)
    rendition = TARGET.rendition(pyramid)
    facts = json.dumps(build_metadata(slide, "range", pyramid, rendition, 0))
    data = PNG_SIGNATURE + b"".join(
        struct.pack(">I", len(chunk)) + name + chunk + struct.pack(">I", zlib.crc32(name + chunk))
        for name, chunk in (
            (b"IHDR", struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, 0)),
            (b"tEXt", f"{METADATA_KEY}\0{facts}".encode("ascii")),
            (b"IDAT", pixels),
            (b"IEND", b""),
        )
    )
    path = Store(mirror.root, mirror.settings.form).path(slide)
    (mirror.root / path).parent.mkdir(parents=True, exist_ok=True)
    (mirror.root / path).write_bytes(data)
    sha256 = hashlib.sha256(data).hexdigest()
    return path, len(data), sha256, *size, rendition.mpp_x, rendition.mpp_y
