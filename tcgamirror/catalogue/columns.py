"""Checks of every column of a catalogue, for rows from outside.

A check returns the value to record, or raises ValueError. Text that is only shown to people is
cleaned. Every other value is either left as it is or refused.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping
from datetime import datetime

from tcgamirror.catalogue.database import Row, Value
from tcgamirror.imaging.metadata import MAX_DOWNSAMPLE, MAX_LEVELS
from tcgamirror.imaging.svs import MAX_TILES, PLAUSIBLE_MPP
from tcgamirror.model import fields
from tcgamirror.model.fields import matching, number, one_of, whole
from tcgamirror.model.labels import CASE, TISSUE
from tcgamirror.model.slide import SOURCES, Kind, MppSource, Status, Upstream

Check = Callable[[object], Value]

MAX_IMAGE_SIDE, MAX_IMAGE_BYTES = 1 << 24, 1 << 44
"""Largest image that import and sync accept; limits of a format are in its reader."""

_MAX_MESSAGE, _MAX_NAME = 20_000, 4_000
"""Characters of a message, of which those of failed attempts are the longest, and of a name."""

_EVENTS = ("added", "changed", "re-identified", "superseded", "withdrawn", "returned", "duplicate")


def _text(max_length: int) -> Check:
    """Return a check that replaces control characters by spaces."""

    def check(value: object) -> Value:
        if not isinstance(value, str) or len(value) > max_length or "\0" in value:
            raise ValueError
        if value.isprintable():
            return value
        return "".join(" " if unicodedata.category(each)[0] == "C" else each for each in value)

    return check


def _unchanged(parse: Callable[[object], Value]) -> Check:
    """Return a check that accepts what a function of `model.fields` leaves as it is."""

    def check(value: object) -> Value:
        parsed = parse(value)
        if parsed is None or parsed != value:
            raise ValueError
        return parsed

    return check


def _optional(check: Check) -> Check:
    return lambda value: None if value is None else check(value)


_ISO_MOMENT = matching(
    r"(?:19[7-9]|[2-9][0-9]{2})[0-9]-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-6][0-9]Z"
)


def _moment(value: object) -> Value:
    """Check a moment as `model.text.timestamp` writes it, from 1970 on."""
    moment = _ISO_MOMENT(value)
    datetime.fromisoformat(moment)
    return moment


_MESSAGE, _NAME = _text(_MAX_MESSAGE), _text(_MAX_NAME)
_COUNT, _NUMBER, _SECONDS = whole(0, 1 << 50), whole(1, 1 << 31), number(0, 1e12)
_FILE_NAME, _FILE_ID = _unchanged(fields.file_name), _unchanged(fields.file_id)
_PATH = matching(r"images/[A-Za-z0-9][A-Za-z0-9._-]{0,63}/[A-Za-z0-9][A-Za-z0-9._ -]*")

_SLIDES: Mapping[str, Check] = {
    "file_name": _FILE_NAME,
    "file_id": _FILE_ID,
    "md5": _optional(_unchanged(fields.md5)),
    "size": _optional(_unchanged(fields.size)),
    "kind": _optional(one_of(Kind)),
    "project_id": _optional(_unchanged(fields.project_id)),
    **dict.fromkeys(("primary_site", "disease_type", "sample_type"), _optional(_NAME)),
    **dict.fromkeys(("case_barcode", "slide_barcode", "state", "version"), _optional(_NAME)),
    **dict.fromkeys(("data_release", "updated"), _optional(_NAME)),
    "position": _COUNT,
    "upstream": one_of(Upstream),
    "listed_in": _NAME,
}
_RELEASES: Mapping[str, Check] = {
    "merge": _NUMBER,
    "release": _NAME,
    "merged_at": _moment,
    **dict.fromkeys(("listed", "added", "changed", "reidentified", "superseded"), _COUNT),
    **dict.fromkeys(("withdrawn", "returned", "duplicates"), _COUNT),
}
_CHANGES: Mapping[str, Check] = {
    "change": _COUNT,
    "release": _NAME,
    "file_name": _FILE_NAME,
    "what": one_of(_EVENTS),
    "detail": _optional(_MESSAGE),
    "merge": _optional(_NUMBER),
}
_SAMPLE: Mapping[str, Check] = {
    "file_name": _FILE_NAME,
    "rank": _NUMBER,
    "sampled_at": _moment,
    "release": _optional(_NAME),
}
_IMAGES: Mapping[str, Check] = {
    "file_name": _FILE_NAME,
    "status": one_of(Status),
    **dict.fromkeys(("attempts", "failures"), _COUNT),
    "bytes_fetched": _optional(_COUNT),
    "seconds": _optional(_SECONDS),
    "error": _optional(_MESSAGE),
    **dict.fromkeys(("retry_at", "fetched_at"), _optional(_moment)),
    "source": _optional(one_of(SOURCES)),
    "level": _optional(whole(0, MAX_LEVELS)),
    "level_downsample": _optional(number(0.99, MAX_DOWNSAMPLE)),
    "base_mpp": _optional(number(*PLAUSIBLE_MPP)),
    "mpp_source": _optional(one_of(MppSource)),
    **dict.fromkeys(("mpp_x", "mpp_y"), _optional(number(1e-3, 1e9))),
    **dict.fromkeys(("width", "height"), _optional(whole(1, MAX_IMAGE_SIDE))),
    "path": _optional(_PATH),
    "bytes": _optional(whole(1, MAX_IMAGE_BYTES)),
    **dict.fromkeys(("sha256", "pixels_sha256"), _optional(matching("[0-9a-f]{64}"))),
    "patched_tiles": _optional(whole(0, MAX_TILES)),
}
_EXCLUSIONS: Mapping[str, Check] = {
    "file_name": _FILE_NAME,
    "reason": _MESSAGE,
    "excluded_by": _NAME,
    "excluded_at": _moment,
    "own": whole(0, 1),
}
_RUNS: Mapping[str, Check] = {
    "run": _NUMBER,
    "command": _NAME,
    "started": _moment,
    "ended": _optional(_moment),
    "exit_code": _optional(whole(0, 255)),
    **dict.fromkeys(("done", "failed", "bytes"), _COUNT),
    "data_release": _optional(_NAME),
}
_ATTEMPTS: Mapping[str, Check] = {
    "attempt": _COUNT,
    "run": _NUMBER,
    "file_name": _FILE_NAME,
    "source": one_of(SOURCES),
    "started": _moment,
    "seconds": _SECONDS,
    "bytes": _COUNT,
    "requests": _COUNT,
    "fault": _optional(_NAME),
    "message": _optional(_MESSAGE),
}


def _labels(key: str, check: Check, labels: Mapping[str, Check]) -> Mapping[str, Check]:
    """Return the checks of a table of labels."""
    return {key: check} | {name: _optional(_unchanged(labels[name])) for name in labels}


TABLES: Mapping[str, Mapping[str, Check]] = {
    "slides": _SLIDES,
    "tissue": _labels("file_name", _FILE_NAME, TISSUE),
    "cases": _labels("case_barcode", _NAME, CASE),
    "former_ids": {"file_id": _FILE_ID, "file_name": _FILE_NAME},
    "releases": _RELEASES,
    "changes": _CHANGES,
    "sample": _SAMPLE,
    "images": _IMAGES,
    "exclusions": _EXCLUSIONS,
    "runs": _RUNS,
    "attempts": _ATTEMPTS,
    "facts": {"key": matching("[ -~]{1,200}"), "value": _MESSAGE},
}
"""Every table, those that others refer to before those, with the checks of all its columns."""

_IMAGE_COLUMNS = (
    *("path", "bytes", "sha256", "width", "height", "source", "level", "level_downsample"),
    *("mpp_source", "fetched_at"),
)
"""Columns that are all NULL or all not."""


def image_fault(row: Row) -> str | None:
    """Return what is wrong if only a part of the columns for an image have values."""
    present = [row[column] is not None for column in _IMAGE_COLUMNS]
    if any(present) != all(present) or (row["status"] == Status.DONE and not all(present)):
        return "only a part of the columns for the image"
    known = [row[column] is not None for column in ("base_mpp", "mpp_x", "mpp_y")]
    if any(known) != all(known) or (any(known) and row["mpp_source"] == MppSource.UNKNOWN):
        return "only a part of the resolution"
    return None


SAMPLED: Mapping[str, Check] = {"md5": _SLIDES["md5"], **_SAMPLE, **_IMAGES}
"""Columns of a sampled slide and its image."""
