"""What each value of a catalogue may be: one check for each column, by table.

A check gives the value to take over, or raises ValueError. What is only ever
shown to people is cleaned; all else is right as it is or refused.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping
from datetime import datetime
from types import MappingProxyType
from typing import TypeVar

from tcgamirror.catalogue.database import Value
from tcgamirror.imaging.metadata import MAX_DOWNSAMPLE, MAX_LEVELS
from tcgamirror.imaging.svs import MAX_TILES, PLAUSIBLE_MPP
from tcgamirror.model import fields
from tcgamirror.model.fields import matching, number, one_of, whole
from tcgamirror.model.slide import SOURCES, Kind, MppSource, Status, Upstream

Check = Callable[[object], Value]

MOST_SIDE = 1 << 24
"""Pixels along one side of an image."""

_MOST_WORDS = 20_000
"""Characters of a text for people; the longest are the messages of failed tries."""

_MOST_PHRASE = 4_000
"""Characters of a name, such as a site's or a release's."""

_MOMENT = re.compile(
    r"(?:19[7-9]|[2-9][0-9]{2})[0-9]-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-6][0-9]Z"
)
_SHA256 = re.compile(r"[0-9a-f]{64}")
_PATH = re.compile(r"images/[A-Za-z0-9][A-Za-z0-9._-]{0,63}/[A-Za-z0-9][A-Za-z0-9._ -]*")
_KEY = re.compile(r"[ -~]{1,200}")
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


def _phrase(value: object) -> Value:
    if not isinstance(value, str) or len(value) > _MOST_PHRASE:
        raise ValueError
    return _words(value)


def _words(value: object) -> Value:
    if not isinstance(value, str) or len(value) > _MOST_WORDS or "\0" in value:
        raise ValueError
    if value.isprintable():
        return value
    return "".join(" " if unicodedata.category(sign)[0] == "C" else sign for sign in value)


def _moment(value: object) -> Value:
    """As `database.timestamp` writes it: a second that there is, from 1970 on."""
    if not isinstance(value, str) or _MOMENT.fullmatch(value) is None:
        raise ValueError
    datetime.fromisoformat(value)
    return value


_COUNT = whole(0, 1 << 50)
_NUMBER = whole(1, 1 << 31)
_SECONDS = number(0, 1e12)
_NAME = _as(fields.file_name)
_ID = _as(fields.file_id)

_SLIDES: Mapping[str, Check] = {
    "file_name": _NAME,
    "file_id": _ID,
    "md5": _or_none(_as(fields.md5)),
    "size": _or_none(_as(fields.size)),
    "kind": _or_none(one_of(Kind)),
    "project_id": _or_none(_as(fields.project_id)),
    **dict.fromkeys(
        ("primary_site", "disease_type", "sample_type", "case_barcode", "slide_barcode"),
        _or_none(_phrase),
    ),
    **dict.fromkeys(("state", "version", "data_release", "updated"), _or_none(_phrase)),
    "position": _COUNT,
    "upstream": one_of(Upstream),
    "listed_in": _phrase,
}
_RELEASES: Mapping[str, Check] = {
    "merge": _NUMBER,
    "release": _phrase,
    "merged_at": _moment,
    **dict.fromkeys(("listed", "added", "changed", "reidentified", "superseded"), _COUNT),
    **dict.fromkeys(("withdrawn", "returned", "duplicates"), _COUNT),
}
_CHANGES: Mapping[str, Check] = {
    "change": _COUNT,
    "release": _phrase,
    "file_name": _NAME,
    "what": one_of(_WHAT),
    "detail": _or_none(_words),
    "merge": _or_none(_NUMBER),
}
_SAMPLE: Mapping[str, Check] = {
    "file_name": _NAME,
    "rank": _NUMBER,
    "sampled_at": _moment,
    "release": _or_none(_phrase),
}
_IMAGES: Mapping[str, Check] = {
    "file_name": _NAME,
    "status": one_of(Status),
    "attempts": _COUNT,
    "bytes_fetched": _or_none(_COUNT),
    "seconds": _or_none(_SECONDS),
    "error": _or_none(_words),
    "failures": _COUNT,
    "retry_at": _or_none(_moment),
    "source": _or_none(one_of(SOURCES)),
    "level": _or_none(whole(0, MAX_LEVELS)),
    "level_downsample": _or_none(number(0.99, MAX_DOWNSAMPLE)),
    "base_mpp": _or_none(number(*PLAUSIBLE_MPP)),
    "mpp_source": _or_none(one_of(MppSource)),
    "mpp_x": _or_none(number(1e-3, 1e9)),
    "mpp_y": _or_none(number(1e-3, 1e9)),
    "width": _or_none(whole(1, MOST_SIDE)),
    "height": _or_none(whole(1, MOST_SIDE)),
    "path": _or_none(matching(_PATH)),
    "bytes": _or_none(whole(1, 1 << 44)),
    "sha256": _or_none(matching(_SHA256)),
    "fetched_at": _or_none(_moment),
    "patched_tiles": _or_none(whole(0, MAX_TILES)),
}
_RUNS: Mapping[str, Check] = {
    "run": _NUMBER,
    "command": _phrase,
    "started": _moment,
    "ended": _or_none(_moment),
    "exit_code": _or_none(whole(0, 255)),
    **dict.fromkeys(("done", "failed", "bytes"), _COUNT),
    "data_release": _or_none(_phrase),
}
_ATTEMPTS: Mapping[str, Check] = {
    "attempt": _COUNT,
    "run": _NUMBER,
    "file_name": _NAME,
    "source": one_of(SOURCES),
    "started": _moment,
    "seconds": _SECONDS,
    "bytes": _COUNT,
    "requests": _COUNT,
    "fault": _or_none(_phrase),
    "message": _or_none(_words),
}

TABLES: Mapping[str, Mapping[str, Check]] = MappingProxyType(
    {
        "slides": _SLIDES,
        "former_ids": {"file_id": _ID, "file_name": _NAME},
        "releases": _RELEASES,
        "changes": _CHANGES,
        "sample": _SAMPLE,
        "images": _IMAGES,
        "runs": _RUNS,
        "attempts": _ATTEMPTS,
        "facts": {"key": matching(_KEY), "value": _words},
    }
)
"""Every table, those that others refer to before those, with the checks of all its columns."""

SAMPLED: Mapping[str, Check] = {"md5": _SLIDES["md5"], **_SAMPLE, **_IMAGES}
"""What is said of a sampled slide and its image."""
