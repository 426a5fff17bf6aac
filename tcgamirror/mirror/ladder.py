"""The ladder: a mirror's sources, tried in order until one gives the image of a slide.

`Ladder.fetch` takes and returns frozen values and touches neither the catalogue
nor the terminal, so that any number of workers may run it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tcgamirror.imaging.store import Store
from tcgamirror.mirror.settings import Settings
from tcgamirror.model.errors import NetworkError, SlideError
from tcgamirror.model.slide import Attempt, Outcome, Picture, Slide, Target
from tcgamirror.net.client import HttpClient
from tcgamirror.net.throttle import Meter
from tcgamirror.sources.base import Source
from tcgamirror.sources.origins import Origins
from tcgamirror.sources.range import Range
from tcgamirror.sources.tiles import Tiles
from tcgamirror.sources.whole import Whole
from tcgamirror.sources.workspace import Workspace
from tcgamirror.system.parallel import usable_cores


class Ladder:
    """The sources of one mirror, with its target and its store.

    renders: images rendered at the same time, which bounds memory. More slides may
    wait for the network meanwhile. waited: images that waited for others to be rendered.
    """

    def __init__(
        self, sources: Sequence[Source], target: Target, store: Store, renders: int
    ) -> None:
        self._sources = sources
        self._target = target
        self._store = store
        self._renders = threading.Semaphore(renders)
        self._lock = threading.Lock()
        self._bytes_ended = 0
        self._meters: set[Meter] = set()
        self._in_hand: dict[str, str] = {}
        self._making = 0
        self.waited = 0

    def source_of(self, slide: Slide) -> str:
        """Return the source that fetches the slide, or did when a bug ended it."""
        return self._in_hand.get(slide.file_name, self._sources[0].name)

    @property
    def bytes_moved(self) -> int:
        """Bytes over the network so far, with those of slides in flight."""
        with self._lock:
            return self._bytes_ended + sum(meter.bytes for meter in self._meters)

    @property
    def making(self) -> int:
        """Images that are made of what was fetched."""
        return self._making

    @contextmanager
    def _making_one(self) -> Iterator[None]:
        """Bound the images that are made at the same time, and count them."""
        if not self._renders.acquire(blocking=False):
            with self._lock:
                self.waited += 1
            self._renders.acquire()
        try:
            with self._lock:
                self._making += 1
            yield
        finally:
            with self._lock:
                self._making -= 1
            self._renders.release()

    def fetch(self, slide: Slide) -> Outcome:
        """Fetch a slide and return its image, or why no source gave it.

        Raises only errors that end the whole run: DiskFull, UsageError, Damaged, Interrupted.
        """
        attempts: list[Attempt] = []
        picture: Picture | None = None
        for source in self._sources:
            self._in_hand[slide.file_name] = source.name
            started, clock = time.time(), time.monotonic()
            failure: NetworkError | SlideError | None = None
            with self._metered() as meter:
                try:
                    with source.open(slide, self._target, meter) as reader, self._making_one():
                        picture = self._store.write(slide, source.name, reader)
                except (NetworkError, SlideError) as error:
                    failure, picture = error, None
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
            if failure is None or (isinstance(failure, SlideError) and not failure.try_next):
                break
        # Kept where a bug ended it, so that `source_of` still tells the source.
        self._in_hand.pop(slide.file_name, None)
        return Outcome(slide, tuple(attempts), picture)

    @contextmanager
    def _metered(self) -> Iterator[Meter]:
        """Yield a meter that counts while it runs; afterwards only its sum is kept."""
        meter = Meter()
        with self._lock:
            self._meters.add(meter)
        try:
            yield meter
        finally:
            with self._lock:
                self._meters.remove(meter)
                self._bytes_ended += meter.bytes


def build_ladder(
    settings: Settings, store: Store, client: HttpClient, origins: Origins, work: Workspace
) -> Ladder:
    """Return the ladder of the sources that the settings name."""
    ranged = Range(client, origins, work)
    known: dict[str, Source] = {
        "range": ranged,
        "tiles": Tiles(client, settings.tiles, work, ranged.read_header),
        "whole": Whole(client, origins, work),
    }
    sources = [known[name] for name in settings.via]
    return Ladder(sources, settings.target, store, renders=max(2, usable_cores()))
