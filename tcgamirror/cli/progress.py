"""Runs that Ctrl-C stops, and their progress: bars on a terminal, rare lines elsewhere."""

from __future__ import annotations

import argparse
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, NoReturn

from tcgamirror.cli import output
from tcgamirror.model.text import format_bytes, format_duration, images, plain, slides
from tcgamirror.system.interrupt import Shutdown

if TYPE_CHECKING:
    from tqdm import tqdm

    from tcgamirror.model.slide import Outcome

QUIET_SECONDS = 60.0
"""Seconds between two lines of progress where there is no terminal."""

RATE_SECONDS = 20.0
"""Seconds over which the rate is averaged."""


class ProgressDisplay:
    """Progress as a bar with rate and time left on a terminal, as a line a minute elsewhere.

    The rate is averaged over RATE_SECONDS, so that a stall shows.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._terminal = not quiet and sys.stderr.isatty()
        self._bar: tqdm[NoReturn] | None = None
        self._total = self._done = self._failed = 0
        self._size = self._bytes = 0
        self._started = self._last_line = time.monotonic()
        self._samples = deque([(self._started, 0)])
        self._transient = False
        self._stopping = False
        self._pauses: dict[str, float] = {}

    def listing(self, listed: int, total: int, what: str = "listing") -> None:
        words = f"{what} {listed:,} of {slides(total)}" if total else f"asking for the {what}"
        if self._bar is not None:
            # The slides' bar keeps its last words.
            self.close()
        if self._terminal:
            self._transient = True
            print(f"\r\033[K{words} ...", end="", file=sys.stderr, flush=True)

    def note(self, message: str) -> None:
        # Quiet or not: a note is not progress.
        self._wipe()
        if self._quiet:
            output.say(message)
        else:
            self._line(message)

    def pause(self, host: str, seconds: float, reason: str) -> None:
        self._pauses[host] = time.monotonic() + seconds
        self.note(f"{host}: {reason}. All requests to it pause for {format_duration(seconds)}")

    # Slides that are fetched

    def start_fetch(self, total: int, workers: int) -> None:
        self._start(total)
        if total and self._terminal:
            from tqdm import tqdm

            self._line(f"fetching {slides(total)}, up to {workers} at a time")
            self._bar = tqdm(
                total=total,
                dynamic_ncols=True,
                bar_format=f"{{n:,}} of {slides(total)} |{{bar}}| {{elapsed}}{{postfix}}",
            )

    def add_outcome(self, outcome: Outcome) -> None:
        if outcome.picture is not None:
            self._done += 1
        else:
            self._failed += 1
            last = outcome.attempts[-1]
            self._line(f"failed: {outcome.slide.file_name}: {last.source}: {last.message}")
        if self._bar is not None:
            self._bar.update()

    def show_fetch(
        self, bytes_fetched: int, in_flight: int, stopping: bool, current_renders: int = 0
    ) -> None:
        if stopping and not self._stopping and in_flight:
            self._stopping = True
            self._line(f"finishing {slides(in_flight)}; Ctrl-C again abandons them")
        words = self._fetch_words(bytes_fetched, current_renders)
        if self._bar is not None:
            self._bar.set_postfix_str(words)
        elif self._is_due():
            self._line(f"{self._done + self._failed:,} of {slides(self._total)}, {words}")

    def _fetch_words(self, moved: int, current_renders: int) -> str:
        rate = self._rate(moved)
        words = [f"{format_bytes(moved)} at {format_bytes(rate)}/s"]
        if current_renders:
            words = [f"{format_bytes(moved)} moved"] if rate < 1 else words
            words.append(f"making {images(current_renders)}")
        for host, end in tuple(self._pauses.items()):
            if (left := end - time.monotonic()) > 0:
                words.append(f"{host} pauses for {format_duration(left)}")
        if self._failed:
            words.append(f"{self._failed:,} failed")
        ended = self._done + self._failed
        if 0 < ended < self._total and not self._stopping:
            words.append(self._left(ended, self._total))
        return ", ".join(words)

    # Images that are read or copied

    def start_images(self, total: int, size: int) -> None:
        self._start(total)
        self._size, self._bytes = size, 0
        if size and self._terminal:
            from tqdm import tqdm

            self._bar = tqdm(total=size, unit="B", unit_scale=True, dynamic_ncols=True)

    def add_images(self, count: int, size: int) -> None:
        self._done += count
        self._bytes += size
        words = f"{self._done:,} of {images(self._total)}"
        if self._bar is not None:
            self._bar.set_postfix_str(words, refresh=False)
            self._bar.update(size)
        elif self._is_due():
            if self._bytes:
                rate = format_bytes(self._rate(self._bytes))
                words += f", {format_bytes(self._bytes)} at {rate}/s, "
                words += self._left(self._bytes, self._size)
            self._line(words)

    def close(self) -> None:
        """Leave the terminal as it was."""
        self._wipe()
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _start(self, total: int) -> None:
        self.close()
        self._total, self._done, self._failed = total, 0, 0
        self._started = self._last_line = time.monotonic()
        self._samples = deque([(self._started, 0)])

    def _rate(self, total: int) -> float:
        """Return bytes per second lately. total: bytes by now."""
        now = time.monotonic()
        self._samples.append((now, total))
        while self._samples[1][0] <= now - RATE_SECONDS:
            self._samples.popleft()
        since, before = self._samples[0]
        return (total - before) / max(now - since, 0.1)

    def _left(self, done: int, total: int) -> str:
        seconds = (time.monotonic() - self._started) / done * (total - done)
        return f"{format_duration(seconds)} left"

    def _is_due(self) -> bool:
        """Return whether it is time for the next line where there is no terminal."""
        now = time.monotonic()
        if self._terminal or now - self._last_line < QUIET_SECONDS:
            return False
        self._last_line = now
        return True

    def _wipe(self) -> None:
        if self._transient:
            self._transient = False
            print("\r\033[K", end="", file=sys.stderr, flush=True)

    def _line(self, message: str) -> None:
        if self._bar is not None:
            self._bar.write(plain(message), file=sys.stderr)
        elif not self._quiet:
            output.say(message)


@contextmanager
def stoppable_run(args: argparse.Namespace) -> Iterator[tuple[ProgressDisplay, Shutdown]]:
    """Yield the display and the shutdown of a run that Ctrl-C stops."""
    shutdown = Shutdown()
    shutdown.install_handlers()
    with closing(ProgressDisplay(quiet=args.json)) as progress:
        yield progress, shutdown
