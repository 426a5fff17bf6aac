"""Directories as Pillow reads them; and what is no TIFF refused soon and in little memory."""

from __future__ import annotations

import io
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from PIL import TiffImagePlugin

from tcgamirror.imaging.tiff import MAX_DIRECTORIES, Directory, Tag, Tiff
from tcgamirror.model.byteranges import Span
from tcgamirror.model.errors import BadSlide
from tests.support.levels import EVERY_NAME, EVERY_SLIDE, Bytes, bounded, slide_at

SHORT, LONG, RATIONAL, LONG8 = 3, 4, 5, 16
Entry = tuple[int, int, int, int]
"""Tag, type, count and the value or its place."""


def classic(*directories: tuple[Sequence[Entry], int | None], order: str = "<") -> bytes:
    """A classic TIFF of directories one after the other; with a link if that is to be another."""
    data = {"<": b"II", ">": b"MM"}[order] + struct.pack(order + "HI", 42, 8)
    for entries, link in directories:
        end = len(data) + 2 + 12 * len(entries) + 4
        data += struct.pack(order + "H", len(entries))
        data += b"".join(struct.pack(order + "HHII", *entry) for entry in entries)
        data += struct.pack(order + "I", end if link is None else link)
    return data.ljust(64, b"\0")


def first(data: bytes) -> Directory:
    return next(Tiff(Bytes(data)).directories())


@EVERY_SLIDE
def test_directories_are_guessed_from_the_end(name: str, zoo_slides: Mapping[str, Path]) -> None:
    """Each lies before the data of the next one's image."""
    data = slide_at(name, zoo_slides).read_bytes()
    tiff = Tiff(Bytes(data))
    stop, following = len(data), 0
    for directory in reversed(list(tiff.directories())):
        window = Span(max(0, stop - 2_000_000), stop)
        assert tiff.guess_directory(window, following) == directory
        stop, following = directory.data_start, directory.offset
    assert tiff.guess_directory(Span(0, 20), 0) is None


@pytest.mark.parametrize("name", [name for name in EVERY_NAME if name != "big-and-big-endian"])
def test_directories_are_those_pillow_reads(name: str, zoo_slides: Mapping[str, Path]) -> None:
    """But for the one kind of file that Pillow takes for a classic TIFF."""
    data = slide_at(name, zoo_slides).read_bytes()
    tiff, file = Tiff(Bytes(data)), io.BytesIO(data)
    tags = TiffImagePlugin.ImageFileDirectory_v2(data[: 16 if tiff.layout.big else 8])
    for directory in tiff.directories():
        file.seek(tags.next)
        tags.load(file)
        assert directory.next == tags.next
        assert directory.entries.keys() == set(tags)
        for tag in (Tag.WIDTH, Tag.HEIGHT, Tag.COMPRESSION, Tag.PHOTOMETRIC):
            assert directory.number(tag) == tags[tag]
        for tag in {Tag.TILE_OFFSETS, Tag.TILE_COUNTS} & set(tags):
            assert tuple(directory.numbers(tag, len(tags[tag]))) == tags[tag]
        said = directory.rational(Tag.X_RESOLUTION)
        assert said == (float(tags[Tag.X_RESOLUTION]) if Tag.X_RESOLUTION in tags else None)


@pytest.mark.parametrize("order", ["<", ">"])
def test_values_that_fit_lie_in_their_entry(order: str) -> None:
    two_shorts = 0x0001_0002 if order == ">" else 0x0002_0001
    directory = first(classic(([(324, SHORT, 2, two_shorts)], 0), order=order))
    assert list(directory.numbers(324, 2)) == [1, 2]
    assert directory.number(324) == 1


def test_of_a_tag_that_stands_twice_the_first_holds() -> None:
    directory = first(classic(([(256, LONG, 1, 5), (256, LONG, 1, 6)], 0)))
    assert directory.number(256) == 5


def test_a_type_nobody_knows_is_passed_over() -> None:
    directory = first(classic(([(256, 99, 1, 5)], 0)))
    assert not directory.entries


def test_a_number_that_is_not_there_is_the_default_or_refused() -> None:
    directory = first(classic(([(256, LONG, 0, 5), (257, 2, 4, 0)], 0)))
    assert directory.number(300, 7) == directory.number(256, 7) == 7
    for tag in (256, 257, 300):
        with pytest.raises(BadSlide, match=f"tag {tag} is missing or no number"):
            directory.number(tag)


def test_a_rational_over_zero_tells_nothing() -> None:
    directory = first(classic(([(282, RATIONAL, 1, 30), (283, LONG, 1, 4)], 0)))
    assert directory.rational(282) is None
    assert directory.rational(283) is None


ONE: list[Entry] = [(256, LONG, 1, 5)]
MEGABYTE = bytes(1_000_000)
REFUSED = [
    *(
        (data, "is not a slide|does not begin as a TIFF")
        for data in (b"", b"II*\0", b"\xff\xd8\xff\xe0" + bytes(60), b"<html>" * 20, bytes(64))
    ),
    (struct.pack("<2sHIQ", b"II", 44, 8, 16) + bytes(64), "TIFF version 44"),
    (struct.pack("<2sHHHQ", b"II", 43, 4, 0, 16) + bytes(64), "TIFF version 43"),
    (classic((ONE, 8)), "loop at byte 8"),
    (classic((ONE, None), (ONE, 8)), "loop at byte 8"),
    (classic(*[(ONE, None)] * (MAX_DIRECTORIES + 1)), f"more than {MAX_DIRECTORIES} directories"),
    *(
        (struct.pack("<2sHIH", b"II", 42, 8, count) + MEGABYTE, f"has {count} entries")
        for count in (0, 513, 65_535)
    ),
    *(
        (struct.pack("<2sHHHQQ", b"II", 43, 8, 0, 16, count) + MEGABYTE, f"has {count} entries")
        for count in (10**9, 2**63, 2**64 - 1)
    ),
    *(
        (struct.pack("<2sHI", b"II", 42, place) + bytes(56), "outside of the file|entries")
        for place in (0, 63, 10**6, 2**32 - 1)
    ),
]


@pytest.mark.parametrize(("data", "words"), REFUSED, ids=range(len(REFUSED)))
def test_directories_as_no_slide_has_are_refused(data: bytes, words: str) -> None:
    with bounded(seconds=10, megabytes=20), pytest.raises(BadSlide, match=words):
        list(Tiff(Bytes(data)).directories())


@pytest.mark.parametrize("count", [10**6, 2**32 - 1])
def test_values_beyond_the_end_are_refused_when_they_are_read(count: int) -> None:
    directory = first(classic(([(324, LONG, count, 8), (347, 7, count, 8)], 0)))
    with bounded(seconds=10, megabytes=5):
        with pytest.raises(BadSlide, match="outside of the file"):
            directory.numbers(324, count)
        with pytest.raises(BadSlide, match=r"tag 347 has \d+ bytes"):
            directory.raw(347)


def test_arrays_of_another_length_or_type_are_refused() -> None:
    directory = first(classic(([(324, LONG, 1, 8), (325, RATIONAL, 1, 8)], 0)))
    for tag, count in ((324, 2), (325, 1)):
        with pytest.raises(BadSlide, match=f"tag {tag} has 1 values for {count} tiles"):
            directory.numbers(tag, count)


def test_nothing_is_read_outside_of_the_file() -> None:
    tiff = Tiff(Bytes(classic(([(256, LONG, 1, 5)], 0))))
    for span in (Span(-1, 4), Span(60, 65), Span(100, 101)):
        with pytest.raises(BadSlide, match="outside of the file"):
            tiff.read(span)
