"""The protocol of workers that fetch slides, and the rules of a run for any such workers.

An `Executor` has workers, such as the threads of this process. A `Dispatcher` hands slides to
it within a run's limits, and decides which errors end the run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from types import MappingProxyType
from typing import NamedTuple, Protocol

from tcgamirror.mirror.slots import Slots
from tcgamirror.model.errors import Bug, Interrupted, TcgaMirrorError, lack_of_memory
from tcgamirror.model.slide import Attempt, Outcome, Slide
from tcgamirror.system.interrupt import Shutdown
from tcgamirror.system.parallel import result_or_error, start_further_thread, start_thread

GRACE = 1.0
"""Seconds that slides in flight have to end when a run is told to stop immediately."""

BUGS_IN_A_ROW = 3
"""Slides in a row that meet a bug or lack memory before the run ends."""


class Ended(NamedTuple):
    """The end of a slide at a worker. source: the one that was tried last."""

    slide: Slide
    source: str
    result: Outcome | BaseException


class Executor(Protocol):
    """Workers that fetch slides. Only one thread may use it."""

    @property
    def slots(self) -> int:
        """Slides that may be in flight; the number may change."""
        ...

    @property
    def bytes_moved(self) -> int:
        """Bytes over the network so far."""
        ...

    @property
    def making(self) -> int:
        """Images being made from fetched bytes; 0 if unknown."""
        ...

    def submit(self, slide: Slide) -> None:
        """Have a slide fetched."""
        ...

    def ended(self, timeout: float) -> list[Ended]:
        """Return the slides that ended since the last call; wait at most `timeout` s for one."""
        ...

    def drain(self) -> None:
        """Let submitted slides that have not begun end with Interrupted. May be called again."""
        ...

    def close(self, timeout: float) -> bool:
        """Wait at most `timeout` seconds for the slides in flight; return whether none is left."""
        ...


class Work(Protocol):
    """The work on slides, which any number of threads may share. See `Ladder`.

    waited: images so far that waited for a core.
    """

    @property
    def bytes_moved(self) -> int: ...

    @property
    def making(self) -> int: ...

    @property
    def waited(self) -> int: ...

    def source_of(self, slide: Slide) -> str: ...

    def fetch(self, slide: Slide) -> Outcome: ...


class Threads:
    """The threads of this process, started as they are needed.

    Where the system gives no further thread, slides wait for the threads that exist.
    """

    def __init__(self, work: Work, slots: Slots) -> None:
        """Start the first thread. Raises MemoryError."""
        self._work = work
        self._slots = slots
        self._waiting: SimpleQueue[Slide | None] = SimpleQueue()
        self._results: SimpleQueue[Ended] = SimpleQueue()
        self._in_flight = 0
        self._threads = 1
        self._may_grow = True
        start_thread(self._fetch_all, "slide")

    @property
    def slots(self) -> int:
        return self._slots.count if self._may_grow else min(self._slots.count, self._threads)

    @property
    def bytes_moved(self) -> int:
        return self._work.bytes_moved

    @property
    def making(self) -> int:
        return self._work.making

    def submit(self, slide: Slide) -> None:
        self._in_flight += 1
        if self._in_flight > self._threads and self._may_grow:
            if start_further_thread(self._fetch_all, "slide") is None:
                self._may_grow = False
            else:
                self._threads += 1
        self._waiting.put(slide)

    def _fetch_all(self) -> None:
        while (slide := self._waiting.get()) is not None:
            self._end(slide, result_or_error(partial(self._work.fetch, slide)))

    def _end(self, slide: Slide, result: Outcome | BaseException) -> None:
        self._results.put(Ended(slide, self._work.source_of(slide), result))

    def ended(self, timeout: float) -> list[Ended]:
        results: list[Ended] = []
        with suppress(Empty):
            results.append(self._results.get(timeout=timeout))
            while True:
                results.append(self._results.get_nowait())
        self._in_flight -= len(results)
        if results:
            work = self._work
            self._slots.add_ended(len(results), waited=work.waited, moved=work.bytes_moved)
        return results

    def drain(self) -> None:
        if self._may_grow:
            return  # Each slide has a thread that takes it at once.
        with suppress(Empty):
            while (slide := self._waiting.get_nowait()) is not None:
                self._end(slide, Interrupted(f"stopped before {slide.file_name} began"))

    def close(self, timeout: float) -> bool:
        self.drain()
        for _ in range(self._threads):
            self._waiting.put(None)
        end = time.monotonic() + timeout
        with suppress(Empty):
            while self._in_flight:
                self._results.get(timeout=max(0.0, end - time.monotonic()))
                self._in_flight -= 1
        return not self._in_flight


class Dispatcher:
    """The rules by which an executor gets the slides of one run.

    Attributes:
        error: The error that ended the work early.
        reached_limit: The option whose limit ended it.
    """

    def __init__(
        self,
        executor: Executor,
        shutdown: Shutdown,
        limits: Mapping[str, Callable[[], bool]] = MappingProxyType({}),
    ) -> None:
        """limits: functions that return whether a limit is reached, by the option's name."""
        self._executor = executor
        self._shutdown = shutdown
        self._limits = limits
        self._bugs = 0
        self._is_stopped = False
        self.reached_limit: str | None = None
        self.error: TcgaMirrorError | None = None

    def stop(self, error: TcgaMirrorError) -> None:
        """Begin no further slide, and give those in flight GRACE seconds to end."""
        if not self._is_stopped:
            # Replaces a slide's lack of memory, which did not end the run.
            self.error, self._is_stopped = error, True
        self._shutdown.force()

    def _may_begin(self) -> bool:
        if self.reached_limit is None:
            reached = (name for name, is_reached in self._limits.items() if is_reached())
            self.reached_limit = next(reached, None)
        return self.reached_limit is None and not self._shutdown.requested

    def outcomes(self, due: Iterable[Slide]) -> Generator[list[Outcome], None, None]:
        """Yield the outcomes since the last list, a few times a second; some lists are empty.

        The executor is closed at the end. Closing the generator early abandons the slides in
        flight.

        Args:
            due: Slides to fetch. The next one is taken once it may begin.
        """
        waiting = iter(due)
        is_empty = False
        in_flight = 0
        try:
            while True:
                self._shutdown.in_flight = in_flight
                while (may_begin := self._may_begin()) and in_flight < self._executor.slots:
                    slide = next(waiting, None)
                    if slide is None:
                        is_empty = True
                        break
                    in_flight += 1
                    # Counted before it begins, so that an interrupt finds it in flight.
                    self._shutdown.in_flight = in_flight
                    self._executor.submit(slide)
                # With no slot, all workers are lost for now.
                if not in_flight and (is_empty or not may_begin):
                    return
                if not may_begin:
                    self._executor.drain()
                # Includes slides that ended while the caller recorded the last list.
                ended = self._executor.ended(0.2)
                in_flight -= len(ended)
                yield self._results(ended)
                if self._shutdown.seconds_since_stop > GRACE:
                    ended = self._executor.ended(0)
                    in_flight -= len(ended)
                    yield self._results(ended)
                    return
        finally:
            if in_flight:
                self._shutdown.force()
            left = max(0.0, GRACE - self._shutdown.seconds_since_stop)
            self._shutdown.workers_abandoned = not self._executor.close(left)

    def _results(self, ended: Iterable[Ended]) -> list[Outcome]:
        outcomes = [self._result(*each) for each in ended]
        return [outcome for outcome in outcomes if outcome is not None]

    def _result(self, slide: Slide, source: str, result: Outcome | BaseException) -> Outcome | None:
        """Return the outcome of a slide; None if an error ended it before it had one.

        A bug or a lack of memory fails this slide alone. Several in a row end the run, because
        every slide may meet them.
        """
        if isinstance(result, Outcome):
            self._bugs = 0
            return result
        if isinstance(result, Interrupted):
            return None
        if isinstance(result, TcgaMirrorError):
            self.stop(result)
            return None
        if not isinstance(result, Exception):
            raise result
        lack = lack_of_memory(result)
        words = str(lack or f"a bug: {type(result).__name__}: {result}")
        # The run goes on, since others may need less memory, and raises this at its end.
        self.error = self.error or lack
        self._bugs += 1
        if self._bugs >= BUGS_IN_A_ROW:
            many = f"{self._bugs} slides in a row met {words}"
            self.stop(lack or Bug(f"{many}; nothing recorded is lost. Please report it"))
        attempt = Attempt(
            source=source,
            started=time.time(),
            seconds=0.0,
            bytes_fetched=0,
            requests=0,
            fault=(lack or Bug()).fault,
            message=words,
        )
        return Outcome(slide, (attempt,), None)
