"""Copies of a mirror's catalogue, each with an index of the images it records."""

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
from tcgamirror.catalogue.journals import WAL
from tcgamirror.catalogue.reports import Counts
from tcgamirror.mirror.directory import CATALOGUE, FIXED
from tcgamirror.model.errors import Damaged, TcgaMirrorError
from tcgamirror.system.files import YOUNG, file_digest

_LOG = logging.getLogger(__name__)

CHECK_SECONDS = 1.0
"""Seconds between two checks whether the catalogue has changed."""

_PAUSE_FACTOR = 5
"""Multiple of a copy's duration that passes before the next copy."""

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
        self._snapshot: Snapshot | None = None
        self._stamp: Stamp = ()
        self._reported: Stamp | None = None
        self._copied_at = self._checked_at = 0.0
        self._pause = CHECK_SECONDS
        self._is_young = False
        self._number = 0

    def current(self) -> Snapshot:
        """Return a recent state, or an older one while the catalogue is unreadable.

        It is at most a second old, or five times as old as a copy takes.

        Raises:
            TcgaMirrorError: There is no older one, and the catalogue cannot be opened.
        """
        with self._lock:
            return self._current()

    def open(self) -> tuple[Snapshot, BinaryIO]:
        """Return the state of `current` with its copy open, readable also once it is replaced."""
        with self._lock:
            snapshot = self._current()
            return snapshot, snapshot.path.open("rb")

    def _current(self) -> Snapshot:
        if self._snapshot is None:
            return self._renew(_stamp(self._source))
        now = time.monotonic()
        if now - self._checked_at < self._pause:
            return self._snapshot
        self._checked_at = now
        stamp = _stamp(self._source)
        # Copied within the time stamp's granularity: a later change may have the same stamp.
        is_due = self._is_young and now - self._copied_at > YOUNG
        if stamp == self._stamp and not is_due:
            return self._snapshot
        try:
            return self._renew(stamp)
        except (TcgaMirrorError, OSError) as error:
            # It is being rebuilt, its disk is unmounted, or it is damaged.
            if isinstance(error, Damaged) and stamp != self._reported:
                self._reported = stamp
                _LOG.warning("%s; until then it is served as it was", error)
            return self._snapshot

    def _renew(self, stamp: Stamp) -> Snapshot:
        """Copy the catalogue. stamp: from before the copy, so that a change meanwhile is seen."""
        self._number += 1
        start = time.monotonic()
        path = self._folder / f"{self._number}.db"
        older = self._snapshot
        try:
            self._snapshot = self._copy(path)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        self._stamp, self._copied_at = stamp, time.monotonic()
        # A large catalogue that changes often is not copied all the time.
        self._pause = max(CHECK_SECONDS, _PAUSE_FACTOR * (self._copied_at - start))
        newest = max((part[1] for part in stamp if part is not None), default=0)
        self._is_young = time.time() - newest / 1e9 < YOUNG
        if older is not None:
            older.path.unlink(missing_ok=True)
        return self._snapshot

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
    for suffix in ("", WAL):
        try:
            status = path.with_name(path.name + suffix).stat()
            parts.append((status.st_ino, status.st_mtime_ns, status.st_size))
        except OSError:
            parts.append(None)
    return tuple(parts)
