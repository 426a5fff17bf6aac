"""What has come of a run's slides so far, and whether it is the site that fails, not they."""

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
"""The faults of a site that is down, or behind a page to log in at."""

SITE_DOWN_AFTER = 6
"""Slides in a row that no source could reach; then the site is asked whether it is down."""


class OutcomeCounts:
    """What came of the slides so far.

    unreached: how many slides in a row nobody could give. last: why not the last
    one. unknown_mpp: images of unknown resolution.
    """

    def __init__(self) -> None:
        self.done = self.failed = self.unreached = self.unknown_mpp = 0
        self.last = ""
        self._reached = False

    def add(self, outcome: Outcome) -> None:
        if outcome.picture is not None:
            self.unknown_mpp += outcome.picture.mpp_x is None
            # An image that lay there already says nothing of the site.
            self.had(asked=any(attempt.requests for attempt in outcome.attempts))
        else:
            faults = [attempt.fault for attempt in outcome.attempts]
            self.lost(faults, outcome.attempts[-1].message or "")

    @property
    def none_reached(self) -> bool:
        """Whether there were slides, and nobody could give a single one."""
        return 0 < self.failed == self.unreached and not self._reached

    def had(self, *, asked: bool = True) -> None:
        """Counts a slide of which there is an image. asked: whether anybody was asked for it."""
        self.done += 1
        if asked:
            self.unreached = 0
            self._reached = True

    def lost(self, faults: Iterable[str | None], why: str) -> None:
        """Counts one of which there is none. faults: of all that was tried."""
        self.failed += 1
        away = all(fault in _AWAY for fault in faults)
        self.unreached = self.unreached + 1 if away else 0
        self.last = why


def is_away(client: gdc.JsonClient, api: str) -> bool:
    """Asks the site itself. Any answer that is one will do, also that it knows no such page."""
    try:
        gdc.read_release(client, api)
    except Interrupted:
        # Stopped meanwhile: the run ends for that reason.
        return False
    except NetworkError as error:
        return error.retryable
    return False
