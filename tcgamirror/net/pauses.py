"""Pauses of all requests to an overloaded host.

A host that answers 429 or 503 without Retry-After, or resets connections in a row, gets no
requests for a while. Each further pause is longer, until a response succeeds.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from tcgamirror.model.errors import Interrupted
from tcgamirror.system.parallel import POLL

RESETS = 3
"""Connections reset in a row before a pause begins."""
LONGEST = 10
"""The longest pause, as a multiple of the first."""

OnPause = Callable[[str, float, str], None]
"""Called when a pause begins, from any thread, with the host, seconds, and the reason."""


@dataclass(slots=True)
class _Host:
    """The last pause of a host: begun at `since`, `seconds` long, 0 after a good response."""

    since: float = 0.0
    seconds: float = 0.0
    resets: int = 0


class Pauses:
    """The pauses of all hosts, shared by all threads.

    first: seconds of a host's first pause; each further one is twice as long, up to
    LONGEST times the first. on_pause: see OnPause.
    """

    def __init__(self, first: float, stop: threading.Event, on_pause: OnPause) -> None:
        self._first = first
        self._stop = stop
        self._on_pause = on_pause
        self._end: Callable[[], bool] = lambda: False
        self._lock = threading.Lock()
        self._hosts: dict[str, _Host] = {}

    def end_when(self, over: Callable[[], bool]) -> None:
        """Raise Interrupted in every pause once `over` returns True."""
        self._end = over

    def wait(self, host: str) -> None:
        """Wait until the host's pause is over. Raises Interrupted."""
        while (left := self._left(host)) > 0:
            if self._end() or self._stop.wait(min(left, POLL)):
                raise Interrupted(f"stopped during a pause of all requests to {host}")

    def busy(self, host: str, sent: float, status: int) -> None:
        """Begin a pause after a 429 or 503 to a request sent at `sent` (monotonic seconds)."""
        trouble = "too many requests" if status == 429 else "the server is busy"
        self._begin(host, sent, f"{trouble} ({status})")

    def reset(self, host: str, sent: float) -> None:
        """Count a reset connection; begin a pause after RESETS in a row."""
        with self._lock:
            known = self._hosts.setdefault(host, _Host())
            known.resets += 1
            few = known.resets < RESETS
        if not few:
            self._begin(host, sent, "it resets connections")

    def answered(self, host: str, sent: float) -> None:
        """Reset the pauses of a host that gave a good response."""
        with self._lock:
            known = self._hosts.get(host)
            if known is not None and sent >= known.since:
                known.seconds = known.resets = 0

    def _begin(self, host: str, sent: float, reason: str) -> None:
        with self._lock:
            known = self._hosts.setdefault(host, _Host())
            if sent < known.since:
                return  # The present pause already covers requests sent before it.
            longest = LONGEST * self._first
            known.seconds = seconds = min(longest, 2 * known.seconds or self._first)
            known.since = time.monotonic()
        self._on_pause(host, seconds, reason)

    def _left(self, host: str) -> float:
        """Return the seconds left of the host's pause."""
        with self._lock:
            known = self._hosts.get(host)
            return known.since + known.seconds - time.monotonic() if known is not None else 0.0
