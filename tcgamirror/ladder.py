"""One slide's way: the sources in their order, until one gives the image.

A pure worker: it takes and returns frozen values and touches neither the
catalogue nor the terminal, so that any number may run at the same time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from tcgamirror.errors import NetworkError, SlideError
from tcgamirror.model import Attempt, Outcome, Picture, Slide, Target
from tcgamirror.sources import Source
from tcgamirror.store import Store
from tcgamirror.transport import Meter


class Ladder:
    """The sources of one mirror, its target and its store.

    renders: images made at the same time. More slides than that may be waiting for
    the network meanwhile, which takes little memory.
    """

    def __init__(
        self, sources: Sequence[Source], target: Target, store: Store, renders: int
    ) -> None:
        self._sources = sources
        self._target = target
        self._store = store
        self._renders = threading.Semaphore(renders)
        self._meters: list[Meter] = []
        self._in_hand: dict[str, str] = {}

    def source_of(self, slide: Slide) -> str:
        """The name of the source that has, or had last, the slide in hand."""
        return self._in_hand.get(slide.file_name, self._sources[0].name)

    @property
    def bytes_moved(self) -> int:
        """Over the network so far, for all slides, those in hand too."""
        return sum(meter.bytes for meter in tuple(self._meters))

    def fetch(self, slide: Slide) -> Outcome:
        """The slide's image, or why no source could give it.

        Raises only what would end the whole run: NoRoom, WrongUse, Interrupted.
        """
        attempts: list[Attempt] = []
        for source in self._sources:
            self._in_hand[slide.file_name] = source.name
            meter = Meter()
            self._meters.append(meter)
            started, clock = time.time(), time.monotonic()
            failure: NetworkError | SlideError | None = None
            picture: Picture | None = None
            try:
                with source.open(slide, self._target, meter) as opened, self._renders:
                    picture = self._store.put(
                        slide, source.name, opened.pyramid, opened.rendition, opened.tiles
                    )
            except (NetworkError, SlideError) as error:
                failure = error
            attempts.append(
                Attempt(
                    source=source.name,
                    started=started,
                    seconds=time.monotonic() - clock,
                    bytes_fetched=meter.bytes,
                    requests=meter.requests,
                    fault=failure.fault if failure else None,
                    message=str(failure) if failure else None,
                    passing=failure.passing if failure else False,
                )
            )
            if failure is None:
                return Outcome(slide, tuple(attempts), picture)
            if isinstance(failure, SlideError) and not failure.elsewhere:
                break
        return Outcome(slide, tuple(attempts), None)
