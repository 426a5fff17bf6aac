"""Copies of a mirror's catalogue, and the images that each records."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from tcgamirror.catalogue.catalogue import Catalogue
from tcgamirror.catalogue.images import Image
from tcgamirror.catalogue.reports import Counts
from tcgamirror.mirror.directory import CATALOGUE, FIXED
from tcgamirror.model.errors import Damaged, TcgaMirrorError
from tcgamirror.system.files import YOUNG, file_digest

_LOG = logging.getLogger(__name__)

LOOK_EVERY = 1.0
"""Seconds between two looks at whether the catalogue has changed."""

_TIMES_LONGER = 5
"""Factor of the time that a copy took, until the next one."""

Stamp = tuple[tuple[int, int, int] | None, ...]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """State of the catalogue. path: of the copy. images: by path. fixed: the mirror's target."""

    path: Path
    sha256: str
    images: Mapping[str, Image]
    counts: Counts
    fixed: str


class Snapshots:
    """Copier of a catalogue that changes, for any number of threads.

    folder: private directory for the copies.
    """

    def __init__(self, root: Path, folder: Path) -> None:
        self._source = root / CATALOGUE
        self._folder = folder
        self._lock = threading.Lock()
        self._now: Snapshot | None = None
        self._stamp: Stamp = ()
        self._reported: Stamp | None = None
        self._taken = self._looked = 0.0
        self._pause = LOOK_EVERY
        self._young = False
        self._number = 0

    def now(self) -> Snapshot:
        """Return a state at most a second old, or an older one while the catalogue is unreadable.

        Raises:
            TcgaMirrorError: There is no older one, and the catalogue cannot be opened.
        """
        with self._lock:
            return self._current()

    def opened(self) -> tuple[Snapshot, BinaryIO]:
        """Return the same with its copy open, which stays readable after it is replaced."""
        with self._lock:
            snapshot = self._current()
            return snapshot, snapshot.path.open("rb")

    def _current(self) -> Snapshot:
        if self._now is None:
            return self._take(_stamp(self._source))
        if time.monotonic() - self._looked < self._pause:
            return self._now
        self._looked = time.monotonic()
        stamp = _stamp(self._source)
        ripe = self._young and self._looked - self._taken > YOUNG
        if stamp == self._stamp and not ripe:
            return self._now
        try:
            return self._take(stamp)
        except (TcgaMirrorError, OSError) as error:
            # It is being rebuilt, its disk is unmounted, or it is damaged.
            if isinstance(error, Damaged) and stamp != self._reported:
                self._reported = stamp
                _LOG.warning("%s; until then it is served as it was", error)
            return self._now

    def _take(self, stamp: Stamp) -> Snapshot:
        """Copy the catalogue. stamp: from before the copy, so that a change meanwhile is seen."""
        self._number += 1
        begun = time.monotonic()
        path = self._folder / f"{self._number}.db"
        before = self._now
        try:
            self._now = self._copy(path)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        self._stamp, self._taken = stamp, time.monotonic()
        # A large catalogue that changes often is not copied all the time.
        self._pause = max(LOOK_EVERY, _TIMES_LONGER * (self._taken - begun))
        newest = max((part[1] for part in stamp if part is not None), default=0)
        self._young = time.time() - newest / 1e9 < YOUNG
        if before is not None:
            before.path.unlink(missing_ok=True)
        return self._now

    def _copy(self, path: Path) -> Snapshot:
        with (
            Catalogue.open(self._source, read_only=True) as catalogue,
            catalogue.copy_to(path) as copy,
        ):
            counts, fixed = copy.reports.counts(), copy.fact(FIXED) or ""
            images = {image.path: image for image in copy.images.recorded()}
        return Snapshot(path, file_digest(path, "sha256"), images, counts, fixed)


def _stamp(path: Path) -> Stamp:
    """Return values that change with the catalogue; opening it could drop SQLite's locks."""
    parts: list[tuple[int, int, int] | None] = []
    for name in (path.name, f"{path.name}-wal"):
        try:
            found = path.with_name(name).stat()
            parts.append((found.st_ino, found.st_mtime_ns, found.st_size))
        except OSError:
            parts.append(None)
    return tuple(parts)
