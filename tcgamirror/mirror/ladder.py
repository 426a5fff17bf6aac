"""The ladder: a mirror's sources, tried in order until one gives the image of a slide.

`Ladder.fetch` takes and returns frozen values. It touches neither the catalogue nor the
terminal, so any number of workers may run it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from tcgamirror.imaging.store import Store, begin_imports
from tcgamirror.mirror.settings import Settings
from tcgamirror.model.errors import (
    Bug,
    NetworkError,
    SlideError,
    TcgaMirrorError,
    Unfit,
    lack_of_memory,
)
from tcgamirror.model.slide import Attempt, Outcome, Picture, Slide, Target
from tcgamirror.net.client import HttpClient
from tcgamirror.net.throttle import Meter
from tcgamirror.sources.base import Source
from tcgamirror.sources.origins import Origins
from tcgamirror.sources.range import Range
from tcgamirror.sources.whole import Whole
from tcgamirror.sources.workspace import Workspace
from tcgamirror.system.cores import usable_cores
from tcgamirror.system.parallel import result_or_error


class Turns:
    """The turns of rendering: few images at the same time, which bounds memory.

    More slides may wait for the network meanwhile. current: images being rendered. busy_seconds:
    seconds of rendering so far, of all images, divided by the number of turns.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._free = threading.Semaphore(count)
        self._lock = threading.Lock()
        self.current = 0
        self.busy_seconds = 0.0

    def are_left(self) -> bool:
        """Return whether a further image might be rendered at once."""
        return self.current < self._count

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Wait until an image may be rendered, and count it and its time."""
        with self._free:
            began = time.monotonic()
            with self._lock:
                self.current += 1
            try:
                yield
            finally:
                with self._lock:
                    self.current -= 1
                    self.busy_seconds += (time.monotonic() - began) / self._count


class Ladder:
    """The sources of one mirror, with its target, its store and the turns of rendering.

    traffic: use of the network so far.
    """

    def __init__(
        self, sources: Sequence[Source], target: Target, store: Store, turns: Turns
    ) -> None:
        self._sources = sources
        self._target = target
        self._store = store
        self.turns = turns
        self.traffic = Meter()

    def fetch(self, slide: Slide) -> Outcome:
        """Fetch a slide and return its image, or why no source gave it.

        A bug or a lack of memory fails this slide alone. Raises only errors that end the whole
        run: DiskFull, UsageError, Damaged, Interrupted.
        """
        attempts: list[Attempt] = []
        for source in self._sources:
            meter, started, clock = Meter(self.traffic), time.time(), time.monotonic()
            result = result_or_error(partial(self._make, slide, source, meter))
            failure = None if isinstance(result, Picture) else failure_of(result)
            attempts.append(
                Attempt(
                    source=source.name,
                    started=started,
                    seconds=time.monotonic() - clock,
                    bytes_fetched=meter.bytes,
                    requests=meter.requests,
                    fault=failure.fault if failure else None,
                    message=str(failure) if failure else None,
                    retryable=failure.retryable if failure else False,
                )
            )
            if isinstance(result, Picture):
                return Outcome(slide, tuple(attempts), result)
            if isinstance(failure, Unfit) or not isinstance(failure, SlideError | NetworkError):
                break
        return Outcome(slide, tuple(attempts), None)

    def _make(self, slide: Slide, source: Source, meter: Meter) -> Picture:
        with source.open(slide, self._target, meter) as reader:
            return self._store.write(slide, source.name, reader, self.turns.hold())


def failure_of(error: BaseException) -> TcgaMirrorError:
    """Return the failure of one slide that an error means. Raise one that ends the whole run."""
    if isinstance(error, NetworkError | SlideError):
        return error
    if isinstance(error, TcgaMirrorError) or not isinstance(error, Exception):
        raise error
    return lack_of_memory(error) or Bug(f"a bug: {type(error).__name__}: {error}")


def build_ladder(
    settings: Settings, store: Store, client: HttpClient, origins: Origins, work: Workspace
) -> Ladder:
    """Return the ladder of the sources that the settings name.

    Another thread begins to import what rendering needs, while the first slides are fetched.
    """
    begin_imports()
    turns = Turns(max(2, usable_cores()))
    by_range = Range(client, origins, work, turns.are_left)
    known: dict[str, Source] = {"range": by_range, "whole": Whole(client, origins, work)}
    if "tiles" in settings.via:
        # Imported late, because it imports large libraries itself.
        from tcgamirror.sources.tiles import Tiles

        known["tiles"] = Tiles(client, settings.tiles, work, by_range.read_header)
    sources = [known[name] for name in settings.via]
    return Ladder(sources, settings.target, store, turns)
