"""Levels as TIFF images of their own tiles, against the slide as OpenSlide reads it."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import openslide
import pytest
from PIL import Image

from tcgamirror.imaging.decode import area_average
from tcgamirror.imaging.image_reader import decode_all, read_header
from tcgamirror.imaging.open_image import open_image
from tcgamirror.imaging.svs import Svs
from tcgamirror.model.errors import BadTile, NoSuchLevel
from tcgamirror.model.slide import ImageFormat, Picture, Resample, Target
from tcgamirror.sources.whole import LocalFile
from tests.imaging.test_tiff_writer import image_of
from tests.support.levels import EVERY_NAME, ZOO, by_openslide, fault, slide_at, tile_spans
from tests.support.slides import SlideSpec, make_slide
from tests.support.slides_codec import Compression

_READ_ALONE = ("appmag", "mpp", "resolution-tag", "twenty", "icc", "label", "counts", "levels-to")
NAMES = [name for name in EVERY_NAME if not any(word in name for word in _READ_ALONE)]
"""But for slides that differ from others only in what is read of them and not copied."""
FAULTS = ("edge-of-level-1", "scrambled", "overwritten-level-1", "macro", "icc-140k-narrow-edge")


def native(path: Path, level: int, form: ImageFormat, folder: Path) -> Picture:
    return image_of(path, Target(None, None, Resample.NATIVE, level), form, folder)


def facts_of(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        decode_all(file, ImageFormat.TIFF)
        facts = json.loads(read_header(file, ImageFormat.TIFF).metadata)
    assert isinstance(facts, dict)
    return facts


def check(path: Path, level: int, folder: Path) -> dict[str, Any]:
    """Fails unless the level's TIFF has the pixels of its PNG. Returns the TIFF's facts."""
    png, tiff = (native(path, level, form, folder) for form in (ImageFormat.PNG, ImageFormat.TIFF))
    facts = facts_of(folder / tiff.path)
    with openslide.OpenSlide(folder / tiff.path) as slide:
        assert slide.dimensions == tiff.size == png.size
        found = [slide.properties.get(f"openslide.mpp-{axis}") for axis in "xy"]
        # Where OpenSlide finds no tile it draws nothing, which many programs show as black.
        assert np.asarray(slide.read_region((0, 0), 0, slide.dimensions))[..., 3].min() == 255
    for text, mpp in zip(found, (tiff.mpp_x, tiff.mpp_y), strict=True):
        assert (text is None) == (mpp is None)
        assert text is None or float(text) == pytest.approx(mpp, abs=1e-4)
    with Image.open(folder / png.path) as image:
        expected = np.asarray(image)
    pixels = by_openslide(folder / tiff.path, 0)
    if facts["patched_tiles"] and facts.get("encoded_tiles"):
        # JPEG loses a little.
        assert np.abs(pixels.astype(int) - expected).mean() < 0.2
    else:
        assert np.array_equal(pixels, expected)
    with open_image(folder / tiff.path) as opened:
        assert np.array_equal(np.asarray(opened), pixels)
    with open_image(folder / tiff.path, 100) as small:
        mean = np.asarray(small).mean(axis=(0, 1))
        assert mean == pytest.approx(expected.mean(axis=(0, 1)), abs=6)
    return facts


@pytest.mark.parametrize("name", NAMES)
def test_openslide_reads_the_levels_own_pixels(
    name: str, zoo_slides: Mapping[str, Path], tmp_path: Path
) -> None:
    path = slide_at(name, zoo_slides)
    with LocalFile(path) as file:
        slide = Svs(file)
        tables = [slide.tile_table(level) for level in range(len(slide.levels))]
    for level, table in enumerate(tables):
        facts = check(path, level, tmp_path)
        if not facts["patched_tiles"] and any(table.counts) and "copied_tiles" in facts:
            assert facts["copied_tiles"] == sum(map(bool, table.counts))
        if name in ("plain", "ycbcr-420-shared-tables", "blank-with-shared-tables") and not level:
            assert facts["encoded_tiles"] == sum(not blank[0] for blank in ZOO[name].blank)


@pytest.mark.parametrize("name", FAULTS)
def test_faulty_tiles_are_encoded_anew(name: str, tmp_path: Path) -> None:
    path = fault(name)
    for level in range(9):
        try:
            check(path, level, tmp_path)
        except NoSuchLevel:
            return
    pytest.fail("a slide of nine levels")


@pytest.mark.parametrize("name", ["plain", "j2k-rgb"])
def test_the_tiles_are_copied_byte_for_byte(
    name: str, zoo_slides: Mapping[str, Path], tmp_path: Path
) -> None:
    path = zoo_slides[name]
    copy = tmp_path / native(path, 0, ImageFormat.TIFF, tmp_path).path
    with LocalFile(path) as old, LocalFile(copy) as new:
        tables = Svs(old).tile_table(0), Svs(new).tile_table(0)
        for spans in zip(*(tile_spans(table) for table in tables), strict=True):
            assert old.read(spans[0]) == new.read(spans[1])


@pytest.mark.parametrize("compression", ["jpeg-rgb", "jpeg-ycbcr"])
def test_a_damaged_tile_of_the_base_fails_the_slide(compression: Any, tmp_path: Path) -> None:
    path = make_slide(tmp_path / "s.svs", SlideSpec(600, 600, compression=compression))
    with LocalFile(path) as file:
        span = Svs(file).tile_table(0).span(1, 1)
    assert span is not None
    data = bytearray(path.read_bytes())
    middle = (span.start + span.stop) // 2
    data[middle : middle + 60] = b"\xff\xd9" * 30
    path.write_bytes(data)
    with pytest.raises(BadTile, match="at the base"):
        native(path, 0, ImageFormat.TIFF, tmp_path)


@pytest.mark.parametrize(
    "spec",
    [
        SlideSpec(600, 600, compression="none"),
        SlideSpec(600, 600, tile=(200, 200)),
        SlideSpec(600, 600, compression="jpeg-ycbcr", tile=(250, 240)),
    ],
)
def test_tiles_that_no_tiff_may_have_are_decoded(spec: SlideSpec, tmp_path: Path) -> None:
    path = make_slide(tmp_path / "s.svs", replace(spec, downsamples=(1, 4)))
    assert "copied_tiles" not in check(path, 0, tmp_path)


def test_bytes_that_many_tiles_share_are_written_once(tmp_path: Path) -> None:
    path = make_slide(tmp_path / "s.svs", replace(ZOO["shared"], downsamples=(1,)))
    copy = tmp_path / native(path, 0, ImageFormat.TIFF, tmp_path).path
    assert copy.stat().st_size < path.stat().st_size
    with LocalFile(path) as old, LocalFile(copy) as new:
        distinct = [len(set(Svs(file).tile_table(0).offsets)) for file in (old, new)]
    assert distinct[0] == distinct[1]


@pytest.mark.parametrize("compression", ["jpeg-rgb", "j2k-rgb"])
def test_a_large_level_has_reduced_ones(compression: Compression, tmp_path: Path) -> None:
    spec = SlideSpec(4300, 700, compression=compression, downsamples=(1,), thumbnail=False)
    path = make_slide(tmp_path / "s.svs", replace(spec, blank=frozenset({(0, 2, 1)})))
    facts = check(path, 0, tmp_path)
    assert (facts["copied_tiles"], facts["encoded_tiles"]) == (53, 1)
    (copy,) = (tmp_path / "images").rglob("*.tif")
    with openslide.OpenSlide(copy) as slide:
        assert slide.level_dimensions == ((4300, 700), (1075, 175))
    base, reduced = by_openslide(copy, 0), by_openslide(copy, 1).astype(int)
    errors = {}
    for aside in (-1, 0, 1):
        moved = np.roll(base, aside, axis=(0, 1))
        errors[aside] = np.abs(reduced - area_average(moved, 4, 4)).mean()
    assert min(errors, key=errors.__getitem__) == 0 and errors[0] < 3


def test_a_tile_without_plain_bytes_is_encoded(tmp_path: Path) -> None:
    """A progressive one, which OpenSlide reads, may cost a decoder any time."""
    path = make_slide(tmp_path / "s.svs", SlideSpec(600, 600, downsamples=(1,), thumbnail=False))
    with LocalFile(path) as file:
        span = Svs(file).tile_table(0).span(1, 1)
    assert span is not None
    stream = io.BytesIO()
    tile = Image.new("RGB", (240, 240), "pink")
    tile.save(stream, "JPEG", keep_rgb=True, progressive=True, subsampling=0)
    data = bytearray(path.read_bytes())
    assert len(stream.getvalue()) < span.length
    data[span.start : span.stop] = stream.getvalue().ljust(span.length, b"\0")
    path.write_bytes(data)
    facts = check(path, 0, tmp_path)
    assert (facts["copied_tiles"], facts["encoded_tiles"]) == (8, 1)


def test_other_readers_find_the_scale_and_the_pixels(
    zoo_slides: Mapping[str, Path], tmp_path: Path
) -> None:
    tiffslide: Any = pytest.importorskip("tiffslide", reason="the extra `neighbours` is missing")
    for name in ("plain", "ycbcr-420-shared-tables", "everything"):
        picture = native(zoo_slides[name], 0, ImageFormat.TIFF, tmp_path)
        with tiffslide.TiffSlide(tmp_path / picture.path) as slide:
            assert slide.dimensions == picture.size
            found = [slide.properties[f"tiffslide.mpp-{axis}"] for axis in "xy"]
            assert found == pytest.approx((picture.mpp_x, picture.mpp_y), abs=1e-4)
        # Pillow reads by libtiff, which keeps tables from tile to tile.
        with Image.open(tmp_path / picture.path) as image:
            assert np.array_equal(np.asarray(image), by_openslide(tmp_path / picture.path, 0))
