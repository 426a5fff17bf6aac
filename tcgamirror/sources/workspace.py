"""`work/`: where partial downloads lie, how much of the disk they may take, and what is left there.

Every slide has a folder by its file_id, every source one inside it. Whatever
else lies in `work/` is nobody's, and is removed before a run fetches.
"""

from __future__ import annotations

import io
import os
import shutil
import threading
from collections.abc import Container, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from tcgamirror.model.errors import DiskFull, Interrupted, SlideError, UnsupportedSlide
from tcgamirror.sources.sparse_file import RECORD
from tcgamirror.system.files import disk_errors, free_bytes

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

MIN_FREE_BYTES = 256 << 20
"""Bytes that are left free on the disk whatever happens: other programs live there too."""
CHECK_EVERY = 16 << 20
"""Bytes written between two looks at the disk's free ones."""
POLL = 0.2
"""Seconds between two looks for room that another slide gave back."""


class Workspace:
    """The folder `work/` of one mirror, shared by all workers of a run.

    limit: bytes that may lie there, None for as many as the disk has.
    """

    def __init__(
        self,
        root: Path,
        limit: int | None,
        stop: threading.Event,
        least_free: int = MIN_FREE_BYTES,
    ) -> None:
        self._root = root
        self._limit = limit
        self._stop = stop
        self._least_free = least_free
        self._lock = threading.Lock()
        self._leases: set[Lease] = set()
        self._waiting: list[Lease] = []

    def names(self) -> list[str]:
        """What lies there: file_ids of slides, if it is ours."""
        return [path.name for path in self._root.iterdir()] if self._root.is_dir() else []

    def tidy(self, unfinished: Container[str]) -> int:
        """Removes what belongs to no slide still to be had, by file_id; how many things it was."""
        removed = 0
        for name in self.names():
            path = self._root / name
            if name not in unfinished or not _is_ours(path):
                _remove(path)
                removed += 1
        return removed

    def forget(self, file_id: str) -> None:
        """Removes all there is of a slide that nobody has in hand: its image is finished."""
        _remove(self._root / file_id)

    @contextmanager
    def lease(self, file_id: str, source: str) -> Iterator[Lease]:
        """The source's own folder for a slide, made if it is not there.

        Removed where the bytes are in doubt (SlideError); at a good end the
        slide's, with what other sources left there; kept, to be gone on with,
        at any other.
        """
        with self.held(file_id, source) as lease:
            try:
                with disk_errors(lease.folder):
                    lease.folder.mkdir(parents=True, exist_ok=True)
                yield lease
            except SlideError:
                clear(lease.folder)
                raise
            else:
                _remove(lease.folder.parent)

    @contextmanager
    def held(self, file_id: str, source: str) -> Iterator[Lease]:
        """The same folder, made or not, and left as it is; nobody takes it for a leftover."""
        lease = Lease(self, self._root / file_id / source)
        with self._lock:
            self._leases.add(lease)
        try:
            yield lease
        finally:
            with self._lock:
                self._leases.discard(lease)

    def grant(self, lease: Lease, need: int) -> None:
        """Waits until `need` bytes in all may lie in the lease's folder.

        Who asks first is served first. Leftovers that nobody has in hand go,
        the oldest first, where there is no room otherwise. Raises UnsupportedSlide
        if the limit is less than the need, and DiskFull if the disk has not as
        much and no other slide would give some back.
        """
        if self._limit is not None and need > self._limit:
            raise UnsupportedSlide(
                f"it needs {need:,} bytes in work/, whose limit is {self._limit:,}: "
                "raise fetch.work_limit in the settings"
            )
        with self._lock:
            self._waiting.append(lease)
        try:
            while not self._granted(lease, need):
                if self._stop.wait(POLL):
                    raise Interrupted("stopped while waiting for room in work/")
        except BaseException:
            with self._lock:
                self._waiting.remove(lease)
            raise

    def check(self, about_to_write: int = 0) -> None:
        """Raises DiskFull if so many more bytes would leave the disk too little.

        Raises Damaged where the disk fails, as `files.disk_errors` does.
        """
        with disk_errors(self._root):
            free = free_bytes(self._root)
        if free - about_to_write < self._least_free:
            raise DiskFull(
                f"no room in {self._root}: {free:,} bytes are free and {about_to_write:,} needed, "
                f"and {self._least_free:,} are left to others; free some, or lower fetch.workers "
                "in the settings"
            )

    def _granted(self, lease: Lease, need: int) -> bool:
        with disk_errors(self._root), self._lock:
            if self._waiting[0] is not lease:
                return False
            others = [other for other in self._leases if other.need and other is not lease]
            if not self._has_room(lease, need, others):
                if not others:
                    self.check(need - lease.bytes)
                return False
            lease.need = need
            self._waiting.remove(lease)
            return True

    def _has_room(self, lease: Lease, need: int, others: list[Lease]) -> bool:
        """Whether disk and limit allow it, if need be after leftovers are removed."""
        used = {other: other.bytes for other in [*others, lease]}
        held = sum(max(other.need, used[other]) for other in others) + need
        promised = held - sum(used.values())
        leftovers = self._leftovers()
        lying = {path: _bytes_in(path) for path in leftovers}
        while True:
            on_disk = free_bytes(self._root) - promised >= self._least_free
            within = self._limit is None or held + sum(lying.values()) <= self._limit
            if on_disk and within:
                return True
            if not leftovers:
                return False
            oldest = leftovers.pop(0)
            clear(oldest)
            del lying[oldest]

    def _leftovers(self) -> list[Path]:
        """Sources' folders that nobody has in hand, the oldest first."""
        in_flight = {lease.folder for lease in self._leases}
        ages: dict[Path, float] = {}
        for slide in map(self._root.joinpath, self.names()):
            # A slide in hand may end, and its folder go, at any moment.
            with suppress(FileNotFoundError, NotADirectoryError):
                ages |= {
                    source: source.stat().st_mtime
                    for source in slide.iterdir()
                    if source not in in_flight
                }
        return sorted(ages, key=ages.__getitem__)


class Lease:
    """One source's folder for one slide. need: bytes it was granted."""

    def __init__(self, workspace: Workspace, folder: Path) -> None:
        self.folder = folder
        self.need = 0
        self._workspace = workspace

    @property
    def bytes(self) -> int:
        """What lies in the folder now, on the disk: a hole takes nothing."""
        return _bytes_in(self.folder)

    def grow(self, need: int) -> None:
        """Asks for `need` bytes in all, once, before they are written. Raises as `grant`."""
        self._workspace.grant(self, need)


class SpaceCheckedFile(io.FileIO):
    """A file in `work/` that looks for room on the disk while it is written."""

    def __init__(self, path: Path, workspace: Workspace) -> None:
        """Opens `path` for reading and appending."""
        super().__init__(path, "a+")
        self._workspace = workspace
        self._unchecked = 0

    def write(self, data: ReadableBuffer) -> int:
        """Raises DiskFull, before the disk is full, beside what a file raises."""
        written = super().write(data) or 0
        self._unchecked += written
        if self._unchecked >= CHECK_EVERY:
            self._unchecked = 0
            self._workspace.check()
        return written


def clear(folder: Path) -> None:
    """Removes a source's folder, and the slide's if no other source has one there."""
    _remove(folder)
    # Another worker may make another source's folder there at any moment.
    with suppress(OSError):
        folder.parent.rmdir()


def _is_ours(slide: Path) -> bool:
    """Whether it is a slide's folder with sources' folders in it, and files in those."""
    return _is_folder(slide) and all(
        _is_folder(source) and all(map(_is_file, source.iterdir())) for source in slide.iterdir()
    )


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _is_file(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def _remove(path: Path) -> None:
    if not _is_folder(path):
        path.unlink(missing_ok=True)
        return
    # First what vouches for bytes: after a kill amid this, none are gone on with.
    for place, _, names in os.walk(path):
        for name in names:
            if name.endswith(RECORD):
                with suppress(OSError):
                    Path(place, name).unlink()
    shutil.rmtree(path, ignore_errors=True)


def _bytes_in(folder: Path) -> int:
    """Bytes on the disk of the files below `folder`; what goes meanwhile counts nothing."""
    total = 0
    # Not rglob, which raises for a folder that goes while it looks.
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                total += Path(place, name).lstat().st_blocks * 512
    return total
