"""Merge an untrusted export into a new or an existing mirror.

First all of the export is read, and every value of its catalogue is checked. One fault refuses
the whole export. Then listing and sample are merged in one step, and the images in small
batches. An image keeps its path: the folder is that of the slide's project when the image was
made.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from tcgamirror.catalogue.catalogue import Catalogue
from tcgamirror.catalogue.images import Image
from tcgamirror.catalogue.rows import ImageState, replaces
from tcgamirror.mirror.directory import CATALOGUE, Mirror, check_place, check_same_target, scratch
from tcgamirror.mirror.exclusion_file import write_exclusions
from tcgamirror.mirror.orphans import Orphan
from tcgamirror.mirror.progress import Progress
from tcgamirror.mirror.settings import FILE_NAME, LOCKED, Settings
from tcgamirror.model.errors import (
    BadExport,
    Damaged,
    ExitCode,
)
from tcgamirror.model.slide import Status
from tcgamirror.model.text import timestamp
from tcgamirror.system.files import check_room, exit_code_of
from tcgamirror.transfer.archive.reader import Export
from tcgamirror.transfer.intake import IncomingImage, Intake
from tcgamirror.transfer.objects import StoredArchive
from tcgamirror.transfer.settings_copy import read_copies
from tcgamirror.transfer.untrusted import UntrustedCatalogue

_CLOCK_TOLERANCE = 86_400
"""Seconds by which another machine's clock may be ahead of this one's."""


@dataclass(frozen=True, slots=True)
class ImportResult:
    """Result of an import.

    new: whether the mirror was made. slides: added to the sample. images, bytes: added.
    same: images that were here already. older: images left out because the one here is
    newer. lacking: images that are done there and not in the export. failed: slides that failed
    there in a newer try than any here. refused: images that differ from their rows. dropped:
    settings that name files of the other machine.
    """

    root: str
    slides: int
    images: int
    bytes: int
    same: int
    older: int
    lacking: int
    failed: int
    refused: tuple[Orphan, ...]
    new: bool = False
    dropped: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def exit_code(self) -> ExitCode:
        return ExitCode.SOME_FAILED if self.refused else ExitCode.DONE


def import_export(
    root: Path, source: Path | StoredArchive | None, progress: Progress, *, decode: bool = False
) -> ImportResult:
    """Merge the export at `source` into the mirror at `root`, which is made if there is none.

    Args:
        source: None for a tar archive on standard input.
        decode: whether to decode every pixel.

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
        with _refusing(name):
            export = _Export.read(source, name, folder, stack)
        attempts = export.catalogue.attempts
        intake = Intake(export.files, root, export.settings, attempts, decode)
        is_new = not os.path.lexists(root / FILE_NAME)
        if is_new:
            with _refusing(name):
                _check_images(root, export, {}, intake, folder)
            mirror = Mirror.create(root, export.settings, export.lock)
        else:
            mirror = Mirror.find(root, above=False)
            check_same_target(export.settings.fixed, mirror.settings.fixed, name, root)
        catalogue = stack.enter_context(mirror.open_to_write(progress.note))
        if not is_new:
            here = catalogue.rows.image_states()
            with _refusing(name):
                export.catalogue.check_places({each.path: slide for slide, each in here.items()})
                _check_images(root, export, here, intake, folder)
        run = catalogue.begin_run("import", time.time())
        try:
            result = _merge(root, catalogue, export, intake, run, progress)
            exit_code = result.exit_code
        except BaseException as error:
            exit_code = exit_code_of(error)
            raise
        finally:
            catalogue.end_run(run, exit_code=exit_code, now=time.time())
    dropped = export.dropped if is_new else ()
    seconds = time.monotonic() - start
    return dataclasses.replace(result, new=is_new, dropped=dropped, seconds=seconds)


@contextmanager
def _refusing(name: str) -> Iterator[None]:
    """Raise BadExport, which names the export, for what is wrong or damaged in it."""
    try:
        yield
    except (BadExport, Damaged) as error:
        raise BadExport(f"{name} cannot be imported: {error}") from error


class _Export(NamedTuple):
    """An export that was read and checked.

    lock: lines of its lock file. dropped: settings that name files of the other machine.
    """

    files: Export
    settings: Settings
    catalogue: UntrustedCatalogue
    lock: Iterable[bytes]
    dropped: tuple[str, ...]

    @classmethod
    def read(
        cls, source: Path | StoredArchive | None, name: str, folder: Path, stack: ExitStack
    ) -> _Export:
        """Read the export at `source`. folder: an empty one. stack: closes it."""
        files = Export(source, folder, stack)
        settings, lock = read_copies(
            lambda member, _: files.copy(member) if member in files.members else None, name
        )
        unusable = {"manifest": settings.manifest, "lock": None if lock else settings.lock}
        dropped = tuple(f"{key} = {value}" for key, value in unusable.items() if value)
        settings = dataclasses.replace(settings, manifest=None, lock=LOCKED if lock else None)
        copy = files.copy(CATALOGUE)
        catalogue = stack.enter_context(closing(UntrustedCatalogue(copy, "its catalogue")))
        if catalogue.fixed != settings.fixed:
            raise Damaged(f"its {FILE_NAME} and {CATALOGUE} are of different mirrors")
        catalogue.check()
        return cls(files, settings, catalogue, lock or (), dropped)


# The images ------------------------------------------------------------------------


class _Selection(NamedTuple):
    """The images of an export to add, in its order, and counts of others as in ImportResult."""

    images: Sequence[IncomingImage]
    same: int
    older: int
    lacking: int


def _select_images(export: _Export, here: Mapping[str, ImageState]) -> _Selection:
    """Select images to add. here: the images of sampled slides, by file name."""
    images = {}
    same = older = lacking = 0
    now = time.time()
    latest = timestamp(now + _CLOCK_TOLERANCE)
    for row in export.catalogue.sampled():
        # An image by a machine whose clock was wrong would be newer than all later ones. It is
        # not refused, because this machine's clock may be the wrong one.
        if str(row["fetched_at"] or "") > latest:
            row = {**row, "fetched_at": timestamp(now)}
        path, state = str(row["path"]), here.get(str(row["file_name"]))
        is_done = row["status"] == Status.DONE
        if state is not None and state.status is Status.EXCLUDED:
            continue
        if state is not None and state.status is Status.DONE and state.sha256 == row["sha256"]:
            same += 1
        elif not replaces(row, state):
            older += is_done
        elif path in export.files.members:
            images[path] = IncomingImage(Image.of_row(row), row, state)
        else:
            lacking += is_done
    ordered = [images[path] for path in export.files.members if path in images]
    return _Selection(ordered, same, older, lacking)


def _check_images(
    root: Path, export: _Export, here: Mapping[str, ImageState], intake: Intake, folder: Path
) -> None:
    """Raise DiskFull if the images to add do not fit, BadExport if there are, and none is usable.

    folder: for an image to check.
    """
    images = _select_images(export, here).images
    check_room(root, sum(export.files.members[each.image.path].size for each in images))
    intake.check_any(images, folder / "image")


def _merge(
    root: Path,
    catalogue: Catalogue,
    export: _Export,
    intake: Intake,
    run: int,
    progress: Progress,
) -> ImportResult:
    """Merge listing and sample, then the images, into a mirror whose lock is held."""
    before = catalogue.sample.count()
    failed = catalogue.rows.merge(export.catalogue, run)
    write_exclusions(root, catalogue)
    selection = _select_images(export, catalogue.rows.image_states())
    progress.start_images(len(selection.images), sum(each.image.bytes for each in selection.images))
    intake.add(selection.images, catalogue, run, progress)
    return ImportResult(
        root=str(root),
        slides=catalogue.sample.count() - before,
        images=intake.images,
        bytes=intake.bytes,
        same=selection.same,
        older=selection.older,
        lacking=selection.lacking,
        failed=failed,
        refused=tuple(intake.refused),
    )
