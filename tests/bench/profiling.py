"""Where the processor's time goes while `range` works and nothing but the cores holds it up.

Every few milliseconds each thread is asked how much of the processor it has had since, which is
put down to where its stack stands. (Who only counted stacks would never see a thread that holds
the interpreter: the counter holds it then.) `python -m tests.bench.profiling FILE WORDS...` runs
the command of these words so, and writes what it found to the file.
"""

from __future__ import annotations

import json
import sys
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType

from tcgamirror.cli.main import main as command
from tests.bench import ours
from tests.bench.material import Kind
from tests.bench.network import DELAY
from tests.gdc import StandIn

EVERY = 0.005
"""Seconds between two looks."""

MAKING = {
    "decode": "decoding tiles",
    "resample": "reducing and resizing",
    "image_writer": "packing the image",
}
OTHERS = {
    **dict.fromkeys(("client", "watchdog", "response", "sparse_file", "svs", "tiff"), "network"),
    **dict.fromkeys(("catalogue", "queue", "listing", "database"), "catalogue"),
    **dict.fromkeys(("store", "files"), "writing files"),
}
REST = "start, listing and all else"


@dataclass(frozen=True, slots=True)
class Profile:
    """shares: of the command's processor time, by what it did, the largest first."""

    kind: Kind
    slides: int
    shares: Mapping[str, float]

    @property
    def making(self) -> float:
        """The share of making images."""
        return sum(self.shares.get(what, 0.0) for what in set(MAKING.values()))


def profile(kind: Kind, slides: int, workers: int) -> Profile:
    """`update` by `range`, watched from within."""
    with StandIn(kind.listing(slides)) as gdc, TemporaryDirectory() as folder:
        gdc.delay = DELAY
        told = Path(folder, "told")
        watched = [sys.executable, "-m", "tests.bench.profiling", str(told)]
        ours.update(gdc, "range", workers, watched)
        spent = Counter(json.loads(told.read_text()))
    whole = spent.total()
    return Profile(kind, slides, {what: time / whole for what, time in spent.most_common()})


def main() -> None:
    told, *words = sys.argv[1:]
    ended = threading.Event()
    spent: Counter[str] = Counter()
    watcher = threading.Thread(target=_watch, args=(ended, spent))
    watcher.start()
    code = command(words)
    ended.set()
    watcher.join()
    Path(told).write_text(json.dumps(spent))
    sys.exit(code)


def _watch(ended: threading.Event, spent: Counter[str]) -> None:
    before: dict[int, int] = {}
    while not ended.wait(EVERY):
        frames = sys._current_frames()
        for thread in threading.enumerate():
            if thread is threading.current_thread() or thread.native_id is None:
                continue
            now = _nanoseconds(thread.native_id)
            if now is not None:
                what = _what(frames.get(thread.ident or 0))
                spent[what] += now - before.get(thread.native_id, 0)
                before[thread.native_id] = now


def _nanoseconds(native_id: int) -> int | None:
    """On a processor, so far; None of a thread that has ended.

    Source: the kernel's documentation of schedstats, /proc/<pid>/schedstat, field 1.
    """
    try:
        return int(Path(f"/proc/self/task/{native_id}/schedstat").read_text().split()[0])
    except OSError:
        return None


def _what(frame: FrameType | None) -> str:
    """What the innermost module of the project is there for."""
    while frame is not None:
        package, _, module = frame.f_globals.get("__name__", "").rpartition(".")
        if package.startswith("tcgamirror") and (what := (MAKING | OTHERS).get(module)):
            return what
        frame = frame.f_back
    return REST


if __name__ == "__main__":
    main()
