"""Tiles decoded directly against OpenSlide, which also judges which ones are damaged."""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import openslide
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tcgamirror.imaging.decode import (
    JpegTiles,
    OpenSlideTiles,
    Pixels,
    blend_over_white,
)
from tcgamirror.imaging.level_reader import open_level
from tcgamirror.imaging.resample import render
from tcgamirror.imaging.single_level import write_single_level
from tcgamirror.imaging.svs import Svs
from tcgamirror.model.errors import BadTile, SlideError, UnsupportedSlide
from tcgamirror.model.geometry import Grid, Size
from tcgamirror.model.slide import Resample, Target
from tcgamirror.sources.whole import LocalFile
from tests.support.levels import Bytes, bounded, by_openslide
from tests.support.slides import SlideSpec, make_slide
from tests.support.slides_codec import encode, split_tables
from tests.support.slides_tiff import UNDEFINED, Field, short, write_tiles

RGB, YCBCR = 2, 6
JPEG, J2K_YCBCR, J2K_RGB = 7, 33003, 33005
SIDE = 64
SCALES = pytest.mark.parametrize("scale", [1, 2, 4, 8])
FAR = Size(4, 4)
"""An image for which even two tiles can be decoded at an eighth."""
END = b"\xff\xd9"


def picture() -> Image.Image:
    """Waves and grain of all colours, one tile of them."""
    rng = np.random.default_rng(3)
    ramp = np.linspace(0, 255, SIDE)
    bands = np.stack(np.broadcast_arrays(ramp[None, :], ramp[:, None], ramp[::-1, None]), axis=2)
    return Image.fromarray((bands + rng.normal(0, 9, bands.shape)).clip(0, 255).astype(np.uint8))


IMAGE = picture()
GOOD = encode(IMAGE, "jpeg-rgb")
GOOD_YCBCR = encode(IMAGE, "jpeg-ycbcr", subsampling=2)
JFIF = b"\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00"
COMMENT = b"\xff\xfe\x00\x06abcd"


def adobe(transform: int) -> bytes:
    return b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00" + bytes([transform])


def after_start(stream: bytes, segment: bytes) -> bytes:
    return stream[:2] + segment + stream[2:]


def jpeg(image: Image.Image, **options: object) -> bytes:
    """As Pillow writes it, with JFIF or Adobe segments and all."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **options)
    return buffer.getvalue()


def slide_of(
    path: Path,
    tiles: Sequence[bytes],
    photometric: int = RGB,
    compression: int = JPEG,
    tables: bytes = b"",
    width: int | None = None,
) -> Path:
    """A slide of one row of tiles with these very bytes; all are whole unless `width` is less."""
    changes = [short(259, compression), short(262, photometric)]
    changes += [Field(347, UNDEFINED, tables)] if tables else []
    size = width or SIDE * len(tiles), SIDE
    return write_tiles(path, tiles, size, {field.tag: field for field in changes})


def decoded(path: Path, level: int = 0, size: Size | None = None, scale: int = 1) -> Pixels:
    """A level through JpegTiles, whole or at `size`."""
    with LocalFile(path) as file:
        slide = Svs(file)
        tiled = slide.levels[level]
        assert tiled.is_rgb_or_ycbcr_jpeg
        tiles = JpegTiles(file, tiled, slide.tile_table(level), scale)
        return np.concatenate(list(render(tiles, size or tiled.level.size)))


WHOLE = {
    "as it is": (GOOD, RGB),
    "padded with zeros": (GOOD + bytes(7), RGB),
    "padded with ones": (GOOD + b"\xff" * 3, RGB),
    "padded with another stream": (GOOD + GOOD, RGB),
    "one idle byte before the end": (GOOD[:-2] + b"\0" + END, RGB),
    "three idle bytes before the end": (GOOD[:-2] + bytes(3) + END, RGB),
    "a thousand idle bytes before the end": (GOOD[:-2] + bytes(1000) + END, RGB),
    "fill bytes before the end": (GOOD[:-2] + b"\xff\xff" + END, RGB),
    "fill bytes before a segment": (after_start(GOOD, b"\xff\xff" + COMMENT), RGB),
    "a comment": (after_start(GOOD, COMMENT), RGB),
    "a lying JFIF segment": (after_start(GOOD, JFIF), RGB),
    "a right Adobe segment": (after_start(GOOD, adobe(0)), RGB),
    "a lying Adobe segment": (after_start(GOOD, adobe(1)), RGB),
    "4:2:0": (GOOD_YCBCR, YCBCR),
    "4:2:0 with a JFIF segment": (after_start(GOOD_YCBCR, JFIF), YCBCR),
    "4:2:0 with a lying Adobe segment": (after_start(GOOD_YCBCR, adobe(0)), YCBCR),
    "4:4:4": (encode(IMAGE, "jpeg-ycbcr", subsampling=0), YCBCR),
    "4:2:2": (encode(IMAGE, "jpeg-ycbcr", subsampling=1), YCBCR),
    "RGB said to be YCbCr": (GOOD, YCBCR),
    "YCbCr said to be RGB": (GOOD_YCBCR, RGB),
    "restart markers": (jpeg(IMAGE, keep_rgb=True, restart_marker_blocks=2), RGB),
    "its own Huffman tables": (jpeg(IMAGE, optimize=True), YCBCR),
    "progressive": (jpeg(IMAGE, progressive=True), YCBCR),
    "a finer quality": (jpeg(IMAGE, quality=98), YCBCR),
}


@pytest.mark.parametrize("kind", WHOLE)
def test_what_openslide_takes_is_taken_with_the_same_pixels(kind: str, tmp_path: Path) -> None:
    stream, photometric = WHOLE[kind]
    path = slide_of(tmp_path / "s.svs", [stream, stream], photometric)
    assert np.array_equal(decoded(path), by_openslide(path, 0))


@pytest.mark.parametrize("subsampling", [0, 2])
def test_shared_tables_come_before_the_tiles_own_data(subsampling: int, tmp_path: Path) -> None:
    tables, tile = split_tables(encode(IMAGE, "jpeg-ycbcr", subsampling))
    path = slide_of(tmp_path / "s.svs", [tile, tile], YCBCR, tables=tables)
    assert np.array_equal(decoded(path), by_openslide(path, 0))


def test_a_tile_with_tables_of_its_own_does_not_use_the_shared_ones(tmp_path: Path) -> None:
    tables, tile = split_tables(GOOD_YCBCR)
    fine = jpeg(IMAGE, quality=98, subsampling=2)
    path = slide_of(tmp_path / "s.svs", [tile, fine], YCBCR, tables=tables)
    assert np.array_equal(decoded(path), by_openslide(path, 0))


def frame_of(stream: bytes, width: int, height: int) -> bytes:
    place = stream.index(b"\xff\xc0") + 5
    return stream[:place] + struct.pack(">HH", height, width) + stream[place + 4 :]


HALF = len(GOOD) * 2 // 3
DAMAGED = {
    "without its end": GOOD[:-2],
    "cut off by a byte": GOOD[:-1],
    "cut off in its data": GOOD[:HALF],
    "cut off in its data, with an end": GOOD[:HALF] + END,
    "cut off in its header": GOOD[:30],
    "overwritten by zeros": GOOD[:HALF] + bytes(60) + GOOD[HALF + 60 :],
    "with a marker in its data": GOOD[:HALF] + b"\xff\xd3" + GOOD[HALF + 2 :],
    "all zeros": bytes(500),
    "one byte": b"\xff",
    "not JPEG at all": b"<html>" * 40,
    "with a byte before it": b"\0" + GOOD,
    "with bytes between segments": after_start(GOOD, b"\0\0"),
    "without a frame": b"\xff\xd8" + COMMENT + END,
    "smaller than a tile": encode(IMAGE.crop((0, 0, 64, 56)), "jpeg-rgb"),
    "larger than a tile": encode(IMAGE.resize((72, 64)), "jpeg-rgb"),
    "grey": jpeg(IMAGE.convert("L")),
    "of four colours": jpeg(IMAGE.convert("CMYK")),
}


@SCALES
@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_tile_is_refused_by_its_place(kind: str, scale: int, tmp_path: Path) -> None:
    path = slide_of(tmp_path / "s.svs", [GOOD, DAMAGED[kind]])
    with pytest.raises(openslide.OpenSlideError):
        by_openslide(path, 0)
    with pytest.raises(BadTile, match="the tile at column 1, row 0 is damaged: "):
        decoded(path, size=FAR, scale=scale)


@SCALES
def test_a_tile_cut_off_anywhere_is_refused(scale: int, tmp_path: Path) -> None:
    for length in range(1, len(GOOD), 7):
        path = slide_of(tmp_path / "s.svs", [GOOD[:length]])
        with pytest.raises(BadTile):
            decoded(path, size=FAR, scale=scale)


@SCALES
def test_an_unknown_subsampling_is_refused(scale: int, tmp_path: Path) -> None:
    place = GOOD_YCBCR.index(b"\xff\xc0") + 11
    tile = GOOD_YCBCR[:place] + b"\x14" + GOOD_YCBCR[place + 1 :]
    with pytest.raises(BadTile, match="subsampled as in no slide"):
        decoded(slide_of(tmp_path / "s.svs", [tile], YCBCR), size=FAR, scale=scale)


FRAME = GOOD[GOOD.index(b"\xff\xc0") :][:19]
HUGE = frame_of(GOOD, 65_500, 65_500)
TWICE = GOOD.replace(FRAME, FRAME + frame_of(FRAME, 65_500, 65_500))
BOMBS = [HUGE, after_start(HUGE, b"\xff\xd0"), after_start(HUGE, b"\xff\x01"), TWICE]


@SCALES
@pytest.mark.parametrize("bomb", BOMBS, ids=range(4))
def test_a_header_of_a_huge_tile_is_refused(bomb: bytes, scale: int, tmp_path: Path) -> None:
    """Also after a marker without a length, which some readers jump over, and after a right one."""
    path = slide_of(tmp_path / "s.svs", [bomb])
    with bounded(seconds=10, megabytes=2), pytest.raises(BadTile):
        decoded(path, size=FAR, scale=scale)


# Through OpenSlide --------------------------------------------------------------


def through_openslide(path: Path) -> Pixels:
    alone = path.with_suffix(".alone")
    with LocalFile(path) as source, alone.open("wb") as file:
        slide = Svs(source)
        write_single_level(file, slide, 0, slide.tile_table(0))
    level = slide.levels[0].level
    with OpenSlideTiles(alone, level.grid) as tiles:
        return np.concatenate(list(render(tiles, level.size)))


J2K = {J2K_RGB: encode(IMAGE, "j2k-rgb"), J2K_YCBCR: encode(IMAGE, "j2k-ycbcr")}


@pytest.mark.parametrize("compression", J2K)
def test_a_padded_jpeg_2000_tile_is_taken(compression: int, tmp_path: Path) -> None:
    good = J2K[compression]
    path = slide_of(tmp_path / "s.svs", [good, good + bytes(5)], compression=compression)
    assert np.array_equal(through_openslide(path), by_openslide(path, 0))


@pytest.mark.parametrize("compression", J2K)
@pytest.mark.parametrize("kept", [0.1, 0.5, 0.99])
def test_a_truncated_j2k_tile_is_refused(compression: int, kept: float, tmp_path: Path) -> None:
    good = J2K[compression]
    cut = good[: int(len(good) * kept)]
    path = slide_of(tmp_path / "s.svs", [good] * 20 + [cut], compression=compression)
    with pytest.raises(BadTile, match="the tile at column 20, row 0 is damaged: "):
        through_openslide(path)


def test_a_jpeg_2000_tile_of_another_size_is_refused(tmp_path: Path) -> None:
    huge = encode(IMAGE.resize((640, 640)), "j2k-rgb")
    path = slide_of(tmp_path / "s.svs", [J2K[J2K_RGB], huge], compression=J2K_RGB)
    with pytest.raises(BadTile):
        through_openslide(path)


def test_a_file_that_openslide_does_not_take_is_unusual(tmp_path: Path) -> None:
    path = tmp_path / "level.svs"
    path.write_bytes(b"II*\0" + bytes(100))
    with pytest.raises(UnsupportedSlide, match="OpenSlide cannot read the level"):
        OpenSlideTiles(path, Grid(Size(64, 64), Size(64, 64)))


def test_a_level_of_another_size_is_unusual(tmp_path: Path) -> None:
    path = slide_of(tmp_path / "s.svs", [GOOD])
    with pytest.raises(UnsupportedSlide, match="OpenSlide sees 64×64 pixels"):
        OpenSlideTiles(path, Grid(Size(65, 64), Size(64, 64)))


SMALL = SlideSpec(90, 70, (1, 2), (32, 32), thumbnail=False)


@pytest.fixture(scope="module")
def tiny_slides(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    folder = tmp_path_factory.mktemp("tiny")
    specs = [
        replace(SMALL, shared_tables=True),
        replace(SMALL, compression="jpeg-ycbcr", subsampling=2),
        replace(SMALL, compression="j2k-rgb"),
        replace(SMALL, compression="j2k-ycbcr", big=True, byte_order=">"),
    ]
    return [make_slide(folder / "s.svs", spec).read_bytes() for spec in specs]


@settings(max_examples=200)
@given(
    which=st.integers(0, 3),
    resample=st.sampled_from([Resample.NATIVE, Resample.FAST]),
    changes=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=6),
)
def test_any_change_of_a_slide_gives_an_image_or_an_error_of_the_slide(
    which: int,
    resample: Resample,
    changes: list[tuple[int, int]],
    tiny_slides: list[bytes],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    data = bytearray(tiny_slides[which])
    for place, value in changes:
        data[place % len(data)] = value
    folder = tmp_path_factory.getbasetemp()
    target = Target(None, 100 if resample is Resample.NATIVE else 8, resample)
    try:
        with open_level(Svs(Bytes(bytes(data))), target, folder) as ready:
            rows = sum(len(strip) for strip in render(ready.tiles, ready.rendition.size))
            assert rows == ready.rendition.size.height
    except SlideError as error:
        assert changes and str(error)


# Over white -----------------------------------------------------------------------


def test_laying_over_white_mixes_by_alpha_and_rounds() -> None:
    rgba = np.array([[[0, 100, 255, alpha] for alpha in range(256)]], np.uint8)
    expected = [
        [round((colour * alpha + 255 * (255 - alpha)) / 255) for colour in (0, 100, 255)]
        for alpha in range(256)
    ]
    assert blend_over_white(rgba)[0].tolist() == expected


def test_nothing_is_white_and_opaque_pixels_stay() -> None:
    rng = np.random.default_rng(0)
    rgba = rng.integers(0, 256, (5, 7, 4), dtype=np.uint8)
    assert (blend_over_white(rgba * np.array([1, 1, 1, 0], np.uint8)) == 255).all()
    rgba[..., 3] = 255
    assert np.array_equal(blend_over_white(rgba), rgba[..., :3])
