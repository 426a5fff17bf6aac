"""The number of slides in flight, adapted during a run to what the run measures."""

from __future__ import annotations

import time
from collections.abc import Callable

BETTER = 1.3
"""Least factor by which the bytes a second rise if a doubling of the slots paid; less for less.

Even on a full link they rise by a fifth after the first slides, which also had to connect.
"""

REST = 4
"""Generations before the next doubling, after one that did not pay. Busy ones do not count."""

BUSY = 0.85
"""Least share of the time spent on making images at which the cores are the limit."""


class Slots:
    """The number of slides that may be in flight, which grows until the cores are busy.

    A generation is as many ended slides as there are slots. After each one the slots are doubled
    unless the cores were busy. If the bytes a second did not rise enough since the last doubling,
    the network is the limit, and the slots become as few as before it.

    count: slides that may be in flight now.
    """

    def __init__(
        self,
        first: int,
        most: int,
        clock: Callable[[], float] = time.monotonic,
        *,
        alone: bool = False,
    ) -> None:
        """Begin with `first` slots; there are never more than `most`.

        alone: begin with one slot, until its slide has ended.
        """
        self._former = first
        self.count = 1 if alone else first
        self._most = most
        self._clock = clock
        self._rate = 0.0
        self._rest = 0
        self._begin_generation(busy_seconds=0, bytes_moved=0)

    def add_ended(self, slides: int, *, busy_seconds: float, bytes_moved: int) -> None:
        """Count slides that ended.

        Args:
            busy_seconds: As of `Turns`, for the run so far.
            bytes_moved: Bytes over the network in the run so far.
        """
        self._ended += slides
        if self._ended < self.count:
            return
        seconds = max(self._clock() - self._began, 1e-6)
        if self.count < self._former:
            # The slide that began alone has ended.
            self.count = self._former
        elif busy_seconds - self._busy_seconds < BUSY * seconds:
            self._adapt((bytes_moved - self._bytes_moved) / seconds)
        self._begin_generation(busy_seconds, bytes_moved)

    def _adapt(self, rate: float) -> None:
        if self._rest:
            self._rest -= 1
        elif rate <= self._rate * (1 + (BETTER - 1) * (self.count / self._former - 1)):
            self.count, self._rate, self._rest = self._former, 0.0, REST
        else:
            self._former, self._rate = self.count, rate
            self.count = min(self._most, 2 * self.count)

    def _begin_generation(self, busy_seconds: float, bytes_moved: int) -> None:
        self._ended = 0
        self._began = self._clock()
        self._busy_seconds, self._bytes_moved = busy_seconds, bytes_moved
