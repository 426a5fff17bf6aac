"""The protocol of workers that fetch slides, and the threads of this process."""

from __future__ import annotations

import time
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Protocol

from tcgamirror.mirror.slots import Slots
from tcgamirror.model.slide import Outcome, Slide
from tcgamirror.system.parallel import result_or_error, start_further_thread, start_thread

if TYPE_CHECKING:
    from tcgamirror.mirror.ladder import Ladder

Result = Outcome | BaseException
"""The end of a slide at a worker. Interrupted: it has none, and is fetched by a later run."""


class Executor(Protocol):
    """Workers that fetch slides. Only one thread may use it."""

    @property
    def bytes_moved(self) -> int:
        """Bytes over the network so far."""

    @property
    def current_renders(self) -> int:
        """Images being made from fetched bytes; 0 if unknown."""

    def has_room(self) -> bool:
        """Return whether a further slide may be in flight."""

    def submit(self, slide: Slide) -> None:
        """Have a slide fetched."""

    def take_ended(self, timeout: float) -> list[Result]:
        """Return the slides that ended since the last call; wait at most `timeout` s for one."""

    def drain(self) -> None:
        """Have submitted slides that have not begun end with Interrupted. May be called again."""

    def close(self, timeout: float) -> None:
        """Wait at most `timeout` seconds for the slides in flight, and leave the others behind."""


class Threads:
    """The threads of this process, started as they are needed.

    Once the system gives no further thread, no more slides are in flight than there are threads.
    """

    def __init__(self, ladder: Ladder, slots: Slots) -> None:
        """Start the first thread. Raises MemoryError."""
        self._ladder = ladder
        self._slots = slots
        self._waiting: SimpleQueue[Slide | None] = SimpleQueue()
        self._results: SimpleQueue[Result] = SimpleQueue()
        self._in_flight = 0
        self._threads = 1
        self._may_grow = True
        start_thread(self._fetch_all, "slide")

    @property
    def bytes_moved(self) -> int:
        return self._ladder.traffic.bytes

    @property
    def current_renders(self) -> int:
        return self._ladder.turns.current

    def has_room(self) -> bool:
        if self._may_grow and self._in_flight == self._threads < self._slots.count:
            self._may_grow = start_further_thread(self._fetch_all, "slide") is not None
            self._threads += self._may_grow
        return self._in_flight < min(self._threads, self._slots.count)

    def submit(self, slide: Slide) -> None:
        self._in_flight += 1
        self._waiting.put(slide)

    def _fetch_all(self) -> None:
        while (slide := self._waiting.get()) is not None:
            self._results.put(result_or_error(partial(self._ladder.fetch, slide)))

    def take_ended(self, timeout: float) -> list[Result]:
        results: list[Result] = []
        with suppress(Empty):
            results.append(self._results.get(timeout=timeout))
            while True:
                results.append(self._results.get_nowait())
        self._in_flight -= len(results)
        if results:
            self._slots.add_ended(
                len(results),
                busy_seconds=self._ladder.turns.busy_seconds,
                bytes_moved=self.bytes_moved,
            )
        return results

    def drain(self) -> None:
        """Do nothing, since each slide has a thread that takes it at once."""

    def close(self, timeout: float) -> None:
        for _ in range(self._threads):
            self._waiting.put(None)
        end = time.monotonic() + timeout
        with suppress(Empty):
            while self._in_flight:
                self._results.get(timeout=max(0.0, end - time.monotonic()))
                self._in_flight -= 1
