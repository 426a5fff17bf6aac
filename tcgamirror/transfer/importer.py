"""`import`: an export into a new or an existing mirror, of which nothing is believed.

First all of it is looked through, and its catalogue read to the end: what is
wrong anywhere keeps all of it out. Then listing and sample are taken over in one
step, and the images in small batches: each is written beside its place, compared
with its digest, decoded, and only then put there, its row after it. An image
that replaces another one has its row made pending first, as an update does. Its
place is the one that the export's catalogue tells, whose folder is that of the
project which the slide had when the image was made: so the image's own facts say.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

from tcgamirror.catalogue.catalogue import Catalogue
from tcgamirror.catalogue.images import Row
from tcgamirror.catalogue.rows import ImageState, ReceivedImage, are_different, replaces
from tcgamirror.mirror.directory import CATALOGUE, FIXED, Mirror, check_place, scratch
from tcgamirror.mirror.lockfile import formatted, parsed
from tcgamirror.mirror.orphans import Orphan
from tcgamirror.mirror.settings import FILE_NAME, Settings, read_settings
from tcgamirror.model.errors import (
    BadExport,
    BadLockFile,
    BadSettings,
    Damaged,
    DiskFull,
    ExitCode,
    TcgaMirrorError,
    UsageError,
)
from tcgamirror.model.slide import Status
from tcgamirror.model.text import timestamp
from tcgamirror.system.files import free_bytes
from tcgamirror.transfer.archive.reader import Scan, check_sums, scan_export
from tcgamirror.transfer.intake import Arrivals, Wanted
from tcgamirror.transfer.untrusted import Foreign

_AHEAD = 86_400
"""Seconds by which another machine's clock may be ahead of this one's."""

Progress = Callable[[int, int, int], None]
"""Told how many of how many images have been seen to, and their bytes."""


@dataclass(frozen=True, slots=True)
class Imported:
    """What was taken over.

    new: whether the mirror was made. slides: of the sample, added here. images,
    bytes: taken in. same: images that were here already. older: left as they
    are, because the image here is a newer one. lacking: images of rows that are
    done there, which the export does not hold. refused: images that are not
    what they say. dropped: settings of the other machine that are not taken over.
    """

    root: str
    new: bool
    slides: int
    images: int
    bytes: int
    same: int
    older: int
    lacking: int
    refused: tuple[Orphan, ...]
    dropped: tuple[str, ...]
    seconds: float

    @property
    def exit_code(self) -> ExitCode:
        return ExitCode.SOME_FAILED if self.refused else ExitCode.DONE


def import_export(root: Path, source: Path | None, on_progress: Progress) -> Imported:
    """Take the export at `source` into the mirror at `root`, which is made if it is none.

    source: None for a tar archive on standard input.

    Raises BadExport or BadSettings for what cannot be taken over, BadSettings
    for images of another target, NotAMirror for a directory of something else;
    nothing has changed then. Raises Locked, DiskFull.
    """
    begun = time.monotonic()
    check_place(root)
    name = "standard input" if source is None else str(source)
    with ExitStack() as stack:
        folder = stack.enter_context(scratch(root, "import"))
        try:
            offer = _Offer.of(source, folder, stack)
        except BadExport as error:
            raise BadExport(f"{name} cannot be imported: {error}") from error
        mirror, new = _target_mirror(root, offer)
        with Catalogue.open(mirror.root / CATALOGUE) as catalogue:
            mirror.check_target(catalogue)
            having = catalogue.rows.image_states()
            _check_places(name, offer, having)
            _check_room(root, offer, having)
            run = catalogue.begin_run("import", time.time())
            exit_code = ExitCode.BUG
            try:
                taking = _Taking(mirror, catalogue, offer, run, on_progress)
                taking.take()
                exit_code = ExitCode.SOME_FAILED if taking.refused else ExitCode.DONE
            except BadExport as error:
                exit_code = error.exit_code
                raise BadExport(f"{name} cannot be imported to its end: {error}") from error
            except TcgaMirrorError as error:
                exit_code = error.exit_code
                raise
            except KeyboardInterrupt:
                exit_code = ExitCode.INTERRUPTED
                raise
            finally:
                catalogue.end_run(run, exit_code=exit_code, now=time.time())
    return Imported(
        root=str(mirror.root),
        new=new,
        slides=taking.slides,
        images=taking.images,
        bytes=taking.bytes,
        same=taking.same,
        older=taking.older,
        lacking=taking.lacking,
        refused=tuple(taking.refused),
        dropped=offer.dropped if new else (),
        seconds=time.monotonic() - begun,
    )


@dataclass(frozen=True, slots=True)
class _Offer:
    """An export, looked through. lock: the bytes of its lock file, checked; None without one."""

    scan: Scan
    settings: Settings
    catalogue: Foreign
    lock: bytes | None
    dropped: tuple[str, ...]

    @classmethod
    def of(cls, source: Path | None, folder: Path, stack: ExitStack) -> _Offer:
        """The export at `source`; folder: an empty one. stack: is to close its catalogue."""
        scan = scan_export(source, folder)
        check_sums(scan)
        settings = _settings(scan)
        lock = _lock(scan, settings)
        theirs = {"manifest": settings.manifest, "lock": None if lock else settings.lock}
        dropped = tuple(f"{name} = {value}" for name, value in theirs.items() if value)
        settings = dataclasses.replace(
            settings, manifest=None, lock=settings.lock if lock else None
        )
        if CATALOGUE not in scan.small:
            raise BadExport(f"it has no {CATALOGUE}")
        try:
            catalogue = stack.enter_context(Foreign(scan.small[CATALOGUE], "its catalogue"))
            if catalogue.fixed != settings.fixed:
                raise Damaged(f"its {FILE_NAME} and {CATALOGUE} are of different mirrors")
            catalogue.check(settings.form)
        except (Damaged, UsageError) as error:
            raise BadExport(str(error)) from error
        return cls(scan, settings, catalogue, lock, dropped)


def _settings(scan: Scan) -> Settings:
    if FILE_NAME not in scan.small:
        raise BadExport(f"it has no {FILE_NAME}")
    path = scan.small[FILE_NAME]
    try:
        return read_settings(path)
    except BadSettings as error:
        said = str(error).replace(str(path), f"{FILE_NAME} of the export")
        raise BadSettings(said) from error


def _lock(scan: Scan, settings: Settings) -> bytes | None:
    """The lock file that names the sample, read and written anew, if it is one."""
    if settings.lock is None or settings.lock not in scan.small:
        return None
    try:
        return formatted(parsed(scan.small[settings.lock].read_bytes()))
    except (BadLockFile, BadSettings) as error:
        raise BadExport(f"{settings.lock} in it is no lock file: {error}") from error


# The mirror ----------------------------------------------------------------------


def _target_mirror(root: Path, offer: _Offer) -> tuple[Mirror, bool]:
    """The mirror to import into, and whether it was made. Raises BadSettings for other images."""
    if not os.path.lexists(root / FILE_NAME):
        _check_room(root, offer, {})
        _remove_begun(root, offer.settings)
        return Mirror.create(root, offer.settings, [offer.lock or b""]), True
    mirror = Mirror.find(root, above=False)
    if mirror.settings.fixed != offer.settings.fixed:
        raise BadSettings(
            f"the export has images of {offer.settings.fixed}, but {mirror.root} was made for "
            f"{mirror.settings.fixed}: import it into another mirror"
        )
    return mirror, False


def _remove_begun(root: Path, settings: Settings) -> None:
    """What is left of a mirror that an import was making when it was killed."""
    path = root / CATALOGUE
    if not path.is_file() or (root / "images").exists():
        return
    try:
        with Catalogue.open(path, read_only=True) as catalogue:
            begun = catalogue.fact(FIXED) in (None, settings.fixed)
            empty = not catalogue.reports.counts().sampled and catalogue.listing.release() is None
    except TcgaMirrorError:
        return
    if begun and empty:
        path.unlink()


def _check_places(name: str, offer: _Offer, having: Mapping[str, ImageState]) -> None:
    """Raise BadExport for an image in the place of another slide's."""
    owners = {have.path: name for name, have in having.items()}
    for row in offer.catalogue.sampled():
        path, slide = row["path"], str(row["file_name"])
        if path is not None and owners.get(str(path), slide) != slide:
            raise BadExport(
                f"{name} cannot be imported: its image of {slide} would replace that of "
                f"{owners[str(path)]}"
            )


def _check_room(root: Path, offer: _Offer, having: Mapping[str, ImageState]) -> None:
    """Raise DiskFull if the images that are not here yet do not fit.

    By the sizes that the export's files have: what its catalogue says of them may be a lie.
    """
    size = 0
    for row in offer.catalogue.sampled():
        if replaces(row, having.get(str(row["file_name"]))):
            size += offer.scan.sizes.get(str(row["path"]), 0)
    free = free_bytes(root)
    if size > free:
        raise DiskFull(f"{root} has {free:,} bytes free, the images need {size:,}")


# Taking over ---------------------------------------------------------------------


def _made_by(now: float, row: Row) -> Row:
    """The row, with a moment that is still to come counted as now: seconds since the epoch.

    Else the image of a machine whose clock was wrong would be newer than every later one.
    It is not refused, as nothing is wrong with the image, and the wrong clock may be ours.
    """
    if str(row["fetched_at"] or "") <= timestamp(now + _AHEAD):
        return row
    return {**row, "fetched_at": timestamp(now)}


class _Taking:
    """One import at work on a mirror that it holds the lock of."""

    def __init__(
        self, mirror: Mirror, catalogue: Catalogue, offer: _Offer, run: int, on_progress: Progress
    ) -> None:
        self._mirror = mirror
        self._catalogue = catalogue
        self._offer = offer
        self._run = run
        self._on_progress = on_progress
        self.refused: list[Orphan] = []
        self.slides = self.images = self.bytes = self.same = self.older = self.lacking = 0

    def take(self) -> None:
        before = len(self._catalogue.sample.names())
        self._catalogue.rows.merge(self._offer.catalogue)
        self.slides = len(self._catalogue.sample.names()) - before
        wanted = self._wanted(self._catalogue.rows.image_states())
        arrivals = Arrivals(self._mirror, wanted, self._record)
        with closing(arrivals):
            for member in self._offer.scan.members() if wanted else ():
                if member.name in wanted:
                    arrivals.add(member)
                    self._on_progress(arrivals.seen, len(wanted), arrivals.bytes)
            arrivals.end()
        self.images, self.bytes, self.refused = arrivals.images, arrivals.bytes, arrivals.refused

    def _wanted(self, having: Mapping[str, ImageState]) -> dict[str, Wanted]:
        """The images to take in, by their paths in the export."""
        wanted = {}
        now = time.time()
        for row in (_made_by(now, row) for row in self._offer.catalogue.sampled()):
            name, path = str(row["file_name"]), str(row["path"])
            have = having[name]
            if have.sha256 == row["sha256"] and have.status is Status.DONE:
                self.same += 1
            elif not replaces(row, have):
                self.older += row["status"] == Status.DONE
            elif path in self._offer.scan.sizes:
                differs = are_different(row["md5"], have.md5)
                older = None if have.path == path else have.path
                wanted[path] = Wanted(row, differs, have.status is Status.DONE, older)
            else:
                self.lacking += row["status"] == Status.DONE
        return wanted

    def _record(self, batch: list[Wanted], put: Callable[[], None]) -> None:
        """Rows of what is replaced, then the files, then their rows: as an update does."""
        replaced = [wanted.file_name for wanted in batch if wanted.replaces]
        if replaced:
            self._catalogue.queue.requeue(replaced)
        put()
        theirs = self._offer.catalogue
        self._catalogue.rows.add_images(
            [
                ReceivedImage(wanted.row, wanted.differs, theirs.attempts(wanted.file_name))
                for wanted in batch
            ],
            self._run,
        )
