"""The contract of a source: one way to get the pixels of a slide."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol

from tcgamirror.model.slide import Slide, Target
from tcgamirror.net.throttle import Meter

if TYPE_CHECKING:
    from tcgamirror.imaging.level_reader import LevelReader


class Source(Protocol):
    """One way to get a slide, for any number of threads.

    Opening is idempotent: it resumes from what an earlier, interrupted try left in `work/`.

    SlideError and NetworkError mean that this source failed. Another may succeed, unless the
    error is Unfit. Any other error would meet every source:
    DiskFull, UsageError, Damaged and Interrupted end the run.

    When the context ends well, all that `work/` holds of the slide is removed. After a
    SlideError this source's part is removed, since its bytes are in doubt. After any other
    error it is kept for the next try.
    """

    @property
    def name(self) -> str:
        """The source's name in the settings and the catalogue."""
        ...

    def open(
        self, slide: Slide, target: Target, meter: Meter
    ) -> AbstractContextManager[LevelReader]:
        """Fetch what `target` needs of the slide, and count the network's use in `meter`."""
        ...
