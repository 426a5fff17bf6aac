"""How long to wait for a server. Apart, so that settings can name it without the network."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait for a server, and how often to ask it again.

    connect, first_byte: seconds until there is a connection, and until the
    headers are there. stall, least_rate: in any `stall` seconds fewer than
    `least_rate` bytes a second are too slow. whole: seconds for a whole small
    answer (`json`, `read`); None for no limit. tries: requests in all for one
    thing. backoff: seconds of the first wait between two, doubled each time up
    to 60, of which a random part is waited. pause: seconds for which nothing is
    asked of a host that answers 429 or 503 without Retry-After, or resets
    connections in a row; doubled each time, up to ten times as long.
    retry_after_limit: seconds a server may ask to wait.
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
