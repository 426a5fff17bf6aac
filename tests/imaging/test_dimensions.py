"""An image's size is read as the decoder has it, and nothing else is taken for an image."""

from __future__ import annotations

import io

import numpy as np
import pytest

from tcgamirror.imaging.image_reader import read_header, read_size
from tcgamirror.imaging.image_writer import write_image
from tcgamirror.model.errors import Damaged
from tcgamirror.model.geometry import Size
from tcgamirror.model.slide import ImageFormat

SIZE = Size(120, 90)


def encoded(form: ImageFormat) -> bytes:
    pixels = np.random.default_rng(1).integers(0, 255, (SIZE.height, SIZE.width, 3), np.uint8)
    file = io.BytesIO()
    write_image(file, form, SIZE, iter([pixels]), (15.0, 15.0), {"file_id": "e3b"})
    return file.getvalue()


@pytest.mark.parametrize("form", ImageFormat)
def test_the_size_is_that_which_was_written(form: ImageFormat) -> None:
    file = io.BytesIO(encoded(form))
    file.seek(7)
    assert read_size(file, form) == SIZE == read_header(file, form).size


@pytest.mark.parametrize("form", ImageFormat)
@pytest.mark.parametrize("other", ImageFormat)
def test_another_format_has_no_size(form: ImageFormat, other: ImageFormat) -> None:
    if form != other:
        with pytest.raises(Damaged):
            read_size(io.BytesIO(encoded(other)), form)


@pytest.mark.parametrize("form", ImageFormat)
def test_whatever_lies_there_has_a_size_or_is_damaged(form: ImageFormat) -> None:
    whole = encoded(form)
    rng = np.random.default_rng(5)
    for length in range(0, min(len(whole), 400), 3):
        changed = bytearray(whole[: length or None])
        changed[int(rng.integers(len(changed)))] ^= 1 << int(rng.integers(8))
        try:
            size = read_size(io.BytesIO(changed), form)
        except Damaged as error:
            assert str(error)
        else:
            assert min(size) > 0
