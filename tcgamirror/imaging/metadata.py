"""Build and parse an image's metadata, the JSON text inside its file.

The metadata explain an image without its catalogue, and rebuild a catalogue from the
images. They may come from anywhere, so every value is checked like one from the network.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import NoReturn, TypeVar

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
        metadata = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise Damaged("its metadata are not JSON") from error
    if not isinstance(metadata, dict):
        raise Damaged("its metadata are not a JSON object")
    mpp = _base_mpp(metadata)
    mpp_x, mpp_y = (_resolution(metadata, key, mpp) for key in ("mpp_x", "mpp_y"))
    if metadata.get("source") not in SOURCES:
        _refuse(metadata, "source")
    return ImageMetadata(
        slide=_slide(metadata),
        source=str(metadata["source"]),
        level=_whole(metadata, "level", MAX_LEVELS - 1),
        level_downsample=_number(metadata, "level_downsample", 0.99, MAX_DOWNSAMPLE),
        mpp=mpp,
        mpp_x=mpp_x,
        mpp_y=mpp_y,
        resample=_resample(metadata),
        patched_tiles=_patched_tiles(metadata),
    )


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _refuse(metadata: Json, key: str) -> NoReturn:
    raise Damaged(f"its metadata have an invalid {key}: {str(metadata.get(key))[:80]!r}")


def _slide(metadata: Json) -> Slide:
    file_id, file_name = (
        fields.file_id(metadata.get("file_id")),
        fields.file_name(metadata.get("file_name")),
    )
    if file_id is None or file_name is None:
        _refuse(metadata, "file_id" if file_id is None else "file_name")
    kind = metadata.get("kind")
    if kind not in (*Kind, None):
        _refuse(metadata, "kind")
    return Slide(
        file_id=file_id,
        file_name=file_name,
        md5=fields.md5(metadata.get("md5")),
        size=fields.size(metadata.get("size")),
        kind=None if kind is None else Kind(str(kind)),
        project_id=fields.project_id(metadata.get("project_id")),
        **{key: fields.text(metadata.get(key)) for key in _TEXT_FIELDS},
    )


def _resample(metadata: Json) -> Resample | None:
    resample = metadata.get("resample")
    if resample not in (*Resample, None):
        _refuse(metadata, "resample")
    return None if resample is None else Resample(str(resample))


def _patched_tiles(metadata: Json) -> int | None:
    if metadata.get("patched_tiles") is None:
        return None
    return _whole(metadata, "patched_tiles", MAX_TILES)


def _checked(metadata: Json, key: str, check: Callable[[object], Value]) -> Value:
    """Return the value of a key. Raises Damaged for one that the check refuses."""
    try:
        return check(metadata.get(key))
    except ValueError:
        _refuse(metadata, key)


def _whole(metadata: Json, key: str, maximum: int) -> int:
    return _checked(metadata, key, fields.whole(0, maximum))


def _number(metadata: Json, key: str, minimum: float, maximum: float) -> float:
    return _checked(metadata, key, fields.number(minimum, maximum))


def _base_mpp(metadata: Json) -> Mpp:
    """Return the base's resolution, whose value is None exactly if its source is unknown."""
    source = metadata.get("mpp_source")
    if source not in tuple(MppSource):
        _refuse(metadata, "mpp_source")
    if source == MppSource.UNKNOWN:
        if metadata.get("base_mpp") is not None:
            _refuse(metadata, "base_mpp")
        return Mpp(None, MppSource.UNKNOWN)
    return Mpp(_number(metadata, "base_mpp", *PLAUSIBLE_MPP), MppSource(str(source)))


def _resolution(metadata: Json, key: str, base: Mpp) -> float | None:
    """Return an image's resolution. It is never finer than its slide's, but for rounding."""
    if base.value is None:
        if metadata.get(key) is not None:
            _refuse(metadata, key)
        return None
    return _number(metadata, key, base.value / 2, base.value * MAX_DOWNSAMPLE)
