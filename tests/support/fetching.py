"""What the tests of the sources share: short waits, one image by one source, spans asked for."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import openslide
from PIL import Image

from tcgamirror.imaging.decode import Pixels
from tcgamirror.imaging.resample import render
from tcgamirror.imaging.svs import SlideHeader, Svs
from tcgamirror.imaging.tiff import Tiff
from tcgamirror.model.byteranges import Span
from tcgamirror.model.geometry import Grid, Size, halved
from tcgamirror.model.slide import UNKNOWN_MPP, Rendition, Resample, Slide, Target
from tcgamirror.net.client import HttpClient
from tcgamirror.net.throttle import Meter
from tcgamirror.net.timeouts import Timeouts
from tcgamirror.sources.base import Source
from tcgamirror.sources.origins import Origins
from tcgamirror.sources.range import Range
from tcgamirror.sources.tiles import Tiles
from tcgamirror.sources.whole import LocalFile, Whole
from tcgamirror.sources.workspace import Workspace
from tests.gdc import Listed, Record, StandIn
from tests.gdc.faults import Fault
from tests.support.levels import by_openslide, psnr

# Long enough for a busy machine, so that nothing is late but what is meant to be.
SHORT = Timeouts(
    connect=5,
    first_byte=5,
    stall=1,
    whole=5,
    tries=2,
    backoff=0.01,
    pause=0.01,
    retry_after_limit=0.05,
)


@dataclass(frozen=True, slots=True)
class At(Fault):
    """A fault that begins with the `nth` matching request, from 1, and strikes it alone or all."""

    nth: int = 1
    alone: bool = True

    def is_due(self, nth: int) -> bool:
        return nth == self.nth if self.alone else nth >= self.nth


def slide_of(file: Listed) -> Slide:
    return Slide(file.file_id, file.file_name, file.md5, file.size, project_id=file.project_id)


def level_target(size: Size) -> Target:
    return Target(mpp=None, max_size=size.longer, resample=Resample.NATIVE)


def origins_of(gdc: StandIn, *, bucket: bool = True) -> Origins:
    return Origins(gdc.api, gdc.bucket if bucket else None)


@dataclass(frozen=True, slots=True)
class Made:
    """One slide's image, its rendition, what it took, and how many tiles were patched."""

    pixels: Pixels
    rendition: Rendition
    meter: Meter
    patched: int | None


def made(source: Source, slide: Slide, target: Target) -> Made:
    meter = Meter()
    with source.open(slide, target, meter) as reader:
        strips = list(render(reader.tiles, reader.rendition.size))
        return Made(np.concatenate(strips), reader.rendition, meter, reader.count_patched())


def workspace(work: Path) -> Workspace:
    return Workspace(work, None, threading.Event(), min_free=0)


def by_range(gdc: StandIn, client: HttpClient, work: Path, origins: Origins | None = None) -> Range:
    return Range(client, origins or origins_of(gdc), workspace(work), lambda: True)


def by_whole(gdc: StandIn, client: HttpClient, work: Path) -> Whole:
    return Whole(client, origins_of(gdc), workspace(work))


def by_tiles(gdc: StandIn, client: HttpClient, work: Path, *, bucket: bool = True) -> Tiles:
    ranged = by_range(gdc, client, work, origins_of(gdc, bucket=bucket))
    return Tiles(client, gdc.tiles, workspace(work), ranged.read_header)


def by_ready_tiles(gdc: StandIn, client: HttpClient, work: Path, size: Size) -> Tiles:
    """Tiles of a slide of that many pixels which nobody has, and which tells no resolution."""
    return Tiles(client, gdc.tiles, workspace(work), lambda *_: SlideHeader(size, UNKNOWN_MPP))


def level_sizes(path: Path) -> tuple[Size, ...]:
    with LocalFile(path) as file:
        return tuple(level.size for level in Svs(file).pyramid.levels)


def directories(path: Path) -> int:
    with LocalFile(path) as file:
        return len(list(Tiff(file).directories()))


def ranges(records: Iterable[Record]) -> list[Span]:
    spans = []
    for record in records:
        if record.range is not None:
            first, _, last = record.range.removeprefix("bytes=").partition("-")
            spans.append(Span(int(first), int(last) + 1))
    return spans


def overlaps(spans: Sequence[Span]) -> list[tuple[Span, Span]]:
    """Neighbours, by their start, that have bytes in common."""
    ordered = sorted(spans)
    return [(one, other) for one, other in pairwise(ordered) if other.start < one.stop]


@dataclass(frozen=True, slots=True)
class Served:
    """How a tile server cuts a slide. size: full size; tile: without the overlap."""

    size: Size
    tile: int
    overlap: int

    def level(self, dz_level: int) -> Grid:
        last = (self.size.longer - 1).bit_length()
        return Grid(halved(self.size, last - dz_level), Size(self.tile, self.tile))


def stitched(served: Served, dz_level: int, tiles: dict[tuple[int, int], bytes]) -> Pixels:
    """The level put together pixel by pixel: slow, and plain to see."""
    width, height = served.level(dz_level).size
    image = Image.new("RGB", (width, height), (255, 0, 255))
    for (column, row), data in tiles.items():
        left, top = column * served.tile, row * served.tile
        right, bottom = min(left + served.tile, width), min(top + served.tile, height)
        before_x, before_y = (served.overlap if place else 0 for place in (column, row))
        nominal = (
            min(right + served.overlap, width) - left + before_x,
            min(bottom + served.overlap, height) - top + before_y,
        )
        tile = Image.open(io.BytesIO(data)).convert("RGB")
        if tile.size != nominal:
            tile = tile.resize(nominal, Image.Resampling.BICUBIC)
        for y in range(top, bottom):
            line = y - top + before_y
            own = tile.crop((before_x, line, before_x + right - left, line + 1))
            image.paste(own, (left, y))
    return np.asarray(image)


def as_openslide_reads(path: Path, size: Size) -> Pixels:
    """Return the slide at `size`, made of the level that OpenSlide would choose."""
    with openslide.OpenSlide(path) as slide:
        level = slide.get_best_level_for_downsample(slide.dimensions[0] / size.width)
    whole = Image.fromarray(by_openslide(path, level))
    return np.asarray(whole if whole.size == size else whole.resize(size, Image.Resampling.LANCZOS))


def decibels(one: Pixels, other: Pixels) -> float:
    """Peak signal-to-noise ratio after averaging blocks of 3 × 3 pixels."""
    rows, columns = (side // 3 * 3 for side in one.shape[:2])
    error = one[:rows, :columns].astype(np.float32) - other[:rows, :columns]
    blocks = error.reshape(rows // 3, 3, columns // 3, 3, 3).mean(axis=(1, 3))
    return psnr(float((blocks**2).mean()))


def best_shift(one: Pixels, other: Pixels) -> tuple[tuple[int, int], float]:
    """The shift in x and y, each -2 to 2, at which both are most alike, and how alike, in dB.

    Of larger images the middle is looked at.
    """
    top, left = (max(0, side // 2 - 300) for side in one.shape[:2])
    one, other = (image[top : top + 600, left : left + 600] for image in (one, other))
    height, width = one.shape[:2]
    inner = one[2 : height - 2, 2 : width - 2]
    fits = {
        (x, y): decibels(inner, other[2 + y : height - 2 + y, 2 + x : width - 2 + x])
        for x in range(-2, 3)
        for y in range(-2, 3)
    }
    best = max(fits, key=lambda shift: fits[shift])
    return best, fits[best]
