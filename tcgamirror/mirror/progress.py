"""The protocol by which the work on a mirror reports its progress."""

from __future__ import annotations

from typing import Protocol

from tcgamirror.model.slide import Outcome


class Progress(Protocol):
    """Receiver of the progress of update, verify, rebuild and sync.

    Methods are called from the thread that runs the command, `pause` from any thread.
    """

    def listing(self, listed: int, total: int, what: str = "listing") -> None:
        """Report slides read so far; 0 of 0 before the first response. what: is read of them."""

    def note(self, message: str) -> None:
        """Report one line that the user should read."""

    def pause(self, host: str, seconds: float, reason: str) -> None:
        """Report that all requests to a host pause."""

    def start_fetch(self, slides: int, workers: int) -> None:
        """Report that slides are about to be fetched, at most `workers` of them at a time."""

    def add_outcome(self, outcome: Outcome) -> None:
        """Report a slide that was fetched or failed."""

    def show_fetch(
        self, bytes_fetched: int, in_flight: int, stopping: bool, current_renders: int = 0
    ) -> None:
        """Report bytes fetched so far and slides in flight, several times a second.

        current_renders: images being rendered from what was fetched.
        """

    def start_images(self, images: int, size: int) -> None:
        """Report that images of `size` bytes in all are about to be read or copied."""

    def add_images(self, images: int, size: int) -> None:
        """Report further images that were read or copied, of `size` bytes."""
