"""Slides to try everything on, and their levels as OpenSlide sees them: the oracle."""

from __future__ import annotations

import os
import time
import tracemalloc
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import product
from pathlib import Path

import numpy as np
import openslide
import pytest
from PIL import Image

from tcgamirror.imaging.decode import Pixels
from tcgamirror.imaging.svs import TileTable
from tcgamirror.model.byteranges import Span
from tcgamirror.model.geometry import Size
from tests.support.slides import SlideSpec, grid, make_slide, zoo
from tests.support.slides_spec import base_box, overlap

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
ZOO = zoo()
REAL_SLIDES = ("CMU-1-Small-Region.svs", "tcga-cr-7395-ts1.svs", "small.svs")
"""Of those that others made: the ones that OpenSlide reads."""

EVERY_NAME = (*ZOO, *REAL_SLIDES)
EVERY_SLIDE = pytest.mark.parametrize("name", EVERY_NAME)
"""Made and real slides by name, to be had from `slide_at`."""


class MadeSlides(Mapping[str, Path]):
    """Slides by name, each made in `folder` at its first use, which several processes may share."""

    def __init__(self, folder: Path, specs: Mapping[str, SlideSpec]) -> None:
        self._folder = folder
        self._specs = specs

    def __getitem__(self, name: str) -> Path:
        path = self._folder / f"{name}.svs"
        if not path.exists():
            part = path.with_suffix(f".{os.getpid()}")
            make_slide(part, self._specs[name]).rename(path)
        return path

    def __iter__(self) -> Iterator[str]:
        return iter(self._specs)

    def __len__(self) -> int:
        return len(self._specs)


def slide_at(name: str, zoo_slides: Mapping[str, Path]) -> Path:
    """A made slide, or a real one; skips the test where that is not there."""
    return zoo_slides[name] if name in ZOO else real_slide(name)


def real_slide(name: str) -> Path:
    path = DATA / "slides" / name
    if not path.is_file():
        pytest.skip(f"no real slide {name} in ../shared/data/slides")
    return path


def by_openslide(path: Path, level: int) -> Pixels:
    """A whole level over white."""
    with openslide.OpenSlide(path) as slide:
        region = slide.read_region((0, 0), level, slide.level_dimensions[level])
    white = Image.new("RGB", region.size, "white")
    white.paste(region, mask=region.getchannel("A"))
    return np.asarray(white)


def from_base(path: Path, size: Size) -> Pixels:
    """Return the slow and obvious reference: OpenSlide's base, resized at once."""
    base = Image.fromarray(by_openslide(path, 0))
    return np.asarray(base.resize(size, Image.Resampling.LANCZOS))


def psnr(mean_square_error: float) -> float:
    """Return the peak signal-to-noise ratio in dB."""
    return float(10 * np.log10(255**2 / max(mean_square_error, 1e-9)))


def decibels(one: Pixels, other: Pixels) -> float:
    """Return how alike two images are, as PSNR in dB."""
    return psnr(float(np.mean((one.astype(np.float32) - other) ** 2)))


def worst_block(one: Pixels, other: Pixels) -> float:
    """Return the PSNR in dB of the worst 32 × 32 pixels.

    Blocks of less than half that width or height, at the edges, belong to the one before.
    """
    assert one.shape == other.shape
    errors = (one.astype(np.float64) - other) ** 2
    rows, columns = (max(1, (side + 16) // 32) for side in one.shape[:2])
    worst = max(
        float(block.mean())
        for band in np.array_split(errors, [32 * row for row in range(1, rows)])
        for block in np.array_split(band, [32 * column for column in range(1, columns)], axis=1)
    )
    return psnr(worst)


def fault(name: str) -> Path:
    """Return a faulty slide that others made; skips the test where that is not there."""
    path = DATA / "faults" / f"{name}.svs"
    if not path.is_file():
        pytest.skip(f"no faulty slide {name} in ../shared/data/faults")
    return path


def redrawn_by_openslide(spec: SlideSpec, level: int) -> set[tuple[int, int]]:
    """Tiles that OpenSlide may draw from a finer level: those over a blank tile of one, and
    those that are blank themselves, unless the level is the base.
    """
    if level == 0:
        return set()
    finer = [base_box(spec, *blank) for blank in spec.blank if blank[0] < level]
    columns, rows = grid(spec, level)
    return {
        (column, row)
        for column, row in product(range(columns), range(rows))
        if (level, column, row) in spec.blank
        or any(overlap(base_box(spec, level, column, row), box) for box in finer)
    }


class Bytes:
    """A file's bytes, which keeps the spans read in `reads`."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.size = len(data)
        self.reads: list[Span] = []

    def read(self, span: Span) -> bytes:
        assert 0 <= span.start <= span.stop <= self.size, f"{span} of {self.size} bytes"
        self.reads.append(span)
        return self._data[span.start : span.stop]


@contextmanager
def bounded(seconds: float, megabytes: float) -> Iterator[None]:
    """Fails if the block takes more time, or more of Python's memory at once."""
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    started = time.monotonic()
    try:
        yield
        took = time.monotonic() - started
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert took < seconds
    assert (peak - before) / 1e6 < megabytes


def tile_spans(table: TileTable) -> Iterator[Span]:
    """The bytes of every tile that is not blank, in the order of the tiles."""
    for start, length in zip(table.offsets, table.counts, strict=True):
        if length:
            yield Span(start, start + length)
