"""The source `range`: the same pixels as the whole file's, for the bytes of one level."""

from __future__ import annotations

import struct
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tcgamirror.imaging.svs import Svs
from tcgamirror.imaging.tiff import Tag, Tiff
from tcgamirror.model.byteranges import Span, SpanSet
from tcgamirror.model.errors import TooFine
from tcgamirror.model.geometry import Size
from tcgamirror.model.slide import Slide, Target
from tcgamirror.net.client import HttpClient
from tcgamirror.net.throttle import Meter
from tcgamirror.sources.range import (
    GAP,
    LOOK_AHEAD,
    MAX_SPECULATIVE_BYTES,
    MIN_PART_BYTES,
    TAIL,
    Range,
)
from tcgamirror.sources.whole import LocalFile
from tcgamirror.sources.workspace import Lease, Workspace
from tests.gdc import Listed, Record, StandIn, listed
from tests.support.fetching import (
    by_range,
    by_whole,
    directories,
    level_sizes,
    level_target,
    made,
    origins_of,
    overlaps,
    ranges,
    slide_of,
    workspace,
)
from tests.support.levels import (
    EVERY_SLIDE,
    ZOO,
    by_openslide,
    redrawn_by_openslide,
    slide_at,
    tile_spans,
)
from tests.support.slides import SlideSpec, make_slide
from tests.support.slides_spec import tile_box

BYTES_BESIDE_THE_TILES = 100_000
REQUESTS_BESIDE_THE_DIRECTORIES = 6
COARSE = Target(mpp=8.5, max_size=None)
"""For which the last of levels reduced by 1, 4, 16 and 32 will do."""


def tile_bytes(path: Path, level: int) -> int:
    """Bytes that the level's tiles take; those shared by several count once."""
    with LocalFile(path) as file:
        return SpanSet(tile_spans(Svs(file).tile_table(level))).total


def counts_bytes(path: Path) -> int:
    """Bytes of what tells which tiles of the base are missing."""
    with LocalFile(path) as file:
        return Svs(file).counts_span(0).length


def shared_bytes(one: SpanSet, others: SpanSet) -> int:
    return sum(span.length - sum(gap.length for gap in others.gaps(span)) for span in one)


def not_to_be_fetched(path: Path, level: int) -> SpanSet:
    """Colour profile, strips of thumbnail and label, and the other levels' tiles and arrays."""
    with LocalFile(path) as file:
        slide, tiff = Svs(file), Tiff(file)
        spans = []
        for other in range(len(slide.levels)):
            if other != level:
                spans += [*tile_spans(slide.tile_table(other)), *slide.array_spans(other)]
        for directory in tiff.directories():
            profile = directory.entries.get(Tag.ICC_PROFILE)
            spans += [profile.span] if profile is not None else []
            if 273 in directory.entries:
                count = directory.entries[273].count
                starts, lengths = (directory.numbers(tag, count) for tag in (273, 279))
                spans += [Span(a, a + n) for a, n in zip(starts, lengths, strict=True)]
        wanted = SpanSet([*tile_spans(slide.tile_table(level)), slide.counts_span(0)])
    return SpanSet(gap for span in spans for gap in wanted.gaps(span))


@EVERY_SLIDE
def test_every_level_is_what_the_whole_file_and_openslide_give_for_few_bytes(
    name: str, zoo_slides: Mapping[str, Path], tmp_path: Path, client: HttpClient
) -> None:
    path = slide_at(name, zoo_slides)
    file = listed(path)
    with StandIn([file]) as gdc:
        for level, size in enumerate(level_sizes(path)):
            gdc.clear()
            image = made(by_range(gdc, client, tmp_path), slide_of(file), level_target(size))
            records, spans = gdc.served, ranges(gdc.served)
            whole = made(by_whole(gdc, client, tmp_path), slide_of(file), level_target(size))
            assert np.array_equal(image.pixels, whole.pixels)
            assert image.rendition == whole.rendition
            assert image.rendition.level == level
            here, there = whole.pixels.copy(), by_openslide(path, level).copy()
            # OpenSlide renders tiles that are missing or above missing ones in its own way.
            for place in redrawn_by_openslide(ZOO[name], level) if name in ZOO else ():
                left, top, right, bottom = map(int, tile_box(ZOO[name], level, *place))
                here[top:bottom, left:right] = there[top:bottom, left:right] = 0
            assert np.array_equal(here, there)

            fetched = sum(record.bytes_sent for record in records)
            assert fetched == image.meter.bytes == sum(span.length for span in spans)
            assert len(records) == image.meter.requests
            assert overlaps(spans) == []
            if image.patched:
                continue  # which takes tiles of finer levels
            most = 1.10 * tile_bytes(path, level) + BYTES_BESIDE_THE_TILES + counts_bytes(path)
            assert fetched <= most
            assert len(records) <= directories(path) + REQUESTS_BESIDE_THE_DIRECTORIES
            # The look-ahead of the header and of each directory may run into what follows it,
            # and what lies at the file's end need not be the chosen level's.
            looked = LOOK_AHEAD * (directories(path) + 1) + GAP + TAIL
            assert shared_bytes(not_to_be_fetched(path, level), SpanSet(spans)) <= looked
    assert not (tmp_path / file.file_id).exists()


@pytest.mark.parametrize("name", [name for name, spec in ZOO.items() if spec.blank])
def test_the_image_is_white_where_the_base_has_no_tile_and_nowhere_else(
    name: str, zoo_slides: Mapping[str, Path], tmp_path: Path, client: HttpClient
) -> None:
    """But for two pixels at the edges of those tiles, which show both."""
    spec, file = ZOO[name], listed(zoo_slides[name])
    with StandIn([file]) as gdc:
        for size in level_sizes(zoo_slides[name]):
            image = made(by_range(gdc, client, tmp_path), slide_of(file), level_target(size))
            white = (image.pixels == 255).all(axis=2)
            blank = np.zeros(white.shape, bool)
            step = np.array((spec.width / size.width, spec.height / size.height) * 2)
            for _, column, row in (place for place in spec.blank if place[0] == 0):
                box = np.array(tile_box(spec, 0, column, row)) / step
                left, top = np.floor(box[:2]).astype(int)
                right, bottom = np.ceil(box[2:]).astype(int)
                blank[top:bottom, left:right] = True
                assert white[top + 2 : bottom - 2, left + 2 : right - 2].all()
            assert white[~blank].mean() < 0.01 if not blank.all() else white.all()


def test_the_exact_resolution_is_made_of_the_level_above(
    zoo_slides: Mapping[str, Path], tmp_path: Path, client: HttpClient
) -> None:
    file = listed(zoo_slides["four-levels-to-32"])
    with StandIn([file]) as gdc:
        image = made(by_range(gdc, client, tmp_path), slide_of(file), Target(2.0, None))
        assert image.rendition.level == 1
        assert image.pixels.shape[1::-1] == (round(2403 * 0.252 / 2), round(1809 * 0.252 / 2))
        assert image.rendition.mpp_x == pytest.approx(0.252 * 2403 / image.pixels.shape[1])
        finer = made(by_range(gdc, client, tmp_path), slide_of(file), Target(0.25, None))
        assert finer.rendition.level == 0
        # The base of 2403 × 1809 pixels at 0.252 µm/px is enlarged by 0.8 %.
        assert finer.pixels.shape[1::-1] == (2422, 1823)
        with pytest.raises(TooFine):
            made(by_range(gdc, client, tmp_path), slide_of(file), Target(0.1, None))
    assert not (tmp_path / file.file_id).exists()


def test_a_colour_profile_of_megabytes_is_not_fetched(tmp_path: Path, client: HttpClient) -> None:
    spec = SlideSpec(width=1203, height=809, downsamples=(1, 4), icc_bytes=9_000_000)
    file = listed(make_slide(tmp_path / "profile.svs", spec))
    with StandIn([file]) as gdc:
        image = made(by_range(gdc, client, tmp_path), slide_of(file), Target(None, 301))
        assert image.rendition.level == 1
        assert gdc.bytes_sent() < 200_000


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A slide of whose four levels the last lies far from the one before."""
    spec = SlideSpec(width=16_003, height=12_001, downsamples=(1, 4, 16, 32))
    return make_slide(tmp_path_factory.mktemp("deep") / "slide.svs", spec)


def rounds(records: Sequence[Record]) -> int:
    """The longest chain of requests of which each began after the one before had ended."""
    depths: dict[int, int] = {}
    for index, record in enumerate(records):
        before = (depths[other] for other in depths if records[other].ended <= record.time)
        depths[index] = 1 + max(before, default=0)
    return max(depths.values())


@pytest.mark.parametrize(("label_and_macro", "most"), [(False, 4), (True, 5)])
def test_a_slide_takes_few_rounds(
    tmp_path: Path, client: HttpClient, label_and_macro: bool, most: int
) -> None:
    """The chain of directories takes six or eight of them, one after another."""
    spec = SlideSpec(width=8003, height=6001, downsamples=(1, 4, 16, 32), tile=(128, 128))
    spec = replace(spec, label_and_macro=label_and_macro)
    file = listed(make_slide(tmp_path / "slide.svs", spec))
    with StandIn([file]) as gdc:
        gdc.delay = 0.3
        made(by_range(gdc, client, tmp_path / "work"), slide_of(file), COARSE)
        assert rounds(gdc.served) <= most


def test_a_usual_slide_takes_few_requests(tmp_path: Path, client: HttpClient) -> None:
    """Also where the tiles and the base's counts take megabytes."""
    spec = SlideSpec(
        width=100_000, height=80_000, downsamples=(1, 4, 16, 32), offsets="shared", seed=4
    )
    path = make_slide(tmp_path / "slide.svs", spec)
    file = listed(path)
    with StandIn([file]) as gdc:
        made(by_range(gdc, client, tmp_path / "work"), slide_of(file), COARSE)
        assert len(gdc.served) <= directories(path) + REQUESTS_BESIDE_THE_DIRECTORIES


def test_tiles_come_together_with_their_offsets(tmp_path: Path, client: HttpClient) -> None:
    spec = SlideSpec(width=4003, height=3001, downsamples=(1, 2, 16), tile=(32, 32))
    path = make_slide(tmp_path / "slide.svs", spec)
    file = listed(path)
    with LocalFile(path) as local:
        arrays, table = SpanSet(Svs(local).array_spans(1)), Svs(local).tile_table(1)
    with StandIn([file]) as gdc:
        gdc.delay = 0.3
        made(
            by_range(gdc, client, tmp_path / "work"), slide_of(file), level_target(Size(2002, 1501))
        )
        served = list(zip(gdc.served, ranges(gdc.served), strict=True))
        assert overlaps([span for _, span in served]) == []
    for_arrays = [record.time for record, span in served if arrays.gaps(span) != [span]]
    tiles = SpanSet(tile_spans(table))
    for_tiles = [record.time for record, span in served if tiles.gaps(span) != [span]]
    assert max(for_tiles) - max(for_arrays) < gdc.delay


def with_decoy(
    deep: Path, path: Path, tags: Mapping[int, tuple[int, int]], between: bytes
) -> Listed:
    """The slide, `between`, and then a copy of the last directory that is not in the chain.

    tags: what the copy has other counts and values of, as they stand in its entries.
    """
    data = bytearray(deep.read_bytes())
    with LocalFile(deep) as local:
        *_, before, _ = Tiff(local).directories()
    copy = bytearray(data[before.next : before.next + 1000])
    data += between
    for tag, values in {**tags, Tag.BITS: (3, len(data))}.items():
        kind = 3 if tag == Tag.BITS else 4
        struct.pack_into("<II", copy, copy.index(struct.pack("<HH", tag, kind)) + 4, *values)
    path.write_bytes(data + struct.pack("<3H", 8, 8, 8) + copy)
    return listed(path)


def spans_for_the_right_image(file: Listed, work: Path, client: HttpClient) -> SpanSet:
    """What `range` asks for, to make the same image as of the whole file."""
    with StandIn([file]) as gdc:
        image = made(by_range(gdc, client, work), slide_of(file), COARSE)
        spans = SpanSet(ranges(gdc.served))
        whole = made(by_whole(gdc, client, work), slide_of(file), COARSE)
    assert np.array_equal(image.pixels, whole.pixels)
    assert image.rendition == whole.rendition
    return spans


def test_stray_directories_are_ignored(deep: Path, tmp_path: Path, client: HttpClient) -> None:
    """One whose tiles are said to lie where the base's do, and one with its arrays nowhere."""
    with LocalFile(deep) as local:
        count = len(Svs(local).tile_table(3).offsets)
    place = deep.stat().st_size + TAIL
    offsets = struct.pack(f"<{count}I", *range(20_000, 20_000 + count))
    counts = struct.pack(f"<{count}I", *[1000] * count)
    tags = {Tag.TILE_OFFSETS: (count, place), Tag.TILE_COUNTS: (count, place + 4 * count)}
    file = with_decoy(deep, tmp_path / "slide.svs", tags, bytes(TAIL) + offsets + counts)
    spans = spans_for_the_right_image(file, tmp_path / "work", client)
    assert not spans.gaps(Span(20_000, 21_000)), "for a moment, and tried"
    tags = dict.fromkeys((Tag.TILE_OFFSETS, Tag.TILE_COUNTS), (count, 0xFFFFFFF0))
    file = with_decoy(deep, tmp_path / "slide.svs", tags, bytes(20_000))
    spans_for_the_right_image(file, tmp_path / "other", client)


def test_a_stray_directory_moves_little(deep: Path, tmp_path: Path, client: HttpClient) -> None:
    """Its level has three million tiles, and an array of 12 MB for where they lie."""
    tiles, place = 3_000_000, deep.stat().st_size
    tags = {
        Tag.WIDTH: (1, 8000),
        Tag.HEIGHT: (1, 6000),
        Tag.TILE_WIDTH: (1, 4),
        Tag.TILE_HEIGHT: (1, 4),
        Tag.TILE_OFFSETS: (tiles, place),
        Tag.TILE_COUNTS: (tiles, place + 4 * tiles),
    }
    assert 4 * tiles > MAX_SPECULATIVE_BYTES
    file = with_decoy(deep, tmp_path / "slide.svs", tags, bytes(8 * tiles + TAIL))
    spans = spans_for_the_right_image(file, tmp_path / "work", client)
    assert spans.total < MAX_SPECULATIVE_BYTES


def test_a_large_level_comes_over_four_connections(tmp_path: Path, client: HttpClient) -> None:
    spec = SlideSpec(width=4803, height=4009, downsamples=(1, 4), tile=(256, 256))
    file = listed(make_slide(tmp_path / "large.svs", spec))
    with StandIn([file]) as gdc:
        gdc.rate = 8e6
        made(by_range(gdc, client, tmp_path), slide_of(file), Target(None, 4803))
        large = [span for span in ranges(gdc.served) if span.length > 100_000]
        assert len(large) == 4
        assert max(large, key=len).length <= 1.01 * min(span.length for span in large) + GAP
        assert gdc.connections_open_peak["bucket"] == 4
        assert len({record.connection for record in gdc.served}) == 4


def test_a_size_that_is_not_listed_comes_from_the_server(
    zoo_slides: Mapping[str, Path], tmp_path: Path, client: HttpClient
) -> None:
    file = listed(zoo_slides["everything"])
    with StandIn([file]) as gdc:
        slide = Slide(file.file_id, file.file_name)
        base = by_range(gdc, client, tmp_path).read_header(slide, Meter())
        found = made(by_range(gdc, client, tmp_path), slide, COARSE)
        listed_size = made(by_range(gdc, client, tmp_path), slide_of(file), COARSE)
    assert base is not None and base.mpp.value is not None
    assert np.array_equal(found.pixels, listed_size.pixels)


def test_the_header_is_read_for_two_small_requests_and_not_fetched_again(
    zoo_slides: Mapping[str, Path], tmp_path: Path, client: HttpClient
) -> None:
    file = listed(zoo_slides["everything"])
    with StandIn([file]) as gdc:
        source, meter = by_range(gdc, client, tmp_path), Meter()
        base = source.read_header(slide_of(file), meter)
        assert (base.size, base.mpp.value) == ((2403, 1809), 0.252)
        assert meter.requests == len(gdc.served) == 2
        assert meter.bytes <= 2 * LOOK_AHEAD
        made(source, slide_of(file), Target(None, 99))
        assert overlaps(ranges(gdc.served)) == []


def test_no_tiles_come_before_their_reservation_where_space_is_short(
    tmp_path: Path, client: HttpClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = listed(make_slide(tmp_path / "slide.svs", SlideSpec(width=6000, height=4200)))
    sent = list[int]()

    def reserve(lease: Lease, _need: int) -> None:
        # Meanwhile, what was guessed comes.
        end = time.monotonic() + (20.0 if lease.may_guess else 0.5)
        while gdc.bytes_sent() < tiles and time.monotonic() < end:
            time.sleep(0.01)
        sent.append(gdc.bytes_sent())

    monkeypatch.setattr(Lease, "reserve", reserve)
    tiles = tile_bytes(tmp_path / "slide.svs", 1)
    for limit, min_free in ((None, 0), (50_000_000, 0), (None, 1 << 60)):
        work = Workspace(tmp_path / "work", limit, threading.Event(), min_free)
        with StandIn([file]) as gdc:
            source = Range(client, origins_of(gdc), work, lambda: True)
            made(source, slide_of(file), Target(mpp=1.0, max_size=None))
    guessed, *limited = sent
    assert max(limited) < tiles <= guessed


@pytest.mark.parametrize(("is_urgent", "parts"), [(True, 3), (False, 1)])
def test_tiles_are_split_into_several_requests_for_idle_cores(
    tmp_path: Path, client: HttpClient, is_urgent: bool, parts: int
) -> None:
    file = listed(make_slide(tmp_path / "slide.svs", SlideSpec(width=3000, height=2100)))
    assert 3 * MIN_PART_BYTES < tile_bytes(tmp_path / "slide.svs", 0) < 4 * MIN_PART_BYTES
    with StandIn([file]) as gdc:
        source = Range(client, origins_of(gdc), workspace(tmp_path / "work"), lambda: is_urgent)
        with source.open(slide_of(file), level_target(Size(3000, 2100)), Meter()):
            pass
        large = [span for span in ranges(gdc.served) if span.length > MIN_PART_BYTES // 2]
    assert len(large) == parts
