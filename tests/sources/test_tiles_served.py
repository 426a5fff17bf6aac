"""The source `tiles` as tiles are served today: profiles, any type, headers not to be had yet."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tcgamirror.mirror.settings import LEAST_WORK
from tcgamirror.model.errors import BadSlide, NetworkError, RangeUnsupported, Refused
from tcgamirror.model.geometry import Size
from tcgamirror.model.slide import Target
from tcgamirror.net.client import HttpClient
from tcgamirror.sources.tiles import Tiles
from tcgamirror.sources.workspace import Workspace
from tests.gdc import Fault, Listed, StandIn, listed
from tests.gdc.faults import Kind
from tests.gdc.tiles import TileFormat
from tests.support.fetching import (
    as_openslide_reads,
    best_shift,
    by_range,
    by_tiles,
    made,
    slide_of,
    workspace,
)
from tests.support.slides import SlideSpec, make_slide

SPEC = SlideSpec(width=1403, height=1109, downsamples=(1, 4))
TARGET = Target(mpp=4.0, max_size=None)
LEVEL_OF_512 = Target(mpp=None, max_size=512)
ICC = Path(__file__).parents[3] / "shared" / "data" / "faults" / "icc-140k-narrow-edge.svs"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Listed:
    return listed(make_slide(tmp_path_factory.mktemp("tiles") / "plain.svs", SPEC))


# The header ---------------------------------------------------------------------


def test_without_a_ranged_origin_there_is_no_image(
    tmp_path: Path, client: HttpClient, file: Listed
) -> None:
    with StandIn([file], data_ranges=False) as gdc:
        source = by_tiles(gdc, client, tmp_path, bucket=False)
        with pytest.raises(RangeUnsupported, match="header cannot be read"):
            made(source, slide_of(file), TARGET)
        assert not gdc.requests("level=")


def test_on_a_releases_first_day_there_is_no_image_and_later_the_right_one(
    tmp_path: Path, client: HttpClient, file: Listed
) -> None:
    with StandIn([file]) as gdc:
        gdc.withhold(file.file_id)
        source = by_tiles(gdc, client, tmp_path)
        with pytest.raises(Refused, match=r"header cannot be read: .*does not allow read access"):
            made(source, slide_of(file), TARGET)
        assert not gdc.requests("level=")
        gdc.withhold()
        rendition = made(source, slide_of(file), TARGET).rendition
    assert rendition.mpp_x == pytest.approx(4.0, rel=0.01)


@pytest.mark.parametrize("kind", ["404", "403", "500", "reset", "range-ignored", "empty-200"])
def test_a_header_that_cannot_be_read_fails_the_slide(
    tmp_path: Path, client: HttpClient, file: Listed, kind: Kind
) -> None:
    with StandIn([file]) as gdc:
        gdc.faults.add(Fault(r"/data/|\.svs", kind, retry_after=0))
        with pytest.raises(NetworkError, match="header cannot be read"):
            made(by_tiles(gdc, client, tmp_path), slide_of(file), TARGET)


def test_what_is_no_slide_fails_it_too_and_is_not_kept(
    tmp_path: Path, client: HttpClient, file: Listed
) -> None:
    broken = tmp_path / "broken.svs"
    broken.write_bytes(b"no slide at all" * 1000)
    other = listed(broken, file_id=file.file_id, file_name=file.file_name)
    with StandIn([file]) as gdc, StandIn([other]) as elsewhere:
        header = by_range(elsewhere, client, tmp_path / "work").read_header
        source = Tiles(client, gdc.tiles, workspace(tmp_path / "work"), header)
        with pytest.raises(BadSlide, match="header cannot be read"):
            made(source, slide_of(other), TARGET)
    assert not list((tmp_path / "work").rglob("*.part"))


# Tiles ------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["png", "jpeg"])
@pytest.mark.parametrize("fault", ["as-html", "203"])
def test_a_tile_is_known_by_its_first_bytes(
    tmp_path: Path, client: HttpClient, file: Listed, form: TileFormat, fault: Kind
) -> None:
    with StandIn([file], tile_format=form) as gdc:
        source = by_tiles(gdc, client, tmp_path)
        right = made(source, slide_of(file), LEVEL_OF_512).pixels
        gdc.faults.add(Fault("level=", fault), Fault(r"\.svs", fault))
        assert np.array_equal(made(source, slide_of(file), LEVEL_OF_512).pixels, right)


@pytest.mark.parametrize("form", ["png", "jpeg"])
@pytest.mark.parametrize("profile", [140_612, 1_200_001, 13_000_000])
def test_tiles_may_carry_a_profile_larger_than_their_pixels(
    tmp_path: Path, client: HttpClient, form: TileFormat, profile: int
) -> None:
    spec = SlideSpec(width=700, height=500, downsamples=(1,), thumbnail=False)
    plain = listed(make_slide(tmp_path / "plain.svs", spec))
    heavy = listed(make_slide(tmp_path / "heavy.svs", replace(spec, icc_bytes=profile)))
    target = Target(mpp=None, max_size=350)
    with StandIn([plain, heavy], tile_format=form) as gdc:
        source = by_tiles(gdc, client, tmp_path / "work")
        right = made(source, slide_of(plain), target)
        # Nothing of the profile gets into `work/`, whose limit is that of any slide.
        limited = Workspace(tmp_path / "work", LEAST_WORK, threading.Event(), min_free=0)
        header = by_range(gdc, client, tmp_path / "work").read_header
        got = made(Tiles(client, gdc.tiles, limited, header), slide_of(heavy), target)
    assert np.array_equal(got.pixels, right.pixels)
    assert got.meter.bytes > profile


@pytest.mark.skipif(not ICC.exists(), reason="needs ../shared/data/faults, which is absent")
@pytest.mark.parametrize("form", ["png", "jpeg"])
def test_the_real_profile_and_the_narrow_edge_are_taken(
    tmp_path: Path, client: HttpClient, form: TileFormat
) -> None:
    file = listed(ICC)
    with StandIn([file], tile_format=form) as gdc:
        source = by_tiles(gdc, client, tmp_path)
        for size in (Size(517, 250), Size(1034, 500), Size(2068, 1000)):
            target = Target(mpp=None, max_size=size.width)
            pixels = made(source, slide_of(file), target).pixels
            assert pixels.shape == (size.height, size.width, 3)
            shift, alike = best_shift(pixels, as_openslide_reads(ICC, size))
            assert shift == (0, 0)
            assert alike >= 36
