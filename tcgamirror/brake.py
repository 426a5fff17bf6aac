"""How a run is stopped in order: by Ctrl-C, by a signal, by what ends every slide."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType


class Brake:
    """Pressed once, no further slide begins; pressed again, those in hand are let go.

    stop: set when waits and transfers are to end at once. in_hand: slides being
    fetched; while there are none the first press ends the run at once.
    left_behind: set if workers were still busy a moment after that, with
    pixels, a checksum or a slow disk; the process then ends without them,
    which harms nothing: they are where a kill might have met them.
    """

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.in_hand = 0
        self.left_behind = False
        self._pressed = False
        self._stopped: float | None = None

    @property
    def pressed(self) -> bool:
        return self._pressed

    @property
    def waits(self) -> bool:
        """Pressed once: the slides in hand are waited for."""
        return self._pressed and not self.stop.is_set()

    def press(self) -> None:
        if self._pressed or not self.in_hand:
            self._stop_all()
        self._pressed = True

    def press_hard(self) -> None:
        """Lets go of the slides in hand, too."""
        self._pressed = True
        self._stop_all()

    @property
    def seconds_stopped(self) -> float:
        """Since when waits and transfers are to end; 0 if they are not."""
        return 0.0 if self._stopped is None else time.monotonic() - self._stopped

    def _stop_all(self) -> None:
        self._stopped = self._stopped or time.monotonic()
        self.stop.set()

    def listen(self) -> None:
        """Has Ctrl-C press, and a request to terminate press hard. For the main thread."""
        signal.signal(signal.SIGINT, self._interrupted)
        signal.signal(signal.SIGTERM, self._interrupted)

    def _interrupted(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            self.press()
        else:
            self.press_hard()
