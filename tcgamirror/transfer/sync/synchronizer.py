"""Bring a mirror to the state of another: images first, the catalogue last, by digest.

A new image is renamed to its path once it has its digest and is on the disk; no row names it
yet. An image that replaces another one waits beside it until all are there. Then the rows of
those to be replaced or removed are made pending, the files are moved, and one transaction
replaces all rows. So no reader ever finds a row that is done without its image.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from queue import SimpleQueue

from tcgamirror.catalogue.images import Image
from tcgamirror.mirror.directory import check_same_target
from tcgamirror.mirror.outage import SITE_DOWN_AFTER, Unreached
from tcgamirror.mirror.progress import Progress
from tcgamirror.mirror.settings import FILE_NAME, LOCKED, Settings
from tcgamirror.mirror.shards import note_waiting
from tcgamirror.model import text
from tcgamirror.model.errors import (
    ChecksumMismatch,
    Damaged,
    Interrupted,
    NetworkError,
    NotFound,
    TcgaMirrorError,
    Unreachable,
    UsageError,
)
from tcgamirror.system.interrupt import Shutdown
from tcgamirror.system.parallel import result_or_error, start_pool
from tcgamirror.transfer.fetching import BATCH_BYTES
from tcgamirror.transfer.settings_copy import read_copies
from tcgamirror.transfer.sync.plan import (
    Arrival,
    ImageFailure,
    Local,
    SyncPlan,
    SyncResult,
    SyncState,
    make_plan,
)
from tcgamirror.transfer.sync.remote import (
    RETRY_SECONDS,
    CatalogueVersion,
    DirectoryMirror,
    FileMirror,
    RemoteMirror,
)
from tcgamirror.transfer.sync.target import Target
from tcgamirror.transfer.untrusted import UntrustedCatalogue


def synchronize(
    source: RemoteMirror,
    target: Target,
    progress: Progress,
    shutdown: Shutdown,
    *,
    delete: bool,
    dry_run: bool = False,
) -> SyncResult:
    """Bring the target, which becomes a mirror if it is none, to the state of the source.

    After a failure, fetched images stay for the next run. If no mirror was made, partial files
    are removed.

    Args:
        delete: whether to remove images and rows that the source does not have.
        dry_run: whether to return what would be done, and change nothing at the target.

    Raises:
        BadSettings: for a source of other images.
        Damaged: for a source with a value that this program never writes.
        Locked, NetworkError, DiskFull, Interrupted.
    """
    if source.place == target.place:
        raise UsageError(f"{target.name}: is SRC itself. Name another place as DST")
    if isinstance(source, DirectoryMirror):
        note_waiting(source.root, progress.note)
    with target.opened(progress.note, dry_run=dry_run) as folder:
        sync = _Sync(source, target, folder, progress, shutdown, delete=delete)
        return sync.preview() if dry_run else sync.run()


@dataclass(slots=True)
class _Sync:
    """One run, with the target opened.

    folder: of this process alone, for catalogues. checked: digests of the catalogues that were
    checked. found: digests by path of images that this run has put or found in their places, not
    of replacements that still wait. failed: images of the last round that could not be fetched,
    by file name. new: settings and lock file of a mirror that is still to be made.
    """

    source: RemoteMirror
    target: Target
    folder: Path
    progress: Progress
    shutdown: Shutdown
    delete: bool
    checked: set[str] = field(default_factory=set)
    found: dict[str, str] = field(default_factory=dict)
    failed: dict[str, ImageFailure] = field(default_factory=dict)
    unreached: Unreached = field(default_factory=Unreached)
    new: tuple[Settings, Iterable[bytes]] | None = None
    kept: int | None = None
    adopted: int = 0
    fetched: int = 0
    fetched_bytes: int = 0
    last_error: TcgaMirrorError | None = None

    def preview(self) -> SyncResult:
        """Return what `run` would do."""
        with self._open(self._newest(None)) as remote:
            local, plan = self._compare(remote)
            sampled = remote.names("sample")
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
        """Sync, in as many rounds as the source changes meanwhile."""
        state = self._state()
        version = self.source.catalogue(self.folder, None if state is None else state.seen)
        if state is not None and (version is None or version.digest == state.seen.digest):
            if version is not None and version.lasting and version != state.seen:
                self.target.write_state(replace(state, seen=version))
            return SyncResult(dry_run=False, kept=state.images, others=state.others)
        version = version or self._newest(None)
        pauses = iter(RETRY_SECONDS)
        while True:
            with self._open(version) as remote:
                plan = self._fetch_all(remote)
                newer = version
                if self.failed and (pause := next(pauses, None)) is not None:
                    # `serve` sends a catalogue that is a second old, with newer images.
                    self.shutdown.stop.wait(pause)
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
        state = self.target.state(self.source.name)
        return None if state is not None and self.delete and state.others else state

    # A new mirror ------------------------------------------------------------------

    def _new_settings(self, remote: UntrustedCatalogue) -> tuple[Settings, Iterable[bytes]]:
        """Return settings of a new mirror, and the lines of its lock file."""
        source = self.source
        if not isinstance(source, FileMirror):
            return replace(remote.settings, slides=max(1, len(remote.names("sample")))), ()
        settings, lock = read_copies(
            lambda name, most: source.copy(name, self.folder / "copy", most), source.name
        )
        place = f"{source.name}/{FILE_NAME}"
        check_same_target(remote.fixed, settings.fixed, source.name, place)
        return replace(settings, lock=None if lock is None else LOCKED), lock or ()

    def _make_mirror(self) -> None:
        """Make a mirror that records no images, unless there is one: `verify` may run any time."""
        if self.new is not None:
            self.target.create(*self.new)
            self.new = None

    # Images ------------------------------------------------------------------------

    def _fetch_all(self, remote: UntrustedCatalogue) -> SyncPlan:
        """Check or fetch the images of a new plan, and return the plan.

        An image that replaces another one is fetched beside it. A new mirror is made once the
        first image is there. Raises DiskFull if there is no room.
        """
        local, plan = self._compare(remote)
        if self.target.reserve(plan):
            local, plan = self._compare(remote)
        self.kept = plan.kept if self.kept is None else self.kept
        self.new = None if local.fixed is not None else self._new_settings(remote)
        images = [*plan.check, *plan.fetch]
        if not images:
            self._make_mirror()
        self.failed.clear()
        self.progress.start_images(len(images), sum(image.bytes for image in images))
        waiting, unsettled = iter(images), 0
        done: SimpleQueue[tuple[Image, bool | BaseException]] = SimpleQueue()

        def obtain() -> None:
            # A future for each image would cost as much as to open a small one.
            for image in waiting:
                done.put((image, result_or_error(partial(self._obtain, image, plan))))

        workers = max(self.source.workers, self.target.workers)
        pool = start_pool(workers, "sync")
        try:
            for _ in range(workers):
                pool.submit(obtain)
            for _ in images:
                image, outcome = done.get()
                self._count(image, outcome)
                if self.fetched + self.adopted:
                    self._make_mirror()
                self.progress.add_images(1, image.bytes)
                unsettled += image.bytes
                if unsettled >= BATCH_BYTES:
                    self.target.settle()
                    unsettled = 0
            self.target.settle()
        except BaseException:
            self.shutdown.force()
            raise
        finally:
            pool.shutdown()
        return plan

    def _compare(self, remote: UntrustedCatalogue) -> tuple[Local, SyncPlan]:
        """Return what is there, and the actions that it needs."""
        local = self.target.local()
        if local.fixed is not None:
            check_same_target(remote.fixed, local.fixed, self.source.name, self.target.name)
        return local, make_plan(local, remote, self.found)

    def _count(self, image: Image, outcome: bool | BaseException) -> None:
        """Count one image. Raises errors that end the run."""
        if isinstance(outcome, bool):
            self.unreached.add()
            self.fetched += outcome
            self.adopted += not outcome
            self.fetched_bytes += image.bytes * outcome
            return
        if isinstance(outcome, Unreachable) or not isinstance(
            outcome, NetworkError | Damaged | ChecksumMismatch
        ):
            raise outcome
        self.unreached.add([outcome.fault])
        if self.unreached.count >= SITE_DOWN_AFTER:
            raise Unreachable(
                f"{self.source.name}: sends no image any more. The last: {outcome}"
            ) from outcome
        self.failed[image.file_name] = ImageFailure(image.path, image.file_name, str(outcome))
        self.last_error = outcome

    def _obtain(self, image: Image, plan: SyncPlan) -> bool:
        """Find or fetch one image; return whether it was fetched."""
        if self.shutdown.stop.is_set():
            raise Interrupted("stopped; the next sync resumes")
        is_replaced = image.path in plan.replaced
        is_fetched = self.target.obtain(self.source, image, is_replaced=is_replaced)
        if not (is_fetched and is_replaced):
            self.found[image.path] = image.sha256
        return is_fetched

    # The catalogue -----------------------------------------------------------------

    def _finish(
        self, remote: UntrustedCatalogue, plan: SyncPlan, version: CatalogueVersion
    ) -> SyncResult:
        """Move and remove images, replace the rows, and write the state if no image failed.

        Raises NetworkError or Damaged if no mirror was made.
        """
        images = plan.images
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
        here = {each.file_name for each in images if self.found.get(each.path) == each.sha256}
        removed = list(plan.obsolete) if self.delete else []
        arrival = Arrival(
            received=frozenset(image.file_name for image in received) - plan.left,
            replaced=[image for image in received if image.path in plan.replaced],
            removed=[*(image for image in plan.moved if image.file_name in here), *removed],
            keep_others=not self.delete,
        )
        state = None if self.failed else SyncState.of(self.source.name, version)
        others = self.target.commit(remote, arrival, state)
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
