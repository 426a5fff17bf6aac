"""Counts of a run's slides, and detection of a site that is down."""

from __future__ import annotations

from collections.abc import Iterable

from tcgamirror.model.errors import (
    Interrupted,
    NetworkError,
    ServerError,
    Timeout,
    Truncated,
    Unreachable,
    WrongContent,
)
from tcgamirror.model.slide import Outcome
from tcgamirror.sources import gdc

_AWAY = frozenset(
    error.fault for error in (Unreachable, Timeout, Truncated, ServerError, WrongContent)
)
"""Faults of a site that is down, or that answers with a login page."""

SITE_DOWN_AFTER = 6
"""Consecutive unreachable slides after which the site itself is asked."""


class OutcomeCounts:
    """Counts of a run's slides.

    bytes: over the network, of the slides that ended. unreached: consecutive slides that
    no source could reach. last_message: error of the last failed slide. unknown_mpp: images
    of unknown resolution.
    """

    def __init__(self) -> None:
        self.done = self.failed = self.bytes = self.unreached = self.unknown_mpp = 0
        self.last_message = ""

    def add(self, outcome: Outcome) -> None:
        self.bytes += sum(attempt.bytes_fetched for attempt in outcome.attempts)
        if outcome.picture is not None:
            self.unknown_mpp += outcome.picture.mpp_x is None
            self.add_success()
        else:
            faults = [attempt.fault for attempt in outcome.attempts]
            self.add_failure(faults, outcome.attempts[-1].message or "")

    def expected_bytes(self, in_flight: int) -> float:
        """Return the bytes once `in_flight` further slides end, if those are as the others."""
        ended = self.done + self.failed
        return self.bytes * (1 + in_flight / ended) if ended else 0

    @property
    def none_reached(self) -> bool:
        """Return whether there were slides, and not one could be reached."""
        return 0 < self.failed == self.unreached and not self.done

    def add_success(self) -> None:
        self.done += 1
        self.unreached = 0

    def add_failure(self, faults: Iterable[str | None], message: str) -> None:
        """Count a failed slide. faults: one for each source tried."""
        self.failed += 1
        self.unreached = self.unreached + 1 if all(fault in _AWAY for fault in faults) else 0
        self.last_message = message


def is_away(client: gdc.JsonClient, api: str) -> bool:
    """Return whether the site is down. Any valid response counts, even one for a missing page."""
    try:
        gdc.read_release(client, api)
    except Interrupted:
        # The run ends because it was stopped.
        return False
    except NetworkError as error:
        return error.retryable
    return False
