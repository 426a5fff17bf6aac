"""Deep Zoom's arithmetic by hand, metadata that is refused, and tiles that are none."""

from __future__ import annotations

import io
import random
import zlib

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from tcgamirror.imaging.decode import Pixels
from tcgamirror.imaging.deepzoom import DeepZoom, PieceReader, decode_tile, remove_ancillary_data
from tcgamirror.model.errors import BadTile, TooLong, WrongContent
from tcgamirror.model.geometry import Box, Size
from tcgamirror.model.slide import UNKNOWN_MPP
from tests.imaging.test_image_reader import head, png
from tests.support.levels import bounded

SEEN = {"Format": "png", "Height": "89665", "Width": "109559", "Overlap": "1", "TileSize": "512"}
SERVED = Box(253, 0, 509, 255)
OWN = Box(254, 0, 508, 254)


def picture(width: int = 256, height: int = 255) -> Image.Image:
    noise = np.random.default_rng(3).normal(0, 4, (height, width, 3)).cumsum(axis=1)
    return Image.fromarray(np.clip(noise + 128, 0, 255).astype(np.uint8))


def packed(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    data = io.BytesIO()
    image.save(data, form, **options)
    return data.getvalue()


def own_part(image: Image.Image) -> Pixels:
    return np.asarray(image)[0:254, 1:255]


@pytest.mark.parametrize(
    ("dz_level", "size"),
    [(0, (1, 1)), (2, (4, 3)), (4, (14, 11)), (9, (428, 351)), (17, (109559, 89665))],
)
def test_a_level_has_the_size_worked_out_by_hand(dz_level: int, size: tuple[int, int]) -> None:
    zoom = DeepZoom.from_metadata(SEEN)
    assert zoom.grid(dz_level).size == size
    level = zoom.pyramid(UNKNOWN_MPP).levels[zoom.last_dz_level - dz_level]
    assert level.size == size
    assert level.downsample == 2 ** (17 - dz_level)


def test_the_last_level_is_the_logarithm_rounded_up() -> None:
    for longer, last in ((1, 0), (2, 1), (3, 2), (1024, 10), (1025, 11), (109559, 17)):
        assert DeepZoom(Size(1, longer), 512, 1).last_dz_level == last


@pytest.mark.parametrize(
    ("tile", "overlap", "place", "box"),
    [
        (512, 1, (0, 0), Box(0, 0, 513, 513)),
        (512, 1, (1, 0), Box(511, 0, 1025, 513)),
        (512, 1, (2, 2), Box(1023, 1023, 1100, 1100)),
        (510, 0, (1, 1), Box(510, 510, 1020, 1020)),
    ],
)
def test_a_tile_after_the_first_starts_one_overlap_early(
    tile: int, overlap: int, place: tuple[int, int], box: Box
) -> None:
    zoom = DeepZoom(Size(1100, 1100), tile, overlap)
    grid = zoom.grid(zoom.last_dz_level)
    assert (grid.columns, grid.rows) == (3, 3)
    assert zoom.served_box(grid, *place) == box


def test_numbers_are_read_as_strings_are() -> None:
    numbers = {name: int(text) if text.isdigit() else text for name, text in SEEN.items()}
    for metadata in (SEEN, numbers):
        assert DeepZoom.from_metadata(metadata) == DeepZoom(Size(109559, 89665), 512, 1)


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("Width", ["1000000000000", "9" * 13, "2000001", "0", "", None, "-5", "+5", "１２", "1e3"]),
        ("Height", [512.0, True, ["512"]]),
        ("TileSize", ["0", "15", "100000", "512.0"]),
        ("Overlap", ["513", "257", "-1", 0.5]),
    ],
)
def test_invalid_metadata_is_refused(key: str, values: list[object]) -> None:
    for value in values:
        with pytest.raises(WrongContent, match="metadata"):
            DeepZoom.from_metadata({**SEEN, key: value})


def test_metadata_that_lacks_something_is_refused() -> None:
    for key in SEEN:
        metadata = {name: value for name, value in SEEN.items() if name != key}
        with pytest.raises(WrongContent, match="format" if key == "Format" else key):
            DeepZoom.from_metadata(metadata)
    for answer in (None, [], "Format", 7, [SEEN], {}, {"message": "no"}):
        with pytest.raises(WrongContent, match="have no tile format"):
            DeepZoom.from_metadata(answer)


def test_a_png_tile_comes_out_as_it_is_without_its_overlap() -> None:
    image = picture()
    assert np.array_equal(decode_tile(packed(image), SERVED, OWN), own_part(image))


@pytest.mark.parametrize("subsampling", [0, 1, 2])
def test_a_jpeg_tile_comes_out_as_any_decoder_has_it(subsampling: int) -> None:
    data = packed(picture(), "JPEG", quality=85, subsampling=subsampling)
    with Image.open(io.BytesIO(data)) as image:
        assert np.array_equal(decode_tile(data, SERVED, OWN), own_part(image))


def test_alpha_is_dropped() -> None:
    image = picture()
    clear = image.copy()
    clear.putalpha(Image.linear_gradient("L").resize(image.size))
    assert np.array_equal(decode_tile(packed(clear), SERVED, OWN), own_part(image))


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_grey_tiles_become_rgb(form: str) -> None:
    grey = picture().convert("L")
    pixels = decode_tile(packed(grey, form), SERVED, OWN)
    assert pixels.shape == (254, 254, 3)
    assert np.ptp(pixels.astype(int), axis=2).max() == 0


@pytest.mark.parametrize("off", [(-1, 0), (0, -1), (1, 1), (-1, 1)])
@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_a_tile_one_pixel_off_is_resized(form: str, off: tuple[int, int]) -> None:
    nominal = Image.linear_gradient("L").resize((256, 255)).convert("RGB")
    short = nominal.resize((256 + off[0], 255 + off[1]))
    pixels = decode_tile(packed(short, form), SERVED, OWN)
    assert pixels.shape == (254, 254, 3)
    assert np.abs(pixels.astype(int) - own_part(nominal)).max() <= 4


@pytest.mark.parametrize("off", [(-2, 0), (0, 2), (-2, -2), (254, 0)])
def test_a_tile_two_pixels_off_is_refused(off: tuple[int, int]) -> None:
    data = packed(picture(256 + off[0], 255 + off[1]))
    with pytest.raises(BadTile, match="pixels instead of 256×255"):
        decode_tile(data, SERVED, OWN)


@pytest.mark.parametrize(
    "data",
    [
        b"<!DOCTYPE html><html><h1>504 Gateway Time-out</h1></html>",
        b'{"message": "no tile"}',
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xd8",
        b"\xff\xd8\xff\xd9",
        b"\0" * 4096,
        packed(picture(), "GIF"),
        packed(picture(), "TIFF"),
        packed(picture(), "WEBP"),
    ],
    ids=range(9),
)
def test_what_is_neither_png_nor_jpeg_is_refused(data: bytes) -> None:
    with pytest.raises(BadTile, match="cannot be decoded"):
        decode_tile(data, SERVED, OWN)


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_a_truncated_tile_is_refused(form: str) -> None:
    data = packed(picture(), form)
    with pytest.raises(BadTile, match="empty"):
        decode_tile(b"", SERVED, OWN)
    cut = [data[: int(len(data) * kept)] for kept in (0.05, 0.3, 0.5, 0.9, 0.99)]
    # The last is a JPEG that ends early by its own word.
    for short in (*cut, data[: len(data) // 2] + b"\xff\xd9"):
        with pytest.raises(BadTile, match="cannot be decoded"):
            decode_tile(short, SERVED, OWN)


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_a_flipped_byte_ends_in_the_right_tile_or_in_a_bad_one(form: str) -> None:
    """JPEG has no checksum: what decodes without a warning cannot be told from the truth."""
    image = picture()
    data = packed(image, form)
    for place in range(0, len(data), len(data) // 300):
        spoiled = bytearray(data)
        spoiled[place] ^= 0xFF
        try:
            pixels = decode_tile(bytes(spoiled), SERVED, OWN)
        except BadTile:
            continue
        assert pixels.shape == (254, 254, 3)
        assert form == "JPEG" or np.array_equal(pixels, own_part(image)), f"byte {place}"


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [9_000, 12_000, 60_000])
def test_a_bomb_is_refused_by_its_header(side: int) -> None:
    pixels = zlib.compress(bytes(1 << 20))
    with pytest.raises(BadTile):
        decode_tile(png(head(side, side), (b"IDAT", pixels), (b"IEND", b"")), SERVED, OWN)


@pytest.mark.parametrize("kind", [b"zTXt", b"iCCP"])
def test_a_packed_chunk_that_would_fill_memory_is_never_unpacked(kind: bytes) -> None:
    image = picture()
    bomb = png((kind, b"Comment\0\0" + zlib.compress(bytes(64 << 20), 9)))[len(png()) :]
    plain = packed(image)
    data = plain[:33] + bomb + plain[33:]
    with bounded(seconds=60, megabytes=8):
        pixels = decode_tile(data, SERVED, OWN)
    assert np.array_equal(pixels, own_part(image))


@pytest.mark.parametrize("size", [1, 140_612, 1_048_577, 13_000_000])
@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_a_colour_profile_changes_nothing(form: str, size: int) -> None:
    profile = random.Random(size).randbytes(size)
    data = packed(picture(), form, icc_profile=profile)
    assert len(data) > size
    plain = packed(picture(), form)
    assert np.array_equal(decode_tile(data, SERVED, OWN), decode_tile(plain, SERVED, OWN))
    assert len(remove_ancillary_data(PieceReader([data]), 1 << 20)) <= len(plain)


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_a_profile_is_passed_over_however_the_bytes_come(form: str) -> None:
    data = packed(picture(), form, icc_profile=random.Random(2).randbytes(70_000))
    right = remove_ancillary_data(PieceReader([data]), len(data))
    for length in (1, 7, 4096):
        pieces = (data[start : start + length] for start in range(0, len(data), length))
        assert remove_ancillary_data(PieceReader(pieces), len(data)) == right


def test_the_colour_transform_of_a_jpeg_is_kept() -> None:
    red = Image.new("RGB", (256, 255), (250, 10, 30))
    data = simplejpeg.encode_jpeg(np.asarray(red), colorspace="RGB")
    adobe = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00"
    marked = data[:2] + adobe + data[2:]
    assert remove_ancillary_data(PieceReader([marked]), len(marked)).count(b"Adobe") == 1


def test_fill_bytes_before_a_profile_do_no_harm() -> None:
    data = packed(picture(), "JPEG", icc_profile=random.Random(3).randbytes(70_000))
    place = data.index(b"\xff\xe2")
    filled = data[:place] + b"\xff\xff" + data[place:]
    assert len(remove_ancillary_data(PieceReader([filled]), len(filled))) < len(filled) - 70_000
    assert np.array_equal(decode_tile(filled, SERVED, OWN), decode_tile(data, SERVED, OWN))


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_more_bytes_of_pixels_than_there_can_be_are_refused(form: str) -> None:
    data = packed(picture(), form, icc_profile=bytes(100_000))
    most = len(remove_ancillary_data(PieceReader([data]), len(data)))
    remove_ancillary_data(PieceReader([data]), most)
    with pytest.raises(TooLong, match=f"{most - 1:,} bytes without its colour profile"):
        remove_ancillary_data(PieceReader([data]), most - 1)
