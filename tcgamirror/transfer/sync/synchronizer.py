"""Brings a mirror to what another one is: images first, the catalogue last, by digest.

A new image goes to its place as soon as it is whole and has its digest: no row
knows it yet. One that replaces another waits beside it as `.{name}.part` until
all are there. Then the rows of those to be replaced or removed are made pending,
the files are moved, and one transaction takes over all of the source's rows.
So whoever reads the catalogue meanwhile finds no row that is done without its
image, whenever this is killed.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from tcgamirror.catalogue.catalogue import Catalogue
from tcgamirror.catalogue.images import Image
from tcgamirror.mirror.directory import CATALOGUE, Mirror, scratch
from tcgamirror.mirror.lockfile import MOST_BYTES as MOST_LOCK
from tcgamirror.mirror.lockfile import lock_lines, read_lock
from tcgamirror.mirror.orphans import remove_partial_files
from tcgamirror.mirror.outage import SITE_DOWN_AFTER, OutcomeCounts
from tcgamirror.mirror.progress import Progress
from tcgamirror.mirror.settings import FILE_NAME, LOCKED, Settings, read_settings
from tcgamirror.mirror.settings import MOST_BYTES as MOST_SETTINGS
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
    atomic_write,
    disk_errors,
    file_digest,
    free_bytes,
    make_folder,
    sync_folder,
)
from tcgamirror.system.interrupt import Shutdown
from tcgamirror.transfer.sync.commit import take_over
from tcgamirror.transfer.sync.plan import (
    STATE,
    Failure,
    Plan,
    State,
    Synced,
    check_target,
    images_here,
    is_there,
    plan_of,
    refuse_itself,
    right_here,
    same_target,
    sampled_by,
    settings_of,
    size_at,
)
from tcgamirror.transfer.sync.remote import Folder, Publisher, Seen
from tcgamirror.transfer.untrusted import UntrustedCatalogue

WORKERS = 4
ROUNDS = 3
"""How often a source that changes meanwhile is followed."""

_BEGUN = b"{}"
"""What the state says while a mirror is made for the first images."""


def synchronize(
    source: Publisher, root: Path, progress: Progress, shutdown: Shutdown, *, delete: bool
) -> Synced:
    """Brings the mirror at `root`, which is made if there is none, to what the source is.

    delete: whether images and rows go that the source lacks. Raises Locked,
    BadSettings for a source of other images, Damaged for one that cannot be
    believed, NetworkError, DiskFull, Interrupted. What was fetched stays, and the
    next run goes on with it.
    """
    refuse_itself(source, root)
    with scratch(root, "sync") as folder:
        return _Sync(source, root, folder, progress, shutdown, delete=delete).run()


class _Sync:
    """One run, with the lock held. folder: of this process alone, for catalogues."""

    def __init__(
        self,
        source: Publisher,
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
        self._failed: dict[str, Failure] = {}

    def run(self) -> Synced:
        state = self._state()
        seen = self._source.catalogue(self._folder, None if state is None else state.seen)
        if state is not None and (seen is None or seen.digest == state.seen.digest):
            ours = images_here(self._root)
            if all(size_at(self._root / each.path) == each.bytes for each in ours if each.done):
                if seen is not None and seen.lasting and seen != state.seen:
                    replace(state, seen=seen).keep(self._root)
                return self._nothing_new(state, ours)
        seen = seen or self._again(None)
        for rounds_left in reversed(range(ROUNDS)):
            with self._opened(seen) as foreign:
                there = check_target(self._source, self._root, foreign.fixed)
                plan = self._planned(foreign)
                if not there:
                    self._make_home(foreign)
                self._fetch_all(plan)
                if not self._failed or not rounds_left:
                    return self._finished(foreign, plan, seen)
            newer = self._again(seen)
            if newer.digest == seen.digest:
                break
            seen = newer
        with self._opened(seen) as foreign:
            return self._finished(foreign, plan, seen)

    @contextmanager
    def _opened(self, seen: Seen) -> Iterator[UntrustedCatalogue]:
        """Open a copy of the source's catalogue, all of which has been checked."""
        with UntrustedCatalogue(
            seen.path(self._folder), f"the catalogue of {self._source.name}"
        ) as foreign:
            if seen.digest not in self._checked:
                foreign.check(settings_of(foreign.fixed).form)
                self._checked.add(seen.digest)
            yield foreign

    def _state(self) -> State | None:
        """What the last run left, if it spares this one anything."""
        state = State.read(self._root) if (self._root / FILE_NAME).exists() else None
        if state is None or state.source != self._source.name or (self._delete and state.others):
            return None
        return state

    def _again(self, seen: Seen | None) -> Seen:
        """The source's catalogue as it is by now."""
        newer = self._source.catalogue(self._folder, seen) or seen
        if newer is None:
            raise Damaged(f"{self._source.name} gives no catalogue, though it was asked for one")
        return newer

    def _nothing_new(self, state: State, ours: Sequence[Image]) -> Synced:
        kept = sum(image.done for image in ours)
        return Synced(False, kept=kept, others=state.others)

    # The mirror that is brought there --------------------------------------------------

    def _make_home(self, foreign: UntrustedCatalogue) -> None:
        """Make a mirror without images: so it can be verified at any moment."""
        fixed = foreign.fixed
        settings = replace(settings_of(fixed), slides=max(1, len(sampled_by(foreign))))
        lock: Iterable[bytes] = ()
        if isinstance(self._source, Folder):
            settings, lock = self._settings_there(self._source, fixed)
        begun = self._root / STATE
        if begun.is_file() and begun.read_bytes() == _BEGUN:
            # A run that was killed here had begun to make one: its catalogue is empty.
            (self._root / CATALOGUE).unlink(missing_ok=True)
        with atomic_write(begun) as file:
            file.write(_BEGUN)
        Mirror.create(self._root, settings, lock)
        begun.unlink()

    def _settings_there(self, source: Folder, fixed: str) -> tuple[Settings, Iterable[bytes]]:
        """Return the settings of the source, and the lines of its lock file."""
        try:
            settings = read_settings(source.small(FILE_NAME, self._folder, MOST_SETTINGS))
            same_target(fixed, settings.fixed, source.name, source.root / FILE_NAME)
            if settings.lock is None:
                return settings, ()
            lock = read_lock(source.small(settings.lock, self._folder, MOST_LOCK))
            return replace(settings, lock=LOCKED), lock_lines(lock)
        except (BadSettings, BadLockFile) as error:
            # They name the copy, which is soon gone.
            told = str(error).replace(str(self._folder), source.name)
            raise type(error)(told) from error

    # Images ----------------------------------------------------------------------------

    def _planned(self, foreign: UntrustedCatalogue) -> Plan:
        """Return what is to be done, for which there is room. Nothing is changed yet."""
        right = right_here(self._root, foreign)
        plan = plan_of(self._root, foreign.images(), images_here(self._root), right, self._found)
        if self._kept is None:
            self._kept = plan.kept
        self._check_room(plan)
        return plan

    def _fetch_all(self, plan: Plan) -> None:
        """Have every image of the source here: in its place, or beside it if it replaces one."""
        self._failed.clear()
        todo = [*plan.check, *plan.fetch]
        self._progress.start_images(len(todo), sum(image.bytes for image in todo))
        pool = ThreadPoolExecutor(WORKERS, "sync")
        try:
            running = {pool.submit(self._have, image, plan): image for image in todo}
            for future in as_completed(running):
                self._ended(running[future], future)
                self._progress.add_images(1, running[future].bytes)
        except BaseException:
            self._shutdown.force()
            raise
        finally:
            pool.shutdown(cancel_futures=True)

    def _check_room(self, plan: Plan) -> None:
        begun = sum(size_at(_part(self._root / image.path)) or 0 for image in plan.fetch)
        free = free_bytes(self._root)
        if plan.bytes - begun > free:
            raise DiskFull(
                f"{self._root} has {free:,} bytes free, but {plan.bytes - begun:,} are to be "
                "fetched: free some, or name a larger disk"
            )

    def _ended(self, image: Image, future: Future[bool]) -> None:
        """Counts what came of one image. Raises what would end every other one, too."""
        try:
            fetched = future.result()
        except (DiskFull, Interrupted, Unreachable, UsageError):
            raise
        except (NetworkError, Damaged, ChecksumMismatch) as error:
            self._lose(image, error)
        else:
            self._counts.add_success()
            self._fetched += fetched
            self._adopted += not fetched
            self._bytes += image.bytes if fetched else 0

    def _lose(self, image: Image, error: TcgaMirrorError) -> None:
        self._counts.add_failure([error.fault], str(error))
        if self._counts.unreached >= SITE_DOWN_AFTER:
            raise Unreachable(f"{self._source.name} gives no image any more; the last: {error}")
        self._failed[image.file_name] = Failure(image.path, image.file_name, str(error))

    def _have(self, image: Image, plan: Plan) -> bool:
        """Has one image here; whether it had to be fetched."""
        if self._shutdown.stop.is_set():
            raise Interrupted("stopped; the next sync goes on")
        place = self._root / image.path
        if size_at(place) == image.bytes and file_digest(place, "sha256") == image.sha256:
            self._found[image.path] = image.sha256
            return False
        try:
            with disk_errors(place):
                make_folder(place.parent)
                self._fetch(image, _part(place))
                if image.path not in plan.replaced:
                    _part(place).replace(place)
                    self._found[image.path] = image.sha256
        except OSError as error:
            raise UsageError(
                f"{place} cannot be written ({error.strerror}): move away what is in its place"
            ) from error
        return True

    def _fetch(self, image: Image, part: Path) -> None:
        """Makes `part` the image, going on with what is there of it."""
        handle = os.open(part, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        with _without_remains(part), os.fdopen(handle, "r+b") as file:
            begun = file.seek(0, os.SEEK_END)
            if begun >= image.bytes and file_digest(part, "sha256") != image.sha256:
                begun = file.truncate(0)
            for _ in range(2 if begun else 1):
                self._source.fetch(image, file)
                file.flush()
                if file_digest(part, "sha256") == image.sha256:
                    os.fsync(handle)
                    return
                # What was there of it may have been of an older image.
                file.truncate(0)
            raise ChecksumMismatch(
                f"{image.path} of {self._source.name} is not what its catalogue says: "
                "run tcgamirror verify --repair there"
            )

    # The catalogue ---------------------------------------------------------------------

    def _finished(self, foreign: UntrustedCatalogue, plan: Plan, seen: Seen) -> Synced:
        """Moves the images that replace others, then takes over the rows."""
        root, theirs = self._root, foreign.images()
        moved = [
            each
            for each in theirs
            if each.path in plan.replaced and each.file_name not in self._failed
        ]
        here = {each.file_name for each in theirs if self._found.get(each.path) == each.sha256}
        obsolete = [each for each in plan.moved if each.file_name in here]
        removed = list(plan.obsolete) if self._delete else []
        gone = [*moved, *(each for each in (*obsolete, *removed) if each.done)]
        (root / STATE).unlink(missing_ok=True)
        if gone:
            with Catalogue.open(root / CATALOGUE) as catalogue:
                catalogue.queue.requeue([each.file_name for each in gone])
        with disk_errors(root):
            for image in moved:
                with suppress(FileNotFoundError):
                    _part(root / image.path).replace(root / image.path)
            for image in (*obsolete, *removed):
                _remove(root / image.path)
            _sync_folders(root, theirs)
        others = take_over(
            root / CATALOGUE,
            foreign,
            others=not self._delete,
            arrived={each.file_name for each in theirs} - self._failed.keys() - plan.left,
            whole={each.file_name for each in images_here(root) if is_there(root, each)},
        )
        if not self._failed:
            with Catalogue.open(root / CATALOGUE, read_only=True) as catalogue:
                remove_partial_files(Mirror.find(root, above=False), catalogue)
            State(self._source.name, seen, file_digest(root / CATALOGUE, "sha256"), others).keep(
                root
            )
        return Synced(
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


def _part(path: Path) -> Path:
    """What an image is called until it is whole, as `files.atomic_write` calls it."""
    return path.with_name(f".{path.name}.part")


@contextmanager
def _without_remains(part: Path) -> Iterator[None]:
    """Removes what was begun of an image that the source cannot give."""
    try:
        yield
    except (NotFound, Damaged, ChecksumMismatch):
        part.unlink(missing_ok=True)
        raise


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)
    with suppress(OSError):
        # Its folder, if that was the last one.
        path.parent.rmdir()


def _sync_folders(root: Path, images: Iterable[Image]) -> None:
    """Has the names of all images outlast a power cut, before a row relies on them."""
    for folder in {(root / image.path).parent for image in images}:
        if folder.is_dir():
            sync_folder(folder)
