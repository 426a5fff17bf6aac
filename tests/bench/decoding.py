"""Decoding a level's tiles and making the image of them, against bare decoding and OpenSlide.

In CPU seconds of one thread, so that what else runs on the machine counts little.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import openslide
from PIL import Image

from tcgamirror.imaging.decode import (
    JpegTiles,
    Pixels,
    TileReader,
    choose_jpeg_scale,
    complete_jpeg,
)
from tcgamirror.imaging.resample import render
from tcgamirror.imaging.svs import Photometric
from tcgamirror.model.geometry import Grid, Size, at_mpp
from tests.bench.material import MPP, Kind, structure
from tests.support.levels import tile_spans

BARE = "Pillow, the tiles decoded and nothing else"
OURS = f"tcgamirror, the image at {MPP:g} µm/px"
OURS_FAST = f"{OURS}, --resample fast"
OURS_NATIVE = "tcgamirror, the level's own pixels"
OPENSLIDE = f"OpenSlide's regions, the image at {MPP:g} µm/px"
OPENSLIDE_NATIVE = "OpenSlide's regions, the level's own pixels"


@dataclass(frozen=True, slots=True)
class Decoding:
    """Median CPU seconds by way, for one level of so many pixels.

    difference: of the fast image from the exact one, in grey levels, on average.
    """

    kind: Kind
    pixels: int
    seconds: Mapping[str, float]
    difference: float

    def times(self, way: str, other: str) -> float:
        """How many times as long as `other` a way takes."""
        return self.seconds[way] / self.seconds[other]


class Regions:
    """A level by `read_region`, one row of tiles at a time."""

    def __init__(self, slide: openslide.OpenSlide, level: Grid) -> None:
        self._slide = slide
        self.size = level.size
        self.scale = 1
        self.grid = Grid(level.size, Size(level.size.width, level.tile.height))

    def read_tile(self, column: int, row: int) -> Pixels:
        box = self.grid.box(column, row)
        region = self._slide.read_region((box.left, box.top), 0, box.size)
        return np.asarray(region.convert("RGB"))


def decoding(kind: Kind, repetitions: int) -> Decoding:
    """Times all ways in turn on the base level of a slide of JPEG tiles, so many times."""
    with structure(kind.path) as (file, slide):
        tiled, table = slide.levels[0], slide.tile_table(0)
        grid = tiled.level.grid
        size = at_mpp(grid.size, slide.header.mpp.value or MPP, MPP)
        scale = choose_jpeg_scale(grid, size)
        rgb = tiled.photometric == Photometric.RGB
        streams = [
            complete_jpeg(file.read(span), table.tables, rgb=rgb) for span in tile_spans(table)
        ]

        def decoded() -> None:
            for stream in streams:
                Image.open(io.BytesIO(stream)).load()

        def tiles(scale: int = 1) -> JpegTiles:
            return JpegTiles(file, tiled, table, scale)

        ways: Mapping[str, Callable[[], None]] = {
            BARE: decoded,
            OURS: lambda: _through(tiles(), size),
            OURS_FAST: lambda: _through(tiles(scale), size),
            OURS_NATIVE: lambda: _through(tiles(), grid.size),
            OPENSLIDE: lambda: _by_regions(kind.path, grid, size),
            OPENSLIDE_NATIVE: lambda: _by_regions(kind.path, grid, grid.size),
        }
        taken: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(repetitions):
            for way, run in ways.items():
                started = time.thread_time()
                run()
                taken[way].append(time.thread_time() - started)
        exact, fast = (np.concatenate(list(render(tiles(by), size))) for by in (1, scale))
    pixels = grid.size.width * grid.size.height
    seconds = {way: median(several) for way, several in taken.items()}
    difference = float(np.abs(exact.astype(int) - fast).mean())
    return Decoding(kind, pixels, seconds, difference)


def _by_regions(path: Path, grid: Grid, size: Size) -> None:
    with openslide.OpenSlide(path) as slide:
        _through(Regions(slide, grid), size)


def _through(reader: TileReader, size: Size) -> None:
    for _ in render(reader, size):
        pass
