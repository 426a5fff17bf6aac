"""The whole file fetched, checked, read and deleted; test_range compares it with OpenSlide."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tcgamirror.imaging.decode import Pixels
from tcgamirror.model.byteranges import Span
from tcgamirror.model.errors import (
    BadSlide,
    BadTile,
    ChecksumMismatch,
    NetworkError,
    ServerError,
    SizeMismatch,
    SlideError,
    UnsupportedSlide,
)
from tcgamirror.model.slide import Resample, Slide, Target
from tcgamirror.net.client import HttpClient
from tcgamirror.sources.whole import LocalFile
from tests.bench.ours import update
from tests.gdc import Fault, Listed, StandIn, listed
from tests.gdc.faults import Kind
from tests.support.fetching import by_whole, made, slide_of
from tests.support.levels import ZOO, by_openslide, real_slide
from tests.support.slides import SlideSpec, make_slide

PIECE = 50_000
"""Bytes that come before a connection breaks."""
FAR = Target(mpp=15.0, max_size=None)
LARGE = SlideSpec(24_000, 18_000, (1,), offsets="shared")
LARGE_J2K = SlideSpec(12_000, 9_000, (1,), compression="j2k-rgb", offsets="shared")


@pytest.fixture(scope="module")
def plain(zoo_slides: Mapping[str, Path]) -> Listed:
    return listed(zoo_slides["plain"])


@pytest.fixture
def gdc(plain: Listed) -> Iterator[StandIn]:
    with StandIn([plain]) as gdc:
        yield gdc


def image(path: Path, target: Target, client: HttpClient, work: Path) -> Pixels:
    file = listed(path)
    with StandIn([file]) as gdc:
        pixels = made(by_whole(gdc, client, work), slide_of(file), target).pixels
    assert left_in(work) == []
    return pixels


def left_in(work: Path) -> list[Path]:
    return list(work.rglob("*")) if work.exists() else []


# Pixels ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["plain", "j2k-rgb", "base-only", "everything"])
def test_an_image_at_an_mpp_shows_the_slide_where_it_is(
    name: str, zoo_slides: Mapping[str, Path], client: HttpClient, tmp_path: Path
) -> None:
    """Against the base level shrunk at once, which is blurred alike but knows of no levels."""
    found = image(zoo_slides[name], Target(5.0, None), client, tmp_path)
    spec = ZOO[name]
    assert spec.mpp is not None
    width, height = (round(side * spec.mpp / 5) for side in (spec.width, spec.height))
    assert found.shape == (height, width, 3)
    base = Image.fromarray(by_openslide(zoo_slides[name], 0))
    shrunk = np.asarray(base.resize((width, height), Image.Resampling.BOX))
    error = np.abs(found.astype(int) - shrunk)
    assert np.median(error) <= 2
    assert error.mean() < 5


def test_native_at_an_mpp_keeps_the_levels_own_pixels(
    zoo_slides: Mapping[str, Path], client: HttpClient, tmp_path: Path
) -> None:
    path = zoo_slides["plain"]
    found = image(path, Target(2.0, None, Resample.NATIVE), client, tmp_path)
    assert np.array_equal(found, by_openslide(path, 1))


# What is no slide -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("not-a-tiff.svs", BadSlide, "does not begin as a TIFF"),
        ("unreadable.svs", BadTile, "column 0, row 0 is damaged"),
        ("unopenable.tiff", UnsupportedSlide, "OpenSlide cannot read the level"),
    ],
)
def test_a_broken_slide_is_refused_and_not_kept(
    name: str, error: type[SlideError], words: str, client: HttpClient, tmp_path: Path
) -> None:
    with pytest.raises(error, match=words):
        image(real_slide(name), Target(None, 16), client, tmp_path)
    assert left_in(tmp_path) == []


@pytest.mark.parametrize("kept", [0.02, 0.5, 0.98])
@pytest.mark.parametrize("name", ["plain", "big-j2k"])
def test_a_slide_that_was_cut_off_before_it_was_listed_is_refused(
    name: str, kept: float, zoo_slides: Mapping[str, Path], client: HttpClient, tmp_path: Path
) -> None:
    data = zoo_slides[name].read_bytes()
    cut = tmp_path / "cut.svs"
    cut.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(BadSlide):
        image(cut, FAR, client, tmp_path / "work")
    assert left_in(tmp_path / "work") == []


def test_a_file_that_is_shorter_than_asked_is_no_slide(tmp_path: Path) -> None:
    path = tmp_path / "short"
    path.write_bytes(b"abc")
    with LocalFile(path) as file:
        assert file.read(Span(1, 3)) == b"bc"
        with pytest.raises(BadSlide, match="ends within bytes 1-3"):
            file.read(Span(1, 4))


# What comes over the network ------------------------------------------------------


@pytest.mark.parametrize(
    ("faults", "error"),
    [
        ({"": "flipped"}, ChecksumMismatch),
        ({"bucket": "flipped", "api": "404"}, ChecksumMismatch),
        *(({"": kind}, NetworkError) for kind in ("html", "foreign-json", "empty")),
    ],
)
def test_anything_else_in_place_of_the_file_is_noticed_and_not_kept(
    faults: Mapping[str, Kind],
    error: type[Exception],
    gdc: StandIn,
    plain: Listed,
    client: HttpClient,
    tmp_path: Path,
) -> None:
    for host, kind in faults.items():
        gdc.faults.add(Fault(plain.file_id, kind, host=host or None))  # type: ignore[arg-type]
    with pytest.raises(error):
        made(by_whole(gdc, client, tmp_path), slide_of(plain), FAR)
    assert not [path for path in left_in(tmp_path) if path.is_file() and path.stat().st_size]


def test_an_origin_with_another_file_is_passed_over_for_the_next(
    gdc: StandIn, plain: Listed, client: HttpClient, tmp_path: Path
) -> None:
    gdc.faults.add(Fault(plain.file_id, "flipped", host="bucket"))
    made(by_whole(gdc, client, tmp_path), slide_of(plain), FAR)
    assert [record.host for record in gdc.requests(plain.file_id)] == ["bucket", "api"]
    assert left_in(tmp_path) == []


def test_a_file_of_another_size_is_refused_unread(
    gdc: StandIn, plain: Listed, client: HttpClient, tmp_path: Path
) -> None:
    slide = replace(slide_of(plain), size=plain.size + 1)
    with pytest.raises(SizeMismatch):
        made(by_whole(gdc, client, tmp_path), slide, FAR)


def test_a_slide_of_which_only_the_name_is_known_is_made(
    gdc: StandIn, plain: Listed, client: HttpClient, tmp_path: Path
) -> None:
    slide = Slide(plain.file_id, plain.file_name)
    made(by_whole(gdc, client, tmp_path), slide, FAR)
    assert left_in(tmp_path) == []
    gdc.faults.add(Fault(plain.file_id, "html"))
    with pytest.raises((NetworkError, BadSlide)):
        made(by_whole(gdc, client, tmp_path), slide, FAR)


@pytest.mark.parametrize("next_run", [False, True])
def test_a_body_cut_off_is_resumed_where_it_ended(
    gdc: StandIn, plain: Listed, client: HttpClient, tmp_path: Path, next_run: bool
) -> None:
    gdc.faults.add(Fault(plain.file_id, "cut", when="once", after=PIECE))
    if next_run:
        gdc.faults.add(Fault(plain.file_id, "503", retry_after=None))
        with pytest.raises(ServerError):
            made(by_whole(gdc, client, tmp_path), slide_of(plain), FAR)
        assert [p.stat().st_size for p in left_in(tmp_path) if p.is_file()] == [PIECE]
        gdc.faults.clear()
        gdc.clear()
    found = made(by_whole(gdc, client, tmp_path), slide_of(plain), FAR)
    assert gdc.requests(plain.file_id)[-1].range == f"bytes={PIECE}-"
    assert found.meter.bytes == plain.size - (PIECE if next_run else 0)
    assert left_in(tmp_path) == []


def test_a_leftover_that_is_another_file_is_replaced(
    gdc: StandIn, plain: Listed, client: HttpClient, tmp_path: Path
) -> None:
    leftover = tmp_path / plain.file_id / "whole" / "slide.svs"
    leftover.parent.mkdir(parents=True)
    leftover.write_bytes(b"x" * plain.size)
    found = made(by_whole(gdc, client, tmp_path), slide_of(plain), FAR)
    assert found.meter.bytes == plain.size


# Memory ---------------------------------------------------------------------------


@pytest.mark.parametrize("spec", [LARGE, LARGE_J2K], ids=["jpeg", "j2k"])
def test_a_large_base_level_alone_takes_little_memory(spec: SlideSpec, tmp_path: Path) -> None:
    with StandIn([listed(make_slide(tmp_path / "s.svs", spec))]) as gdc:
        assert update(gdc, "whole", workers=1).footprint.peak < 300e6
