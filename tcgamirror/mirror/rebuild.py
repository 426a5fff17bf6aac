"""Rebuilding of a damaged or lost catalogue from settings, images and a fresh listing.

The old catalogue is never deleted, and keeps its place until the new one is
complete. An image is taken only if all of it decodes, its metadata is valid, and
its path is the one that this program would have given it.
"""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from tcgamirror.catalogue.catalogue import Catalogue
from tcgamirror.catalogue.images import FoundImage, fact_of
from tcgamirror.catalogue.journals import JOURNALS, ROLLBACK, WAL
from tcgamirror.imaging.store import IMAGES
from tcgamirror.mirror.directory import CATALOGUE, Mirror, hold
from tcgamirror.mirror.exclusion_file import read_exclusions
from tcgamirror.mirror.lockfile import read_lock
from tcgamirror.mirror.orphans import Orphan, image_files
from tcgamirror.mirror.progress import Progress
from tcgamirror.mirror.provenance import addition_facts
from tcgamirror.mirror.recovery import ImageFiles
from tcgamirror.mirror.refresh import note_read, open_client
from tcgamirror.mirror.verify import reader_threads
from tcgamirror.model.errors import Damaged, DiskFull, ExitCode, Interrupted, UsageError
from tcgamirror.model.slide import Listing, Upstream
from tcgamirror.model.text import command_line
from tcgamirror.sources import gdc
from tcgamirror.sources.manifest import read_manifest
from tcgamirror.system.files import disk_errors, free_bytes, sync_folder
from tcgamirror.system.interrupt import Shutdown
from tcgamirror.system.openat import Tree
from tcgamirror.system.parallel import in_batches

UNFINISHED = f"{CATALOGUE}.rebuilt"
LOST = "attempts, runs, changes between releases and former file_ids"
"""Facts that only a catalogue holds, so that a rebuilt one lacks them."""


@dataclass(frozen=True, slots=True)
class RebuildReport:
    """Content of the new catalogue.

    release: of the listing, None if only images were read. images: taken. changed:
    images whose file differs upstream now, or whose slide's header may never have
    been read. unlisted: images of slides that are not listed any more. refused: files
    not taken, and why. kept: name of the old catalogue, if there was one.
    """

    release: str | None
    listed: int
    sampled: int
    images: int
    changed: int
    unlisted: int
    refused: tuple[Orphan, ...]
    kept: str | None


def rebuild_catalogue(
    mirror: Mirror, progress: Progress, shutdown: Shutdown, *, offline: bool
) -> RebuildReport:
    """Rebuild the catalogue under the mirror's lock and replace the old one.

    Args:
        offline: read the images alone, without a listing.

    Raises:
        NetworkError, BadManifest: the listing cannot be read.
        BadSettings: the mirror was made for other images or slides.
        UsageError: the old catalogue is whole, or `images/` is missing.
        Interrupted: the run was stopped. After any error nothing has changed.
    """
    # A catalogue that is a link to another disk stays there.
    place = Path(os.path.realpath(mirror.root / CATALOGUE))
    with hold(mirror.root, "rebuild"):
        if place.is_file():
            # As far as the old catalogue can still be read.
            mirror.check_fixed(lambda key: fact_of(place, key))
        unfinished = place.with_name(UNFINISHED)
        _remove(unfinished)
        try:
            _check_needed(mirror, place, unfinished)
        finally:
            _remove(unfinished)
        listing = None if offline else _listing(mirror, progress, shutdown)
        found, refused = _ImageScan(mirror, progress, shutdown).read()
        try:
            counts = _fill(mirror, unfinished, listing, found)
            kept = _swap(unfinished, place)
        finally:
            _remove(unfinished)
    listed = 0 if listing is None else len(listing.slides)
    release = None if listing is None else listing.release
    name = None if kept is None else kept.name
    return RebuildReport(release, listed, *counts, refused=tuple(refused), kept=name)


def _check_needed(mirror: Mirror, place: Path, copy: Path) -> None:
    """Raise UsageError for a whole catalogue, and for images that are not mounted.

    A copy is checked, because opening a catalogue plays its journal into it.
    """
    done = 0
    # Bytes that a failing disk does not return are missing in the copy, which then is damaged.
    with suppress(Damaged), disk_errors(copy):
        tree = Tree(place.parent)
        for end in ("", ROLLBACK, WAL):
            beside = place.with_name(place.name + end)
            if beside.is_file() and not beside.is_symlink():
                target = copy.with_name(copy.name + end)
                with tree.open(beside.name) as file, target.open("xb") as out:
                    if os.fstat(file.fileno()).st_size > free_bytes(target):
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
                    shutil.copyfileobj(file, out)
    try:
        # To be written: one of an older version is as whole, or as damaged, as any.
        with Catalogue.open(copy) as catalogue:
            done = catalogue.reports.counts().done
            catalogue.check_integrity()
    except (Damaged, DiskFull):
        _check_mounted(mirror.root / IMAGES, done)
        return
    raise UsageError(
        f"{place}: not damaged, and a new one would lack {LOST}. Leave it, or move it away and run "
        f"{command_line('rebuild', mirror.root)} again"
    )


def _check_mounted(images: Path, done: int) -> None:
    """Raise UsageError where the images' disk may be missing. done: images in the old catalogue."""
    if not images.is_dir() and (done or os.path.lexists(images)):
        raise UsageError(
            f"{images} is no directory: mount the disk the images lie on, or, if they are lost, "
            "make an empty directory there"
        )


def _listing(mirror: Mirror, progress: Progress, shutdown: Shutdown) -> Listing:
    manifest = mirror.settings.manifest
    if manifest is not None:
        return read_manifest(Path(manifest))
    progress.listing(0, 0)
    with open_client(mirror.settings, shutdown) as client:
        return gdc.read_listing(client, mirror.settings.api, on_page=progress.listing)


# The images ------------------------------------------------------------------------


class _ImageScan:
    """Reading of all files in `images/` by several threads."""

    def __init__(self, mirror: Mirror, progress: Progress, shutdown: Shutdown) -> None:
        self._root = mirror.root
        self._progress = progress
        self._stop = shutdown.stop
        settings = mirror.settings
        self._images = ImageFiles(mirror.root, settings.form, settings.target, self._check_stop)

    def _check_stop(self) -> None:
        if self._stop.is_set():
            raise Interrupted("rebuild: stopped, and nothing was changed. Run it again")

    def read(self) -> tuple[list[FoundImage], list[Orphan]]:
        """Return the valid images, one for each slide, and the other files. Raises Interrupted."""
        paths = list(image_files(self._root))
        self._progress.start_images(len(paths), sum(map(self._size, paths)))
        newest: dict[str, FoundImage] = {}
        refused: list[Orphan] = []
        batches = in_batches(
            self._read,
            paths,
            at_once=reader_threads(),
            size_of=self._size,
            stopped=self._stop.is_set,
        )
        for batch in batches:
            for path, image in batch:
                if isinstance(image, Orphan):
                    refused.append(image)
                    continue
                other = newest.get(image.slide.file_name)
                if other is not None and other.made > image.made:
                    image, other = other, image
                newest[image.slide.file_name] = image
                if other is not None:
                    refused.append(
                        Orphan(other.picture.path, f"{path} is a newer one of the slide")
                    )
            self._progress.add_images(len(batch), sum(self._size(path) for path, _ in batch))
        self._check_stop()
        return list(newest.values()), refused

    def _size(self, path: str) -> int:
        try:
            return (self._root / path).lstat().st_size
        except OSError:
            return 0

    def _read(self, path: str) -> FoundImage | Orphan:
        try:
            return self._images.read(path)
        except Damaged as error:
            return Orphan(path, str(error))
        except OSError as error:
            return Orphan(path, f"cannot be read ({error.strerror or error})")


# The new catalogue -----------------------------------------------------------------


def _fill(
    mirror: Mirror, path: Path, listing: Listing | None, images: Sequence[FoundImage]
) -> tuple[int, int, int, int]:
    """Write the catalogue at `path`; return the numbers sampled, images, changed, unlisted."""
    with Catalogue.create(path) as catalogue:
        for key, value in mirror.fixed_facts.items():
            catalogue.set_fact(key, value)
        run = catalogue.begin_run("rebuild", time.time())
        if listing is not None:
            catalogue.listing.merge(listing, time.time())
            note_read(catalogue, time.time(), 0)
        slides = sorted((image.slide for image in images), key=lambda slide: slide.file_id)
        catalogue.listing.adopt(slides, Upstream.CURRENT if listing is None else Upstream.WITHDRAWN)
        names = {slide.file_name for slide in slides}
        if mirror.settings.lock is None:
            order = catalogue.sample.order(mirror.settings.plan)
        else:
            lock = read_lock(mirror.root / mirror.settings.lock)
            order = lock.among(catalogue.sample.candidates())
        count = mirror.settings.slides if mirror.settings.lock is None else None
        wanted = len(names) if listing is None else count
        chosen, plan = sample_of(order, names, wanted), mirror.settings.plan
        is_planned = catalogue.sample.order(plan, len(chosen)) == chosen
        facts = addition_facts(catalogue, plan, len(chosen)) if is_planned else {}
        catalogue.exclusions.add(read_exclusions(mirror.root))
        catalogue.sample.add(chosen, time.time(), facts)
        changed = catalogue.images.restore(images)
        listed = names if listing is None else {slide.file_name for slide in listing.slides}
        sampled = len(catalogue.sample.names())
        catalogue.end_run(run, exit_code=ExitCode.DONE, now=time.time())
        catalogue.check_integrity()
    return sampled, len(images), changed, len(names - listed)


def sample_of(order: Sequence[str], images: Collection[str], wanted: int | None) -> list[str]:
    """Return the sample by rank: all slides with an image, filled up to `wanted` (None: all).

    The order fills and ranks it, so that a mirror gets its former sample again. Images
    that the settings would not choose come last.

    >>> sample_of(["a", "b", "c", "d"], {"c", "x"}, 3)
    ['a', 'c', 'x']
    """
    missing = [name for name in order if name not in images]
    if wanted is not None:
        missing = missing[: max(0, wanted - len(images))]
    chosen = {*images, *missing}
    return [name for name in order if name in chosen] + sorted(set(images) - set(order))


def _swap(new: Path, place: Path) -> Path | None:
    """Put the new catalogue in place in one step; return where the old one is kept, if any.

    The old one's journals are moved too: SQLite would play them into the new one.
    """
    kept = None
    with disk_errors(place):
        if os.path.lexists(place):
            kept = _free_name(place)
            for end in JOURNALS:
                with suppress(FileNotFoundError):
                    place.with_name(place.name + end).rename(kept.with_name(kept.name + end))
            try:
                os.link(place, kept)
            except OSError:
                # This file system has no hard links, or the old catalogue is not a file.
                place.rename(kept)
        else:
            _remove_all(place.with_name(place.name + end) for end in JOURNALS)
        new.replace(place)
        sync_folder(place.parent)
    return kept


def _free_name(place: Path) -> Path:
    now = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    number = 1
    while True:
        again = "" if number == 1 else f"-{number}"
        kept = place.with_name(f"{place.name}.damaged-{now}{again}")
        if not os.path.lexists(kept):
            return kept
        number += 1


def _remove(unfinished: Path) -> None:
    ends = ("", ".new", *JOURNALS)
    _remove_all(unfinished.with_name(unfinished.name + end) for end in ends)


def _remove_all(paths: Iterable[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)
