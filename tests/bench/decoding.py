"""Decode a level's tiles and make the image of them, beside bare decoding and OpenSlide.

Seconds are CPU seconds of one thread, so that other work on the machine counts little.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

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
from tests.bench import figures
from tests.bench.figures import Figure, at_least, at_most, in_turn
from tests.bench.material import MPP, Kind, structure
from tests.bench.plan import Plan
from tests.support.levels import tile_spans

DECODING_OVER_BARE = 1.5
FASTER_THAN_OPENSLIDE = 3
FASTER_THAN_EXACT = 1.5
MOST_DIFFERENCE = 1


class Regions(TileReader):
    """A level by `read_region`, one row of tiles at a time."""

    def __init__(self, slide: openslide.OpenSlide, level: Grid) -> None:
        super().__init__(Grid(level.size, Size(level.size.width, level.tile.height)))
        self._slide = slide

    def read_tile(self, column: int, row: int) -> Pixels:
        box = self.grid.box(column, row)
        region = self._slide.read_region((box.left, box.top), 0, box.size)
        return np.asarray(region.convert("RGB"))


def section(plan: Plan) -> str:
    rows = [row for kind in plan.decoded for row in _figures(kind, plan.decodings)]
    prose = (
        f"The base level of each slide, as an image at {MPP:g} µm per pixel and at its own "
        "pixels, in one thread. Bare decoding is Pillow's, of the tiles alone."
    )
    return figures.section("Decoding and assembling one level", prose, rows)


def _figures(kind: Kind, repetitions: int) -> Iterator[Figure]:
    """Time all ways in turn on the base level of a slide of JPEG tiles."""
    with structure(kind.path) as (file, slide):
        tiled, table = slide.levels[0], slide.tile_table(0)
        grid = tiled.level.grid
        size = at_mpp(grid.size, slide.header.mpp.value or MPP, MPP)
        scale = choose_jpeg_scale(grid, size)
        rgb = tiled.photometric == Photometric.RGB
        streams = [
            complete_jpeg(file.read(span), table.tables, rgb=rgb) for span in tile_spans(table)
        ]

        def decode() -> None:
            for stream in streams:
                Image.open(io.BytesIO(stream)).load()

        def tiles(scale: int = 1) -> JpegTiles:
            return JpegTiles(file, tiled, table, scale)

        ways: dict[str, Callable[[], None]] = {
            "bare": decode,
            "exact": lambda: _assemble(tiles(), size),
            "fast": lambda: _assemble(tiles(scale), size),
            "native": lambda: _assemble(tiles(), grid.size),
            "OpenSlide": lambda: _by_regions(kind.path, grid, size),
        }
        runs = {way: partial(_cpu_seconds, run) for way, run in ways.items()}
        seconds = in_turn(runs, repetitions, float)
        exact, fast = (np.concatenate(list(render(tiles(by), size))) for by in (1, scale))
    of = kind.name
    for way in ("exact", "native"):
        over = seconds[way] / seconds["bare"]
        yield at_most(of, f"times bare decoding, {way}", over, DECODING_OVER_BARE)
    faster = seconds["OpenSlide"] / seconds["exact"]
    yield at_least(of, "times as fast as OpenSlide", faster, FASTER_THAN_OPENSLIDE)
    faster = seconds["exact"] / seconds["fast"]
    yield at_least(of, "--resample fast: times as fast as exact", faster, FASTER_THAN_EXACT)
    difference = float(np.abs(exact.astype(int) - fast).mean())
    yield at_most(of, "--resample fast: grey levels from exact", difference, MOST_DIFFERENCE)


def _cpu_seconds(run: Callable[[], None]) -> float:
    started = time.thread_time()
    run()
    return time.thread_time() - started


def _by_regions(path: Path, grid: Grid, size: Size) -> None:
    with openslide.OpenSlide(path) as slide:
        _assemble(Regions(slide, grid), size)


def _assemble(reader: TileReader, size: Size) -> None:
    for _ in render(reader, size):
        pass
