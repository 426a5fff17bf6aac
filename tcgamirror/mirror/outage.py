"""Detection of a site that is down."""

from __future__ import annotations

from collections.abc import Iterable

from tcgamirror.model.errors import AWAY, Interrupted, NetworkError
from tcgamirror.sources import gdc

SITE_DOWN_AFTER = 6
"""Consecutive unreachable files after which the site itself is asked."""


class Unreached:
    """The number of consecutive files that no source could reach."""

    count = 0

    def add(self, faults: Iterable[str | None] = (None,)) -> None:
        """Count a file. faults: one for each source tried, None for success."""
        self.count = self.count + 1 if all(fault in AWAY for fault in faults) else 0


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
