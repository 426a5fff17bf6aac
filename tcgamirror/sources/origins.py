"""The origins of a slide's file: the open-data bucket, then the GDC itself.

What a run learns of them is shared by all workers: which are down, which ignore Range.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
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


@dataclass(frozen=True, slots=True)
class Origin:
    """One server of the files. name: `bucket` or `gdc`. base: its address."""

    name: str
    base: str

    def url(self, slide: Slide) -> str:
        """Return the address of the slide's file."""
        if self.name == "bucket":
            return f"{self.base}/{quote(slide.file_id)}/{quote(slide.file_name)}"
        return f"{self.base}/data/{quote(slide.file_id)}"


@dataclass(slots=True)
class _State:
    """State of an origin: the time of its failure, and whether it honours Range, if known."""

    failed: float | None = None
    reason: str = ""
    answers: bool = False
    honours_range: bool | None = None


class Origins:
    """The origins by preference, and what a run learned of them."""

    def __init__(
        self, api: str, bucket: str | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """api, bucket: addresses without a final slash; without a bucket the GDC is alone."""
        bucket_first = [Origin("bucket", bucket)] if bucket else []
        self._origins = [*bucket_first, Origin("gdc", api)]
        self._states = {origin.name: _State() for origin in self._origins}
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

    def candidates(self, *, ranged: bool) -> Iterator[Origin]:
        """Yield the origins to try, those that failed lately last.

        ranged: leave out those that ignore Range.
        """
        with self._lock:
            able = [
                origin
                for origin in self._origins
                if not (ranged and self._states[origin.name].honours_range is False)
            ]
            ordered = sorted(able, key=self._failed_lately)
        yield from ordered

    def record_success(self, origin: Origin, *, ranged: bool) -> None:
        """Record that the origin gave a slide."""
        with self._lock:
            state = self._states[origin.name]
            state.failed = None
            state.answers = True
            if ranged:
                state.honours_range = True

    def record_part(self, origin: Origin) -> None:
        """Record that the origin honours Range, whether or not it gives the whole slide."""
        with self._lock:
            self._states[origin.name].honours_range = True

    def record_failure(self, origin: Origin, error: NetworkError) -> None:
        """Record a failure, unless it concerns one slide only.

        An origin that ignores Range is not asked for parts again, unless it gave some before.
        """
        with self._lock:
            state = self._states[origin.name]
            if isinstance(error, RangeUnsupported) and not state.honours_range:
                state.honours_range = False
            elif isinstance(error, _ORIGIN_FAULTS):
                state.failed = self._clock()
            else:
                return
            state.reason = str(error)

    def report(self) -> dict[str, str]:
        """Return what is known of each origin that was asked, by its name, in words."""
        with self._lock:
            return {
                name: _describe(state) for name, state in self._states.items() if state != _State()
            }

    def _failed_lately(self, origin: Origin) -> bool:
        failed = self._states[origin.name].failed
        return failed is not None and self._clock() - failed < FAILURE_SECONDS


def _describe(state: _State) -> str:
    if state.failed is not None:
        return f"failed: {state.reason}"
    known = {None: "answers", True: "honours Range", False: "ignores Range"}
    return known[state.honours_range]
