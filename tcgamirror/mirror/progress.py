"""The protocol by which a run reports its progress."""

from __future__ import annotations

from typing import Protocol

from tcgamirror.model.slide import Outcome


class Watcher(Protocol):
    """Who is told how a run goes. Called from the thread that runs it."""

    def listing(self, got: int, total: int) -> None:
        """So many of the slides have been listed; 0 of 0 before the first answer."""
        ...

    def note(self, message: str) -> None:
        """One line that the user should read."""
        ...

    def begins(self, slides: int, workers: int) -> None:
        """So many slides are about to be fetched, `workers` of them at a time."""
        ...

    def finished(self, outcome: Outcome) -> None: ...

    def pauses(self, host: str, seconds: float, reason: str) -> None:
        """All requests to the host pause for so long. Called from any thread."""
        ...

    def tick(self, bytes_fetched: int, in_hand: int, stopping: bool) -> None:
        """Now and then: bytes moved so far, slides in hand."""
        ...
