"""When a slide that failed is tried again by itself: at a distance that grows."""

from __future__ import annotations

from tcgamirror.errors import BadSlide, TooFine, TooLarge, UnusualSlide
from tcgamirror.model import Outcome

HOUR = 3600.0
DAY = 24 * HOUR

EARLIER = 4 * HOUR
"""Taken off each distance in days: a nightly run never begins at quite the same time."""

DISTANCES = (HOUR, *(days * DAY - EARLIER for days in (1, 3, 7, 30)))
"""Seconds after the first failure in a row, the second, and so on; then always the last."""

_SAME_FOR_ALL = frozenset(error("").fault for error in (TooFine, TooLarge))
_SAME_FOR_EVER = frozenset(error("").fault for error in (BadSlide, UnusualSlide))


def retry_time(outcome: Outcome, failures: int, now: float) -> float | None:
    """When a slide that failed is due again, in seconds since the epoch; None: only if asked for.

    failures: how many runs in a row it has failed in, this one too.
    """
    if lasting(outcome):
        return None
    return now + DISTANCES[min(max(failures, 1), len(DISTANCES)) - 1]


def lasting(outcome: Outcome) -> bool:
    """Whether the slide itself is at fault, so that no later try can go better.

    That is so for an image that cannot be as asked for, and for a whole file
    which is the one listed, by its md5, and yet no slide that can be read.
    """
    return any(
        attempt.fault in _SAME_FOR_ALL
        or (
            attempt.source == "whole"
            and attempt.fault in _SAME_FOR_EVER
            and outcome.slide.md5 is not None
        )
        for attempt in outcome.attempts
    )
