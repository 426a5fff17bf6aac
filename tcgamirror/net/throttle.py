"""Counting and limiting of the bytes that a transfer moves."""

from __future__ import annotations

import threading
import time

_PIECE = 256 << 10


class Meter:
    """Body bytes and requests of one slide, failed ones too, counted by any number of threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.bytes = 0
        self.requests = 0

    def add(self, *, count: int = 0, requests: int = 0) -> None:
        """Counts `count` bytes and `requests` requests more."""
        with self._lock:
            self.bytes += count
            self.requests += requests


class Pace:
    """Holds all connections together to `rate` bytes per second; None for no limit."""

    def __init__(self, rate: float | None, stop: threading.Event) -> None:
        self._rate = rate
        self._stop = stop
        self._lock = threading.Lock()
        self._due = 0.0

    @property
    def piece(self) -> int:
        """Bytes to read at once, small enough that no wait after them is long."""
        return _PIECE if self._rate is None else int(min(_PIECE, max(1024, self._rate / 10)))

    def keep(self, count: int) -> None:
        """Waits as long as `count` bytes more take at the rate, or until stopped."""
        if self._rate is None:
            return
        with self._lock:
            now = time.monotonic()
            self._due = max(self._due, now) + count / self._rate
            pause = self._due - now
        self._stop.wait(pause)
