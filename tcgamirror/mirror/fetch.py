"""Slides at a few workers, and how many of them are begun."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

from tcgamirror.model.errors import Bug, Interrupted, TcgaMirrorError, lack_of_memory
from tcgamirror.model.slide import Attempt, Outcome, Slide
from tcgamirror.system.interrupt import Shutdown

GRACE = 1.0
"""Seconds for slides that are let go of to end; what takes longer is left behind."""

BUGS_IN_A_ROW = 3
"""Slides that met a bug one after the other; then it is not they that are unusual."""


def stop_conditions(
    time_limit: float | None, max_bytes: float | None, moved: Callable[[], int]
) -> dict[str, Callable[[], bool]]:
    """By the option's name, what tells whether it keeps further slides from beginning.

    time_limit: seconds from now. max_bytes: of which `moved` tells how many came so far.
    """
    limits: dict[str, Callable[[], bool]] = {}
    if time_limit is not None:
        end = time.monotonic() + time_limit
        limits["--time-limit"] = lambda: time.monotonic() >= end
    if max_bytes is not None:
        most = max_bytes
        limits["--max-bytes"] = lambda: moved() >= most
    return limits


class Pool:
    """Slides at a few workers, so many at a time, and the outcomes as they come.

    limits: each tells whether further slides are to begin no more. source_of: who
    has a slide in hand. reason: what ended the work before its end, limit: which
    of the limits did, if any.
    """

    def __init__(
        self,
        fetch: Callable[[Slide], Outcome],
        workers: int,
        shutdown: Shutdown,
        limits: Mapping[str, Callable[[], bool]],
        source_of: Callable[[Slide], str],
    ) -> None:
        self._fetch = fetch
        self._workers = workers
        self._shutdown = shutdown
        self._limits = limits
        self._source_of = source_of
        self._bugs = 0
        self.limit: str | None = None
        self.reason: TcgaMirrorError | None = None

    def end(self, reason: TcgaMirrorError) -> None:
        """Begins no further slide and lets go of those in hand."""
        self.reason = self.reason or reason
        self._shutdown.force()

    def _may_begin(self) -> bool:
        if self.limit is None:
            self.limit = next((name for name, met in self._limits.items() if met()), None)
        return self.limit is None and not self._shutdown.requested

    def outcomes(self, due: Iterable[Slide]) -> Generator[list[Outcome], None, None]:
        """Lists of what ended since the last one, some of them empty: a few times a second.

        due: asked for the next slide when one may begin. Closed early, it lets go
        of the slides in hand.
        """
        waiting = iter(due)
        running: set[Future[Outcome]] = set()
        slides: dict[Future[Outcome], Slide] = {}

        def results(ended: set[Future[Outcome]]) -> list[Outcome]:
            found = [self._result(future, slides.pop(future)) for future in ended]
            return [outcome for outcome in found if outcome is not None]

        pool = ThreadPoolExecutor(self._workers, "slide")
        try:
            while True:
                while len(running) < self._workers and self._may_begin():
                    slide = next(waiting, None)
                    if slide is None:
                        break
                    # Told before it begins, so that no press of the shutdown finds none in hand.
                    self._shutdown.in_flight += 1
                    future = pool.submit(self._fetch, slide)
                    slides[future] = slide
                    running.add(future)
                self._shutdown.in_flight = len(running)
                if not running:
                    return
                ended, running = wait(running, timeout=0.2, return_when=FIRST_COMPLETED)
                # Also what ended while the last ones were recorded: it is finished work.
                yield results(ended)
                if self._shutdown.seconds_since_stop > GRACE:
                    ended, running = wait(running, timeout=0)
                    yield results(ended)
                    return
        finally:
            self._let_go(running)
            pool.shutdown(wait=not self._shutdown.workers_abandoned)

    def _let_go(self, running: set[Future[Outcome]]) -> None:
        if running:
            self._shutdown.force()
            left = max(0.0, GRACE - self._shutdown.seconds_since_stop)
            self._shutdown.workers_abandoned = bool(wait(running, timeout=left).not_done)

    def _result(self, future: Future[Outcome], slide: Slide) -> Outcome | None:
        """Return what came of a slide; a bug or a lack of memory fails this slide alone.

        Met by several in a row, it ends the run: it may be met by all.
        """
        error = future.exception()
        if error is None:
            self._bugs = 0
            return future.result()
        if isinstance(error, Interrupted):
            return None
        if isinstance(error, TcgaMirrorError):
            self.end(error)
            return None
        if not isinstance(error, Exception):
            raise error
        lack = lack_of_memory(error)
        words = str(lack or f"a bug: {type(error).__name__}: {error}")
        # Other slides may need less; the run ends with the error all the same.
        self.reason = self.reason or lack
        self._bugs += 1
        if self._bugs >= BUGS_IN_A_ROW:
            many = f"{self._bugs} slides in a row met {words}"
            self.end(lack or Bug(f"{many}; nothing recorded is lost. Please report it"))
        attempt = Attempt(
            source=self._source_of(slide),
            started=time.time(),
            seconds=0.0,
            bytes_fetched=0,
            requests=0,
            fault=(lack or Bug()).fault,
            message=words,
        )
        return Outcome(slide, (attempt,), None)


@dataclass(frozen=True, slots=True)
class FetchReport:
    """What one run fetched.

    bytes: from the network. left: due, but not begun. stopped_by: the option
    that kept them from it, if one did. unknown_mpp: images of those done whose
    resolution is unknown.
    """

    done: int = 0
    failed: int = 0
    bytes: int = 0
    left: int = 0
    stopped_by: str | None = None
    unknown_mpp: int = 0


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the command line asks of one run.

    force_refresh: the listing is read though its release is the same.
    limit: slides. time_limit: seconds. max_bytes: after which no slide begins.
    only: file names of the slides that may be fetched; None for all that are due.
    """

    refresh: bool = True
    force_refresh: bool = False
    sample: bool = True
    fetch: bool = True
    retry_failed: bool = False
    limit: int | None = None
    time_limit: float | None = None
    max_bytes: float | None = None
    accept_shrink: bool = False
    only: frozenset[str] | None = None
