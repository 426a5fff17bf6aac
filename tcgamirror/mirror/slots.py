"""The number of slides in flight, chosen in the run by what it measures."""

from __future__ import annotations

import time
from collections.abc import Callable

BETTER = 1.3
"""Factor by which bytes a second have to rise for a doubling of the slots to pay.

On a full link they rise by a fifth after the first slides, which also had to connect.
"""

REST = 4
"""Generations that leave the slots as they are after a doubling did not pay."""

BUSY = 0.85
"""Part of the time that goes to making images, from which on the cores are the limit."""


class Slots:
    """The number of slides that may be in flight, which grows until the cores are busy.

    A generation is as many slides as there are slots. After each one the slots are doubled
    if images were not made all the time. If the bytes a second did not rise enough, the
    network is the limit, and the slots become as few as before.

    count: slides that may be in flight now.
    """

    def __init__(self, first: int, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin with `first` slots; there are never more than `most`."""
        self.count = self._former = first
        self._most = most
        self._clock = clock
        self._rate = 0.0
        self._rest = 0
        self._begin_generation(worked=0, moved=0)

    def add_ended(self, slides: int, *, worked: float, moved: int) -> None:
        """Count slides that ended.

        Args:
            worked: Seconds of the run so far in which as many images were made as can be at once.
            moved: Bytes of the run so far.
        """
        self._ended += slides
        if self._ended < self.count:
            return
        seconds = max(self._clock() - self._began, 1e-6)
        if worked - self._worked < BUSY * seconds:
            self._adapt((moved - self._moved) / seconds)
        self._begin_generation(worked, moved)

    def _adapt(self, rate: float) -> None:
        if self._rest:
            self._rest -= 1
        elif rate <= BETTER * self._rate:  # Also where nothing comes at all.
            self.count, self._rate, self._rest = self._former, 0.0, REST
        else:
            self._former, self._rate = self.count, rate
            self.count = min(self._most, 2 * self.count)

    def _begin_generation(self, worked: float, moved: int) -> None:
        self._ended = 0
        self._began, self._worked, self._moved = self._clock(), worked, moved
