"""Build and parse an image's metadata, the JSON text inside its file.

The metadata explain an image without its catalogue, and rebuild a catalogue from the
images. They may come from anywhere, so every value is checked like one from the network.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, NoReturn, TypeVar

from tcgamirror import __version__
from tcgamirror.imaging.svs import MAX_TILES, PLAUSIBLE_MPP
from tcgamirror.model import fields
from tcgamirror.model.errors import Damaged
from tcgamirror.model.slide import (
    SOURCES,
    Kind,
    Mpp,
    MppSource,
    Pyramid,
    Rendition,
    Resample,
    Slide,
)

MAX_LEVELS = 64
MAX_DOWNSAMPLE = 1e6

_TEXT_FIELDS = (
    *("primary_site", "disease_type", "sample_type", "case_barcode", "slide_barcode"),
    *("state", "version", "data_release", "updated"),
)

_APERIO = "Aperio Image Library, tiles copied by tcgamirror\n"
_PROPERTY = "|tcgamirror = "

Value = TypeVar("Value")

Json = Mapping[str, object]


def build_metadata(
    slide: Slide, source: str, pyramid: Pyramid, rendition: Rendition, patched_tiles: int | None
) -> Json:
    """Return what the catalogue's view has of an image, and how it was resampled.

    The file itself shows the rest, such as size and digest.
    """
    return {
        **asdict(slide),
        "source": source,
        "level": rendition.level,
        "level_downsample": pyramid.levels[rendition.level].downsample,
        "base_mpp": pyramid.mpp.value,
        "mpp_source": pyramid.mpp.source,
        "mpp_x": rendition.mpp_x,
        "mpp_y": rendition.mpp_y,
        "patched_tiles": patched_tiles,
        "resample": rendition.resample,
        "made_by": f"tcgamirror {__version__}",
    }


def as_aperio(text: str, mpp: float | None) -> str:
    """Return JSON text as a property in a description like those of Aperio's slides.

    OpenSlide decodes JPEG 2000 in no other TIFF. mpp: of both axes, the mean of them.
    """
    known = "" if mpp is None else f"|MPP = {mpp:.6f}"
    # Both characters stand within strings alone.
    escaped = text.replace("|", r"\u007c").replace("=", r"\u003d")
    return f"{_APERIO}{known}{_PROPERTY}{escaped}"


def text_in(description: str) -> str:
    """Return the JSON text in an image's description, which may be like Aperio's.

    >>> text_in(as_aperio('{"site": "a|b = c"}', 0.5))
    '{"site": "a\\\\u007cb \\\\u003d c"}'
    """
    if not description.startswith(_APERIO):
        return description
    return description.partition(_PROPERTY)[2]


@dataclass(frozen=True, slots=True)
class ImageMetadata:
    """An image's slide as listed at the time, and how the image was made.

    mpp: of the slide's base. mpp_x, mpp_y: µm per pixel of the image, None if unknown.
    resample, patched_tiles: None in images of older versions.
    """

    slide: Slide
    source: str
    level: int
    level_downsample: float
    mpp: Mpp
    mpp_x: float | None
    mpp_y: float | None
    resample: Resample | None
    patched_tiles: int | None = None


def parse_metadata(text: str) -> ImageMetadata:
    """Parse the JSON text. Raises Damaged for an invalid value."""
    if not text:
        raise Damaged("it has no metadata of this program inside")
    try:
        metadata = _DECODER.decode(text)
    except (ValueError, RecursionError) as error:
        raise Damaged("its metadata are not JSON") from error
    if not isinstance(metadata, dict):
        raise Damaged("its metadata are not a JSON object")
    mpp = _base_mpp(metadata)
    return ImageMetadata(
        slide=_slide(metadata),
        source=_value(metadata, "source", _SOURCE),
        level=_value(metadata, "level", _LEVEL),
        level_downsample=_value(metadata, "level_downsample", _DOWNSAMPLE),
        mpp=mpp,
        mpp_x=_resolution(metadata, "mpp_x", mpp),
        mpp_y=_resolution(metadata, "mpp_y", mpp),
        resample=_optional(metadata, "resample", Resample),
        patched_tiles=_optional(metadata, "patched_tiles", _TILES),
    )


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)
_SOURCE, _LEVEL = fields.one_of(SOURCES), fields.whole(0, MAX_LEVELS - 1)
_DOWNSAMPLE, _TILES = fields.number(0.99, MAX_DOWNSAMPLE), fields.whole(0, MAX_TILES)
_BASE_MPP = fields.number(*PLAUSIBLE_MPP)


def _slide(metadata: Json) -> Slide:
    return Slide(
        file_id=_value(metadata, "file_id", fields.file_id),
        file_name=_value(metadata, "file_name", fields.file_name),
        md5=fields.md5(metadata.get("md5")),
        size=fields.size(metadata.get("size")),
        kind=_optional(metadata, "kind", Kind),
        project_id=fields.project_id(metadata.get("project_id")),
        **{key: fields.text(metadata.get(key)) for key in _TEXT_FIELDS},
    )


def _value(metadata: Json, key: str, check: Callable[[Any], Value | None]) -> Value:
    """Return the value of a key. Raises Damaged for one that the check refuses."""
    try:
        value = check(metadata.get(key))
    except ValueError:
        value = None
    if value is None:
        raise Damaged(f"its metadata have an invalid {key}: {str(metadata.get(key))[:80]!r}")
    return value


def _optional(metadata: Json, key: str, check: Callable[[Any], Value]) -> Value | None:
    return None if metadata.get(key) is None else _value(metadata, key, check)


def _refuse_value(_: object) -> NoReturn:
    """Refuse any value, of a key that must be missing."""
    raise ValueError


def _base_mpp(metadata: Json) -> Mpp:
    """Return the base's resolution, whose value is None exactly if its source is unknown."""
    source = _value(metadata, "mpp_source", MppSource)
    if source is MppSource.UNKNOWN:
        return Mpp(_optional(metadata, "base_mpp", _refuse_value), source)
    return Mpp(_value(metadata, "base_mpp", _BASE_MPP), source)


def _resolution(metadata: Json, key: str, base: Mpp) -> float | None:
    """Return an image's resolution. It is never finer than its slide's, but for rounding."""
    if base.value is None:
        return _optional(metadata, key, _refuse_value)
    return _value(metadata, key, fields.number(base.value / 2, base.value * MAX_DOWNSAMPLE))
