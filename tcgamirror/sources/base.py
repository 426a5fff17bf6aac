"""Ways to get one slide's pixels. Each is a `Source`; the ladder tries them in order."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from tcgamirror.imaging.decode import TileReader
from tcgamirror.model.slide import Pyramid, Rendition, Slide, Target
from tcgamirror.net.throttle import Meter


@dataclass(frozen=True, slots=True)
class Opened:
    """A slide made ready: reading `tiles`, of `pyramid`'s level, gives what `rendition` asks.

    patched: returns how many tiles of the level are rendered from finer ones, which reading
    all of them tells for sure; None from a source that knows no tiles of a level.
    """

    pyramid: Pyramid
    rendition: Rendition
    tiles: TileReader
    patched: Callable[[], int | None] = lambda: None


class Source(Protocol):
    """One way to get a slide.

    Opening is idempotent: what an earlier, cut-off try left in `work/` is gone
    on with. It raises SlideError or NetworkError where this way fails (another
    may do better), and NoRoom, WrongUse or Interrupted where all would. Leaving
    the context well removes what lies in `work/`; leaving it by a SlideError
    does too, for the bytes are then in doubt; any other end keeps it.
    """

    @property
    def name(self) -> str:
        """As in the settings and the catalogue."""
        ...

    def open(self, slide: Slide, target: Target, meter: Meter) -> AbstractContextManager[Opened]:
        """Fetches what `target` needs of the slide; its network use is counted in `meter`."""
        ...
