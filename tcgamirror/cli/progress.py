"""Progress on a terminal as bars and lines, and as rare lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections import deque
from typing import TYPE_CHECKING, NoReturn

from tcgamirror.cli import output
from tcgamirror.cli.output import say
from tcgamirror.model import text
from tcgamirror.model.text import in_bytes, in_time, plain, slides

if TYPE_CHECKING:
    from tqdm import tqdm

    from tcgamirror.model.slide import Outcome

QUIET_SECONDS = 60.0
"""Between two lines of progress where there is no terminal."""

RATE_SECONDS = 20.0
"""Over which the rate shown is taken."""


class _Rate:
    """How fast bytes come lately, so that a stall shows."""

    def __init__(self) -> None:
        self._seen = deque([(time.monotonic(), 0)])

    def of(self, moved: int) -> float:
        """Bytes per second, told that `moved` have come in all."""
        now = time.monotonic()
        self._seen.append((now, moved))
        while self._seen[1][0] <= now - RATE_SECONDS:
            self._seen.popleft()
        since, before = self._seen[0]
        return (moved - before) / max(now - since, 0.1)


class Progress:
    """Tells how a run goes: a bar with rate and time left, or a line now and then."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._terminal = not quiet and sys.stderr.isatty()
        self._bar: tqdm[NoReturn] | None = None
        self._total = self._done = self._failed = 0
        self._begun = self._said = time.monotonic()
        self._rate = _Rate()
        self._passing = False
        self._stopping = False
        self._pauses: dict[str, float] = {}

    def listing(self, got: int, total: int) -> None:
        """So many of the slides have been listed; of 0 if the first answer is awaited."""
        self._pass(f"listing {got:,} of {slides(total)}" if total else "asking for the listing")

    def note(self, message: str) -> None:
        """Write one line, quiet or not: it is no progress."""
        self._wipe()
        if self._quiet:
            say(message)
        else:
            self._line(message)

    def begins(self, total: int, workers: int) -> None:
        self._wipe()
        self._total = total
        self._begun = self._said = time.monotonic()
        self._rate = _Rate()
        if total and self._terminal:
            from tqdm import tqdm

            self._line(f"fetching {slides(total)}, up to {workers} at a time")
            self._bar = tqdm(
                total=total,
                dynamic_ncols=True,
                bar_format=f"{{n:,}} of {slides(total)} |{{bar}}| {{elapsed}}{{postfix}}",
            )

    def finished(self, outcome: Outcome) -> None:
        if outcome.picture is not None:
            self._done += 1
        else:
            self._failed += 1
            last = outcome.attempts[-1]
            self._line(f"failed: {outcome.slide.file_name}: {last.source}: {last.message}")
        if self._bar is not None:
            self._bar.update()

    def tick(self, bytes_fetched: int, in_hand: int, stopping: bool) -> None:
        if stopping and not self._stopping and in_hand:
            self._stopping = True
            self._line(f"finishing {slides(in_hand)}; Ctrl-C again lets go of them at once")
        words = self._words(bytes_fetched)
        if self._bar is not None:
            self._bar.set_postfix_str(words)
        elif time.monotonic() - self._said >= QUIET_SECONDS:
            self._said = time.monotonic()
            self._line(f"{self._done + self._failed:,} of {slides(self._total)}, {words}")

    def pauses(self, host: str, seconds: float, reason: str) -> None:
        self._pauses[host] = time.monotonic() + seconds
        self.note(f"{host}: {reason}. All requests to it pause for {in_time(seconds)}")

    def _words(self, moved: int) -> str:
        words = [f"{in_bytes(moved)} at {in_bytes(self._rate.of(moved))}/s"]
        for host, end in tuple(self._pauses.items()):
            if (left := end - time.monotonic()) > 0:
                words.append(f"{host} pauses for {in_time(left)}")
        if self._failed:
            words.append(f"{self._failed:,} failed")
        ended = self._done + self._failed
        if 0 < ended < self._total and not self._stopping:
            each = (time.monotonic() - self._begun) / ended
            words.append(f"{in_time(each * (self._total - ended))} left")
        return ", ".join(words)

    def close(self) -> None:
        """Leaves the terminal as it was."""
        self._wipe()
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _pass(self, words: str) -> None:
        """Shows on a terminal what the next words take the place of."""
        if self._terminal:
            self._passing = True
            print(f"\r\033[K{words} ...", end="", file=sys.stderr, flush=True)

    def _wipe(self) -> None:
        if self._passing:
            self._passing = False
            print("\r\033[K", end="", file=sys.stderr, flush=True)

    def _line(self, message: str) -> None:
        if self._bar is not None:
            self._bar.write(plain(message), file=sys.stderr)
        elif not self._quiet:
            say(message)


class VerifyProgress:
    """Tells how reading goes: a bar with rate and time left, or a line now and then."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._bar: tqdm[NoReturn] | None = None
        self._images = self._total = self._bytes = self._size = 0
        self._begun = self._said = time.monotonic()

    def listing(self, got: int, total: int) -> None:
        if total and not self._quiet and sys.stderr.isatty():
            end = "\r\033[K" if got >= total else f"\rlisting {got:,} of {text.slides(total)} "
            print(end, end="", file=sys.stderr, flush=True)

    def begins(self, images: int, size: int) -> None:
        self._total, self._size = images, size
        self._begun = self._said = time.monotonic()
        if size and not self._quiet and sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=size, unit="B", unit_scale=True, dynamic_ncols=True)

    def passed(self, images: int, size: int) -> None:
        self._images += images
        self._bytes += size
        if self._bar is not None:
            of = f"{self._images:,} of {text.images(self._total)}"
            self._bar.set_postfix_str(of, refresh=False)
            self._bar.update(size)
        elif not self._quiet and time.monotonic() - self._said >= QUIET_SECONDS:
            self._said = time.monotonic()
            seconds = self._said - self._begun
            read = ""
            if self._bytes:
                rest = seconds / self._bytes * (self._size - self._bytes)
                read = (
                    f", {text.in_bytes(self._bytes)} at "
                    f"{text.in_bytes(self._bytes / seconds)}/s, {text.in_time(rest)} left"
                )
            output.say(f"{self._images:,} of {text.images(self._total)}{read}")

    def close(self) -> None:
        """Leaves the terminal as it was."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class SyncProgress:
    """Tells how it goes: a bar of bytes on a terminal, else a line now and then."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._bar: tqdm[NoReturn] | None = None
        self._images = self._total = 0
        self._said = time.monotonic()

    def begins(self, images: int, size: int) -> None:
        self.close()
        self._images, self._total = 0, images
        if images and not self._quiet and sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=size, unit="B", unit_scale=True, dynamic_ncols=True)

    def passed(self, images: int, size: int) -> None:
        self._images += images
        if self._bar is not None:
            self._bar.set_postfix_str(f"{self._images:,} of {self._total:,}", refresh=False)
            self._bar.update(size)
        elif not self._quiet and time.monotonic() - self._said >= QUIET_SECONDS:
            self._said = time.monotonic()
            output.say(f"{self._images:,} of {text.images(self._total)}")

    def close(self) -> None:
        """Leaves the terminal as it was."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class TransferProgress:
    """Tells how it goes: over and over on a terminal, a line now and then elsewhere."""

    def __init__(self, word: str, *, quiet: bool) -> None:
        self._word = word
        self._quiet = quiet
        self._terminal = sys.stderr.isatty()
        self._said = time.monotonic()

    def __call__(self, got: int, total: int, size: int) -> None:
        every = 0.2 if self._terminal else QUIET_SECONDS
        now = time.monotonic()
        if self._quiet or (now - self._said < every and got < total):
            return
        words = f"{self._word} {got:,} of {total:,} images, {text.in_bytes(size)}"
        if self._terminal:
            end = "\r\033[K" if got >= total else f"\r\033[K{words} "
            print(end, end="", file=sys.stderr, flush=True)
        elif now - self._said >= every:
            output.say(words)
        self._said = now
