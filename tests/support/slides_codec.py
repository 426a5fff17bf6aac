"""Tile data as Aperio's scanners write it: bare JPEG streams, JPEG 2000 codestreams, pixels."""

import io
from typing import Literal

from PIL import Image

Compression = Literal["jpeg-rgb", "jpeg-ycbcr", "j2k-rgb", "j2k-ycbcr", "none"]

QUALITY, FINE_QUALITY = 70, 95
JPEG_2000_DECIBELS, FINE_JPEG_2000_DECIBELS = 44, 58

_START, _END = b"\xff\xd8", b"\xff\xd9"
_JFIF, _ADOBE = 0xE0, 0xEE
_QUANTIZATION, _HUFFMAN = 0xDB, 0xC4
_FRAME, _SCAN = 0xC0, 0xDA


def encode(
    image: Image.Image,
    compression: Compression,
    subsampling: int = 0,
    first_component: int = 0,
    *,
    fine: bool = False,
) -> bytes:
    """An RGB image as one tile's or strip's stream.

    subsampling: of jpeg-ycbcr; first_component: its number in jpeg-rgb; fine: with little loss.
    """
    quality = FINE_QUALITY if fine else QUALITY
    decibels = FINE_JPEG_2000_DECIBELS if fine else JPEG_2000_DECIBELS
    match compression:
        case "jpeg-rgb":
            return _jpeg_rgb(image, first_component, quality)
        case "jpeg-ycbcr":
            return _jpeg_ycbcr(image, subsampling, quality)
        case "j2k-rgb":
            return _jpeg_2000(image, decibels)
        case "j2k-ycbcr":
            return _jpeg_2000(Image.merge("RGB", image.convert("YCbCr").split()), decibels)
        case "none":
            return image.tobytes()


def overwritten(stream: bytes, compression: Compression) -> bytes:
    """Return a tile that does not decode: begun as in some slides; of bare pixels, half of them."""
    return stream[: len(stream) // 2] if compression == "none" else b"\x11\0" + stream[2:]


def split_tables(stream: bytes) -> tuple[bytes, bytes]:
    """A JPEG stream as (JPEGTables value, abbreviated stream that needs those tables)."""
    segments, scan = _segments(stream)
    tables = [s for s in segments if s[1] in (_QUANTIZATION, _HUFFMAN)]
    others = [s for s in segments if s[1] not in (_QUANTIZATION, _HUFFMAN)]
    return _START + b"".join(tables) + _END, _START + b"".join(others) + scan


def _jpeg_rgb(image: Image.Image, first_component: int, quality: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality, keep_rgb=True, subsampling=0)
    return _bare(buffer.getvalue(), first_component)


def _jpeg_ycbcr(image: Image.Image, subsampling: int, quality: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality, subsampling=subsampling)
    return _bare(buffer.getvalue(), first_component=1)


def _jpeg_2000(image: Image.Image, decibels: int) -> bytes:
    buffer = io.BytesIO()
    image.save(
        buffer,
        "JPEG2000",
        no_jp2=True,
        mct=0,
        irreversible=True,
        quality_mode="dB",
        quality_layers=[decibels],
    )
    return buffer.getvalue()


def _bare(stream: bytes, first_component: int) -> bytes:
    """The stream without any hint of its colour space: only the TIFF's photometric tag tells.

    Components are numbered from `first_component`; libtiff counts RGB from 0, YCbCr from 1.
    """
    segments, scan = _segments(stream)
    kept = [s for s in segments if s[1] not in (_JFIF, _ADOBE)]
    renumbered = [_numbered(s, 10, 3, first_component) if s[1] == _FRAME else s for s in kept]
    return _START + b"".join(renumbered) + _numbered(scan, 5, 2, first_component)


def _numbered(segment: bytes, start: int, stride: int, first_component: int) -> bytes:
    """The segment with its three component numbers, `stride` bytes apart, counted anew."""
    changed = bytearray(segment)
    for component in range(3):
        changed[start + component * stride] = first_component + component
    return bytes(changed)


def _segments(stream: bytes) -> tuple[list[bytes], bytes]:
    """(segments before the scan, each with its marker; the scan and all after it)."""
    segments: list[bytes] = []
    place = len(_START)
    while stream[place + 1] != _SCAN:
        length = 2 + int.from_bytes(stream[place + 2 : place + 4], "big")
        segments.append(stream[place : place + length])
        place += length
    return segments, stream[place:]
