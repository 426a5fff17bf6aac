"""Count and limit the bytes that transfers move."""

from __future__ import annotations

import threading
import time

_PIECE = 256 << 10


class Meter:
    """Count of body bytes and requests, of one slide or one sync, failed ones included.

    It is thread-safe. total: a meter that counts them too."""

    def __init__(self, total: Meter | None = None) -> None:
        self._total = total
        self._lock = threading.Lock()
        self.bytes = 0
        self.requests = 0

    def add(self, *, count: int = 0, requests: int = 0) -> None:
        """Add `count` bytes and `requests` requests."""
        with self._lock:
            self.bytes += count
            self.requests += requests
        if self._total is not None:
            self._total.add(count=count, requests=requests)


class RateLimit:
    """Limit of all users of this object together to `rate` bytes per second; None for none."""

    def __init__(self, rate: float | None, stop: threading.Event) -> None:
        self.rate = rate
        self._stop = stop
        self._lock = threading.Lock()
        self._due = 0.0

    @property
    def piece(self) -> int:
        """Return the bytes to read at once: few enough that they take about 0.1 s at the rate."""
        return _PIECE if self.rate is None else int(min(_PIECE, max(1024, self.rate / 10)))

    def wait_for(self, count: int) -> None:
        """Wait until `count` bytes, and those of all earlier calls, are due at the rate.

        It returns early, without an error, once the run is stopped.
        """
        if self.rate is None:
            return
        with self._lock:
            now = time.monotonic()
            self._due = max(self._due, now) + count / self.rate
            pause = self._due - now
        self._stop.wait(pause)
