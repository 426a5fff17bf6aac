"""The mirror that a sync brings up to date, and the one in a directory of this machine."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from tcgamirror.catalogue.catalogue import Catalogue
from tcgamirror.catalogue.images import Image
from tcgamirror.imaging.store import IMAGES
from tcgamirror.mirror.directory import CATALOGUE, SHARDS, Mirror, scratch
from tcgamirror.mirror.exclusion_file import write_exclusions
from tcgamirror.mirror.orphans import remove_partial_files
from tcgamirror.mirror.settings import FILE_NAME, Settings
from tcgamirror.system.files import (
    atomic_write,
    check_room,
    disk_errors,
    file_digest,
    partial_path,
    sync_paths,
)
from tcgamirror.transfer.fetching import WORKERS, Check, check_image, find_or_fetch, size_at
from tcgamirror.transfer.sync.commit import replace_rows
from tcgamirror.transfer.sync.plan import Arrival, Local, SyncPlan, SyncState
from tcgamirror.transfer.sync.remote import CatalogueVersion, RemoteMirror
from tcgamirror.transfer.untrusted import UntrustedCatalogue

STATE = ".sync.json"
"""File beside the catalogue, with the version of the source's catalogue that is here."""

_MAX_STATE_BYTES = 10_000


class Target(ABC):
    """The mirror to bring up to date.

    name: for messages. place: as of RemoteMirror. workers: threads that may obtain images at once.
    """

    workers: int

    def __init__(self, name: str, place: str, root: Path, check: Check) -> None:
        """Prepare for a mirror. root: the directory of its catalogue, or of a copy of that."""
        self.name = name
        self.place = place
        self._root = root
        self._check = check

    @abstractmethod
    def opened(self, note: Callable[[str], None], *, dry_run: bool) -> AbstractContextManager[Path]:
        """Keep other runs out of the block, and give it a folder of its own.

        note: called with what the user should read.
        """

    @abstractmethod
    def state(self, source: str) -> SyncState | None:
        """Return the end of the last sync from a source, if all is there as it was then."""

    def write_state(self, state: SyncState) -> None:
        """Replace a state whose catalogue has other tags now, where it has a file of its own."""
        del state

    @abstractmethod
    def local(self) -> Local:
        """Return the catalogue there."""

    @abstractmethod
    def size(self, path: str) -> int | None:
        """Return the bytes of an image there; None if there is none."""

    @abstractmethod
    def reserve(self, plan: SyncPlan) -> bool:
        """Prepare for what the plan moves. Return whether the plan is to be made again.

        Raises DiskFull if there is no room.
        """

    def create(self, settings: Settings, lock: Iterable[bytes]) -> None:
        """Make a mirror that records no images."""
        Mirror.create(self._root, settings, lock)

    @abstractmethod
    def obtain(self, source: RemoteMirror, image: Image, *, is_replaced: bool) -> bool:
        """Find an image there, or fetch it; return whether it was fetched.

        One that replaces another is fetched beside its place.
        """

    @abstractmethod
    def settle(self) -> None:
        """Have all images that were obtained lie where `obtain` says, also after a power cut."""

    @abstractmethod
    def commit(self, remote: UntrustedCatalogue, arrival: Arrival, state: SyncState | None) -> int:
        """Move and remove images, replace the rows; return how many other slides are kept.

        state: None after a failure.
        """

    def _local(self) -> Local:
        with Catalogue.open(self._root / CATALOGUE, read_only=True) as catalogue:
            return Local.of(catalogue, self.size)


class DirectoryTarget(Target):
    """A mirror in a directory. check: compares an image with its row."""

    workers = WORKERS

    def __init__(self, root: Path, check: Check = check_image) -> None:
        super().__init__(str(root), str(root.resolve()), root, check)
        # Files that were obtained, with the paths to rename them to.
        self._obtained: deque[tuple[str, str]] = deque()
        # Directories in which images were placed.
        self._folders: set[str] = set()

    @contextmanager
    def opened(self, note: Callable[[str], None], *, dry_run: bool) -> Iterator[Path]:
        if dry_run:
            with TemporaryDirectory(prefix="tcgamirror-") as folder:
                yield Path(folder)
            return
        with scratch(self._root, "sync") as scratched:
            if self._has_mirror():
                Catalogue.migrate(self._root / CATALOGUE)
            if (self._root / SHARDS).is_dir() and self._has_mirror():
                # Records of shards may have images that SRC has too.
                with Mirror.find(self._root, above=False).open_to_write(note):
                    pass
            try:
                yield scratched
            except BaseException:
                if not self._has_mirror():
                    _remove_parts(self._root / IMAGES)
                raise

    def _has_mirror(self) -> bool:
        return os.path.lexists(self._root / FILE_NAME)

    def state(self, source: str) -> SyncState | None:
        try:
            with (self._root / STATE).open("rb") as file:
                state = SyncState.parse(file.read(_MAX_STATE_BYTES), source)
            if state is None or file_digest(self._root / CATALOGUE, "sha256") != state.here:
                return None
        except OSError:
            return None
        local = self.local()
        done = [image for image in local.images if image.done]
        return replace(state, images=len(done)) if all(map(local.has_file, done)) else None

    def write_state(self, state: SyncState) -> None:
        # Without tags that another catalogue may get.
        seen = state.seen if state.seen.lasting else CatalogueVersion(state.seen.digest)
        with atomic_write(self._root / STATE) as file:
            file.write(replace(state, seen=seen).json().encode())

    def local(self) -> Local:
        if not self._has_mirror():
            return Local(self.size)
        Mirror.find(self._root, above=False)
        return self._local()

    def size(self, path: str) -> int | None:
        return size_at(f"{self._root}/{path}")

    def reserve(self, plan: SyncPlan) -> bool:
        resumed = sum(size_at(self._part(image)) or 0 for image in plan.fetch)
        check_room(self._root, plan.bytes - resumed)
        return False

    def _part(self, image: Image) -> str:
        return partial_path(f"{self._root}/{image.path}")

    def obtain(self, source: RemoteMirror, image: Image, *, is_replaced: bool) -> bool:
        with disk_errors(self._root):
            is_fetched = find_or_fetch(source, image, str(self._root), self._check)
        place, part = f"{self._root}/{image.path}", self._part(image)
        file = part if is_fetched else place
        self._obtained.append((file, file if is_replaced else place))
        return is_fetched

    def settle(self) -> None:
        files = [self._obtained.popleft() for _ in range(len(self._obtained))]
        with disk_errors(self._root):
            sync_paths(file for file, _ in files)
            for file, place in files:
                if file != place:
                    os.replace(file, place)
        self._folders.update(f"{place.rpartition('/')[0]}/" for _, place in files)

    def commit(self, remote: UntrustedCatalogue, arrival: Arrival, state: SyncState | None) -> int:
        root = self._root
        (root / STATE).unlink(missing_ok=True)
        mirror = Mirror.find(root, above=False)
        with Catalogue.open(root / CATALOGUE) as catalogue:
            # Replaced rows are done here, even if the source is to fetch their images again.
            to_requeue = [*arrival.replaced, *(image for image in arrival.removed if image.done)]
            catalogue.queue.requeue([image.file_name for image in to_requeue])
            with disk_errors(root):
                for image in arrival.replaced:
                    with suppress(FileNotFoundError):
                        os.replace(self._part(image), root / image.path)
                for image in arrival.removed:
                    _remove(root / image.path)
                # A row relies on the name of its image, also after a power cut.
                sync_paths(folder for folder in self._folders if Path(folder).is_dir())
            others = replace_rows(catalogue, remote, arrival, self.size)
            write_exclusions(root, catalogue)
            if state is not None:
                remove_partial_files(mirror, catalogue)
        if state is not None:
            here = file_digest(root / CATALOGUE, "sha256")
            self.write_state(replace(state, here=here, others=others))
        return others


def _remove_parts(images: Path) -> None:
    """Remove partial images and empty folders."""
    with suppress(OSError):
        for folder in [*images.iterdir(), images]:
            for part in folder.glob(".*.part"):
                part.unlink()
            folder.rmdir()


def _remove(path: Path) -> None:
    """Remove an image, and its folder if that is empty then."""
    path.unlink(missing_ok=True)
    with suppress(OSError):
        path.parent.rmdir()
