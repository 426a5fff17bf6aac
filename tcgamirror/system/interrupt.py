"""How a run is stopped in order: by Ctrl-C, by a signal, by what ends every slide."""

from __future__ import annotations

import signal
import threading
import time
from queue import SimpleQueue
from types import FrameType

from tcgamirror.model.errors import Interrupted


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
        self._bell: SimpleQueue[None] = SimpleQueue()

    @property
    def pressed(self) -> bool:
        return self._pressed

    @property
    def waits(self) -> bool:
        """Pressed once: the slides in hand are waited for."""
        return self._pressed and self._stopped is None

    def press(self) -> None:
        if self._note(hard=False):
            self.stop.set()

    def press_hard(self) -> None:
        """Lets go of the slides in hand, too."""
        self._note(hard=True)
        self.stop.set()

    @property
    def seconds_stopped(self) -> float:
        """Since when waits and transfers are to end; 0 if they are not."""
        return 0.0 if self._stopped is None else time.monotonic() - self._stopped

    def _note(self, *, hard: bool) -> bool:
        """Notes a press; whether all is to stop."""
        stops = hard or self._pressed or not self.in_hand
        if stops:
            self._stopped = self._stopped or time.monotonic()
        self._pressed = True
        return stops

    def listen(self) -> None:
        """Has Ctrl-C press, and a request to terminate press hard. For the main thread."""
        threading.Thread(target=self._answer_bell, name="brake", daemon=True).start()
        signal.signal(signal.SIGINT, self._interrupted)
        signal.signal(signal.SIGTERM, self._interrupted)

    def give_back(self) -> None:
        """Has both do what they do by themselves. Raises Interrupted if it was pressed before."""
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if self._pressed:
            raise Interrupted("interrupted")

    def _interrupted(self, number: int, _frame: FrameType | None) -> None:
        # No lock may be taken here: the main thread, which this interrupts, may be inside
        # stop.wait and hold the one that stop.set needs. SimpleQueue.put may be called anywhere.
        if self._note(hard=number != signal.SIGINT):
            self._bell.put(None)

    def _answer_bell(self) -> None:
        self._bell.get()
        self.stop.set()
