"""The mirror that a sync brings up to date, and the one in a directory of this machine."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

from tcgamirror.catalogue.catalogue import Catalogue
from tcgamirror.catalogue.images import Image
from tcgamirror.imaging.store import IMAGES
from tcgamirror.mirror.directory import CATALOGUE, FIXED, SHARDS, Mirror, check_same_target, scratch
from tcgamirror.mirror.exclusion_file import write_exclusions
from tcgamirror.mirror.orphans import remove_partial_files
from tcgamirror.mirror.settings import FILE_NAME, Settings
from tcgamirror.model.errors import UsageError
from tcgamirror.system.files import (
    check_room,
    disk_errors,
    file_digest,
    partial_path,
    sync_folder,
)
from tcgamirror.transfer.fetching import WORKERS, Check, check_image, find_or_fetch, size_at
from tcgamirror.transfer.sync.commit import replace_rows
from tcgamirror.transfer.sync.plan import STATE, Local, SyncPlan, SyncState
from tcgamirror.transfer.sync.remote import DirectoryMirror, RemoteMirror
from tcgamirror.transfer.untrusted import UntrustedCatalogue


@dataclass(frozen=True, slots=True)
class Arrival:
    """The images of a source that are at the target, and those to remove there.

    received: file names of slides whose images are there as the source records them, or wait
    beside their places. replaced: those that wait. removed: images with no place at the source.
    keep_others: whether to keep images and slides that the source does not have.
    """

    received: frozenset[str]
    replaced: Sequence[Image]
    removed: Sequence[Image]
    keep_others: bool


class Target(Protocol):
    """The mirror to bring up to date. workers: threads that may obtain images at once."""

    workers: int

    def check_other(self, source: RemoteMirror) -> None:
        """Raise UsageError if the source is the target itself."""
        ...

    def opened(self, note: Callable[[str], None], *, dry_run: bool) -> AbstractContextManager[Path]:
        """Keep other runs out of the block, and give it a folder of its own.

        note: called with what the user should read.
        """
        ...

    def state(self, source: str) -> SyncState | None:
        """Return the end of the last sync, if it was from this source and nothing changed since."""
        ...

    def write_state(self, state: SyncState) -> None:
        """Replace a state whose catalogue has other tags now."""
        ...

    def count_images(self) -> int | None:
        """Return how many images are done there; None if one is missing."""
        ...

    def check_fixed(self, source: str, fixed: str) -> bool:
        """Return whether there is a mirror. Raise BadSettings if its images differ.

        source: its name. fixed: its fact FIXED.
        """
        ...

    def local(self) -> Local:
        """Return the catalogue there."""
        ...

    def reserve(self, plan: SyncPlan) -> bool:
        """Prepare for what the plan moves. Return whether the plan is to be made again.

        Raises DiskFull if there is no room.
        """
        ...

    def create(self, settings: Settings, lock: Iterable[bytes]) -> None:
        """Make a mirror that records no images."""
        ...

    def obtain(self, source: RemoteMirror, image: Image, *, is_replaced: bool) -> bool:
        """Find an image there, or fetch it; return whether it was fetched.

        One that replaces another is fetched beside its place.
        """
        ...

    def commit(self, remote: UntrustedCatalogue, arrival: Arrival, state: SyncState | None) -> int:
        """Move and remove images, replace the rows; return how many other slides are kept.

        state: None after a failure.
        """
        ...


class DirectoryTarget:
    """A mirror in a directory. check: compares an image with its row."""

    workers = WORKERS

    def __init__(self, root: Path, check: Check = check_image) -> None:
        self._root = root
        self._check = check

    def check_other(self, source: RemoteMirror) -> None:
        if isinstance(source, DirectoryMirror) and source.root.resolve() == self._root.resolve():
            raise UsageError(f"{self._root}: is SRC itself. Name another directory as DST")

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
        state = SyncState.read(self._root) if self._has_mirror() else None
        return state if state is not None and state.source == source else None

    def write_state(self, state: SyncState) -> None:
        state.write(self._root)

    def count_images(self) -> int | None:
        local = self.local()
        done = [image for image in local.images if image.done]
        return len(done) if all(map(local.has_file, done)) else None

    def check_fixed(self, source: str, fixed: str) -> bool:
        if not self._has_mirror():
            return False
        mirror = Mirror.find(self._root, above=False)
        with Catalogue.open(self._root / CATALOGUE, read_only=True) as catalogue:
            here = catalogue.fact(FIXED) or mirror.settings.fixed
            check_same_target(fixed, here, source, self._root)
        return True

    def local(self) -> Local:
        if not (self._root / CATALOGUE).exists():
            return Local(self._size)
        with Catalogue.open(self._root / CATALOGUE, read_only=True) as catalogue:
            return Local.of(catalogue, self._size)

    def _size(self, path: str) -> int | None:
        return size_at(self._root / path)

    def reserve(self, plan: SyncPlan) -> bool:
        resumed = sum(size_at(self._part(image)) or 0 for image in plan.fetch)
        check_room(self._root, plan.bytes - resumed)
        return False

    def create(self, settings: Settings, lock: Iterable[bytes]) -> None:
        Mirror.create(self._root, settings, lock)

    def _part(self, image: Image) -> Path:
        return partial_path(self._root / image.path)

    def obtain(self, source: RemoteMirror, image: Image, *, is_replaced: bool) -> bool:
        place = self._root / image.path
        try:
            is_fetched = find_or_fetch(source, image, self._root, self._check)
            if is_fetched and not is_replaced:
                self._part(image).replace(place)
        except OSError as error:
            raise UsageError(
                f"{place}: cannot be written ({error.strerror}). Remove what is in its place"
            ) from error
        return is_fetched

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
                        self._part(image).replace(root / image.path)
                for image in arrival.removed:
                    _remove(root / image.path)
                # A row relies on the name of its image, also after a power cut.
                for folder in {(root / image.path).parent for image in remote.images()}:
                    if folder.is_dir():
                        sync_folder(folder)
            local = Local.of(catalogue, self._size)
            others = replace_rows(
                catalogue,
                remote,
                keep_others=arrival.keep_others,
                received=arrival.received,
                present={image.file_name for image in local.images if local.has_file(image)},
            )
            write_exclusions(root, catalogue)
            if state is not None:
                remove_partial_files(mirror, catalogue)
        if state is not None:
            digest = file_digest(root / CATALOGUE, "sha256")
            replace(state, here=digest, others=others).write(root)
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
