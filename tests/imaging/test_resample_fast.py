"""`--resample fast` against the exact way: the same place, nearly the same pixels, as strict."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tcgamirror.imaging.decode import (
    JpegTiles,
    Pixels,
    choose_jpeg_scale,
)
from tcgamirror.imaging.image_reader import read_header
from tcgamirror.imaging.resample import render
from tcgamirror.imaging.svs import Svs
from tcgamirror.model.errors import BadTile
from tcgamirror.model.geometry import Grid, Size, reduction
from tcgamirror.model.slide import ImageFormat, Resample, Target
from tcgamirror.net.client import HttpClient
from tcgamirror.sources.whole import LocalFile
from tests.gdc import Listed, StandIn, listed
from tests.imaging.test_decode import (
    FAR,
    GOOD,
    GOOD_YCBCR,
    IMAGE,
    RGB,
    SIDE,
    WHOLE,
    YCBCR,
    decoded,
    jpeg,
)
from tests.imaging.test_decode import slide_of as slide_of_tiles
from tests.support.command import ROOT, inside, went_well
from tests.support.fetching import best_shift, by_range, by_tiles, by_whole, made, slide_of
from tests.support.levels import slide_at
from tests.support.mirrors import addresses, images, updated
from tests.support.mirrors import made as made_mirror
from tests.support.slides import SlideSpec, make_slide

EXACT = Target(3.9, None)
FAST = replace(EXACT, resample=Resample.FAST)
MOST_DIFFERENCE = 1.0
"""Grey levels, on average over the image."""
MOST_DRIFT = 0.03
"""Pixels of the image that its content may lie elsewhere, at its edges too."""


def image_at(path: Path, size: Size, *, fast: bool) -> tuple[int, Pixels]:
    """The scale the base level's tiles are decoded at, and its image."""
    with LocalFile(path) as file:
        slide = Svs(file)
        tiled = slide.levels[0]
        assert tiled.is_rgb_or_ycbcr_jpeg
        scale = choose_jpeg_scale(tiled.level.grid, size) if fast else 1
        tiles = JpegTiles(file, tiled, slide.tile_table(0), scale)
        return scale, np.concatenate(list(render(tiles, size)))


def base_size(path: Path) -> Size:
    with LocalFile(path) as file:
        return Svs(file).header.size


def drift(one: Pixels, other: Pixels) -> float:
    """How far, in pixels, the content of `other` lies from that of `one`, where most.

    By least squares over a shift and a stretch along either side: to a small move the
    pixels answer by their slope. That of fine grain is underrated, and so the drift overrated.
    """
    grey, moved = one.mean(axis=2), other.mean(axis=2)
    slopes = np.gradient(grey)
    places = np.meshgrid(*(np.linspace(-1, 1, side) for side in grey.shape), indexing="ij")
    inner = (slice(2, -2), slice(2, -2))
    terms = [slope * place for slope, place in zip(slopes, places, strict=True)]
    columns = np.stack([term[inner].ravel() for term in (*slopes, *terms)], axis=1)
    found, *_ = np.linalg.lstsq(columns, (moved - grey)[inner].ravel(), rcond=None)
    return float(max(abs(found[0]) + abs(found[2]), abs(found[1]) + abs(found[3])))


# The pixels --------------------------------------------------------------------------


SCALES = {3.2: 2, 8.3: 4, 17.1: 8}
EDGES = {2.9: 1, 4.3: 2, 7.9: 2, 31.3: 8}
"""Factors by which the base is reduced, and the scale at which its tiles are decoded."""
CHIEF = ("plain", "ycbcr-420", "everything", "CMU-1-Small-Region.svs")
OTHERS = (
    *("rgb-shared-tables", "ycbcr-444", "ycbcr-422", "ycbcr-420-shared-tables", "tiles-of-512"),
    *("oblong-tiles", "whole-number-of-tiles", "upright", "wide", "blank-base-only"),
)


@pytest.mark.parametrize(
    ("name", "reduced"), [*product(CHIEF, SCALES | EDGES), *product(OTHERS, SCALES)]
)
def test_the_image_is_the_exact_one_but_for_a_grey_level(
    name: str, reduced: float, zoo_slides: Mapping[str, Path]
) -> None:
    path, scale = slide_at(name, zoo_slides), (SCALES | EDGES)[reduced]
    width, height = base_size(path)
    size = Size(round(width / reduced), round(height / reduced))
    _, exact = image_at(path, size, fast=False)
    taken, fast = image_at(path, size, fast=True)
    assert taken == scale
    assert np.abs(exact.astype(int) - fast).mean() <= MOST_DIFFERENCE
    assert best_shift(exact, fast)[0] == (0, 0)
    assert drift(exact, fast) <= MOST_DRIFT


@pytest.mark.parametrize("moved", [MOST_DRIFT, 0.1])
def test_a_drift_is_seen(moved: float, zoo_slides: Mapping[str, Path]) -> None:
    level = Image.fromarray(image_at(zoo_slides["plain"], Size(2403, 1809), fast=False)[1])
    tenth, lanczos = (240, 180), Image.Resampling.LANCZOS
    one = np.asarray(level.resize(tenth, lanczos, (0, 0, 2400, 1800)))
    shifted, stretched = (10 * moved, 0, 2400 + 10 * moved, 1800), (0, 0, 2400, 1800 + 10 * moved)
    for box in (shifted, stretched):
        other = np.asarray(level.resize(tenth, lanczos, box))
        assert moved < drift(one, other) < 2 * moved


@pytest.mark.parametrize("scale", [2, 4, 8])
@pytest.mark.parametrize("kind", WHOLE)
def test_every_stream_that_is_taken_is_taken_scaled(kind: str, scale: int, tmp_path: Path) -> None:
    stream, photometric = WHOLE[kind]
    path = slide_of_tiles(tmp_path / "s.svs", [stream, stream], photometric)
    size = Size(SIDE // scale, SIDE // (2 * scale))
    exact, fast = decoded(path, size=size), decoded(path, size=size, scale=scale)
    assert np.abs(exact.astype(int) - fast).mean() <= MOST_DIFFERENCE


@settings(max_examples=300)
@given(
    level=st.builds(Size, st.integers(1, 200_000), st.integers(1, 200_000)),
    tile=st.sampled_from([Size(240, 240), Size(256, 128), Size(512, 512), Size(16, 16)]),
    size=st.builds(Size, st.integers(1, 3000), st.integers(1, 3000)),
)
def test_a_factor_is_left_to_the_resize(level: Size, tile: Size, size: Size) -> None:
    scale = choose_jpeg_scale(Grid(level, tile), size)
    assert scale in (1, 2, 4, 8)
    if scale > 1:
        least = 1.5 if scale == 2 else 2
        assert min(side / scale / wanted for side, wanted in zip(level, size, strict=True)) >= least
    if scale < 8:
        assert min(map(reduction, level, size)) < 2 * scale


@pytest.mark.parametrize("tile", [Size(250, 250), Size(256, 100), Size(24, 24)], ids=str)
def test_tiles_that_are_no_whole_blocks_are_not_scaled(tile: Size) -> None:
    assert choose_jpeg_scale(Grid(Size(9000, 9000), tile), Size(90, 90)) == 1


@pytest.mark.parametrize("scale", [2, 4, 8])
@pytest.mark.parametrize("within", [61, 60, 56, 33, 1])
def test_padding_beyond_the_edge_does_not_show(within: int, scale: int, tmp_path: Path) -> None:
    """The padding is black; of a pixel that the edge cuts, only what lies within counts."""
    padded = np.asarray(IMAGE).copy()
    padded[:, within:] = 0
    stream = jpeg(Image.fromarray(padded), quality=95, keep_rgb=True)
    path = slide_of_tiles(tmp_path / "s.svs", [GOOD, stream], width=SIDE + within)
    with LocalFile(path) as file:
        slide = Svs(file)
        whole, scaled = (
            JpegTiles(file, slide.levels[0], slide.tile_table(0), by).read_tile(1, 0)
            for by in (1, scale)
        )
    assert whole is not None and scaled is not None
    assert np.array_equal(scaled, np.asarray(Image.fromarray(whole.copy()).reduce(scale)))


# As strict, and as sure ----------------------------------------------------------------


@settings(max_examples=300)
@given(
    stream=st.sampled_from([GOOD, GOOD_YCBCR, jpeg(IMAGE, progressive=True, keep_rgb=True)]),
    changes=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=4),
    scale=st.sampled_from([2, 4, 8]),
)
def test_a_tile_is_refused_scaled_just_where_it_is_refused_whole(
    stream: bytes,
    changes: list[tuple[int, int]],
    scale: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    data = bytearray(stream)
    for place, value in changes:
        data[place % len(data)] = value
    photometric = YCBCR if stream is GOOD_YCBCR else RGB
    path = slide_of_tiles(tmp_path_factory.getbasetemp() / "s.svs", [bytes(data)], photometric)
    assert is_refused(path, scale) == is_refused(path, 1)


def is_refused(path: Path, scale: int) -> bool:
    try:
        decoded(path, size=FAR, scale=scale)
    except BadTile:
        return True
    return False


@pytest.mark.parametrize("name", ["plain", "ycbcr-422", "ycbcr-420"])
def test_pixels_do_not_depend_on_the_processor(name: str, zoo_slides: Mapping[str, Path]) -> None:
    """As libjpeg-turbo sees it that is told to use none of a processor's vector instructions."""
    path = zoo_slides[name]
    result = subprocess.run(
        [sys.executable, "-m", "tests.imaging.test_resample_fast", str(path)],
        env={**os.environ, "JSIMD_FORCENONE": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.split() == list(digests(path))


def digests(path: Path) -> Iterator[str]:
    """Of the pixels of a fast image at every scale."""
    width, height = base_size(path)
    for scale in (2, 4, 8):
        taken, pixels = image_at(path, Size(width // scale // 2, height // scale // 2), fast=True)
        assert taken == scale
        yield hashlib.sha256(pixels.tobytes()).hexdigest()


# From the sources and the command line -------------------------------------------------


@pytest.mark.parametrize(
    ("name", "mpp", "scaled"),
    [
        *(("base-only", 3.9, True), ("everything", 3.9, True)),
        *(("everything", 2.9, False), ("j2k-rgb", 3.9, False)),
    ],
)
def test_range_and_whole_make_the_same_fast_image(
    name: str,
    mpp: float,
    scaled: bool,
    zoo_slides: Mapping[str, Path],
    client: HttpClient,
    tmp_path: Path,
) -> None:
    """It is the exact one where the level is less than three times as large, or no JPEG."""
    file, target = listed(zoo_slides[name]), Target(mpp, None)
    fastest = replace(target, resample=Resample.FAST)
    with StandIn([file]) as gdc:
        ranged = made(by_range(gdc, client, tmp_path / "r"), slide_of(file), fastest)
        whole = made(by_whole(gdc, client, tmp_path / "w"), slide_of(file), fastest)
        exact = made(by_range(gdc, client, tmp_path / "e"), slide_of(file), target)
    assert np.array_equal(ranged.pixels, whole.pixels)
    assert ranged.rendition == replace(exact.rendition, resample=Resample.FAST)
    assert np.array_equal(ranged.pixels, exact.pixels) != scaled
    assert np.abs(ranged.pixels.astype(int) - exact.pixels).mean() <= MOST_DIFFERENCE


def test_tiles_of_the_server_have_no_use_for_it(client: HttpClient, tmp_path: Path) -> None:
    spec = SlideSpec(width=1403, height=1109, downsamples=(1,))
    file = listed(make_slide(tmp_path / "s.svs", spec))
    with StandIn([file]) as gdc:
        fast, exact = (
            made(by_tiles(gdc, client, tmp_path / name), slide_of(file), target)
            for name, target in (("f", FAST), ("e", EXACT))
        )
    assert np.array_equal(fast.pixels, exact.pixels)


def test_a_mirror_of_fast_images_says_so(tmp_path: Path, small_slides: tuple[Listed, ...]) -> None:
    with StandIn(small_slides) as gdc:
        root = made_mirror(tmp_path / "m", gdc, "--resample", "fast", slides=2)
        updated(root)
        lock = tmp_path / "sample.lock"
        went_well("--mirror", root, "lock", lock)
        again = tmp_path / "again"
        went_well("--mirror", again, "init", "--lock", lock, *addresses(gdc))
        updated(again)
    assert 'resample = "fast"' in (again / "tcgamirror.toml").read_text("utf-8")
    assert "(4 µm/px, fast, png)" in went_well("--mirror", again, "status").out
    for path in images(again):
        with (again / path).open("rb") as file:
            facts = json.loads(read_header(file, ImageFormat.PNG).metadata)
        assert facts["resample"] == "fast"
    assert len(images(again)) == 2 and images(again) == images(root)
    # Nor are they taken for exact ones where only they tell.
    exact = root / "tcgamirror.toml"
    exact.write_text(exact.read_text("utf-8").replace('"fast"', '"exact"'), "utf-8")
    (root / "catalogue.db").unlink()
    result = inside("--mirror", root, "rebuild", "--offline", "--json").json()
    assert (result["images"], len(result["refused"])) == (0, 2)


if __name__ == "__main__":
    print(*digests(Path(sys.argv[1])))
