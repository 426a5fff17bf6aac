"""The connections to a host, and the pauses of all requests to it while it is overloaded.

A host that answers 429 or 503 without Retry-After, or resets connections in a row, gets no
requests for a while. Each further pause is longer, until a request succeeds. A host in trouble,
or one whose bodies are too slow, also loses half of its connections. They double after each
CALM_SECONDS without trouble.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable

from tcgamirror.net.proxies import Route
from tcgamirror.system.parallel import POLL

RESETS = 3
"""Connections reset in a row before a pause begins."""
LONGEST_PAUSE = 10
"""The longest pause, as a multiple of the first one."""
LEAST_CONNECTIONS = 4
"""Connections that a host in trouble keeps: these, or a quarter of its limit, but at least one."""
CALM_SECONDS = 120.0
"""Seconds without trouble after which a host's connections double, up to its limit."""

OnPause = Callable[[str, float, str], None]
"""Called when a pause begins, from any thread, with the host, seconds, and the reason."""


class Host:
    """The connections and pauses of one host, for any number of threads. name: host and port."""

    def __init__(
        self, name: str, route: Route, limit: int, first_pause: float, on_pause: OnPause
    ) -> None:
        """limit: connections at once. first_pause: in seconds; each further one doubles it."""
        self.name = name
        self.route = route
        self._limit = limit
        # Connections that the host bears: any number, until it has trouble.
        self._bearable = math.inf
        self._in_use = 0
        self._first_pause = first_pause
        self._on_pause = on_pause
        self._pause = self._pause_end = 0.0
        # When trouble was last counted, and when the connections last changed.
        self._adjusted_at = self._resized_at = 0.0
        self._resets = 0
        self._changed = threading.Condition()

    @property
    def pause_left(self) -> float:
        """Return the seconds left of the pause; 0 or less without one."""
        return self._pause_end - time.monotonic()

    def set_limit(self, limit: int) -> None:
        with self._changed:
            self._limit = limit

    def acquire(self) -> bool:
        """Wait briefly for a connection outside of pauses, and return whether one was acquired."""
        left = self.pause_left
        with self._changed:
            is_free = self._changed.wait_for(self._is_free, min(left, POLL) if left > 0 else POLL)
            self._in_use += is_free
            return is_free

    def release(self) -> None:
        with self._changed:
            self._in_use -= 1
            self._changed.notify()

    def record_busy(self, sent: float, status: int, *, pause: bool) -> None:
        """Record a 429 or 503 to a request sent at `sent` (monotonic seconds), and maybe pause."""
        trouble = "too many requests" if status == 429 else "the server is busy"
        self._adjust(sent, f"{trouble} ({status})", pause=pause)

    def record_slow(self, sent: float) -> None:
        """Record a body that was too slow: its link may be shared by too many connections."""
        self._adjust(sent, "it is slow", pause=False)

    def record_reset(self, sent: float) -> None:
        """Count a reset connection. From RESETS in a row on, each is trouble with a pause."""
        with self._changed:
            self._resets += 1
            few = self._resets < RESETS
        if not few:
            self._adjust(sent, "it resets connections", pause=True)

    def record_success(self, sent: float) -> None:
        """Record a success: the next pause is short again, and the connections may double."""
        with self._changed:
            if sent < self._adjusted_at:
                return
            self._pause = self._resets = 0
            if self._bearable < self._limit and time.monotonic() > self._resized_at + CALM_SECONDS:
                self._resized_at = time.monotonic()
                self._bearable *= 2

    def _adjust(self, sent: float, reason: str, *, pause: bool) -> None:
        """Halve the connections, and maybe pause, unless that was done since `sent`."""
        with self._changed:
            if sent < self._adjusted_at:
                return
            self._adjusted_at = self._resized_at = time.monotonic()
            allowed = min(self._limit, self._bearable)
            # Of an API's four, one is left: some servers bear only one request at a time.
            least = min(LEAST_CONNECTIONS, self._limit // 4)
            self._bearable = max(1, least, allowed // 2)
            if pause:
                longest = LONGEST_PAUSE * self._first_pause
                self._pause = seconds = min(longest, 2 * self._pause or self._first_pause)
                self._pause_end = self._adjusted_at + seconds
        if pause:
            self._on_pause(self.name.removesuffix(":443"), seconds, reason)

    def _is_free(self) -> bool:
        return self._in_use < min(self._limit, self._bearable) and self.pause_left <= 0
