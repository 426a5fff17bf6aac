"""Count and limit the bytes that transfers move."""

from __future__ import annotations

import threading
import time

_PIECE = 256 << 10


class Meter:
    """Count of one slide's body bytes and requests, failed ones included. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.bytes = 0
        self.requests = 0

    def add(self, *, count: int = 0, requests: int = 0) -> None:
        """Add `count` bytes and `requests` requests."""
        with self._lock:
            self.bytes += count
            self.requests += requests


class RateLimit:
    """Limit of all connections together to `rate` bytes per second; None for no limit."""

    def __init__(self, rate: float | None, stop: threading.Event) -> None:
        self._rate = rate
        self._stop = stop
        self._lock = threading.Lock()
        self._due = 0.0

    @property
    def piece(self) -> int:
        """Return the bytes to read at once: few enough that no wait after them is long."""
        return _PIECE if self._rate is None else int(min(_PIECE, max(1024, self._rate / 10)))

    def wait_for(self, count: int) -> None:
        """Wait as long as `count` more bytes take at the rate, or until stopped."""
        if self._rate is None:
            return
        with self._lock:
            now = time.monotonic()
            self._due = max(self._due, now) + count / self._rate
            pause = self._due - now
        self._stop.wait(pause)
