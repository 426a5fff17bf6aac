"""What an image tells of itself, as JSON inside its file: written, and read back.

An image can so be parse_metadata without its catalogue, and a catalogue be rebuilt
from the images. What is read back may come from anywhere: every value is
checked as one from the network is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import NoReturn

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

_WORDS = (
    *("primary_site", "disease_type", "sample_type", "case_barcode", "slide_barcode"),
    *("state", "version", "data_release", "updated"),
)

Facts = Mapping[str, object]


def build_metadata(
    slide: Slide, source: str, pyramid: Pyramid, rendition: Rendition, patched_tiles: int | None
) -> Facts:
    """All that the catalogue's view says of an image, but for what can be seen from the file.

    And, as the settings do, how it was resampled.
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
    """What an image tells: its slide as listed then, and how it was made.

    mpp: of the slide's base. mpp_x, mpp_y: µm per pixel of the image, None if unknown.
    resample, patched_tiles: None in images of before it was told.
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
    """The facts in the JSON text. Raises Damaged for any that cannot be."""
    if not text:
        raise Damaged("it has no facts of this program inside")
    try:
        facts = json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise Damaged("the facts inside are no JSON") from error
    if not isinstance(facts, dict):
        raise Damaged("the facts inside are no JSON object")
    mpp = _base(facts)
    mpp_x, mpp_y = (_resolution(facts, key, mpp) for key in ("mpp_x", "mpp_y"))
    if facts.get("source") not in SOURCES:
        _refuse(facts, "source")
    return ImageMetadata(
        slide=_slide(facts),
        source=str(facts["source"]),
        level=_level(facts),
        level_downsample=_number(facts, "level_downsample", 0.99, MAX_DOWNSAMPLE),
        mpp=mpp,
        mpp_x=mpp_x,
        mpp_y=mpp_y,
        resample=_resample(facts),
        patched_tiles=_patched_tiles(facts),
    )


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


def _refuse(facts: Facts, key: str) -> NoReturn:
    raise Damaged(f"the facts inside say that {key} is {str(facts.get(key))[:80]!r}")


def _slide(facts: Facts) -> Slide:
    file_id, file_name = (
        fields.file_id(facts.get("file_id")),
        fields.file_name(facts.get("file_name")),
    )
    if file_id is None or file_name is None:
        _refuse(facts, "file_id" if file_id is None else "file_name")
    kind = facts.get("kind")
    if kind not in (*Kind, None):
        _refuse(facts, "kind")
    return Slide(
        file_id=file_id,
        file_name=file_name,
        md5=fields.md5(facts.get("md5")),
        size=fields.size(facts.get("size")),
        kind=None if kind is None else Kind(str(kind)),
        project_id=fields.project_id(facts.get("project_id")),
        **{key: fields.text(facts.get(key)) for key in _WORDS},
    )


def _resample(facts: Facts) -> Resample | None:
    told = facts.get("resample")
    if told not in (*Resample, None):
        _refuse(facts, "resample")
    return None if told is None else Resample(str(told))


def _level(facts: Facts) -> int:
    return _whole(facts, "level", MAX_LEVELS - 1)


def _patched_tiles(facts: Facts) -> int | None:
    if facts.get("patched_tiles") is None:
        return None
    return _whole(facts, "patched_tiles", MAX_TILES)


def _whole(facts: Facts, key: str, most: int) -> int:
    value = facts.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        _refuse(facts, key)
    return value


def _number(facts: Facts, key: str, least: float, most: float) -> float:
    value = facts.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        _refuse(facts, key)
    if not least <= value <= most:
        _refuse(facts, key)
    return float(value)


def _base(facts: Facts) -> Mpp:
    """Known together with where it is from, or neither."""
    source = facts.get("mpp_source")
    if source not in tuple(MppSource):
        _refuse(facts, "mpp_source")
    if source == MppSource.UNKNOWN:
        if facts.get("base_mpp") is not None:
            _refuse(facts, "base_mpp")
        return Mpp(None, MppSource.UNKNOWN)
    return Mpp(_number(facts, "base_mpp", *PLAUSIBLE_MPP), MppSource(str(source)))


def _resolution(facts: Facts, key: str, base: Mpp) -> float | None:
    """An image is never finer than its slide, by more than its size was rounded."""
    if base.value is None:
        if facts.get(key) is not None:
            _refuse(facts, key)
        return None
    return _number(facts, key, base.value / 2, base.value * MAX_DOWNSAMPLE)
