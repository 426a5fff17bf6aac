"""Bring a mirror to the state of another: images first, the catalogue last, by digest.

A new image is renamed to its path once it has its digest; no row names it yet. An image that
replaces another one waits beside it until all are there. Then the rows of those to be replaced
or removed are made pending, the files are moved, and one transaction replaces all rows. So no
reader ever finds a row that is done without its image.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, as_completed
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from tcgamirror.catalogue.catalogue import Catalogue
from tcgamirror.catalogue.images import Image
from tcgamirror.imaging.store import IMAGES
from tcgamirror.mirror.directory import CATALOGUE, Mirror, check_same_target, scratch
from tcgamirror.mirror.exclusion_file import write_exclusions
from tcgamirror.mirror.lockfile import MOST_BYTES as MOST_LOCK
from tcgamirror.mirror.lockfile import lock_lines, read_lock
from tcgamirror.mirror.orphans import remove_partial_files
from tcgamirror.mirror.outage import SITE_DOWN_AFTER, OutcomeCounts
from tcgamirror.mirror.progress import Progress
from tcgamirror.mirror.settings import FILE_NAME, LOCKED, Settings, read_settings
from tcgamirror.mirror.settings import MOST_BYTES as MOST_SETTINGS
from tcgamirror.model import text
from tcgamirror.model.errors import (
    BadLockFile,
    BadSettings,
    ChecksumMismatch,
    Damaged,
    DiskFull,
    Interrupted,
    NetworkError,
    NotFound,
    TcgaMirrorError,
    Unreachable,
    UsageError,
)
from tcgamirror.system.files import (
    check_room,
    disk_errors,
    file_digest,
    partial_path,
    sync_file,
    sync_folder,
)
from tcgamirror.system.interrupt import Shutdown
from tcgamirror.system.parallel import start_pool
from tcgamirror.transfer.fetching import find_or_fetch, size_at
from tcgamirror.transfer.sync.commit import replace_rows
from tcgamirror.transfer.sync.plan import (
    STATE,
    ImageFailure,
    Local,
    SyncPlan,
    SyncResult,
    SyncState,
    check_target,
    make_plan,
)
from tcgamirror.transfer.sync.remote import CatalogueVersion, DirectoryMirror, RemoteMirror
from tcgamirror.transfer.untrusted import UntrustedCatalogue

WORKERS = 4
ROUNDS = 3
"""Most versions of the source's catalogue that one run syncs."""


def synchronize(
    source: RemoteMirror,
    root: Path,
    progress: Progress,
    shutdown: Shutdown,
    *,
    delete: bool,
    dry_run: bool = False,
) -> SyncResult:
    """Bring the mirror at `root`, which is made if there is none, to the state of the source.

    After a failure, fetched images stay for the next run. If no mirror was made, partial files
    are removed.

    Args:
        delete: whether to remove images and rows that the source does not have.
        dry_run: whether to return what would be done, and change nothing at `root`.

    Raises:
        BadSettings: for a source of other images.
        Damaged: for a source with a value that this program never writes.
        Locked, NetworkError, DiskFull, Interrupted.
    """
    _check_other(source, root)
    with TemporaryDirectory(prefix="tcgamirror-") if dry_run else scratch(root, "sync") as folder:
        sync = _Sync(source, root, Path(folder), progress, shutdown, delete=delete)
        return sync.preview() if dry_run else sync.run()


def _check_other(source: RemoteMirror, root: Path) -> None:
    """Raise UsageError if the source is the mirror itself."""
    if isinstance(source, DirectoryMirror) and source.root.resolve() == root.resolve():
        raise UsageError(f"{root}: is SRC itself. Name another directory as DST")


def _sampled(remote: UntrustedCatalogue) -> set[str]:
    return {str(row["file_name"]) for row in remote.rows("sample")}


@dataclass(slots=True)
class _Sync:
    """One run, with the lock held.

    folder: of this process alone, for catalogues. checked: digests of the catalogues that were
    checked. found: digests by path of images that this run has put or found in their places, not
    of replacements that still wait. failed: images of the last round that could not be fetched,
    by file name. new: settings and lock file of a mirror that is still to be made.
    """

    source: RemoteMirror
    root: Path
    folder: Path
    progress: Progress
    shutdown: Shutdown
    delete: bool
    checked: set[str] = field(default_factory=set)
    found: dict[str, str] = field(default_factory=dict)
    failed: dict[str, ImageFailure] = field(default_factory=dict)
    counts: OutcomeCounts = field(default_factory=OutcomeCounts)
    new: tuple[Settings, Iterable[bytes]] | None = None
    kept: int | None = None
    adopted: int = 0
    fetched: int = 0
    fetched_bytes: int = 0
    last_error: TcgaMirrorError | None = None

    def preview(self) -> SyncResult:
        """Return what `run` would do."""
        with self._open(self._newest(None)) as remote:
            check_target(self.source, self.root, remote.fixed)
            local = Local.read(self.root)
            plan = make_plan(local, remote)
            sampled = _sampled(remote)
            others = len(local.states.keys() - sampled)
            others += sum(image.file_name in sampled for image in plan.obsolete)
        return SyncResult(
            dry_run=True,
            kept=plan.kept,
            adopted=len(plan.check),
            fetched=len(plan.fetch),
            bytes=plan.bytes,
            removed=len(plan.obsolete) if self.delete else 0,
            others=0 if self.delete else others,
            changed=bool(plan.check or plan.fetch or plan.moved or plan.obsolete),
        )

    def run(self) -> SyncResult:
        """Sync. After an error, remove partial files if no mirror was made."""
        try:
            return self._sync()
        except BaseException:
            if not os.path.lexists(self.root / FILE_NAME):
                _remove_parts(self.root / IMAGES)
            raise

    def _sync(self) -> SyncResult:
        state = self._state()
        version = self.source.catalogue(self.folder, None if state is None else state.seen)
        if state is not None and (version is None or version.digest == state.seen.digest):
            local = Local.read(self.root)
            done = [image for image in local.images if image.done]
            if all(map(local.has_file, done)):
                if version is not None and version.lasting and version != state.seen:
                    replace(state, seen=version).write(self.root)
                return SyncResult(dry_run=False, kept=len(done), others=state.others)
        version = version or self._newest(None)
        rounds_left = ROUNDS
        while True:
            rounds_left -= 1
            with self._open(version) as remote:
                plan = self._fetch_all(remote)
                newer = version
                if self.failed and rounds_left:
                    newer = self._newest(version)
                if newer.digest == version.digest:
                    return self._finish(remote, plan, version)
            version = newer

    def _newest(self, known: CatalogueVersion | None) -> CatalogueVersion:
        """Return the current version of the source's catalogue, with a copy in the folder."""
        version = self.source.catalogue(self.folder, known) or known
        if version is None:
            raise Damaged(f"{self.source.name}: sent no catalogue. See what serves it")
        return version

    @contextmanager
    def _open(self, version: CatalogueVersion) -> Iterator[UntrustedCatalogue]:
        """Open a copy of the source's catalogue, all of which has been checked."""
        path, name = version.path(self.folder), f"the catalogue of {self.source.name}"
        with closing(UntrustedCatalogue(path, name)) as remote:
            if version.digest not in self.checked:
                remote.check()
                self.checked.add(version.digest)
            yield remote

    def _state(self) -> SyncState | None:
        """Return the state that the last run left, if this run may end because of it."""
        state = SyncState.read(self.root) if (self.root / FILE_NAME).exists() else None
        if state is None or state.source != self.source.name or (self.delete and state.others):
            return None
        return state

    # A new mirror ------------------------------------------------------------------

    def _new_settings(self, remote: UntrustedCatalogue) -> tuple[Settings, Iterable[bytes]]:
        """Return settings of a new mirror, and the lines of its lock file."""
        source = self.source
        if not isinstance(source, DirectoryMirror):
            return replace(remote.settings, slides=max(1, len(_sampled(remote)))), ()
        try:
            settings = read_settings(source.copy(FILE_NAME, self.folder / FILE_NAME, MOST_SETTINGS))
            check_same_target(remote.fixed, settings.fixed, source.name, source.root / FILE_NAME)
            if settings.lock is None:
                return settings, ()
            lock = read_lock(source.copy(settings.lock, self.folder / LOCKED, MOST_LOCK))
            return replace(settings, lock=LOCKED), lock_lines(lock)
        except (BadSettings, BadLockFile) as error:
            # They name the copy, which is temporary.
            raise type(error)(str(error).replace(str(self.folder), source.name)) from error

    def _make_mirror(self) -> None:
        """Make a mirror that records no images, unless there is one: `verify` may run any time."""
        if self.new is not None:
            Mirror.create(self.root, *self.new)
            self.new = None

    # Images ------------------------------------------------------------------------

    def _part(self, image: Image) -> Path:
        return partial_path(self.root / image.path)

    def _fetch_all(self, remote: UntrustedCatalogue) -> SyncPlan:
        """Check or fetch the images of a new plan, and return the plan.

        An image that replaces another one is fetched beside it. A new mirror is made once the
        first image is there. Raises DiskFull if there is no room.
        """
        is_there = check_target(self.source, self.root, remote.fixed)
        plan = make_plan(Local.read(self.root), remote, self.found)
        self.kept = plan.kept if self.kept is None else self.kept
        resumed = sum(size_at(self._part(image)) or 0 for image in plan.fetch)
        check_room(self.root, plan.bytes - resumed)
        self.new = None if is_there else self._new_settings(remote)
        images = [*plan.check, *plan.fetch]
        if not images:
            self._make_mirror()
        self.failed.clear()
        self.progress.start_images(len(images), sum(image.bytes for image in images))
        pool = start_pool(WORKERS, "sync")
        try:
            running = {pool.submit(self._obtain, image, plan): image for image in images}
            for future in as_completed(running):
                self._count(running[future], future)
                if self.fetched + self.adopted:
                    self._make_mirror()
                self.progress.add_images(1, running[future].bytes)
        except BaseException:
            self.shutdown.force()
            raise
        finally:
            pool.shutdown(cancel_futures=True)
        return plan

    def _count(self, image: Image, future: Future[bool]) -> None:
        """Count one image. Raises errors that end the run."""
        try:
            is_fetched = future.result()
        except (DiskFull, Interrupted, Unreachable, UsageError):
            raise
        except (NetworkError, Damaged, ChecksumMismatch) as error:
            self.counts.add_failure([error.fault], str(error))
            if self.counts.unreached >= SITE_DOWN_AFTER:
                raise Unreachable(
                    f"{self.source.name}: sends no image any more. The last: {error}"
                ) from error
            self.failed[image.file_name] = ImageFailure(image.path, image.file_name, str(error))
            self.last_error = error
        else:
            self.counts.add_success()
            self.fetched += is_fetched
            self.adopted += not is_fetched
            self.fetched_bytes += image.bytes if is_fetched else 0

    def _obtain(self, image: Image, plan: SyncPlan) -> bool:
        """Find or fetch one image; return whether it was fetched."""
        if self.shutdown.stop.is_set():
            raise Interrupted("stopped; the next sync resumes")
        place = self.root / image.path
        try:
            is_fetched = find_or_fetch(self.source, image, self.root)
            if is_fetched:
                sync_file(self._part(image))
                if image.path in plan.replaced:
                    return True
                self._part(image).replace(place)
        except OSError as error:
            raise UsageError(
                f"{place}: cannot be written ({error.strerror}). Remove what is in its place"
            ) from error
        self.found[image.path] = image.sha256
        return is_fetched

    # The catalogue -----------------------------------------------------------------

    def _finish(
        self, remote: UntrustedCatalogue, plan: SyncPlan, version: CatalogueVersion
    ) -> SyncResult:
        """Move and remove images, replace the rows, and write the state if no image failed.

        Raises NetworkError or Damaged if no mirror was made.
        """
        root, images = self.root, remote.images()
        if self.new is not None:
            last = self.last_error
            # An answer that an image is not there is a fault of the mirror, not of the network.
            kind = type(last) if isinstance(last, NetworkError) else Damaged
            kind = Damaged if kind is NotFound else kind
            raise kind(
                f"{self.source.name}: none of its {text.images(len(self.failed))} can be "
                f"fetched. The last: {last}"
            )
        received = [image for image in images if image.file_name not in self.failed]
        replaced = [image for image in received if image.path in plan.replaced]
        here = {each.file_name for each in images if self.found.get(each.path) == each.sha256}
        removed = list(plan.obsolete) if self.delete else []
        to_remove = [*(image for image in plan.moved if image.file_name in here), *removed]
        (root / STATE).unlink(missing_ok=True)
        mirror = Mirror.find(root, above=False)
        with Catalogue.open(root / CATALOGUE) as catalogue:
            # Replaced rows are done here, even if the source is to fetch their images again.
            to_requeue = [*replaced, *(image for image in to_remove if image.done)]
            catalogue.queue.requeue([image.file_name for image in to_requeue])
            with disk_errors(root):
                for image in replaced:
                    with suppress(FileNotFoundError):
                        self._part(image).replace(root / image.path)
                for image in to_remove:
                    _remove(root / image.path)
                # A row relies on the name of its image, also after a power cut.
                for folder in {(root / image.path).parent for image in images}:
                    if folder.is_dir():
                        sync_folder(folder)
            local = Local.of(root, catalogue)
            others = replace_rows(
                catalogue,
                remote,
                keep_others=not self.delete,
                received={image.file_name for image in received} - plan.left,
                present={image.file_name for image in local.images if local.has_file(image)},
            )
            write_exclusions(root, catalogue)
            if not self.failed:
                remove_partial_files(mirror, catalogue)
        if not self.failed:
            mirror.remove_obsolete()
            digest = file_digest(root / CATALOGUE, "sha256")
            SyncState(self.source.name, version, digest, others).write(root)
        return SyncResult(
            dry_run=False,
            kept=self.kept or 0,
            adopted=self.adopted,
            fetched=self.fetched,
            bytes=self.fetched_bytes,
            removed=len(removed),
            others=others,
            changed=True,
            failed=tuple(self.failed.values()),
        )


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
