"""How slowly the stand-in answers, and to how many at once."""

from __future__ import annotations

import threading
import time


class Pace:
    """Says how long to wait so that bytes go no faster than a rate."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._free_at = 0.0

    def wait_for(self, count: int, rate: float) -> float:
        """Seconds until `count` more bytes are through at `rate` bytes per second."""
        with self._lock:
            now = time.monotonic()
            self._free_at = max(now, self._free_at) + count / rate
            return self._free_at - now


class Shaping:
    """The slowness of a server. All of it may be set while the server runs.

    delay: seconds before each answer. tile_delay: further seconds before tiles and their
    metadata. rate: bytes per second of each connection. link_rate: bytes per second of all
    connections together.
    """

    def __init__(self) -> None:
        self.delay = 0.0
        self.tile_delay = 0.0
        self.rate: float | None = None
        self.link_rate: float | None = None
        self._link = Pace()

    @property
    def chunk(self) -> int:
        """Bytes to send at a time, so that a slow answer flows and does not jump."""
        slowest = min(self.rate or 2e6, self.link_rate or 2e6)
        return max(1, min(65536, int(slowest / 30)))

    def pause(self, own: Pace, count: int) -> float:
        """Seconds to wait for `count` bytes of the connection whose pace is `own`."""
        rate, link_rate = self.rate, self.link_rate
        return max(
            own.wait_for(count, rate) if rate else 0.0,
            self._link.wait_for(count, link_rate) if link_rate else 0.0,
        )
