"""Every format holds the pixels, the resolution and the metadata that were given to it."""

from __future__ import annotations

import io
import json
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.ExifTags import Base

from tcgamirror.imaging.decode import Pixels
from tcgamirror.imaging.image_reader import METADATA_KEY
from tcgamirror.imaging.image_writer import write_image
from tcgamirror.model.errors import TooLarge
from tcgamirror.model.geometry import Size
from tcgamirror.model.slide import ImageFormat

FACTS = {"file_id": "e3b", "mpp_x": 15.000488, "site": "Brüste"}


def picture(width: int, height: int) -> Pixels:
    rng = np.random.default_rng(width)
    smooth = np.linspace(0, 250, width * height * 3).reshape(height, width, 3)
    return (smooth + rng.integers(0, 5, smooth.shape)).astype(np.uint8)


def encoded(
    form: ImageFormat, pixels: Pixels, strip: int, mpp: tuple[float, float] | None
) -> bytes:
    height, width, _ = pixels.shape
    strips = (pixels[top : top + strip] for top in range(0, height, strip))
    file = io.BytesIO()
    write_image(file, form, Size(width, height), strips, mpp, FACTS)
    return file.getvalue()


@pytest.mark.parametrize(
    ("size", "strip"),
    [*product([(1, 1), (5, 300), (1531, 421)], [1, 7, 1000]), ((700, 1900), 240)],
)
@pytest.mark.parametrize("form", [ImageFormat.PNG, ImageFormat.TIFF])
def test_lossless_formats_give_the_same_pixels(
    form: ImageFormat, size: tuple[int, int], strip: int
) -> None:
    pixels = picture(*size)
    image = Image.open(io.BytesIO(encoded(form, pixels, strip, (15.0, 15.0))))
    assert image.mode == "RGB"
    assert np.array_equal(np.asarray(image), pixels)


def test_a_jpeg_is_close() -> None:
    pixels = picture(300, 200)
    image = Image.open(io.BytesIO(encoded(ImageFormat.JPEG, pixels, 64, None)))
    assert np.abs(np.asarray(image).astype(int) - pixels).mean() < 3


def test_a_png_tells_pixels_per_metre_and_the_metadata() -> None:
    image = Image.open(io.BytesIO(encoded(ImageFormat.PNG, picture(9, 9), 4, (15.0, 14.5))))
    assert image.info["dpi"] == pytest.approx((66667 * 0.0254, 68966 * 0.0254))
    assert json.loads(image.info[METADATA_KEY]) == FACTS


@pytest.mark.parametrize("form", [ImageFormat.TIFF, ImageFormat.JPEG])
def test_tiff_and_jpeg_tell_pixels_per_centimetre_and_the_metadata(form: ImageFormat) -> None:
    image = Image.open(io.BytesIO(encoded(form, picture(9, 9), 4, (15.000488, 14.5))))
    exif = image.getexif()
    assert float(exif[Base.XResolution]) == pytest.approx(10_000 / 15.000488, rel=1e-9)
    assert float(exif[Base.YResolution]) == pytest.approx(10_000 / 14.5, rel=1e-9)
    assert exif[Base.ResolutionUnit] == 3
    assert json.loads(exif[Base.ImageDescription]) == FACTS


@pytest.mark.parametrize("form", [ImageFormat.TIFF, ImageFormat.JPEG])
@settings(max_examples=200)
@given(mpp=st.floats(0.05, 1000.0))
def test_every_resolution_can_be_told(form: ImageFormat, mpp: float) -> None:
    image = Image.open(io.BytesIO(encoded(form, picture(3, 3), 3, (mpp, 0.2277))))
    exif = image.getexif()
    assert float(exif[Base.XResolution]) == pytest.approx(10_000 / mpp, rel=1e-6)
    assert float(exif[Base.YResolution]) == pytest.approx(10_000 / 0.2277, rel=1e-6)


@pytest.mark.parametrize("form", list(ImageFormat))
def test_an_unknown_resolution_is_not_written(form: ImageFormat) -> None:
    image = Image.open(io.BytesIO(encoded(form, picture(9, 9), 4, None)))
    assert Base.XResolution not in image.getexif()
    assert form is not ImageFormat.PNG or "dpi" not in image.info


def test_what_a_format_cannot_hold_is_refused_before_anything_is_written() -> None:
    for form, size in [
        (ImageFormat.JPEG, Size(70_000, 10)),
        (ImageFormat.TIFF, Size(600_000, 600_000)),
    ]:
        file = io.BytesIO()
        with pytest.raises(TooLarge, match="use --format png"):
            write_image(file, form, size, [], None, FACTS)
        assert not file.getvalue()
