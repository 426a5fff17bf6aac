"""`work/`: the folder of partial downloads, and the disk space that they may take.

Every slide has a folder named by its file_id, with a folder for each source in it. Before a run
of a mirror fetches, it removes anything else from `work/`.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Container, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tcgamirror.model.errors import DiskFull, Interrupted, SlideError, UnsupportedSlide
from tcgamirror.sources.sparse_file import RECORD_SUFFIX
from tcgamirror.system.files import disk_errors, free_bytes

MIN_FREE_BYTES = 256 << 20
"""Bytes always left free on the disk, for other programs."""
PLENTY = 4
"""Free bytes, as a multiple of those always left free, at which guesses need no reservation."""
POLL_SECONDS = 0.2
"""Seconds between two checks whether another slide has released space."""


class Workspace:
    """A folder of partial downloads, shared by all threads that fetch slides.

    A *leftover* is a source's folder that no lease holds. An earlier run or source left it.
    """

    def __init__(
        self,
        root: Path,
        limit: int | None,
        stop: threading.Event,
        min_free: int = MIN_FREE_BYTES,
        remedy: str = "Free some, or move the mirror to a larger disk",
        own: Container[str] | None = None,
    ) -> None:
        """Make nothing yet.

        Args:
            limit: Bytes that `work/` may hold, None for all that the disk has.
            stop: Ends any wait for space.
            min_free: Bytes to leave free on the disk.
            remedy: Advice at the end of the message about a full disk.
            own: Names in the folder that this run may remove; None for all.
        """
        self._root = root
        self._limit = limit
        self._stop = stop
        self._min_free = min_free
        self._remedy = remedy
        self._own = own
        self._lock = threading.Lock()
        self._leases: set[Lease] = set()
        self._waiting: list[Lease] = []

    def names(self) -> list[str]:
        """Return the names that this run may remove. A slide's folder has the slide's file_id."""
        names = [path.name for path in self._root.iterdir()] if self._root.is_dir() else []
        return [name for name in names if self._own is None or name in self._own]

    def keep_only(self, unfinished: Container[str]) -> int:
        """Remove all that this run may remove, except the folders of these file_ids.

        A slide's folder with anything else than sources' folders of files is removed, too.
        Return the number of names removed.
        """
        removed = 0
        for name in self.names():
            path = self._root / name
            if name not in unfinished or not _is_slide_folder(path):
                _remove(path)
                removed += 1
        return removed

    @contextmanager
    def lease(self, file_id: str, source: str, *, keep: bool = False) -> Iterator[Lease]:
        """Hold a source's folder for a slide. Make the folder if it is missing.

        If the block ends without an error, the slide's whole folder is removed, unless `keep` is
        set. After a SlideError the source's folder is removed, because its bytes may be wrong.
        After any other error it becomes a leftover.
        """
        folder = self._root / file_id / source
        with disk_errors(folder):
            may_guess = self._limit is None and free_bytes(self._root) >= PLENTY * self._min_free
        lease = Lease(self, folder, may_guess=may_guess)
        with self._lock:
            self._leases.add(lease)
        try:
            with disk_errors(lease.folder):
                lease.folder.mkdir(parents=True, exist_ok=True)
            yield lease
            if not keep:
                _remove(lease.folder.parent)
        except SlideError:
            _remove_source_folder(lease.folder)
            raise
        finally:
            with self._lock:
                self._leases.discard(lease)

    def reserve(self, lease: Lease, need: int) -> None:
        """Wait until the lease's folder may hold `need` bytes in all; first come, first served.

        Leftovers are removed to make space, the oldest first.

        Raises:
            UnsupportedSlide: The limit is less than `need`.
            DiskFull: The disk lacks space, and no other lease has reserved any.
            Interrupted: The run stopped meanwhile.
        """
        if need <= lease.reserved:
            # For another origin. In the queue, others would wait for what this lease holds.
            return
        if self._limit is not None and need > self._limit:
            raise UnsupportedSlide(
                f"it needs {need:,} bytes in work/, whose limit is {self._limit:,}: "
                "raise fetch.work_limit in the settings"
            )
        with self._lock:
            self._waiting.append(lease)
        try:
            while not self._try_reserve(lease, need):
                if self._stop.wait(POLL_SECONDS):
                    raise Interrupted("stopped while waiting for room in work/")
        except BaseException:
            with self._lock:
                self._waiting.remove(lease)
            raise

    def _try_reserve(self, lease: Lease, need: int) -> bool:
        with disk_errors(self._root), self._lock:
            if self._waiting[0] is not lease:
                return False
            others = [other for other in self._leases if other.reserved and other is not lease]
            if not self._make_space(lease, need, others):
                free, needed = free_bytes(self._root), need - lease.bytes
                if not others and free < needed + self._min_free:
                    raise DiskFull(
                        f"{self._root}: no room. {free:,} bytes are free, {max(needed, 0):,} are "
                        f"needed for a slide, and {self._min_free:,} stay free for other "
                        f"programs. {self._remedy}"
                    )
                return False
            lease.reserved = need
            self._waiting.remove(lease)
            return True

    def _make_space(self, lease: Lease, need: int, others: list[Lease]) -> bool:
        """Return whether disk and limit allow `need`, after removing leftovers if necessary."""
        promised = sum(other.reserved for other in others) + need
        if self._limit is None and free_bytes(self._root) - promised >= self._min_free:
            # The usual case. There is space even if nothing that is promised is written yet.
            return True
        used = {other: other.bytes for other in [*others, lease]}
        reserved = sum(max(other.reserved, used[other]) for other in others) + need
        unwritten = reserved - sum(used.values())
        leftovers = self._find_leftovers()
        leftover_bytes = {path: _count_bytes(path) for path in leftovers}
        while True:
            on_disk = free_bytes(self._root) - unwritten >= self._min_free
            total = reserved + sum(leftover_bytes.values())
            if on_disk and (self._limit is None or total <= self._limit):
                return True
            if not leftovers:
                return False
            oldest = leftovers.pop(0)
            _remove_source_folder(oldest)
            del leftover_bytes[oldest]

    def _find_leftovers(self) -> list[Path]:
        """Return the leftovers, the oldest first."""
        leased = {lease.folder for lease in self._leases}
        modified: dict[Path, float] = {}
        for slide in map(self._root.joinpath, self.names()):
            # Another thread may finish a slide, and remove its folder, at any moment.
            with suppress(FileNotFoundError, NotADirectoryError):
                modified |= {
                    source: source.stat().st_mtime
                    for source in slide.iterdir()
                    if source not in leased
                }
        return sorted(modified, key=modified.__getitem__)


class Lease:
    """One source's folder for one slide, held by a thread. reserved: Bytes it may hold in all.

    may_guess: Whether it may hold bytes of a guess before any are reserved.
    """

    def __init__(self, workspace: Workspace, folder: Path, *, may_guess: bool) -> None:
        self.folder = folder
        self.may_guess = may_guess
        self.reserved = 0
        self._workspace = workspace

    @property
    def bytes(self) -> int:
        """Bytes that the folder takes on the disk now; holes in sparse files take none."""
        return _count_bytes(self.folder)

    def reserve(self, need: int) -> None:
        """Reserve `need` bytes in all, before they are written. Raises as `Workspace.reserve`."""
        self._workspace.reserve(self, need)


def _remove_source_folder(folder: Path) -> None:
    """Remove a source's folder, then the slide's folder if it is empty."""
    _remove(folder)
    # It may hold the folder of another source.
    with suppress(OSError):
        folder.parent.rmdir()


def _is_slide_folder(slide: Path) -> bool:
    """Return whether `slide` is a folder of sources' folders, which hold nothing but files."""
    return _is_folder(slide) and all(
        _is_folder(source)
        and all(path.is_file() and not path.is_symlink() for path in source.iterdir())
        for source in slide.iterdir()
    )


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _remove(path: Path) -> None:
    if not _is_folder(path):
        path.unlink(missing_ok=True)
        return
    # Records are removed first. After a kill in between, a record would list bytes that are gone.
    for folder, _, names in os.walk(path):
        for name in names:
            if name.endswith(RECORD_SUFFIX):
                with suppress(OSError):
                    Path(folder, name).unlink()
    shutil.rmtree(path, ignore_errors=True)


def _count_bytes(folder: Path) -> int:
    """Return the bytes that the files below `folder` take on the disk."""
    total = 0
    # Another thread may remove files meanwhile, which ends rglob with an error, but not os.walk.
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                total += Path(parent, name).lstat().st_blocks * 512
    return total
