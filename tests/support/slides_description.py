"""Image descriptions in the words of Aperio's scanners."""

from tests.support.slides_codec import QUALITY
from tests.support.slides_spec import SlideSpec, level_sizes

_WORDS = {
    "jpeg-rgb": "JPEG/RGB",
    "jpeg-ycbcr": "JPEG/YCC",
    "j2k-rgb": "J2K/KDU",
    "j2k-ycbcr": "J2K/YUV16",
    "none": "RAW",
}


def level_description(spec: SlideSpec, level: int) -> str:
    width, height = level_sizes(spec)[level]
    across, down = spec.tile
    shrunk = f" -> {width}x{height}" if level else ""
    scan = f"{_scan_size(spec)} [0,100 {spec.width}x{spec.height}] ({across}x{down}){shrunk}"
    line = f"{scan} {_WORDS[spec.compression]} Q={QUALITY}"
    return library(line if level else line + _properties(spec))


def thumbnail_description(spec: SlideSpec, width: int, height: int) -> str:
    return library(f"{_scan_size(spec)} -> {width}x{height} - {_properties(spec)}")


def _scan_size(spec: SlideSpec) -> str:
    return f"{spec.width}x{spec.height + 100}"


def library(line: str) -> str:
    """The first line that tells readers that Aperio made this, and the line after it."""
    return f"Aperio Image Library v10.0.51\r\n{line}"


def _properties(spec: SlideSpec) -> str:
    """Aperio's key = value pairs, each after a bar."""
    keys = {
        "AppMag": spec.app_mag,
        "StripeWidth": "2040",
        "ScanScope ID": "SS1302",
        "Filename": "10001",
        "Date": "12/29/09",
        "Time": "09:59:15",
        "User": "b414003d-95c6-48b0-9369-8010ed517ba7",
        "Parmset": "USM Filter",
        "MPP": None if spec.mpp is None else f"{spec.mpp:.4f}",
        "Left": "25.691574",
        "Top": "23.449873",
        "LineCameraSkew": "-0.000424",
        "LineAreaXOffset": "0.019265",
        "LineAreaYOffset": "-0.000313",
        "Focus Offset": "0.000000",
        "ImageID": "1004486",
        "OriginalWidth": f"{spec.width}",
        "Originalheight": f"{spec.height + 100}",
        "Filtered": "5",
    }
    return "".join(f"|{key} = {value}" for key, value in keys.items() if value is not None)
