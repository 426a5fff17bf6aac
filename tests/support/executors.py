"""Work on slides for an executor, without sources."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tcgamirror.mirror.executor import Dispatcher, Threads
from tcgamirror.mirror.slots import Slots
from tcgamirror.model.slide import Outcome, Slide
from tcgamirror.system.interrupt import Shutdown


@dataclass
class Work:
    fetch: Callable[[Slide], Outcome]
    bytes_moved: int = 0
    making: int = 0
    waited: int = 0

    def source_of(self, slide: Slide) -> str:
        return f"source of {slide.file_id}"


def dispatcher(
    fetch: Callable[[Slide], Outcome], threads: int, shutdown: Shutdown | None = None
) -> Dispatcher:
    return Dispatcher(Threads(Work(fetch), Slots(threads, threads)), shutdown or Shutdown())
