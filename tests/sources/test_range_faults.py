"""Every fault of the network at each request of a slide's fetch: the right image or a named error.

Only what an answer says of itself can be checked: a Range answer has no checksum. Wrong
statuses, lengths, spans, totals, ETags and broken connections are all noticed,
and the image is then right or there is none. Bytes that were flipped under way
(which TCP and TLS notice, and a broken disk or cache may not) are noticed where
they break the JPEG stream, the TIFF structure, or what both say of each other;
a flip that leaves a valid stream gives other pixels within its own tile, and one
in a description another resolution or none. `whole`, which has the md5, sees all.
"""

from __future__ import annotations

import itertools
import os
import random
import struct
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tcgamirror.imaging.decode import Pixels
from tcgamirror.imaging.tiff import Tag
from tcgamirror.model.errors import (
    BadSlide,
    NetworkError,
    NotFound,
    RangeMismatch,
    RangeUnsupported,
    Refused,
    ServerError,
    SizeMismatch,
    SlideError,
    Timeout,
    TooLong,
    Truncated,
    Unreachable,
    WrongContent,
)
from tcgamirror.model.slide import Target
from tcgamirror.net.client import HttpClient, host_key
from tests.gdc import Listed, StandIn, listed
from tests.gdc.faults import Kind
from tests.support.fetching import SHORT, At, by_range, made, origins_of, slide_of
from tests.support.slides import SlideSpec, make_slide

SPEC = SlideSpec(width=2603, height=2209, downsamples=(1, 4), offsets="shuffled")
HASTY = replace(SHORT, first_byte=1.5)
COARSE = Target(mpp=None, max_size=400)
BASE = Target(mpp=None, max_size=2603)
REQUESTS = 7
"""Requests of a base: the header, the file's end, two directories, its tiles in three parts."""

SEEN: dict[Kind, type[NetworkError]] = {
    "403": Refused,
    "404": NotFound,
    "429": ServerError,
    "500": ServerError,
    "503": ServerError,
    "504": ServerError,
    "redirect": Unreachable,
    "reset": Unreachable,
    "reset-mid-body": Truncated,
    "cut": Truncated,
    "stall": Timeout,
    "drip": Timeout,
    "slow-headers": Timeout,
    "empty": Truncated,
    "html": WrongContent,
    "foreign-json": WrongContent,
    "length-too-large": TooLong,
    "length-too-small": Truncated,
    "range-ignored": RangeUnsupported,
    "empty-200": WrongContent,
    "slice-200": WrongContent,
    "wrong-content-range": RangeMismatch,
    "wrong-total": SizeMismatch,
    "endless-body": TooLong,
    "truncated-json": Truncated,
}
"""What a fault is called, where it strikes always."""

UNSEEN: tuple[Kind, ...] = ("changed-etag", "endless-page")
"""The GDC tells no ETag, and pages are the listing's; "flipped" has tests of its own."""


@dataclass(frozen=True, slots=True)
class Case:
    """A slide of its own, with its fault at the `nth` request, there alone or from there on."""

    file: Listed
    nth: int
    alone: bool


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> list[Case]:
    path = make_slide(tmp_path_factory.mktemp("faults") / "slide.svs", SPEC)
    strokes = itertools.product(range(1, REQUESTS + 1), (True, False))
    return [
        Case(listed(path, file_id=f"{number:08x}-0000-4000-8000-000000000000"), nth, alone)
        for number, (nth, alone) in enumerate(strokes)
    ]


@pytest.fixture(scope="module")
def right(cases: list[Case], tmp_path_factory: pytest.TempPathFactory) -> Pixels:
    with StandIn([cases[0].file]) as gdc, HttpClient(timeouts=SHORT) as client:
        source = by_range(gdc, client, tmp_path_factory.mktemp("right"))
        image = made(source, slide_of(cases[0].file), BASE)
        assert len(gdc.served) == REQUESTS
        return image.pixels


def outcomes(
    kind: Kind, cases: list[Case], work: Path, *, bucket: bool
) -> dict[tuple[int, bool], Pixels | NetworkError | SlideError]:
    """What came of each case; all of them at the same time, as most only wait."""
    with StandIn([case.file for case in cases]) as gdc:
        limits = dict.fromkeys(map(host_key, (gdc.api, gdc.bucket)), 64)
        with HttpClient(timeouts=HASTY, limits=limits) as client:

            def outcome(case: Case) -> Pixels | NetworkError | SlideError:
                gdc.faults.add(
                    At(
                        case.file.file_id,
                        kind,
                        host="bucket" if bucket else "api",
                        retry_after=None,
                        nth=case.nth,
                        alone=case.alone,
                    )
                )
                origins = origins_of(gdc, bucket=bucket)
                try:
                    image = made(by_range(gdc, client, work, origins), slide_of(case.file), BASE)
                except (NetworkError, SlideError) as error:
                    return error
                assert image.rendition.mpp_x == 0.252
                return image.pixels

            with ThreadPoolExecutor(len(cases)) as pool:
                came = list(pool.map(outcome, cases))
    return {(case.nth, case.alone): one for case, one in zip(cases, came, strict=True)}


@pytest.mark.parametrize("kind", [*SEEN, *UNSEEN])
def test_with_one_origin_a_fault_at_any_request_is_passed_over_or_named(
    kind: Kind, cases: list[Case], right: Pixels, tmp_path: Path
) -> None:
    for (nth, alone), came in outcomes(kind, cases, tmp_path, bucket=False).items():
        expected = SEEN.get(kind)
        if expected is None or (alone and expected.retryable):
            assert isinstance(came, np.ndarray), (nth, alone, came)
            assert np.array_equal(came, right), (nth, alone)
        else:
            assert isinstance(came, expected), (nth, alone, came)


@pytest.mark.parametrize("kind", [*SEEN, *UNSEEN])
def test_with_a_second_origin_a_fault_of_the_first_never_shows(
    kind: Kind, cases: list[Case], right: Pixels, tmp_path: Path
) -> None:
    some = cases[::3]  # both kinds of stroke, at the first and at later requests
    for case, came in outcomes(kind, some, tmp_path, bucket=True).items():
        assert isinstance(came, np.ndarray), (case, came)
        assert np.array_equal(came, right), case


def test_flips_keep_the_structure(cases: list[Case], right: Pixels, tmp_path: Path) -> None:
    noticed = 0
    for case, came in outcomes("flipped", cases, tmp_path, bucket=False).items():
        if isinstance(came, SlideError | NetworkError):
            noticed += 1
            continue
        assert isinstance(came, np.ndarray)
        assert came.shape == right.shape, case
        # Five bytes an answer: other pixels in as many tiles and no more.
        tiles = {
            (row // 240, column // 240)
            for row, column in np.argwhere((came != right).any(axis=2)).tolist()
        }
        assert len(tiles) <= 5 * (1 if case[1] else REQUESTS), case
    assert noticed >= len(cases) // 2


# Damage in the file itself --------------------------------------------------------------


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    spec = SlideSpec(width=1203, height=909, downsamples=(1, 4, 16), label_and_macro=True)
    return make_slide(tmp_path_factory.mktemp("damaged") / "slide.svs", spec)


def damaged(folder: Path, data: bytes | bytearray) -> Listed:
    path = folder / "slide.svs"
    path.write_bytes(data)
    return listed(path)


def directory_places(data: bytes) -> list[int]:
    """Where the directories of a classic little-endian TIFF begin."""
    places = [struct.unpack_from("<I", data, 4)[0]]
    while True:
        (count,) = struct.unpack_from("<H", data, places[-1])
        (following,) = struct.unpack_from("<I", data, places[-1] + 2 + 12 * count)
        if not following:
            return places
        places.append(following)


def entry_place(data: bytes, directory: int, tag: int) -> int:
    (count,) = struct.unpack_from("<H", data, directory)
    for place in range(directory + 2, directory + 2 + 12 * count, 12):
        if struct.unpack_from("<H", data, place)[0] == tag:
            return place
    raise KeyError(tag)


@settings(max_examples=60)
@given(seed=st.integers(0, 1 << 30), changes=st.integers(1, 4))
def test_any_change_to_directories_ends_soon_in_an_image_or_a_named_error(
    seed: int, changes: int, slide: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    rng = random.Random(seed)
    data = bytearray(slide.read_bytes())
    regions = [range(8), *(range(place, place + 220) for place in directory_places(bytes(data)))]
    for _ in range(changes):
        place = rng.choice(rng.choice(regions))
        if place < len(data):
            data[place] = rng.choice((0, 1, 0x7F, 0xFF, rng.randrange(256)))
    folder = tmp_path_factory.mktemp("changed")
    file = damaged(folder, data)
    began = time.monotonic()
    with StandIn([file]) as gdc, HttpClient(timeouts=SHORT) as client:
        with suppress(NetworkError, SlideError):
            made(by_range(gdc, client, folder / "work"), slide_of(file), COARSE)
        # Each of two origins may be asked for each byte once.
        assert gdc.bytes_sent() <= 2 * len(data)
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("tag", [Tag.TILE_OFFSETS, Tag.TILE_COUNTS])
@pytest.mark.parametrize("count", [0, 5, 100_000, 500_000_000, 0xFFFFFFFF])
def test_an_absurd_count_of_tiles_is_refused_without_fetching_it(
    slide: Path, tmp_path: Path, client: HttpClient, tag: int, count: int
) -> None:
    data = bytearray(slide.read_bytes())
    directory = directory_places(bytes(data))[0]
    struct.pack_into("<I", data, entry_place(bytes(data), directory, tag) + 4, count)
    file = replace(damaged(tmp_path, data), size=3 << 30)
    os.truncate(tmp_path / "slide.svs", 3 << 30)
    with StandIn([file]) as gdc:
        with pytest.raises(BadSlide):
            made(by_range(gdc, client, tmp_path), slide_of(file), Target(None, 1203))
        assert gdc.bytes_sent() < 64_000
        assert {record.host for record in gdc.served} == {"bucket"}
    assert not (tmp_path / file.file_id).exists()


@pytest.mark.parametrize("where", ["first", "next", "array"])
def test_an_offset_beyond_the_end_is_refused(
    slide: Path, tmp_path: Path, client: HttpClient, where: str
) -> None:
    data = bytearray(slide.read_bytes())
    first = directory_places(bytes(data))[0]
    (count,) = struct.unpack_from("<H", data, first)
    array = entry_place(bytes(data), first, Tag.TILE_OFFSETS) + 8
    place = {"first": 4, "next": first + 2 + 12 * count, "array": array}[where]
    struct.pack_into("<I", data, place, 0xFFFFFFF0)
    file = damaged(tmp_path, data)
    with StandIn([file]) as gdc:
        with pytest.raises(BadSlide, match="outside"):
            made(by_range(gdc, client, tmp_path / "work"), slide_of(file), Target(None, 1203))
        beyond = [record for record in gdc.served if record.status == 416]
    assert beyond == []


def test_a_loop_of_directories_is_refused(slide: Path, tmp_path: Path, client: HttpClient) -> None:
    data = bytearray(slide.read_bytes())
    places = directory_places(bytes(data))
    (count,) = struct.unpack_from("<H", data, places[2])
    struct.pack_into("<I", data, places[2] + 2 + 12 * count, places[1])
    file = damaged(tmp_path, data)
    with StandIn([file]) as gdc:
        with pytest.raises(BadSlide, match="loop"):
            made(by_range(gdc, client, tmp_path / "work"), slide_of(file), COARSE)
        assert len(gdc.served) <= 6
