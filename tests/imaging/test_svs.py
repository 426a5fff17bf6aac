"""A slide's structure against OpenSlide's, what is read for it, and what is refused."""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

import openslide
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tcgamirror.imaging.svs import Svs, TileTable, aperio_properties, choose_mpp, read_slide_header
from tcgamirror.imaging.tiff import Tag, Tiff
from tcgamirror.model.byteranges import Span, coalesce
from tcgamirror.model.errors import BadSlide
from tcgamirror.model.geometry import Size
from tcgamirror.model.slide import UNKNOWN_MPP, Mpp, MppSource
from tcgamirror.sources.whole import LocalFile
from tests.support.levels import EVERY_SLIDE, ZOO, Bytes, bounded, slide_at, tile_spans
from tests.support.slides import SlideSpec, make_slide
from tests.support.slides_tiff import LONG8, UNDEFINED, Field, text, write_tiles

INCH, CENTIMETRE = 2, 3
QUARTER_PER_CM = 10_000 / 0.25


@EVERY_SLIDE
def test_the_structure_is_the_one_openslide_sees(name: str, zoo_slides: Mapping[str, Path]) -> None:
    path = slide_at(name, zoo_slides)
    with LocalFile(path) as file, openslide.OpenSlide(path) as oracle:
        slide = Svs(file)
        levels = slide.pyramid.levels
        assert tuple(tuple(level.size) for level in levels) == oracle.level_dimensions
        assert tuple(level.downsample for level in levels) == oracle.level_downsamples
        for index, level in enumerate(levels):
            for axis, side in zip(("width", "height"), level.tile, strict=True):
                assert oracle.properties[f"openslide.level[{index}].tile-{axis}"] == str(side)
        said = oracle.properties.get("openslide.mpp-x")
        if said is not None:
            assert (slide.pyramid.mpp.value, slide.pyramid.mpp.source) == (float(said), "header")
        assert read_slide_header(file) == slide.header


@pytest.mark.parametrize(
    ("name", "mpp", "source"),
    [
        ("plain", 0.2520, "header"),
        ("lying-appmag", 0.2325, "header"),
        ("appmag-with-decimals", 0.2277, "header"),
        ("appmag-alone", 0.25, "appmag"),
        ("appmag-not-a-number", None, "unknown"),
        ("no-resolution", None, "unknown"),
        ("resolution-tag-per-centimetre", 0.2520, "tiff"),
        ("resolution-tag-per-inch", 0.5026, "tiff"),
        ("resolution-tag-of-no-unit", None, "unknown"),
        ("resolution-tag-of-a-screen", None, "unknown"),
        ("resolution-tag-against-mpp", 0.2520, "header"),
        ("tcga-cr-7395-ts1.svs", None, "unknown"),
    ],
)
def test_the_resolution_comes_from_where_it_stands(
    name: str, mpp: float | None, source: str, zoo_slides: Mapping[str, Path]
) -> None:
    with LocalFile(slide_at(name, zoo_slides)) as file:
        found = read_slide_header(file).mpp
    assert found.source == source
    assert found.value == (None if mpp is None else pytest.approx(mpp, rel=1e-6))


@EVERY_SLIDE
def test_blank_tiles_are_those_of_the_spec(name: str, zoo_slides: Mapping[str, Path]) -> None:
    blank = ZOO[name].blank if name in ZOO else frozenset()
    with LocalFile(slide_at(name, zoo_slides)) as file:
        slide = Svs(file)
        for index, level in enumerate(slide.pyramid.levels):
            table = slide.tile_table(index)
            places = [(c, r) for r in range(level.grid.rows) for c in range(level.grid.columns)]
            found = {(index, *place) for place in places if table.span(*place) is None}
            assert found == {place for place in blank if place[0] == index}
            assert len(list(tile_spans(table))) == len(places) - len(found)


# What is read ---------------------------------------------------------------------


def touched(reads: list[Span], kept_out: Span) -> bool:
    return any(max(a.start, kept_out.start) < min(a.stop, kept_out.stop) for a in reads)


@pytest.mark.parametrize(
    "name", ["everything", "large-icc", "label-and-macro", "big-narrow-counts"]
)
@pytest.mark.parametrize("level", [0, 1, 2])
def test_little_is_read_for_one_level(
    name: str, level: int, zoo_slides: Mapping[str, Path]
) -> None:
    data = zoo_slides[name].read_bytes()
    whole, source = Svs(Bytes(data)), Bytes(data)
    slide = Svs(source)
    slide.tile_table(level)
    arrays = sum(span.length for span in slide.array_spans(level))
    assert sum(span.length for span in source.reads) < arrays + 8000
    directory = whole.levels[0].directory
    kept_out = (
        [directory.entries[Tag.ICC_PROFILE].span] if Tag.ICC_PROFILE in directory.entries else []
    )
    kept_out += [
        span
        for other in set(range(len(slide.levels))) - {level}
        for span in whole.array_spans(other)
        if span.length > 8
    ]
    kept_out += [
        span for other in range(len(slide.levels)) for span in tile_spans(whole.tile_table(other))
    ]
    kept_out += strips(data)
    source.reads.remove(Span(0, 16))  # the header, of which a classic one is shorter
    assert not [span for span in kept_out if touched(source.reads, span)]


def strips(data: bytes) -> list[Span]:
    """Where the pixels of thumbnail, label and macro lie."""
    tiff, found = Tiff(Bytes(data)), []
    for directory in tiff.directories():
        if 273 in directory.entries:
            count = directory.entries[273].count
            places = zip(*(directory.numbers(tag, count) for tag in (273, 279)), strict=True)
            found += [Span(start, start + length) for start, length in places]
    return found


# What is refused ------------------------------------------------------------------


def made(tmp_path: Path, changes: Mapping[int, Field | None], tile: bytes = b"x" * 64) -> Bytes:
    """A slide of 100 × 80 pixels in four tiles, with some tags changed."""
    path = write_tiles(tmp_path / "slide.svs", [tile] * 4, (100, 80), changes, big=True)
    return Bytes(path.read_bytes())


def parsed(source: Bytes) -> Svs:
    """The slide, with all that can be asked of it asked."""
    slide = Svs(source)
    for index in range(len(slide.levels)):
        list(tile_spans(slide.tile_table(index)))
        slide.array_spans(index)
        list(slide.tags(index))
    return slide


def number(tag: int, *values: int) -> Field:
    return Field(tag, LONG8, values)


def test_a_slide_with_nothing_changed_is_read(tmp_path: Path) -> None:
    assert parsed(made(tmp_path, {})).header.size == Size(100, 80)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        *(
            ({field.tag: field}, "invalid level")
            for field in (
                *(number(tag, 0) for tag in (256, 257, 322, 323)),
                *(number(256, 10**12), number(257, 2**64 - 1), number(322, 2**64 - 1)),
                number(322, 2049),
            )
        ),
        *(
            ({field.tag: field}, words)
            for field, words in (
                (number(322, 1), "tag 324 has 4 values for 200 tiles"),
                (number(324, *[16] * 3), "tag 324 has 3 values for 4 tiles"),
                (number(325, *[16] * 5), "tag 325 has 5 values for 4 tiles"),
                (number(324, 16, 16, 16, 10**9), "lies at byte 1000000000, outside"),
                (number(324, 16, 16, 16, 2**64 - 1), "outside"),
                (number(324, 16, 16, 16, 0), "lies at byte 0, outside"),
                (number(325, 64, 64, 64, 10**9), "outside"),
                (number(325, 64, 64, 64, 2**64 - 1), "outside"),
                (Field(347, UNDEFINED, bytes(200_000)), "tag 347 has 200000 bytes"),
                (text(270, "x" * 200_000), "tag 270 has 200001 bytes"),
                (text(256, "100"), "tag 256 is missing or no number"),
            )
        ),
        *(({tag: None}, "is missing|is not tiled") for tag in (256, 257, 322, 324, 325)),
        # A billion tiles
        ({tag: number(tag, 2_000_000) for tag in (256, 257)}, "has 976562500 tiles"),
    ],
)
def test_what_cannot_be_is_refused(
    tmp_path: Path, changes: Mapping[int, Field | None], words: str
) -> None:
    source = made(tmp_path, changes)
    with bounded(seconds=10, megabytes=5), pytest.raises(BadSlide, match=words):
        parsed(source)


def test_a_tile_of_more_bytes_than_its_pixels_can_need_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadSlide, match="more than its pixels can need"):
        parsed(made(tmp_path, {}, tile=bytes(40_000)))


@pytest.mark.parametrize("big", [False, True])
def test_a_slide_cut_off_anywhere_is_refused_or_still_whole(tmp_path: Path, big: bool) -> None:
    spec = SlideSpec(40, 30, (1,), (32, 32), big=big, thumbnail=False)
    data = make_slide(tmp_path / "s.svs", spec).read_bytes()
    whole = parsed(Bytes(data)).pyramid
    taken = 0
    with bounded(seconds=20, megabytes=50):
        for length in range(len(data)):
            try:
                assert parsed(Bytes(data[:length])).pyramid == whole
                taken += 1
            except BadSlide:
                pass
    assert taken == 0


Word = tuple[int, int, Literal[1, 2, 4, 8]]
WORDS = st.tuples(
    st.integers(0, 10**6),
    st.one_of(
        st.sampled_from([0, 1, 8, 2**16 - 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1]),
        st.integers(0, 2**64 - 1),
    ),
    st.sampled_from((1, 2, 4, 8)),
)


@pytest.fixture(scope="module")
def tiny_slides(tmp_path_factory: pytest.TempPathFactory) -> tuple[tuple[bytes, list[int]], ...]:
    """Small slides, each with the places of its header and directories: all that is not pixels."""
    folder = tmp_path_factory.mktemp("small")
    found = []
    little = SlideSpec(90, 70, (1, 2), (32, 32), shared_tables=True)
    big = replace(little, big=True)
    for spec in (little, big, replace(big, byte_order=">")):
        data = make_slide(folder / "s.svs", spec).read_bytes()
        slide = Svs(Bytes(data))
        pixels = [span for index in (0, 1) for span in tile_spans(slide.tile_table(index))]
        pixels += strips(data)
        inside = {place for span in pixels for place in range(span.start, span.stop)}
        found.append((data, [place for place in range(len(data)) if place not in inside]))
    return tuple(found)


@settings(max_examples=400)
@given(which=st.integers(0, 2), words=st.lists(WORDS, min_size=1, max_size=6))
@example(which=1, words=[(0, 0, 1)])
def test_any_change_of_the_directories_gives_a_slide_or_bad_slide(
    which: int, words: list[Word], tiny_slides: tuple[tuple[bytes, list[int]], ...]
) -> None:
    data, places = tiny_slides[which]
    changed = bytearray(data)
    for index, value, width in words:
        place = places[index % len(places)]
        changed[place : place + width] = (value % 2 ** (8 * width)).to_bytes(width, "little")
    source = Bytes(bytes(changed[: len(data)]))
    with bounded(seconds=10, megabytes=200):
        try:
            slide = parsed(source)
        except BadSlide as refusal:
            assert str(refusal)
        else:
            assert all(min(level.size) >= 1 for level in slide.pyramid.levels)


@given(
    st.lists(st.tuples(st.integers(8, 5000), st.integers(0, 300)), min_size=1, max_size=60),
    st.integers(0, 200),
)
def test_runs_are_the_tiles_spans_joined(tiles: list[tuple[int, int]], gap: int) -> None:
    offsets, counts = (array("Q", values) for values in zip(*tiles, strict=True))
    table = TileTable(len(tiles), offsets, counts)
    assert list(table.runs(gap)) == coalesce(tile_spans(table), gap)


# The resolution: which of the places that tell it is believed ------------------------


HEADER, TIFF, APPMAG = MppSource.HEADER, MppSource.TIFF, MppSource.APPMAG
QUARTER = (QUARTER_PER_CM, QUARTER_PER_CM, CENTIMETRE)
NO_TAGS = (None, None, INCH)
IMPLAUSIBLE = ("", "unknown", "nan", "inf", "-inf", "0", "-0.25", "0.0001", "72", "1e400", "0.2.5")


@pytest.mark.parametrize(
    ("properties", "tags", "mpp"),
    [
        ({"MPP": "0.2325", "AppMag": "20"}, QUARTER, Mpp(0.2325, HEADER)),
        ({"AppMag": "20"}, QUARTER, Mpp(0.25, TIFF)),
        ({"AppMag": "20"}, (None, None, CENTIMETRE), Mpp(0.5, APPMAG)),
        ({"AppMag": "20", "MPP": "0.2325"}, NO_TAGS, Mpp(0.2325, HEADER)),
        ({"MPP": "0,2520"}, NO_TAGS, Mpp(0.2520, HEADER)),
        ({}, (25_400 / 0.5, 25_400 / 0.5, INCH), Mpp(0.5, TIFF)),
        ({}, (QUARTER_PER_CM, QUARTER_PER_CM * 1.001, CENTIMETRE), Mpp(0.25, TIFF)),
        *(({"AppMag": x}, NO_TAGS, Mpp(0.25, APPMAG)) for x in ("40", "40.000000", " 40 ", "40,0")),
        # An implausible MPP is ignored.
        *(({"MPP": x, "AppMag": "40"}, NO_TAGS, Mpp(0.25, APPMAG)) for x in IMPLAUSIBLE),
    ],
)
def test_the_first_place_that_tells_the_resolution_is_believed(
    properties: dict[str, str], tags: tuple[float | None, float | None, int], mpp: Mpp
) -> None:
    assert choose_mpp(properties, *tags) == mpp


@pytest.mark.parametrize(
    ("properties", "tags"),
    [
        ({}, NO_TAGS),
        *(({"AppMag": x}, NO_TAGS) for x in ("forty", "nan", "0", "-40", "0.5", "400", "")),
        # The resolution of a screen or a printer.
        *(({}, (dpi, dpi, INCH)) for dpi in (1.0, 72.0, 96.0, 300.0)),
        *(({}, (dpi, dpi, CENTIMETRE)) for dpi in (1.0, 72.0, 96.0, 300.0)),
        # No unit.
        *(({}, (QUARTER_PER_CM, QUARTER_PER_CM, unit)) for unit in (0, 1, 4)),
        # One side alone, or two different ones.
        ({}, (QUARTER_PER_CM, QUARTER_PER_CM * 1.05, CENTIMETRE)),
        ({}, (None, 40_000.0, CENTIMETRE)),
        ({}, (40_000.0, None, CENTIMETRE)),
        ({}, (0.0, 0.0, CENTIMETRE)),
    ],
)
def test_where_nothing_is_plausible_the_resolution_is_unknown(
    properties: dict[str, str], tags: tuple[float | None, float | None, int]
) -> None:
    assert choose_mpp(properties, *tags) == UNKNOWN_MPP


def test_properties_are_what_stands_between_bars_and_has_an_equals_sign() -> None:
    description = (
        "Aperio Image Library v10\r\nMPP = 9 (256x256)|AppMag = 40|Title|A=b=c| MPP=0.25 |MPP = 7"
    )
    assert aperio_properties(description) == {"AppMag": "40", "A": "b=c", "MPP": "7"}


@pytest.mark.parametrize("description", ["", "|", "||=", "MPP = 0.25"])
def test_a_description_that_is_not_aperios_has_no_mpp(description: str) -> None:
    assert "MPP" not in aperio_properties(description)
