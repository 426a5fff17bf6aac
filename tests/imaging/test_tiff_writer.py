"""TIFF images as the programs that take mirrors read them."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import openslide
import pytest
from PIL import Image

from tcgamirror.imaging import tiff_writer
from tcgamirror.imaging.decode import Pixels, area_average
from tcgamirror.imaging.image_reader import decode_all
from tcgamirror.imaging.level_reader import open_level
from tcgamirror.imaging.store import Store
from tcgamirror.imaging.svs import Svs
from tcgamirror.imaging.tiff_writer import write_tiff
from tcgamirror.model.geometry import Size
from tcgamirror.model.slide import ImageFormat, Picture, Slide, Target
from tcgamirror.sources.whole import LocalFile
from tests.support.levels import REAL_SLIDES, by_openslide, slide_at

LARGE = Size(4500, 300)
MPP = (15.000488, 14.5)


def image_of(path: Path, target: Target, form: ImageFormat, folder: Path) -> Picture:
    """The image that a mirror in the folder has of a slide."""
    slide = Slide("0" * 8, path.name, project_id="TCGA-LUSC")
    work = folder / "work"
    work.mkdir(exist_ok=True)
    with LocalFile(path) as file, open_level(Svs(file), target, work) as reader:
        return Store(folder, form).write(slide, "range", reader)


@pytest.fixture(scope="module")
def large() -> tuple[Pixels, bytes]:
    """An image with a reduced level: its pixels, and its TIFF."""
    rng = np.random.default_rng(2)
    pixels = rng.integers(0, 255, (LARGE.height, LARGE.width, 3), np.uint8)
    return pixels, tiff(pixels)


def tiff(pixels: Pixels, strip: int = 70) -> bytes:
    file = io.BytesIO()
    size = Size(pixels.shape[1], pixels.shape[0])
    write_tiff(file, size, strips(pixels, strip), MPP, "{}")
    return file.getvalue()


def strips(pixels: Pixels, rows: int) -> Iterator[Pixels]:
    yield from (pixels[top : top + rows] for top in range(0, len(pixels), rows))


@pytest.mark.parametrize(
    "name",
    [*REAL_SLIDES, *("plain", "everything", "j2k-rgb", "blank-in-the-base", "no-resolution")],
)
def test_openslide_reads_the_pixels_of_the_png_at_the_catalogues_resolution(
    name: str, zoo_slides: Mapping[str, Path], tmp_path: Path
) -> None:
    path, target = slide_at(name, zoo_slides), Target(1.0, None)
    png = image_of(path, target, ImageFormat.PNG, tmp_path)
    picture = image_of(path, target, ImageFormat.TIFF, tmp_path)
    with openslide.OpenSlide(tmp_path / picture.path) as slide:
        assert slide.dimensions == picture.size == png.size
        found = [slide.properties.get(f"openslide.mpp-{axis}") for axis in "xy"]
    expected = (picture.mpp_x, picture.mpp_y)
    for text, mpp in zip(found, expected, strict=True):
        assert (text is None) == (mpp is None)
        assert text is None or float(text) == pytest.approx(mpp, abs=1e-4)
    with Image.open(tmp_path / png.path) as image:
        assert np.array_equal(by_openslide(tmp_path / picture.path, 0), np.asarray(image))


def test_a_large_image_has_reduced_levels(large: tuple[Pixels, bytes], tmp_path: Path) -> None:
    pixels, data = large
    path = tmp_path / "large.tif"
    path.write_bytes(data)
    with openslide.OpenSlide(path) as slide:
        assert slide.level_dimensions == (LARGE, (1125, 75))
    assert np.array_equal(by_openslide(path, 0), pixels)
    assert np.array_equal(by_openslide(path, 1), area_average(pixels, 4, 4))


def test_the_bytes_do_not_depend_on_the_strips(large: tuple[Pixels, bytes]) -> None:
    pixels, data = large
    assert tiff(pixels, strip=300) == data == tiff(pixels, strip=1)


def test_an_image_too_large_for_a_classic_tiff_is_a_bigtiff(
    large: tuple[Pixels, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels, classic = large
    monkeypatch.setattr(tiff_writer, "MAX_CLASSIC_BYTES", 1_000_000)
    data = tiff(pixels)
    assert (classic[:4], data[:4]) == (b"II*\0", b"II+\0")
    decode_all(io.BytesIO(data), ImageFormat.TIFF)
    path = tmp_path / "big.tif"
    path.write_bytes(data)
    assert np.array_equal(by_openslide(path, 0), pixels)
    assert np.array_equal(np.asarray(Image.open(path)), pixels)


@pytest.mark.parametrize("big", [False, True])
def test_other_readers_find_the_same_scale(
    large: tuple[Pixels, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, big: bool
) -> None:
    pixels, _ = large
    if big:
        monkeypatch.setattr(tiff_writer, "MAX_CLASSIC_BYTES", 0)
    path = tmp_path / "a.tif"
    path.write_bytes(tiff(pixels))
    tiffslide: Any = pytest.importorskip("tiffslide", reason="the extra `neighbours` is missing")
    tifffile: Any = pytest.importorskip("tifffile")
    with tiffslide.TiffSlide(path) as slide:
        assert slide.level_dimensions == (LARGE, (1125, 75))
        found = [slide.properties[f"tiffslide.mpp-{axis}"] for axis in "xy"]
        assert found == pytest.approx(MPP, abs=1e-4)
    with tifffile.TiffFile(path) as file:
        page = file.pages[0]
        per_micrometre = page.get_resolution("MICROMETER")
        assert [1 / each for each in per_micrometre] == pytest.approx(MPP, abs=1e-4)
        assert len(file.series[0].levels) == 2
