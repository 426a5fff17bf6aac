"""An image file is read back as it was written, and nothing that is wrong with it passes."""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

from tcgamirror.decode import Pixels
from tcgamirror.encode import write_image
from tcgamirror.errors import Damaged
from tcgamirror.geometry import Size
from tcgamirror.model import ImageFormat
from tcgamirror.readback import decode_all, read_header

FACTS = {"file_id": "e3b", "site": "Brüste"}
SIZE = Size(120, 90)


def encoded(form: ImageFormat, size: Size = SIZE) -> bytes:
    pixels = np.random.default_rng(1).integers(0, 255, (size.height, size.width, 3), np.uint8)
    file = io.BytesIO()
    write_image(file, form, size, strips(pixels), (15.0, 15.0), FACTS)
    return file.getvalue()


def strips(pixels: Pixels) -> Iterator[Pixels]:
    yield pixels[:50]
    yield pixels[50:]


def png(*chunks: tuple[bytes, bytes]) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )


def head(width: int, height: int) -> tuple[bytes, bytes]:
    return b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)


@pytest.mark.parametrize("form", ImageFormat)
def test_size_and_facts_are_those_that_were_written(form: ImageFormat) -> None:
    file = io.BytesIO(encoded(form))
    header = read_header(file, form)
    assert header.size == SIZE
    assert json.loads(header.facts) == FACTS
    decode_all(file, form)


@pytest.mark.parametrize("form", ImageFormat)
def test_an_image_that_is_cut_off_anywhere_is_damaged(form: ImageFormat) -> None:
    whole = encoded(form)
    for length in {*range(0, len(whole), 997), len(whole) - 1}:
        with pytest.raises(Damaged):
            decode_all(io.BytesIO(whole[:length]), form)


def test_every_changed_byte_of_a_png_is_found() -> None:
    whole = encoded(ImageFormat.PNG, Size(9, 60))
    for place in range(len(whole)):
        changed = bytearray(whole)
        changed[place] ^= 4
        with pytest.raises(Damaged):
            decode_all(io.BytesIO(changed), ImageFormat.PNG)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("form", ImageFormat)
def test_changed_bytes_are_found_or_harmless_but_never_a_crash(form: ImageFormat) -> None:
    whole = encoded(form)
    rng = np.random.default_rng(7)
    for _ in range(300):
        changed = bytearray(whole)
        for place in rng.integers(0, len(whole), 3):
            changed[place] = int(rng.integers(256))
        try:
            decode_all(io.BytesIO(changed), form)
        except Damaged as error:
            assert str(error)


@pytest.mark.parametrize("form", ImageFormat)
@pytest.mark.parametrize("other", ImageFormat)
def test_only_the_format_of_the_mirror_is_read(form: ImageFormat, other: ImageFormat) -> None:
    if form != other:
        with pytest.raises(Damaged):
            read_header(io.BytesIO(encoded(other)), form)


def test_a_png_that_unpacks_without_end_is_stopped() -> None:
    bomb = zlib.compress(bytes(50_000_000), 9)
    file = io.BytesIO(png(head(10, 10), (b"IDAT", bomb), (b"IEND", b"")))
    with pytest.raises(Damaged, match="more pixels than it says"):
        decode_all(file, ImageFormat.PNG)


def test_a_png_that_says_it_is_huge_takes_no_memory() -> None:
    file = io.BytesIO(
        png(head(2**31 - 1, 2**31 - 1), (b"IDAT", zlib.compress(b"")), (b"IEND", b""))
    )
    with pytest.raises(Damaged, match="fewer pixels"):
        decode_all(file, ImageFormat.PNG)


def test_endless_facts_are_not_read() -> None:
    text = b"tcgamirror\0" + b"[" * 100_000
    with pytest.raises(Damaged, match="100,011 bytes"):
        read_header(io.BytesIO(png(head(1, 1), (b"tEXt", text))), ImageFormat.PNG)


def test_another_programs_image_has_no_facts_or_is_refused() -> None:
    file = io.BytesIO()
    Image.new("RGB", SIZE).save(file, "PNG")
    assert read_header(file, ImageFormat.PNG).facts == ""
    grey = io.BytesIO()
    Image.new("L", SIZE).save(grey, "PNG")
    with pytest.raises(Damaged, match="not of 8-bit RGB"):
        read_header(grey, ImageFormat.PNG)
