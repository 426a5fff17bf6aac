"""Merge an export into a new or an existing mirror, and believe nothing of it.

First all of the export is read, and every value of its catalogue is checked. A fault anywhere
keeps all of it out. Then listing and sample are merged in one step, and the images in small
batches. An image gets its place after its digest and pixels were checked, and its row after
that. If it replaces another one, the row is made pending first, as by an update. Its place is
the one in the export's catalogue: the folder of the project that the slide had at the time.
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
from tcgamirror.catalogue.database import Row
from tcgamirror.catalogue.rows import ImageState, ReceivedImage, replaces
from tcgamirror.mirror.directory import CATALOGUE, Mirror, check_place, scratch
from tcgamirror.mirror.exclusion_file import write_exclusions
from tcgamirror.mirror.lockfile import format_lock, parse_lock
from tcgamirror.mirror.orphans import Orphan
from tcgamirror.mirror.progress import Progress
from tcgamirror.mirror.settings import FILE_NAME, Settings, read_settings
from tcgamirror.model.errors import (
    BadExport,
    BadLockFile,
    BadSettings,
    Damaged,
    ExitCode,
    TcgaMirrorError,
    UsageError,
)
from tcgamirror.model.slide import Status
from tcgamirror.model.text import timestamp
from tcgamirror.system.files import check_room
from tcgamirror.transfer.archive.reader import Scan, check_sums, scan_export
from tcgamirror.transfer.intake import IncomingImage, Intake, check_image, write_image
from tcgamirror.transfer.untrusted import UntrustedCatalogue

_CLOCK_TOLERANCE = 86_400
"""Seconds by which another machine's clock may be ahead of this one's."""


@dataclass(frozen=True, slots=True)
class ImportResult:
    """Result of an import.

    new: whether the mirror was made. slides: added to the sample. images, bytes: added.
    same: images that were here already. older: images left out because the one here is
    newer. lacking: images that are done there and not in the export. refused: images that
    differ from their rows. dropped: settings that name files of the other machine.
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


def import_export(root: Path, source: Path | None, progress: Progress) -> ImportResult:
    """Merge the export at `source` into the mirror at `root`, which is made if there is none.

    Args:
        source: None for a tar archive on standard input.

    Raises:
        BadExport, BadSettings: for an export that cannot be merged. Nothing has changed then.
        NotAMirror: for a directory of something else.
        Locked, DiskFull.
    """
    start = time.monotonic()
    check_place(root)
    name = "standard input" if source is None else str(source)
    with ExitStack() as stack:
        folder = stack.enter_context(scratch(root, "import"))
        try:
            export = _Export.read(source, folder, stack)
        except BadExport as error:
            raise BadExport(f"{name} cannot be imported: {error}") from error
        mirror, is_new = _target_mirror(root, name, export, folder)
        with mirror.open_to_write() as catalogue:
            here = catalogue.rows.image_states()
            _check_places(name, export, here)
            if not is_new:
                _check_images(root, name, export, here, folder)
            mirror.remove_obsolete()
            run = catalogue.begin_run("import", time.time())
            exit_code = ExitCode.BUG
            try:
                merge = _Merge(mirror, catalogue, export, run, progress)
                merge.run()
                exit_code = ExitCode.SOME_FAILED if merge.refused else ExitCode.DONE
            except BadExport as error:
                exit_code = error.exit_code
                raise BadExport(f"{name} cannot be imported to its end: {error}") from error
            except (TcgaMirrorError, KeyboardInterrupt) as error:
                exit_code = getattr(error, "exit_code", ExitCode.INTERRUPTED)
                raise
            finally:
                catalogue.end_run(run, exit_code=exit_code, now=time.time())
    return ImportResult(
        root=str(mirror.root),
        new=is_new,
        slides=merge.slides,
        images=merge.images,
        bytes=merge.bytes,
        same=merge.same,
        older=merge.older,
        lacking=merge.lacking,
        refused=tuple(merge.refused),
        dropped=export.dropped if is_new else (),
        seconds=time.monotonic() - start,
    )


@dataclass(frozen=True, slots=True)
class _Export:
    """An export that was read and checked. lock: the bytes of its lock file, if it has one."""

    scan: Scan
    settings: Settings
    catalogue: UntrustedCatalogue
    lock: bytes | None
    dropped: tuple[str, ...]

    @classmethod
    def read(cls, source: Path | None, folder: Path, stack: ExitStack) -> _Export:
        """Read the export at `source`. folder: an empty one. stack: closes its catalogue."""
        scan = scan_export(source, folder)
        check_sums(scan)
        settings = _settings(scan)
        lock = _lock(scan, settings)
        files = {"manifest": settings.manifest, "lock": None if lock else settings.lock}
        dropped = tuple(f"{name} = {value}" for name, value in files.items() if value)
        settings = dataclasses.replace(
            settings, manifest=None, lock=settings.lock if lock else None
        )
        if CATALOGUE not in scan.small:
            raise BadExport(f"it has no {CATALOGUE}")
        try:
            path = scan.small[CATALOGUE]
            catalogue = stack.enter_context(closing(UntrustedCatalogue(path, "its catalogue")))
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
        message = str(error).replace(str(path), f"{FILE_NAME} of the export")
        raise BadSettings(message) from error


def _lock(scan: Scan, settings: Settings) -> bytes | None:
    """Return the lock file, parsed and formatted again, if the export has one."""
    if settings.lock is None or settings.lock not in scan.small:
        return None
    try:
        return format_lock(parse_lock(scan.small[settings.lock].read_bytes()))
    except (BadLockFile, BadSettings) as error:
        raise BadExport(f"{settings.lock} in it is not a lock file: {error}") from error


# The mirror ------------------------------------------------------------------------


def _target_mirror(root: Path, name: str, export: _Export, folder: Path) -> tuple[Mirror, bool]:
    """Return the mirror at `root`, and whether it was made.

    Raises:
        BadSettings: if its images have another target.
    """
    if not os.path.lexists(root / FILE_NAME):
        _check_images(root, name, export, {}, folder)
        return Mirror.create(root, export.settings, [export.lock or b""]), True
    mirror = Mirror.find(root, above=False)
    if mirror.settings.fixed != export.settings.fixed:
        raise BadSettings(
            f"the export has images of {export.settings.fixed}, but {mirror.root} was made for "
            f"{mirror.settings.fixed}: import it into another mirror"
        )
    return mirror, False


def _check_places(name: str, export: _Export, here: Mapping[str, ImageState]) -> None:
    """Raise BadExport for an image in the place of another slide's."""
    owners = {state.path: slide for slide, state in here.items()}
    for row in export.catalogue.sampled():
        path, slide = row["path"], str(row["file_name"])
        if path is not None and owners.get(str(path), slide) != slide:
            raise BadExport(
                f"{name} cannot be imported: its image of {slide} would replace that of "
                f"{owners[str(path)]}"
            )


def _check_images(
    root: Path, name: str, export: _Export, here: Mapping[str, ImageState], folder: Path
) -> None:
    """Raise DiskFull if the images to add do not fit, BadExport if there are, and none is usable.

    Images are read up to the first usable one, in `folder`.
    """
    sizes = export.scan.sizes
    images = {}
    for row in export.catalogue.sampled():
        state = here.get(str(row["file_name"]))
        if replaces(row, state) and row["path"] in sizes:
            images[str(row["path"])] = IncomingImage.of(_without_future(row, time.time()), state)
    check_room(root, sum(sizes[path] for path in images))
    failures = []
    for member in export.scan.members() if images else ():
        if member.name in images:
            image, file = images[member.name], folder / "image"
            try:
                write_image(image, member, file)
                check_image(image, file, export.settings, lambda: None)
            except Damaged as error:
                failures.append(f"{image.path}: {error}")
            else:
                return
            finally:
                file.unlink(missing_ok=True)
    if failures:
        raise BadExport(
            f"{name} cannot be imported: none of {len(failures):,} new images is as its catalogue "
            f"says ({failures[0]}). Export again"
        )


# Merging ---------------------------------------------------------------------------


def _without_future(row: Row, now: float) -> Row:
    """Return the row; a `fetched_at` in the future becomes `now`, in seconds since the epoch.

    Otherwise an image by a machine whose clock was wrong would be newer than all later ones.
    It is not refused, because this machine's clock may be the wrong one.
    """
    if str(row["fetched_at"] or "") <= timestamp(now + _CLOCK_TOLERANCE):
        return row
    return {**row, "fetched_at": timestamp(now)}


class _Merge:
    """One import into a mirror whose lock is held."""

    def __init__(
        self, mirror: Mirror, catalogue: Catalogue, export: _Export, run: int, progress: Progress
    ) -> None:
        self._mirror = mirror
        self._catalogue = catalogue
        self._export = export
        self._run = run
        self._progress = progress
        self.refused: list[Orphan] = []
        self.slides = self.images = self.bytes = self.same = self.older = self.lacking = 0

    def run(self) -> None:
        """Merge listing and sample, then the images."""
        before = self._catalogue.sample.count()
        self._catalogue.rows.merge(self._export.catalogue)
        write_exclusions(self._mirror.root, self._catalogue)
        self.slides = self._catalogue.sample.count() - before
        incoming = self._incoming(self._catalogue.rows.image_states())
        self._progress.start_images(len(incoming), sum(each.bytes for each in incoming.values()))
        with closing(Intake(self._mirror, self._record)) as intake:
            for member in self._export.scan.members() if incoming else ():
                if member.name in incoming:
                    intake.add(incoming[member.name], member)
                    self._progress.add_images(1, incoming[member.name].bytes)
            intake.finish()
        self.images, self.bytes, self.refused = intake.images, intake.bytes, intake.refused

    def _incoming(self, here: Mapping[str, ImageState]) -> dict[str, IncomingImage]:
        """Return the images to add, by their paths in the export."""
        incoming = {}
        now = time.time()
        for row in self._export.catalogue.sampled():
            row = _without_future(row, now)
            path, state = str(row["path"]), here[str(row["file_name"])]
            if state.status is Status.EXCLUDED:
                continue
            if state.sha256 == row["sha256"] and state.status is Status.DONE:
                self.same += 1
            elif not replaces(row, state):
                self.older += row["status"] == Status.DONE
            elif path in self._export.scan.sizes:
                incoming[path] = IncomingImage.of(row, state)
            else:
                self.lacking += row["status"] == Status.DONE
        return incoming

    def _record(self, batch: list[IncomingImage], put: Callable[[], None]) -> None:
        """Make rows of replaced images pending, put the files, then record them."""
        replaced = [image.file_name for image in batch if image.replaces]
        if replaced:
            self._catalogue.queue.requeue(replaced)
        put()
        attempts = self._export.catalogue.attempts
        self._catalogue.rows.add_images(
            [ReceivedImage(each.row, each.differs, attempts(each.file_name)) for each in batch],
            self._run,
        )
