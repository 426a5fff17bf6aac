"""What each value of a catalogue may be: one check for each column, by table.

A check gives the value to take over, or raises ValueError. What is only ever
shown to people is cleaned; all else is right as it is or refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from tcgamirror import values
from tcgamirror.exchange import Value
from tcgamirror.facts import MOST_DOWNSAMPLE, MOST_LEVELS
from tcgamirror.model import Kind, MppSource, Status, Upstream
from tcgamirror.resolution import MPP_PLAUSIBLE
from tcgamirror.settings import SOURCES

Check = Callable[[object], Value]

MOST_SIDE = 1 << 24
"""Pixels along one side of an image."""

_MOST_WORDS = 4000
_MOMENT = re.compile(r"[0-9]{4}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-6][0-9]Z")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_PATH = re.compile(r"images/[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._ -]*")
_WHAT = ("added", "changed", "re-identified", "superseded", "withdrawn", "returned", "duplicate")

Plain = TypeVar("Plain", str, int)


def _as(known: Callable[[object], Plain | None]) -> Check:
    """What `values` takes, and leaves as it is."""

    def check(value: object) -> Value:
        if known(value) != value or value is None:
            raise ValueError
        return known(value)

    return check


def _or_none(check: Check) -> Check:
    return lambda value: None if value is None else check(value)


def _words(value: object) -> Value:
    if not isinstance(value, str):
        raise ValueError
    return "".join(sign if sign.isprintable() else " " for sign in value[:_MOST_WORDS])


def _whole(least: int, most: int) -> Check:
    def check(value: object) -> Value:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise ValueError
        return value

    return check


def _number(least: float, most: float) -> Check:
    def check(value: object) -> Value:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError
        if not math.isfinite(value) or not least <= value <= most:
            raise ValueError
        return float(value)

    return check


def _matching(pattern: re.Pattern[str]) -> Check:
    def check(value: object) -> Value:
        if not isinstance(value, str) or pattern.fullmatch(value) is None:
            raise ValueError
        return value

    return check


def _one_of(known: Iterable[str]) -> Check:
    names = frozenset(map(str, known))

    def check(value: object) -> Value:
        if not isinstance(value, str) or value not in names:
            raise ValueError
        return value

    return check


_COUNT = _whole(0, 1 << 50)
_SECONDS = _number(0, 1e12)
_MOMENTS = _matching(_MOMENT)
_NAME = _as(values.file_name)

SLIDES: Mapping[str, Check] = {
    "file_name": _NAME,
    "file_id": _as(values.file_id),
    "md5": _or_none(_as(values.md5)),
    "size": _or_none(_as(values.size)),
    "kind": _or_none(_one_of(Kind)),
    "project_id": _or_none(_as(values.project_id)),
    **dict.fromkeys(
        ("primary_site", "disease_type", "sample_type", "case_barcode", "slide_barcode"),
        _or_none(_words),
    ),
    **dict.fromkeys(("state", "version", "data_release", "updated"), _or_none(_words)),
    "position": _COUNT,
    "upstream": _one_of(Upstream),
    "listed_in": _words,
}
FORMER_IDS: Mapping[str, Check] = {"file_id": _as(values.file_id), "file_name": _NAME}
RELEASES: Mapping[str, Check] = {
    "merge": _whole(1, 1 << 31),
    "release": _words,
    "merged_at": _MOMENTS,
    **dict.fromkeys(("listed", "added", "changed", "reidentified", "superseded"), _COUNT),
    **dict.fromkeys(("withdrawn", "returned", "duplicates"), _COUNT),
}
CHANGES: Mapping[str, Check] = {
    "change": _COUNT,
    "release": _words,
    "file_name": _NAME,
    "what": _one_of(_WHAT),
    "detail": _or_none(_words),
    "merge": _or_none(_whole(1, 1 << 31)),
}
SAMPLE: Mapping[str, Check] = {
    "file_name": _NAME,
    "rank": _whole(1, 1 << 31),
    "sampled_at": _MOMENTS,
    "release": _or_none(_words),
}
IMAGES: Mapping[str, Check] = {
    "status": _one_of(Status),
    "attempts": _COUNT,
    "bytes_fetched": _or_none(_COUNT),
    "seconds": _or_none(_SECONDS),
    "error": _or_none(_words),
    "failures": _COUNT,
    "retry_at": _or_none(_MOMENTS),
    "source": _or_none(_one_of(SOURCES)),
    "level": _or_none(_whole(0, MOST_LEVELS)),
    "level_downsample": _or_none(_number(0.99, MOST_DOWNSAMPLE)),
    "base_mpp": _or_none(_number(*MPP_PLAUSIBLE)),
    "mpp_source": _or_none(_one_of(MppSource)),
    "mpp_x": _or_none(_number(1e-3, 1e9)),
    "mpp_y": _or_none(_number(1e-3, 1e9)),
    "width": _or_none(_whole(1, MOST_SIDE)),
    "height": _or_none(_whole(1, MOST_SIDE)),
    "path": _or_none(_matching(_PATH)),
    "bytes": _or_none(_whole(1, 1 << 44)),
    "sha256": _or_none(_matching(_SHA256)),
    "fetched_at": _or_none(_MOMENTS),
}
ATTEMPTS: Mapping[str, Check] = {
    "file_name": _NAME,
    "source": _one_of(SOURCES),
    "started": _MOMENTS,
    "seconds": _SECONDS,
    "bytes": _COUNT,
    "requests": _COUNT,
    "fault": _or_none(_words),
    "message": _or_none(_words),
}
