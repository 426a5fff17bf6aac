"""Limits of time and of retries for requests; settings use them without importing the network."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Limits of time and of retries for the requests of one client.

    Attributes:
        connect: Seconds until there is a connection.
        first_byte: Seconds until the headers are there.
        stall: Seconds of the window in which `least_rate` is measured.
        least_rate: Bytes per second below which a body is too slow.
        whole: Seconds for a whole small answer; None for no limit.
        tries: Requests in all for one thing.
        backoff: Seconds of the first wait between two tries. It doubles up to 60; a random
            part of it is waited.
        pause: Seconds without requests to a host that answers 429 or 503 without Retry-After,
            or resets connections in a row. It doubles up to ten times as long.
        retry_after_limit: The longest Retry-After that is obeyed, in seconds.
    """

    connect: float = 15
    first_byte: float = 60
    stall: float = 30
    whole: float | None = 300
    least_rate: float = 1024
    tries: int = 5
    backoff: float = 1.0
    pause: float = 30.0
    retry_after_limit: float = 300
