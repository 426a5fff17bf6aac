"""Streams that a decoder takes in bounded time, and those of tiles that are encoded."""

from __future__ import annotations

import base64
import io
import struct

import numpy as np
import pytest
from PIL import Image

from tcgamirror.imaging.decode import Pixels
from tcgamirror.imaging.svs import Compression, Photometric
from tcgamirror.imaging.tile_codec import TileCodec, jpeg_subsampling
from tcgamirror.model.errors import BadTile
from tcgamirror.model.geometry import Size
from tests.support.slides_codec import encode, split_tables

SIDE = 64
TILE = Size(SIDE, SIDE)
RGB = TileCodec(Compression.JPEG, Photometric.RGB, TILE)
YCBCR = TileCodec(Compression.JPEG, Photometric.YCBCR, TILE)
J2K = TileCodec(Compression.JPEG_2000_RGB, Photometric.RGB, TILE)
J2K_YCBCR = TileCodec(Compression.JPEG_2000_YCBCR, Photometric.RGB, TILE)
CODECS = {"rgb": RGB, "ycbcr": YCBCR, "j2k": J2K, "j2k-ycbcr": J2K_YCBCR}


def picture(width: int = SIDE, height: int = SIDE) -> Pixels:
    across = np.linspace(0, 250, width)[None, :, None]
    down = np.linspace(0, 120, height)[:, None, None]
    return (across * [1.0, 0.5, 0.2] + down).clip(0, 255).astype(np.uint8)


def jpeg(side: int = SIDE, **how: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture(side, side)).save(file, "JPEG", **how)
    return file.getvalue()


def jpeg_2000(side: int = SIDE, **how: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture(side, side)).save(file, "JPEG2000", no_jp2=True, **how)
    return file.getvalue()


@pytest.mark.parametrize("name", CODECS)
def test_what_is_encoded_is_plain_and_decodes_to_nearly_the_same(name: str) -> None:
    codec = CODECS[name]
    for pixels in (picture(), picture(10, 50)):
        stream = codec.encode(pixels, (1, 1))
        assert codec.is_plain(stream)
        codec.decode(stream, 8)
        decoded = codec.decode(stream, 1)
        most = 0 if codec is J2K else 4
        assert np.abs(decoded[: len(pixels), : pixels.shape[1]].astype(int) - pixels).max() <= most
        assert codec.decode(stream, 8).shape == (8, 8, 3)


@pytest.mark.parametrize("name", CODECS)
def test_white_is_white(name: str) -> None:
    for subsampling in ((1, 1), (2, 1), (2, 2)):
        stream = CODECS[name].encode(None, subsampling)
        assert CODECS[name].decode(stream, 1).min() == 255


@pytest.mark.parametrize(("number", "subsampling"), [(0, (1, 1)), (1, (2, 1)), (2, (2, 2))])
def test_a_tile_is_encoded_with_the_subsampling_of_the_others(
    number: int, subsampling: tuple[int, int]
) -> None:
    assert jpeg_subsampling(encode(Image.fromarray(picture()), "jpeg-ycbcr", number)) == subsampling
    assert jpeg_subsampling(YCBCR.encode(picture(), subsampling)) == subsampling


def test_an_encoded_tile_leaves_shared_tables_as_they_are() -> None:
    """libtiff keeps them from tile to tile."""
    tables, _ = split_tables(encode(Image.fromarray(picture()), "jpeg-ycbcr"))
    codec = TileCodec(Compression.JPEG, Photometric.YCBCR, TILE, tables)
    assert codec.can_be_copied
    stream = codec.encode(picture(), (1, 1))
    assert stream != YCBCR.encode(picture(), (1, 1))
    assert codec.is_plain(stream)
    assert np.array_equal(codec.decode(stream, 1), YCBCR.decode(YCBCR.encode(picture(), (1, 1)), 1))
    other = TileCodec(Compression.JPEG, Photometric.YCBCR, TILE, stream)
    assert not other.can_be_copied, "its tables are in the slots that encoded tiles need"


SUBSAMPLED = base64.b85decode(
    "|4;u>051Rl0000G0000G00000000000000G0000G000000000000RdB0S5vB2Lb{AQUDA9000310t5sA0smY83P3<eNKi"
    ";fQ2%5AB>(|Ka%Ew3Wn>^?c_2@4Wo}APMMofZWpZ<AZ*CwmE;TMN|BwI*000000M7sc|C7(OL=fUQ_$??yF<5kbcM;j23"
    "}4T*BonN#MU-GuJXg=OBmn|#*YpK&KBvI>13~kNfI2858U<<uUju)%B=C)c|9=nj4UXTz^Mrx&0st2(l??#K!|Dcs@&$k"
    "q02kNa_ey^Nzxgl_4?n<sCcyazKnk!mM3LLE`Owx85W;y5J*G5S%Vl<3Dmm)Fjh_$i<LQxAo#UW155V~XKzt#9A#m-#Dc"
    "%ji^M!!;M}QH4A{_EcKPlbUqAxZ-GXH=7*#"
)
"""JPEG 2000 of 16 × 16 pixels in YCbCr 4:2:2 without loss, by opj_compress of OpenJPEG 2.5.

Across, red grows by 15 a pixel and blue falls by 6 from 200; down, green grows by 15.
"""


def test_subsampled_jpeg_2000_has_its_colours() -> None:
    codec = TileCodec(Compression.JPEG_2000_YCBCR, Photometric.RGB, Size(16, 16))
    assert codec.is_plain(SUBSAMPLED)
    down, across = np.mgrid[:16, :16]
    expected = np.stack([across * 15, down * 15, 200 - across * 6], axis=-1)
    assert np.abs(codec.decode(SUBSAMPLED, 1) - expected).mean() < 5
    mean = expected.reshape(2, 8, 2, 8, 3).mean(axis=(1, 3))
    assert np.abs(codec.decode(SUBSAMPLED, 8) - mean).max() < 5


def scans(stream: bytes) -> bytes:
    """A JPEG with its scan twice."""
    scan = stream[stream.index(b"\xff\xda") : -2]
    return stream[:-2] + scan + stream[-2:]


def changed(stream: bytes, marker: int, place: int, value: bytes) -> bytes:
    """A JPEG 2000 stream with other bytes in a segment."""
    start = stream.index(struct.pack(">H", marker)) + 4 + place
    return stream[:start] + value + stream[start + len(value) :]


ODD = {
    "progressive": (RGB, jpeg(progressive=True)),
    "two scans": (RGB, scans(jpeg())),
    "a part": (RGB, jpeg()[:-20]),
    "no end": (RGB, jpeg()[:-2]),
    "overwritten": (RGB, b"\x11\0" + jpeg()[2:]),
    "no JPEG": (RGB, b"\xff\xd8\0"),
    "nothing": (RGB, b""),
    "JPEG 2000 that ends early": (J2K, jpeg_2000()[:-20]),
    "JPEG 2000 in a box": (J2K, jpeg_2000().replace(b"\xff\x4f", b"\0\0", 1)),
    "another size": (J2K, jpeg_2000(SIDE * 2)),
    "small tiles": (J2K, jpeg_2000(tile_size=(16, 16))),
    "small precincts": (J2K, jpeg_2000(precinct_size=(32, 32))),
    "many layers": (J2K, changed(jpeg_2000(), 0xFF52, 2, b"\xff\xff")),
    "four colours": (J2K, changed(jpeg_2000(), 0xFF51, 34, b"\0\4")),
    "sixteen bits": (J2K, changed(jpeg_2000(), 0xFF51, 36, b"\x0f")),
    "nothing of JPEG 2000": (J2K, b""),
}
"""Streams as scanners do not write them."""


@pytest.mark.parametrize("name", ODD)
def test_other_streams_are_not_plain(name: str) -> None:
    codec, stream = ODD[name]
    assert not codec.is_plain(stream)


def test_the_streams_of_slides_are_plain() -> None:
    image = Image.fromarray(picture())
    assert RGB.is_plain(encode(image, "jpeg-rgb")) and YCBCR.is_plain(
        encode(image, "jpeg-ycbcr", 2)
    )
    assert J2K.is_plain(encode(image, "j2k-rgb")) and J2K_YCBCR.is_plain(encode(image, "j2k-ycbcr"))


def test_a_jpeg_with_a_damaged_scan_is_found_at_an_eighth() -> None:
    stream = bytearray(encode(Image.fromarray(picture()), "jpeg-rgb"))
    del stream[-40:-2]
    with pytest.raises(BadTile):
        RGB.decode(bytes(stream), 8)


def test_spoiled_streams_are_refused_or_decoded() -> None:
    rng = np.random.default_rng(4)
    for codec in CODECS.values():
        whole = codec.encode(picture(), (1, 1))
        for _ in range(200):
            stream = bytearray(whole)
            for place in rng.integers(0, len(whole), 3):
                stream[place] = int(rng.integers(256))
            if codec.is_plain(bytes(stream)):
                try:
                    assert codec.decode(bytes(stream), 1).shape == (SIDE, SIDE, 3)
                except BadTile as error:
                    assert str(error)
