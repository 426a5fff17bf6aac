"""Ordered shutdown: by Ctrl-C, by a signal, or by an error that would fail every slide.

A first request ends the run once the slides in flight are done. A second one, a termination
signal, or a first one while nothing is in flight stops every wait and transfer at once.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue
from types import FrameType
from typing import Self

from tcgamirror.model.errors import Interrupted
from tcgamirror.system.parallel import start_thread


@dataclass(frozen=True, slots=True)
class Deadline:
    """The end of a time limit, in monotonic seconds; by default there is none."""

    end: float = math.inf

    @classmethod
    def after(cls, seconds: float | None) -> Self:
        """Return the deadline of a time limit that begins now; None for no limit."""
        return cls() if seconds is None else cls(time.monotonic() + seconds)

    @property
    def is_reached(self) -> bool:
        return time.monotonic() >= self.end


def set_handler(handler: Callable[[int, FrameType | None], object], *more: signal.Signals) -> None:
    """Set what SIGINT, SIGTERM and `more` do, unless ignored, as SIGINT is for `command &`."""
    for number in (signal.SIGINT, signal.SIGTERM, *more):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)


class Shutdown:
    """The state of a run's shutdown, shared by all of its threads.

    Attributes:
        stop: Set when waits and transfers have to end at once.
        requested: A shutdown was requested.
        in_flight: Slides being fetched, counted by the run.
    """

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.in_flight = 0
        self.requested = False
        self._stopped_at: float | None = None
        self._signals: SimpleQueue[None] = SimpleQueue()

    @property
    def draining(self) -> bool:
        """Return whether the run only waits for the slides in flight."""
        return self.requested and self._stopped_at is None

    @property
    def seconds_since_stop(self) -> float:
        """Return the seconds since `stop` was due; 0 if it is not."""
        return 0.0 if self._stopped_at is None else time.monotonic() - self._stopped_at

    def request(self) -> None:
        """Begin no further slide; stop at once if it is the second request."""
        if self._register(force=False):
            self.stop.set()

    def force(self) -> None:
        """Stop at once, whatever is in flight."""
        self._register(force=True)
        self.stop.set()

    def install_handlers(self) -> None:
        """Have SIGINT request a shutdown and SIGTERM force one. For the main thread."""
        start_thread(self._set_stop_on_signal, "shutdown")
        set_handler(self._handle)

    def restore_handlers(self) -> None:
        """Have both signals raise KeyboardInterrupt. Raises Interrupted if one came before."""
        set_handler(signal.default_int_handler)
        if self.requested:
            raise Interrupted("interrupted")

    def _register(self, *, force: bool) -> bool:
        """Register a request and return whether everything has to stop."""
        stops = force or self.requested or not self.in_flight
        if stops:
            self._stopped_at = self._stopped_at or time.monotonic()
        self.requested = True
        return stops

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        # No lock may be taken here: the interrupted main thread may be inside stop.wait and hold
        # the one that stop.set needs. SimpleQueue.put is reentrant.
        if self._register(force=number != signal.SIGINT):
            self._signals.put(None)

    def _set_stop_on_signal(self) -> None:
        self._signals.get()
        self.stop.set()
