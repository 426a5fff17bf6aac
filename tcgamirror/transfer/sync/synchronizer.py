"""Bring a mirror to the state of another: images first, the catalogue last, by digest.

A new image gets its place as soon as it is whole and has its digest: no row knows it yet. An
image that replaces another one waits beside it until all are there. Then the rows of those to
be replaced or removed are made pending, the files are moved, and one transaction takes over
all rows of the source. So no reader ever finds a row that is done without its image.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, as_completed
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from tcgamirror.catalogue.catalogue import Catalogue
from tcgamirror.catalogue.images import Image
from tcgamirror.imaging.store import IMAGES
from tcgamirror.mirror.directory import CATALOGUE, Mirror, scratch
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
    make_folder,
    partial_path,
    sync_folder,
)
from tcgamirror.system.interrupt import Shutdown
from tcgamirror.system.parallel import start_pool
from tcgamirror.transfer.sync.commit import replace_rows
from tcgamirror.transfer.sync.plan import (
    STATE,
    ImageFailure,
    Local,
    SyncPlan,
    SyncResult,
    SyncState,
    check_same_target,
    check_target,
    make_plan,
    size_at,
)
from tcgamirror.transfer.sync.remote import CatalogueVersion, DirectoryMirror, RemoteMirror
from tcgamirror.transfer.untrusted import UntrustedCatalogue

WORKERS = 4
ROUNDS = 3
"""Versions of the source's catalogue that one run follows."""


def synchronize(
    source: RemoteMirror, root: Path, progress: Progress, shutdown: Shutdown, *, delete: bool
) -> SyncResult:
    """Bring the mirror at `root`, which is made if there is none, to the state of the source.

    Images that were fetched stay whatever happens, and the next run resumes with them.

    Args:
        delete: whether to remove images and rows that the source does not have.

    Raises:
        BadSettings: for a source of other images.
        Damaged: for a source that cannot be believed.
        Locked, NetworkError, DiskFull, Interrupted.
    """
    _check_other(source, root)
    with scratch(root, "sync") as folder:
        return _Sync(source, root, folder, progress, shutdown, delete=delete).run()


def plan_sync(source: RemoteMirror, root: Path, *, delete: bool) -> SyncResult:
    """Return what `synchronize` would do, and change nothing at `root`."""
    _check_other(source, root)
    with tempfile.TemporaryDirectory(prefix="tcgamirror-") as folder:
        version = _fetch_catalogue(source, Path(folder), None)
        with closing(_open_copy(source, version, Path(folder))) as remote:
            remote.check()
            check_target(source, root, remote.fixed)
            local = Local.read(root)
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
        removed=len(plan.obsolete) if delete else 0,
        others=0 if delete else others,
        changed=bool(plan.check or plan.fetch or plan.moved or plan.obsolete),
    )


def _check_other(source: RemoteMirror, root: Path) -> None:
    """Raise UsageError if the source is the mirror itself."""
    if isinstance(source, DirectoryMirror) and source.root.resolve() == root.resolve():
        raise UsageError(f"{root}: is SRC itself. Name another directory as DST")


def _fetch_catalogue(
    source: RemoteMirror, folder: Path, known: CatalogueVersion | None
) -> CatalogueVersion:
    """Return the current version of the source's catalogue, a copy of which is in the folder."""
    version = source.catalogue(folder, known) or known
    if version is None:
        raise Damaged(f"{source.name}: sent no catalogue. See what serves it")
    return version


def _open_copy(source: RemoteMirror, version: CatalogueVersion, folder: Path) -> UntrustedCatalogue:
    return UntrustedCatalogue(version.path(folder), f"the catalogue of {source.name}")


def _sampled(remote: UntrustedCatalogue) -> set[str]:
    return {str(row["file_name"]) for row in remote.rows("sample")}


class _Sync:
    """One run, with the lock held. folder: of this process alone, for catalogues."""

    def __init__(
        self,
        source: RemoteMirror,
        root: Path,
        folder: Path,
        progress: Progress,
        shutdown: Shutdown,
        *,
        delete: bool,
    ) -> None:
        self._source = source
        self._root = root
        self._progress = progress
        self._shutdown = shutdown
        self._delete = delete
        self._folder = folder
        self._checked: set[str] = set()
        self._found: dict[str, str] = {}
        self._kept: int | None = None
        self._adopted = self._fetched = self._bytes = 0
        self._counts = OutcomeCounts()
        self._failed: dict[str, ImageFailure] = {}
        self._last_error: TcgaMirrorError = Damaged("no image was asked for")
        self._settings: Settings | None = None
        self._lock: Iterable[bytes] = ()

    def run(self) -> SyncResult:
        """Sync, and leave nothing where no mirror came of it."""
        try:
            return self._sync()
        except BaseException:
            if not os.path.lexists(self._root / FILE_NAME):
                _remove_parts(self._root / IMAGES)
            raise

    def _sync(self) -> SyncResult:
        state = self._state()
        version = self._source.catalogue(self._folder, None if state is None else state.seen)
        if state is not None and (version is None or version.digest == state.seen.digest):
            local = Local.read(self._root)
            done = [image for image in local.images if image.done]
            if all(map(local.has_file, done)):
                if version is not None and version.lasting and version != state.seen:
                    replace(state, seen=version).write(self._root)
                return SyncResult(dry_run=False, kept=len(done), others=state.others)
        version = version or _fetch_catalogue(self._source, self._folder, None)
        for rounds_left in reversed(range(ROUNDS)):
            with self._open(version) as remote:
                is_there = check_target(self._source, self._root, remote.fixed)
                plan = self._plan(remote)
                if not is_there:
                    self._settings, self._lock = self._new_settings(remote)
                if not (plan.check or plan.fetch):
                    self._make_mirror()
                self._fetch_all(plan)
                if not self._failed or not rounds_left:
                    return self._finish(remote, plan, version)
            newer = _fetch_catalogue(self._source, self._folder, version)
            if newer.digest == version.digest:
                break
            version = newer
        with self._open(version) as remote:
            return self._finish(remote, plan, version)

    @contextmanager
    def _open(self, version: CatalogueVersion) -> Iterator[UntrustedCatalogue]:
        """Open a copy of the source's catalogue, all of which has been checked."""
        with closing(_open_copy(self._source, version, self._folder)) as remote:
            if version.digest not in self._checked:
                remote.check()
                self._checked.add(version.digest)
            yield remote

    def _state(self) -> SyncState | None:
        """Return what the last run left, if this one may do nothing because of it."""
        state = SyncState.read(self._root) if (self._root / FILE_NAME).exists() else None
        if state is None or state.source != self._source.name or (self._delete and state.others):
            return None
        return state

    # A new mirror ------------------------------------------------------------------

    def _new_settings(self, remote: UntrustedCatalogue) -> tuple[Settings, Iterable[bytes]]:
        """Return settings of a new mirror, and the lines of its lock file."""
        if isinstance(self._source, DirectoryMirror):
            return self._copy_settings(self._source, remote.fixed)
        return replace(remote.settings, slides=max(1, len(_sampled(remote)))), ()

    def _make_mirror(self) -> None:
        """Make a mirror that records no images, unless there is one: `verify` may run any time."""
        if self._settings is not None:
            Mirror.create(self._root, self._settings, self._lock)
            self._settings = None

    def _copy_settings(
        self, source: DirectoryMirror, fixed: str
    ) -> tuple[Settings, Iterable[bytes]]:
        """Return the source's settings, and the lines of its lock file."""
        try:
            settings = read_settings(source.copy(FILE_NAME, self._folder, MOST_SETTINGS))
            check_same_target(fixed, settings.fixed, source.name, source.root / FILE_NAME)
            if settings.lock is None:
                return settings, ()
            lock = read_lock(source.copy(settings.lock, self._folder, MOST_LOCK))
            return replace(settings, lock=LOCKED), lock_lines(lock)
        except (BadSettings, BadLockFile) as error:
            # They name the copy, which is soon gone.
            raise type(error)(str(error).replace(str(self._folder), source.name)) from error

    # Images ------------------------------------------------------------------------

    def _plan(self, remote: UntrustedCatalogue) -> SyncPlan:
        """Return what to do. Raises DiskFull if there is no room for it."""
        plan = make_plan(Local.read(self._root), remote, self._found)
        if self._kept is None:
            self._kept = plan.kept
        fetched = sum(size_at(self._part(image)) or 0 for image in plan.fetch)
        check_room(self._root, plan.bytes - fetched)
        return plan

    def _part(self, image: Image) -> Path:
        return partial_path(self._root / image.path)

    def _fetch_all(self, plan: SyncPlan) -> None:
        """Bring every image of the source to its place, or beside it if it replaces one.

        A new mirror is made once the first image is there.
        """
        self._failed.clear()
        images = [*plan.check, *plan.fetch]
        self._progress.start_images(len(images), sum(image.bytes for image in images))
        pool = start_pool(WORKERS, "sync")
        try:
            running = {pool.submit(self._bring, image, plan): image for image in images}
            for future in as_completed(running):
                self._count(running[future], future)
                if self._fetched + self._adopted:
                    self._make_mirror()
                self._progress.add_images(1, running[future].bytes)
        except BaseException:
            self._shutdown.force()
            raise
        finally:
            pool.shutdown(cancel_futures=True)

    def _count(self, image: Image, future: Future[bool]) -> None:
        """Count one image. Raises errors that all others would meet, too."""
        try:
            is_fetched = future.result()
        except (DiskFull, Interrupted, Unreachable, UsageError):
            raise
        except (NetworkError, Damaged, ChecksumMismatch) as error:
            self._counts.add_failure([error.fault], str(error))
            if self._counts.unreached >= SITE_DOWN_AFTER:
                raise Unreachable(
                    f"{self._source.name}: sends no image any more. The last: {error}"
                ) from error
            self._failed[image.file_name] = ImageFailure(image.path, image.file_name, str(error))
            self._last_error = error
        else:
            self._counts.add_success()
            self._fetched += is_fetched
            self._adopted += not is_fetched
            self._bytes += image.bytes if is_fetched else 0

    def _bring(self, image: Image, plan: SyncPlan) -> bool:
        """Bring one image here, and return whether it had to be fetched."""
        if self._shutdown.stop.is_set():
            raise Interrupted("stopped; the next sync resumes")
        place = self._root / image.path
        if size_at(place) == image.bytes and file_digest(place, "sha256") == image.sha256:
            self._found[image.path] = image.sha256
            return False
        try:
            with disk_errors(place):
                make_folder(place.parent)
                self._fetch(image)
                if image.path not in plan.replaced:
                    self._part(image).replace(place)
                    self._found[image.path] = image.sha256
        except OSError as error:
            raise UsageError(
                f"{place}: cannot be written ({error.strerror}). Remove what is in its place"
            ) from error
        return True

    def _fetch(self, image: Image) -> None:
        """Fetch an image to a partial file, of which a killed run may have left a part."""
        part = self._part(image)
        handle = os.open(part, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        with _removed_if_unavailable(part), os.fdopen(handle, "r+b") as file:
            offset = file.seek(0, os.SEEK_END)
            if offset >= image.bytes and file_digest(part, "sha256") != image.sha256:
                offset = file.truncate(0)
            for _ in range(2 if offset else 1):
                self._source.fetch(image, file)
                file.flush()
                if file_digest(part, "sha256") == image.sha256:
                    os.fsync(handle)
                    return
                # The part may have been of an older image.
                file.truncate(0)
            raise ChecksumMismatch(
                f"{image.path} of {self._source.name}: differs from its digest in the catalogue. "
                "Run tcgamirror verify --repair there"
            )

    # The catalogue -----------------------------------------------------------------

    def _finish(
        self, remote: UntrustedCatalogue, plan: SyncPlan, version: CatalogueVersion
    ) -> SyncResult:
        """Move the images that replace others, then take over the rows."""
        root, images = self._root, remote.images()
        if not os.path.lexists(root / FILE_NAME):
            last = self._last_error
            kind = type(last) if isinstance(last, NetworkError) else Damaged
            raise kind(
                f"{self._source.name}: none of its {text.images(len(self._failed))} can be "
                f"fetched. The last: {last}"
            )
        arrived = [image for image in images if image.file_name not in self._failed]
        replaced = [image for image in arrived if image.path in plan.replaced]
        here = {each.file_name for each in images if self._found.get(each.path) == each.sha256}
        removed = list(plan.obsolete) if self._delete else []
        gone = [*(image for image in plan.moved if image.file_name in here), *removed]
        pending = [
            image.file_name for image in (*replaced, *(image for image in gone if image.done))
        ]
        (root / STATE).unlink(missing_ok=True)
        if pending:
            with Catalogue.open(root / CATALOGUE) as catalogue:
                catalogue.queue.requeue(pending)
        with disk_errors(root):
            for image in replaced:
                with suppress(FileNotFoundError):
                    self._part(image).replace(root / image.path)
            for image in gone:
                _remove(root / image.path)
            # A row relies on the name of its image, also after a power cut.
            for folder in {(root / image.path).parent for image in images}:
                if folder.is_dir():
                    sync_folder(folder)
        local = Local.read(root)
        others = replace_rows(
            root / CATALOGUE,
            remote,
            keep_others=not self._delete,
            arrived={image.file_name for image in arrived} - plan.left,
            present={image.file_name for image in local.images if local.has_file(image)},
        )
        with Catalogue.open(root / CATALOGUE, read_only=True) as catalogue:
            write_exclusions(root, catalogue)
        if not self._failed:
            mirror = Mirror.find(root, above=False)
            with Catalogue.open(root / CATALOGUE, read_only=True) as catalogue:
                remove_partial_files(mirror, catalogue)
            mirror.remove_obsolete()
            digest = file_digest(root / CATALOGUE, "sha256")
            SyncState(self._source.name, version, digest, others).write(root)
        return SyncResult(
            dry_run=False,
            kept=self._kept or 0,
            adopted=self._adopted,
            fetched=self._fetched,
            bytes=self._bytes,
            removed=len(removed),
            others=others,
            changed=True,
            failed=tuple(self._failed.values()),
        )


@contextmanager
def _removed_if_unavailable(part: Path) -> Iterator[None]:
    """Remove the part of an image that the source does not have."""
    try:
        yield
    except (NotFound, Damaged, ChecksumMismatch):
        part.unlink(missing_ok=True)
        raise


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
