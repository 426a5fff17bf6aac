"""One level written as a slide of its own, read by OpenSlide, against the whole slide."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import openslide
import pytest

from tcgamirror.imaging.decode import OpenSlideTiles, Pixels
from tcgamirror.imaging.resample import render
from tcgamirror.imaging.single_level import write_single_level
from tcgamirror.imaging.svs import Svs
from tcgamirror.sources.whole import LocalFile
from tests.support.levels import (
    REAL_SLIDES,
    ZOO,
    by_openslide,
    redrawn_by_openslide,
    slide_at,
    tile_spans,
)
from tests.support.slides import make_slide
from tests.support.slides_spec import tile_box

J2K = replace(ZOO["plain"], width=1203, height=909, compression="j2k-rgb")
J2K_ZOO = {
    "j2k-rgb-big-endian": replace(J2K, byte_order=">"),
    "j2k-rgb-big-and-big-endian": replace(J2K, byte_order=">", big=True),
    "j2k-ycbcr-big": replace(J2K, compression="j2k-ycbcr", big=True),
    "j2k-ycbcr-big-endian": replace(J2K, compression="j2k-ycbcr", byte_order=">"),
    "j2k-ycbcr-shuffled": replace(J2K, compression="j2k-ycbcr", offsets="shuffled"),
    "j2k-shared": replace(J2K, offsets="shared"),
    "j2k-512": replace(J2K, tile=(512, 512)),
    "j2k-base-only": replace(J2K, downsamples=(1,), icc_bytes=3144),
    "j2k-blank": replace(J2K, blank=frozenset({(0, 0, 0), (0, 4, 3), (1, 0, 0)})),
}


def written(path: Path, level: int, folder: Path) -> Path:
    alone = folder / "level.svs"
    with LocalFile(path) as source, alone.open("wb") as file:
        slide = Svs(source)
        write_single_level(file, slide, level, slide.tile_table(level))
    return alone


def levels_of(path: Path) -> int:
    with openslide.OpenSlide(path) as slide:
        return int(slide.level_count)


def tiled(alone: Path) -> Pixels:
    with LocalFile(alone) as file:
        level = Svs(file).pyramid.levels[0]
    with OpenSlideTiles(alone, level.grid) as tiles:
        return np.concatenate(list(render(tiles, level.size)))


@pytest.mark.parametrize(
    "name",
    [
        *("plain", "ycbcr-420-shared-tables", "big-narrow-counts", "big-endian"),
        *("big-and-big-endian", "big-j2k", "j2k-rgb", "j2k-ycbcr", "shuffled", "shared"),
        *("smaller-than-a-tile", "everything", *(name for name in ZOO if "blank" in name)),
        *REAL_SLIDES,
    ],
)
def test_a_level_alone_has_the_pixels_it_has_in_the_slide(
    name: str, zoo_slides: Mapping[str, Path], tmp_path: Path
) -> None:
    """But for the tiles that OpenSlide draws from a finer level where there is one."""
    path = slide_at(name, zoo_slides)
    for level in range(levels_of(path)):
        alone = written(path, level, tmp_path)
        here, there = by_openslide(alone, 0).copy(), by_openslide(path, level).copy()
        for place in redrawn_by_openslide(ZOO[name], level) if name in ZOO else ():
            left, top, right, bottom = map(int, tile_box(ZOO[name], level, *place))
            here[top:bottom, left:right] = there[top:bottom, left:right] = 0
        assert np.array_equal(here, there)


@pytest.mark.parametrize("name", J2K_ZOO)
def test_jpeg_2000_in_every_container_comes_out_tile_by_tile(name: str, tmp_path: Path) -> None:
    spec = J2K_ZOO[name]
    path = make_slide(tmp_path / "s.svs", spec)
    # Without its blank tiles: what OpenSlide reads then, white where they are, is the truth.
    full = make_slide(tmp_path / "full.svs", replace(spec, blank=frozenset()))
    for level in range(levels_of(path)):
        truth = by_openslide(full, level).copy()
        for place in spec.blank:
            if place[0] == level:
                left, top, right, bottom = map(int, tile_box(spec, *place))
                truth[top:bottom, left:right] = 255
        assert np.array_equal(tiled(written(path, level, tmp_path)), truth)


@pytest.mark.parametrize("name", [*REAL_SLIDES, "everything", "big-endian", "large-icc"])
def test_what_is_written_is_one_small_aperio_slide(
    name: str, zoo_slides: Mapping[str, Path], tmp_path: Path
) -> None:
    path = slide_at(name, zoo_slides)
    for level in range(levels_of(path)):
        alone = written(path, level, tmp_path)
        with LocalFile(path) as file, openslide.OpenSlide(alone) as slide:
            spans = list(tile_spans(Svs(file).tile_table(level)))
            assert slide.properties["openslide.vendor"] == "aperio"
            assert slide.level_count == 1
            assert not slide.associated_images
        assert alone.stat().st_size < sum(span.length for span in spans) + 32 * len(spans) + 4096


@pytest.mark.parametrize("words", [b"Another Library v1", b"\0"])
def test_a_level_whose_own_description_is_not_aperios_is_read(words: bytes, tmp_path: Path) -> None:
    """OpenSlide looks at the slide's first description alone; the level is given that one."""
    path = make_slide(tmp_path / "s.svs", replace(J2K, thumbnail=False))
    data = path.read_bytes()
    opening = b"Aperio Image Library"
    base, start = data.index(opening), data.rindex(opening)
    assert base < start
    path.write_bytes(data[:start] + words.ljust(len(opening), b" ") + data[start + len(opening) :])
    level = levels_of(path) - 1
    assert np.array_equal(tiled(written(path, level, tmp_path)), by_openslide(path, level))


def test_bytes_that_many_tiles_share_are_written_once(tmp_path: Path) -> None:
    """A small file cannot fill the disk by naming one tile's bytes a million times."""
    path = make_slide(tmp_path / "s.svs", replace(J2K, downsamples=(1,)))
    with LocalFile(path) as source, (tmp_path / "level.svs").open("w+b") as file:
        slide = Svs(source)
        table = slide.tile_table(0)
        for index in range(len(table.counts)):
            table.offsets[index], table.counts[index] = table.offsets[0] + index, 5000
        write_single_level(file, slide, 0, table)
        assert file.seek(0, 2) < 5000 + 20 * 40 + 4096
        written_table = Svs(LocalFile(tmp_path / "level.svs")).tile_table(0)
    starts = [offset - written_table.offsets[0] for offset in written_table.offsets]
    assert starts == list(range(len(starts)))
