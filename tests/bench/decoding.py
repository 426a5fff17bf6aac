"""Decode a level's tiles and make the image of them, beside bare decoding and OpenSlide.

Seconds are CPU seconds of one thread, so that other work on the machine counts little.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import imagecodecs
import numpy as np
import openslide
import simplejpeg
from PIL import Image

from tcgamirror.imaging.decode import JpegTiles, Pixels, TileReader, complete_jpeg
from tcgamirror.imaging.resample import render
from tcgamirror.imaging.svs import Compression, Photometric
from tcgamirror.model.geometry import Grid, Size, at_mpp
from tests.bench.figures import Figure, in_turn
from tests.bench.material import MPP, Kind, level_for, structure
from tests.support.levels import tile_spans

DECODING_OVER_PILLOW = 1.5
FASTER_THAN_OPENSLIDE = 3

Decode = Callable[[bytes], object]


class Regions(TileReader):
    """A level by `read_region`, one row of tiles at a time."""

    def __init__(self, slide: openslide.OpenSlide, level: Grid) -> None:
        super().__init__(Grid(level.size, Size(level.size.width, level.tile.height)))
        self._slide = slide

    def read_tile(self, column: int, row: int) -> Pixels:
        box = self.grid.box(column, row)
        region = self._slide.read_region((box.left, box.top), 0, box.size)
        return np.asarray(region.convert("RGB"))


def bare_decoding(kind: Kind, mpp: float, decode_jpeg: Decode) -> float:
    """Return the CPU seconds of decoding all tiles that an image needs, and nothing else."""
    with structure(kind.path) as (file, slide):
        level = level_for(slide, mpp)
        tiled, table = slide.levels[level], slide.tile_table(level)
        jpeg, rgb = tiled.compression == Compression.JPEG, tiled.photometric == Photometric.RGB
        decode = decode_jpeg if jpeg else by_openjpeg
        spent = 0.0
        for span in tile_spans(table):
            stream = file.read(span)
            if jpeg:
                stream = complete_jpeg(stream, table.tables, rgb=rgb)
            spent += _cpu_seconds(partial(decode, stream))
    return spent


def by_simplejpeg(stream: bytes) -> object:
    return simplejpeg.decode_jpeg(stream, colorspace="RGB")


def by_openjpeg(stream: bytes) -> object:
    return imagecodecs.jpeg2k_decode(stream, numthreads=1)


def by_pillow(stream: bytes) -> object:
    return Image.open(io.BytesIO(stream)).load()


def assembling(kind: Kind, repetitions: int) -> Iterator[Figure]:
    """Time all ways in turn on the base level of a slide of JPEG tiles."""
    with structure(kind.path) as (file, slide):
        tiled, table = slide.levels[0], slide.tile_table(0)
        grid = tiled.level.grid
        size = at_mpp(grid.size, slide.header.mpp.value or MPP, MPP)
        runs: dict[str, Callable[[], float]] = {
            "Pillow": lambda: bare_decoding(kind, MPP, by_pillow),
            "ours": lambda: _cpu_seconds(lambda: _assemble(JpegTiles(file, tiled, table), size)),
            "OpenSlide": lambda: _cpu_seconds(lambda: _by_regions(kind.path, grid, size)),
        }
        cpu = in_turn(runs, repetitions, float)
    over, faster = cpu["ours"] / cpu["Pillow"], cpu["OpenSlide"] / cpu["ours"]
    yield Figure(kind.name, "times Pillow's bare decoding", over, most=DECODING_OVER_PILLOW)
    yield Figure(kind.name, "times as fast as OpenSlide", faster, least=FASTER_THAN_OPENSLIDE)


def _cpu_seconds(run: Callable[[], object]) -> float:
    started = time.thread_time()
    run()
    return time.thread_time() - started


def _by_regions(path: Path, grid: Grid, size: Size) -> None:
    with openslide.OpenSlide(path) as slide:
        _assemble(Regions(slide, grid), size)


def _assemble(reader: TileReader, size: Size) -> None:
    for _ in render(reader, size):
        pass
