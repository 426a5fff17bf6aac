"""Where a slide's file can be read: the open-data bucket, then the GDC itself.

What a run learns of them (who is down, who ignores Range) is kept here and
shared by all workers.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from urllib.parse import quote

from tcgamirror.model.errors import (
    NetworkError,
    RangeMismatch,
    RangeUnsupported,
    Redirected,
    ServerError,
    Timeout,
    TooLong,
    Truncated,
    Unreachable,
    WrongContent,
)
from tcgamirror.model.slide import Slide

REST = 300.0
"""Seconds for which an origin that failed is asked only if no other answers."""

_ITS_OWN_FAULT = (
    Unreachable,
    Timeout,
    ServerError,
    Truncated,
    WrongContent,
    RangeMismatch,
    TooLong,
    Redirected,
    RangeUnsupported,
)


@dataclass(frozen=True, slots=True)
class Origin:
    """One place of the files: `bucket` or `gdc`, and its address."""

    name: str
    base: str

    def url(self, slide: Slide) -> str:
        if self.name == "bucket":
            return f"{self.base}/{quote(slide.file_id)}/{quote(slide.file_name)}"
        return f"{self.base}/data/{quote(slide.file_id)}"


@dataclass(slots=True)
class _Standing:
    """What is known of an origin. failed: when, by the clock; honours_range: None if untried."""

    failed: float | None = None
    why: str = ""
    answers: bool = False
    honours_range: bool | None = None


class Origins:
    """The origins in the order of preference, and how they fared in this run."""

    def __init__(
        self, api: str, bucket: str | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """api, bucket: addresses without a final slash; no bucket leaves the GDC alone."""
        bucket_first = [Origin("bucket", bucket)] if bucket else []
        self._origins = [*bucket_first, Origin("gdc", api)]
        self._standing = {origin.name: _Standing() for origin in self._origins}
        self._clock = clock
        self._lock = threading.Lock()

    def to_try(self, *, ranged: bool) -> Iterator[Origin]:
        """Those worth asking, the resting last; if `ranged`, without those that ignore Range."""
        with self._lock:
            able = [
                origin
                for origin in self._origins
                if not (ranged and self._standing[origin.name].honours_range is False)
            ]
            resting = {origin.name for origin in able if self._rests(origin)}
        yield from (origin for origin in able if origin.name not in resting)
        yield from (origin for origin in able if origin.name in resting)

    def worked(self, origin: Origin, *, ranged: bool) -> None:
        """The origin answered as it should."""
        with self._lock:
            standing = self._standing[origin.name]
            standing.failed = None
            standing.answers = True
            if ranged:
                standing.honours_range = True

    def gave_part(self, origin: Origin) -> None:
        """The origin honours Range, whatever comes of the rest of the slide."""
        with self._lock:
            self._standing[origin.name].honours_range = True

    def failed(self, origin: Origin, error: NetworkError) -> None:
        """The origin did not; what only concerns one slide (a 404, say) is not held against it.

        An origin that ignores Range is not asked for parts again, unless it gave some before.
        """
        with self._lock:
            standing = self._standing[origin.name]
            if isinstance(error, RangeUnsupported) and not standing.honours_range:
                standing.honours_range = False
            elif isinstance(error, _ITS_OWN_FAULT):
                standing.failed = self._clock()
            else:
                return
            standing.why = str(error)

    def report(self) -> dict[str, str]:
        """By origin's name, how it fared in words; nothing of one that was not asked."""
        with self._lock:
            return {
                name: _words(standing)
                for name, standing in self._standing.items()
                if standing != _Standing()
            }

    def _rests(self, origin: Origin) -> bool:
        failed = self._standing[origin.name].failed
        return failed is not None and self._clock() - failed < REST


def _words(standing: _Standing) -> str:
    if standing.failed is not None:
        return f"failed: {standing.why}"
    known = {None: "answers", True: "honours Range", False: "ignores Range"}
    return known[standing.honours_range]
