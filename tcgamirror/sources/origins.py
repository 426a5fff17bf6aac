"""The origins of a slide's file: the open-data bucket, then the GDC itself.

What a run learns of them is shared by all workers: which are down, which ignore Range.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import quote

from tcgamirror.model.errors import (
    ChecksumMismatch,
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

FAILURE_SECONDS = 300.0
"""Seconds after a failure for which an origin is asked last."""

_ORIGIN_FAULTS = (
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
"""Errors that tell of the origin itself, not of one slide as a 404 does."""

Result = TypeVar("Result")


@dataclass(slots=True)
class Origin:
    """One server of the files, and what is known of it.

    Attributes:
        name: `bucket` or `gdc`.
        base: Its address, without a final slash.
        failed: Time of its last failure, until it succeeds.
        reason: The last failure in words.
        honours_range: None until it is known.
    """

    name: str
    base: str
    failed: float | None = None
    reason: str = ""
    answers: bool = False
    honours_range: bool | None = None

    def url(self, slide: Slide) -> str:
        """Return the address of the slide's file."""
        if self.name == "bucket":
            return f"{self.base}/{quote(slide.file_id)}/{quote(slide.file_name)}"
        return f"{self.base}/data/{quote(slide.file_id)}"

    def describe(self) -> str | None:
        """Return what is known, in words; None if it was not asked."""
        if self.failed is not None:
            return f"failed: {self.reason}"
        if self.honours_range is not None:
            return "honours Range" if self.honours_range else "ignores Range"
        return "answers" if self.answers else None


class Origins:
    """The origins by preference, and what a run learned of them."""

    def __init__(
        self, api: str, bucket: str | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """api, bucket: addresses without a final slash; without a bucket the GDC is alone."""
        bucket_first = [Origin("bucket", bucket)] if bucket else []
        self._origins = [*bucket_first, Origin("gdc", api)]
        self._clock = clock
        self._lock = threading.Lock()

    def first_success(self, ask: Callable[[Origin], Result], *, ranged: bool) -> Result:
        """Return the result of `ask` for the first origin where it succeeds.

        Args:
            ranged: `ask` requests parts of files.

        Raises:
            ChecksumMismatch: An origin has another file, and no origin has the right one.
            NetworkError: No origin gave the file; a retryable error if there is one.
        """
        failures: list[NetworkError] = []
        mismatch: ChecksumMismatch | None = None
        for origin in self.candidates(ranged=ranged):
            try:
                result = ask(origin)
            except NetworkError as error:
                self.record_failure(origin, error)
                failures.append(error)
            except ChecksumMismatch as error:
                mismatch = error
            else:
                self.record_success(origin, ranged=ranged)
                return result
        if mismatch is not None:
            raise mismatch
        final = failures[-1] if failures else RangeUnsupported("no origin gives parts of files")
        raise next((failure for failure in failures if failure.retryable), final)

    def candidates(self, *, ranged: bool) -> list[Origin]:
        """Return the origins to try, those that failed lately last.

        ranged: leave out those that ignore Range.
        """
        with self._lock:
            able = [
                origin for origin in self._origins if not (ranged and origin.honours_range is False)
            ]
            return sorted(able, key=self._failed_lately)

    def record_success(self, origin: Origin, *, ranged: bool) -> None:
        """Record that the origin gave a slide."""
        with self._lock:
            origin.failed, origin.answers = None, True
            if ranged:
                origin.honours_range = True

    def record_failure(self, origin: Origin, error: NetworkError) -> None:
        """Record a failure, unless it concerns one slide only.

        An origin that ignores Range is not asked for parts again, unless it gave some before.
        """
        with self._lock:
            if isinstance(error, RangeUnsupported) and not origin.honours_range:
                origin.honours_range = False
            elif isinstance(error, _ORIGIN_FAULTS):
                origin.failed = self._clock()
            else:
                return
            origin.reason = str(error)

    def report(self) -> dict[str, str]:
        """Return what is known of each origin that was asked, by its name, in words."""
        with self._lock:
            known = {origin.name: origin.describe() for origin in self._origins}
        return {name: words for name, words in known.items() if words is not None}

    def _failed_lately(self, origin: Origin) -> bool:
        return origin.failed is not None and self._clock() - origin.failed < FAILURE_SECONDS
