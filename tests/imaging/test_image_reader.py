"""An image file is read back as it was written, and nothing that is wrong with it passes."""

from __future__ import annotations

import hashlib
import io
import json
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from tcgamirror.imaging import image_reader, tiff_reader
from tcgamirror.imaging.decode import Pixels
from tcgamirror.imaging.image_reader import decode_all, read_header
from tcgamirror.imaging.image_writer import write_image
from tcgamirror.imaging.metadata import parse_metadata
from tcgamirror.imaging.svs import Compression, Photometric
from tcgamirror.imaging.tiff import Tag, Type
from tcgamirror.imaging.tiff_reader import COPIED_TAGS
from tcgamirror.imaging.tiff_writer import RGB_TAGS, TILE, TiffWriter, reduced_sizes
from tcgamirror.imaging.tile_codec import TileCodec
from tcgamirror.model.errors import Damaged, Interrupted
from tcgamirror.model.geometry import Grid, Size
from tcgamirror.model.slide import ImageFormat
from tests.support.levels import bounded
from tests.support.strip_tiffs import forged_tiff, strip_tiff

METADATA = {"file_id": "e3b", "site": "Brüste"}
SIZE, LARGE = Size(120, 90), Size(5000, 5000)
METADATA_TEXT = json.dumps(
    {"file_id": "0" * 8 + "-0000-0000-0000-" + "0" * 12, "file_name": "a.svs", "source": "range"}
    | {"level": 1, "level_downsample": 4.0, "mpp_source": "unknown", "md5": None}
)


def encoded(form: ImageFormat, size: Size = SIZE) -> bytes:
    pixels = np.random.default_rng(1).integers(0, 255, (size.height, size.width, 3), np.uint8)
    file = io.BytesIO()
    write_image(file, form, size, strips(pixels), (15.0, 15.0), METADATA)
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
def test_size_and_metadata_are_those_that_were_written(form: ImageFormat) -> None:
    file = io.BytesIO(encoded(form))
    header = read_header(file, form)
    assert header.size == SIZE
    assert json.loads(header.metadata) == METADATA
    decode_all(file, form)


@pytest.mark.parametrize("size", [Size(1, 1), SIZE, Size(1531, 700)], ids=str)
@pytest.mark.parametrize("form", ImageFormat)
def test_the_digest_is_of_the_pixels_row_by_row(form: ImageFormat, size: Size) -> None:
    data = encoded(form, size)
    pixels = np.asarray(Image.open(io.BytesIO(data))).tobytes()
    digest = None if form is ImageFormat.JPEG else hashlib.sha256(pixels).hexdigest()
    assert decode_all(io.BytesIO(data), form) == digest


@pytest.mark.parametrize("height", [1, 90, 700])
def test_the_digest_of_an_image_in_strips_is_of_its_pixels(height: int) -> None:
    pixels = np.random.default_rng(1).integers(0, 255, (height, 120, 3), np.uint8)
    data = strip_tiff(pixels, 15.0, {})
    digest = hashlib.sha256(pixels.tobytes()).hexdigest()
    assert decode_all(io.BytesIO(data), ImageFormat.TIFF) == digest


@pytest.mark.parametrize("width", [1, 120, 400_000])
def test_the_digest_is_that_of_any_filters(width: int) -> None:
    lines = np.random.default_rng(1).integers(0, 256, (9, 1 + 3 * width), np.uint8)
    lines[:, 0] = np.arange(9) % 5
    packed = zlib.compress(lines.tobytes())
    data = png(head(width, 9), (b"IDAT", packed), (b"IEND", b""))
    pixels = np.asarray(Image.open(io.BytesIO(data))).tobytes()
    assert decode_all(io.BytesIO(data), ImageFormat.PNG) == hashlib.sha256(pixels).hexdigest()


@pytest.mark.parametrize("form", [ImageFormat.PNG, ImageFormat.TIFF])
def test_an_image_too_wide_to_be_held_has_no_digest(
    form: ImageFormat, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_reader, "MAX_LINE_BYTES", 3 * SIZE.width)
    monkeypatch.setattr(tiff_reader, "MAX_BAND_BYTES", 3 * 256 * 256 - 1)
    assert decode_all(io.BytesIO(encoded(form)), form) is None


@pytest.mark.parametrize("form", ImageFormat)
@pytest.mark.parametrize("other", ImageFormat)
def test_another_format_is_refused(form: ImageFormat, other: ImageFormat) -> None:
    if form != other:
        with pytest.raises(Damaged):
            read_header(io.BytesIO(encoded(other)), form)


@pytest.mark.parametrize("form", ImageFormat)
def test_a_changed_header_has_a_size_or_is_damaged(form: ImageFormat) -> None:
    whole = encoded(form)
    rng = np.random.default_rng(5)
    for length in range(0, min(len(whole), 400), 3):
        changed = bytearray(whole[: length or None])
        changed[int(rng.integers(len(changed)))] ^= 1 << int(rng.integers(8))
        try:
            size = read_header(io.BytesIO(changed), form).size
        except Damaged as error:
            assert str(error)
        else:
            assert min(size) > 0


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


@pytest.mark.parametrize(
    ("form", "size", "megabytes"),
    [
        (ImageFormat.PNG, Size(690_000, 5), 60),
        (ImageFormat.PNG, Size(5_000_000, 3), 60),
        (ImageFormat.TIFF, Size(40_001, 256), 40),
    ],
)
def test_the_digest_of_a_wide_image_takes_little_memory(
    form: ImageFormat, size: Size, megabytes: float
) -> None:
    file = io.BytesIO()
    rows: Pixels = np.broadcast_to(np.uint8(255), (size.height, size.width, 3))
    write_image(file, form, size, [rows], None, METADATA)
    with bounded(seconds=30, megabytes=megabytes):
        decode_all(file, form)


def test_another_programs_image_has_no_metadata_or_is_refused() -> None:
    file = io.BytesIO()
    Image.new("RGB", SIZE).save(file, "PNG")
    assert read_header(file, ImageFormat.PNG).metadata == ""
    grey = io.BytesIO()
    Image.new("L", SIZE).save(grey, "PNG")
    with pytest.raises(Damaged, match="not of 8-bit RGB"):
        read_header(grey, ImageFormat.PNG)


# Bombs ---------------------------------------------------------------------------


def overlapping(size: Size, rows: int = 1, text: str = "{}") -> bytes:
    """A TIFF whose strips are all the same bytes, which unpack to so many rows."""
    strip = zlib.compress(bytes(size.width * rows * 3), 9)
    count = -(-size.height // rows)
    return forged_tiff(strip, size, rows, [8] * count, [len(strip)] * count, 15.0, text)


def tiled(
    size: Size,
    tile: bytes,
    *,
    offsets: int = 0,
    side: Size = TILE,
    text: str = "{}",
    sizes: Sequence[Size] | None = None,
    **tags: int,
) -> bytes:
    """A TIFF whose tiles are all the same bytes. offsets: bytes between the tiles' beginnings.

    sizes: of the levels. tags: other values, by the names of the tags.
    """
    file = io.BytesIO()
    out = TiffWriter(file, big=True)
    directories = []
    for each in sizes or [size, *reduced_sizes(size)]:
        grid = Grid(each, side)
        count = grid.columns * grid.rows
        places = [out.write(tile) for _ in range(count if offsets else 1)]
        kind = {**RGB_TAGS, **{getattr(Tag, name): (value,) for name, value in tags.items()}}
        directories.append(
            [
                *out.tile_tags(grid, places if offsets else places * count, [len(tile)] * count),
                *(out.layout.pack_tag(tag, Type.SHORT, *values) for tag, values in kind.items()),
                *out.metadata_tags((15.0, 15.0), text),
            ]
        )
    out.write_directories(directories)
    return file.getvalue()


BLANK_TILE = zlib.compress(bytes(TILE.width * TILE.height * 3))
ODD_TIFFS = {
    "tiles at one place": (tiled(Size(60_000, 20_000), BLANK_TILE), "overlap"),
    "a billion tiles": (
        tiled(Size(9, 9), BLANK_TILE, WIDTH=65_535, HEIGHT=65_535),
        "of the levels",
    ),
    "tiles of 16 pixels": (tiled(SIZE, BLANK_TILE, side=Size(16, 16)), "256×256"),
    "tiles of 65,520 pixels": (tiled(SIZE, BLANK_TILE, side=Size(65_520, 65_520)), "256×256"),
    "no reduced level": (tiled(LARGE, BLANK_TILE, sizes=[LARGE]), "of the levels"),
    "many levels": (tiled(SIZE, BLANK_TILE, sizes=[SIZE] * 60), "of the levels"),
    "palette": (tiled(SIZE, BLANK_TILE, PHOTOMETRIC=3), "8-bit RGB"),
    "LZW": (tiled(SIZE, BLANK_TILE, COMPRESSION=5), "8-bit RGB"),
    "a bomb": (tiled(SIZE, zlib.compress(bytes(50_000_000), 9)), "more pixels"),
    "a long tile": (tiled(SIZE, bytes(300_000)), "longer than its pixels"),
    "half a tile": (tiled(SIZE, zlib.compress(bytes(9))), "fewer pixels"),
    "a tile without bytes": (tiled(SIZE, b""), "fewer pixels"),
}
"""TIFFs as none are written, and why they are refused."""


def test_the_forged_tiffs_differ_from_a_good_one_in_what_is_forged_alone() -> None:
    for size in (SIZE, Size(5000, 300)):
        decode_all(io.BytesIO(tiled(size, BLANK_TILE, offsets=1)), ImageFormat.TIFF)


CODED = TileCodec(Compression.JPEG, Photometric.YCBCR, Size(64, 64))


def copied(
    streams: Sequence[bytes],
    codec: TileCodec = CODED,
    size: Size = SIZE,
    *,
    places: Sequence[int] | None = None,
    directories: int = 1,
    bits: int = 8,
) -> bytes:
    """A TIFF of a slide's tiles. places: of the tiles, in the order they are written."""
    file = io.BytesIO()
    out = TiffWriter(file, big=False)
    offsets = [out.write(stream) for stream in streams]
    lengths = [len(stream) for stream in streams]
    if places is not None:
        offsets, lengths = (
            [offsets[place] for place in places],
            [lengths[place] for place in places],
        )
    pack = out.layout.pack_tag
    kind = {tag: values for tag, values in COPIED_TAGS.items() if tag != Tag.BITS}
    tags = [
        *out.tile_tags(Grid(size, codec.tile), offsets, lengths),
        *(pack(tag, Type.SHORT, *values) for tag, values in kind.items()),
        pack(Tag.BITS, Type.SHORT, bits, bits, bits),
        pack(Tag.COMPRESSION, Type.SHORT, codec.compression),
        pack(Tag.PHOTOMETRIC, Type.SHORT, codec.photometric),
        (Tag.JPEG_TABLES, Type.UNDEFINED, len(codec.tables), codec.tables),
        *out.metadata_tags((15.0, 15.0), "{}"),
    ]
    out.write_directories([tags] * directories)
    return file.getvalue()


PIXELS_OF_A_TILE = np.full((64, 64, 3), 77, np.uint8)
TILES = [CODED.encode(PIXELS_OF_A_TILE // (place + 1), (1, 1)) for place in range(4)]
ODD_COPIES = {
    "part of a tile": (copied([*TILES[:3], TILES[3][:-30]]), "not whole"),
    "a tile without bytes": (copied([*TILES[:3], b""]), "not whole"),
    "tiles of another size": (copied(TILES[:2], replace(CODED, tile=Size(64, 96))), "is damaged"),
    "tiles of 8,192 pixels": (copied(TILES[:1], replace(CODED, tile=Size(8192, 16))), "copies"),
    "tiles of 100 pixels": (copied(TILES[:2], replace(CODED, tile=Size(100, 100))), "copies"),
    "two levels": (copied(TILES, directories=2), "levels"),
    "a palette": (copied(TILES, replace(CODED, photometric=3)), "copies"),
    "tables that are none": (copied(TILES, replace(CODED, tables=b"x" * 99)), "damaged"),
    "16 bits": (copied(TILES, bits=16), "8-bit RGB"),
    "too few tiles": (copied(TILES[:3]), "3 values for 4"),
    "a long tile": (copied([*TILES[:3], bytes(40_000)]), "longer than its pixels"),
}
"""TIFFs of copied tiles as none are written, and why they are refused."""


def test_tiles_that_overlap_are_refused_and_those_that_are_shared_are_decoded_once() -> None:
    decode_all(io.BytesIO(copied(TILES)), ImageFormat.TIFF)
    decode_all(io.BytesIO(copied(TILES, places=[3, 1, 1, 0])), ImageFormat.TIFF)
    small = replace(CODED, tile=Size(16, 16))
    shared = [small.encode(None, (1, 1))], small, Size(4096, 4096)
    with bounded(seconds=5, megabytes=30):
        decode_all(io.BytesIO(copied(*shared, places=[0] * 65_536)), ImageFormat.TIFF)
    data = copied(TILES)
    offset = struct.pack("<I", data.index(TILES[2]))
    for other in (9, data.index(TILES[1]) + 3):
        spoiled = data.replace(offset, struct.pack("<I", other))
        assert spoiled != data
        with pytest.raises(Damaged, match="overlap"):
            decode_all(io.BytesIO(spoiled), ImageFormat.TIFF)


def test_a_tiff_in_strips_is_read_as_it_was_by_older_versions() -> None:
    rng = np.random.default_rng(3)
    for size in (SIZE, Size(5000, 40)):
        pixels = rng.integers(0, 255, (size.height, size.width, 3), np.uint8)
        whole = strip_tiff(pixels, 15.0, METADATA)
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(whole))), pixels)
        header = read_header(io.BytesIO(whole), ImageFormat.TIFF)
        assert (header.size, json.loads(header.metadata)) == (size, METADATA)
        decode_all(io.BytesIO(whole), ImageFormat.TIFF)
        with pytest.raises(Damaged):
            decode_all(io.BytesIO(whole[:-1]), ImageFormat.TIFF)


ODD_STRIPS = {
    "strips at one place": (overlapping(Size(60_000, 20_000)), "overlap"),
    "strips of 20 rows": (overlapping(Size(1_000_000, 800_000), 20), "more than this program"),
    "small strips": (overlapping(Size(10, 40_000)), "smaller than"),
}


def saved(form: str, size: Size = SIZE, **how: object) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, "pink").save(file, form, **how)
    return file.getvalue()


def scans(jpeg: bytes) -> tuple[bytes, bytes]:
    """A JPEG's bytes before its first scan, and that scan with what follows, but for the end."""
    place = jpeg.index(b"\xff\xda")
    return jpeg[:place], jpeg[place:-2]


HEAD, SCAN = scans(saved("JPEG"))
ODD_JPEGS = {
    "progressive": (saved("JPEG", progressive=True), "not a baseline one"),
    "many scans": (HEAD + SCAN * 3000 + b"\xff\xd9", "followed by more"),
    "two images": (saved("JPEG") * 2, "followed by more"),
    "a profile": (saved("JPEG", icc_profile=bytes(60_000)), "a segment E2"),
    "a comment": (saved("JPEG", comment=b"x"), "a segment FE"),
    "restarts": (saved("JPEG", restart_marker_rows=1), "a segment DD"),
    "one colour a scan": (HEAD + b"\xff\xda\0\x08\1\1\0\0\x3f\0" + SCAN[14:], "all of its colours"),
    "tables": (HEAD[:2] + (b"\xff\xdb\0\x43" + bytes(65)) * 100 + HEAD[2:], "16 segments"),
    "two frames": (HEAD + HEAD[HEAD.index(b"\xff\xc0") :] + SCAN, "2 times"),
}


ODD_PNGS = {
    "a bomb": (
        png(head(10, 10), (b"IDAT", zlib.compress(bytes(50_000_000), 9)), (b"IEND", b"")),
        "more bytes than its pixels",
    ),
    "a huge size": (
        png(head(2**31 - 1, 2**31 - 1), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")),
        "fewer pixels",
    ),
    "endless metadata": (
        png(head(1, 1), (b"tEXt", b"tcgamirror\0" + b"[" * 100_000)),
        "100,011 bytes",
    ),
}
ODD = {
    ImageFormat.PNG: ODD_PNGS,
    ImageFormat.TIFF: {**ODD_TIFFS, **ODD_COPIES, **ODD_STRIPS},
    ImageFormat.JPEG: ODD_JPEGS,
}


@pytest.mark.parametrize(("form", "name"), [(form, name) for form in ODD for name in ODD[form]])
def test_an_image_as_none_is_written_is_refused(form: ImageFormat, name: str) -> None:
    data, why = ODD[form][name]
    assert len(data) < 1_000_000
    with pytest.raises(Damaged, match=why):
        decode_all(io.BytesIO(data), form)


PIXELS, STORED = (zlib.compress(bytes(90 * 361), level) for level in (9, 0))
ODD_CHUNKS = {
    "profile": [(b"iCCP", b"p\0\0" + zlib.compress(bytes(1 << 20)))],
    "packed text": [(b"zTXt", b"t\0\0" + zlib.compress(bytes(1 << 20)))],
    "animated": [(b"acTL", struct.pack(">II", 9999, 0))],
    "palette": [(b"PLTE", bytes(768))],
    "transparent": [(b"tRNS", bytes(6))],
    "texts": [(b"tEXt", b"a\0b")] * 1000,
}


@pytest.mark.parametrize("name", ODD_CHUNKS)
def test_a_png_with_other_chunks_is_refused_undecoded(name: str) -> None:
    odd, end = ODD_CHUNKS[name], (b"IEND", b"")
    for chunks in ([*odd, (b"IDAT", PIXELS)], [(b"IDAT", PIXELS), *odd]):
        with pytest.raises(Damaged, match=r"never writes there|16 chunks"):
            decode_all(io.BytesIO(png(head(120, 90), *chunks, end)), ImageFormat.PNG)


def test_a_png_in_a_million_chunks_or_longer_than_its_pixels_is_refused() -> None:
    small = [(b"IDAT", STORED[place : place + 100]) for place in range(0, len(STORED), 100)]
    idle = PIXELS[:2] + b"\0\0\0\xff\xff" * 30_000
    for chunks in (small, [(b"IDAT", b"")] * 100, [(b"IDAT", idle)], [(b"IDAT", PIXELS + b"x")]):
        with pytest.raises(Damaged):
            decode_all(io.BytesIO(png(head(120, 90), *chunks, (b"IEND", b""))), ImageFormat.PNG)


@pytest.mark.parametrize("form", ImageFormat)
def test_decoding_is_stopped_from_within_and_takes_its_time_at_most(
    form: ImageFormat, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = encoded(form, Size(1200, 1200))
    checks = 0

    def stop() -> None:
        nonlocal checks
        checks += 1
        if checks == 3:
            raise Interrupted("stopped")

    with pytest.raises(Interrupted):
        decode_all(io.BytesIO(whole), form, stop)
    monkeypatch.setattr(image_reader, "SECONDS", -9.0)
    with pytest.raises(Damaged, match="not decoded after"):
        decode_all(io.BytesIO(whole), form)


def test_metadata_with_a_number_of_a_thousand_digits_are_damaged() -> None:
    for number in ("1" + "0" * 400, "-1e999", "1e999", "1" * 5000):
        text = METADATA_TEXT.replace('"level_downsample": 4.0', f'"level_downsample": {number}')
        assert text != METADATA_TEXT
        with pytest.raises(Damaged):
            parse_metadata(text)
