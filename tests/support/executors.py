"""Slides fetched by a stub of a source, for rules that hold whatever a source does."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from tcgamirror.cli.progress import ProgressDisplay
from tcgamirror.imaging.level_reader import LevelReader
from tcgamirror.imaging.store import Store
from tcgamirror.mirror.dispatcher import Dispatcher
from tcgamirror.mirror.executor import Threads
from tcgamirror.mirror.ladder import Ladder, Turns
from tcgamirror.mirror.slots import Slots
from tcgamirror.model.slide import ImageFormat, Picture, Slide, Target
from tcgamirror.net.throttle import Meter
from tcgamirror.system.interrupt import Shutdown
from tests.support.catalogues import PICTURE


class Stub:
    """A source that calls a function, which may raise, and costs 1000 bytes."""

    name = "stub"

    def __init__(self, act: Callable[[Slide], object]) -> None:
        self._act = act

    @contextmanager
    def open(self, slide: Slide, target: Target, meter: Meter) -> Iterator[LevelReader]:
        del target
        meter.add(count=1000, requests=1)
        self._act(slide)
        yield cast("LevelReader", None)


class _StubStore(Store):
    """A store that writes nothing. seconds: of each image."""

    seconds = 0.0

    def write(self, *given: Any) -> Picture:
        *_, turn = given
        with turn:
            time.sleep(self.seconds)
        return PICTURE


def ladder_of(
    *acts: Callable[[Slide], object], renders: int = 64, render_seconds: float = 0
) -> Ladder:
    """Return the ladder of stubs that do this."""
    store = _StubStore(Path("/nowhere"), ImageFormat.PNG)
    store.seconds = render_seconds
    return Ladder([Stub(act) for act in acts], Target(8.0, None), store, Turns(renders))


def slides(count: int) -> list[Slide]:
    return [Slide(str(number), f"{number}.svs") for number in range(count)]


def dispatcher(
    act: Callable[[Slide], object], threads: int, shutdown: Shutdown | None = None
) -> Dispatcher:
    return dispatch(Threads(ladder_of(act), Slots(threads, threads)), shutdown)


def dispatch(
    executor: Threads,
    shutdown: Shutdown | None = None,
    is_away: Callable[[], bool] = lambda: False,
) -> Dispatcher:
    return Dispatcher(executor, ProgressDisplay(quiet=True), shutdown or Shutdown(), is_away)


def file_ids(run: Dispatcher, count: int) -> list[str]:
    """Fetch so many slides, and return the file_ids of those that ended."""
    return [outcome.slide.file_id for outcome in run.outcomes(slides(count))]
