"""Rebuilding of a damaged or lost catalogue from settings, images and a fresh listing.

The old catalogue is never deleted, and keeps its place until the new one is
complete. An image is taken only if all of it decodes, its metadata is valid, and
its path is the one that this program would have given it.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import chain, count
from pathlib import Path

from tcgamirror.catalogue.catalogue import Catalogue
from tcgamirror.catalogue.images import FoundImage, fact_of
from tcgamirror.catalogue.journals import JOURNALS, copy_database
from tcgamirror.imaging.store import IMAGES, Store
from tcgamirror.mirror.directory import CATALOGUE, Mirror, scratch
from tcgamirror.mirror.exclusion_file import read_exclusions
from tcgamirror.mirror.lockfile import read_lock
from tcgamirror.mirror.orphans import Orphan, image_files
from tcgamirror.mirror.progress import Progress
from tcgamirror.mirror.provenance import addition_facts
from tcgamirror.mirror.recovery import read_image
from tcgamirror.mirror.refresh import note_read, open_client
from tcgamirror.mirror.verify import reader_threads
from tcgamirror.model.errors import Damaged, ExitCode, Interrupted, UsageError
from tcgamirror.model.slide import Listing, Upstream
from tcgamirror.model.text import command_line
from tcgamirror.sources import gdc
from tcgamirror.sources.manifest import read_manifest
from tcgamirror.system.files import disk_errors, sync_folder
from tcgamirror.system.interrupt import Shutdown
from tcgamirror.system.openat import Tree
from tcgamirror.system.parallel import in_batches

_UNFINISHED = f"{CATALOGUE}.rebuilt"
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
    refused: tuple[Orphan, ...] = ()
    kept: str | None = None


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
    unfinished = place.with_name(_UNFINISHED)
    with scratch(mirror.root, "rebuild") as folder:
        _remove(unfinished, "", ".new", *JOURNALS)
        if place.is_file():
            # As far as the old catalogue can still be read.
            mirror.check_fixed(lambda key: fact_of(place, key))
        _check_needed(mirror, place, folder)
        listing = None if offline else _listing(mirror, progress, shutdown)
        found, refused = _read_images(mirror, progress, shutdown)
        try:
            report = _fill(mirror, unfinished, listing, found)
            kept = _swap(unfinished, place)
        finally:
            _remove(unfinished, "", ".new", *JOURNALS)
    return replace(report, refused=tuple(refused), kept=None if kept is None else kept.name)


def _check_needed(mirror: Mirror, place: Path, folder: Path) -> None:
    """Raise UsageError for a whole catalogue, and for images that are not mounted.

    A copy is checked, because opening a catalogue plays its journal into it.
    """
    done = 0
    try:
        copy = copy_database(Tree(place.parent), place.name, folder, sys.maxsize)
        # To be written: one of an older version is as whole, or as damaged, as any.
        with Catalogue.open(copy) as catalogue:
            done = catalogue.reports.counts().done
            catalogue.check_integrity()
    except (Damaged, OSError):
        images = mirror.root / IMAGES
        if not images.is_dir() and (done or os.path.lexists(images)):
            raise UsageError(
                f"{images} is no directory: mount the disk the images lie on, or, if they are "
                "lost, make an empty directory there"
            ) from None
        return
    raise UsageError(
        f"{place}: not damaged, and a new one would lack {LOST}. Leave it, or move it away and run "
        f"{command_line('rebuild', mirror.root)} again"
    )


def _listing(mirror: Mirror, progress: Progress, shutdown: Shutdown) -> Listing:
    manifest = mirror.settings.manifest
    if manifest is not None:
        return read_manifest(Path(manifest))
    progress.listing(0, 0)
    with open_client(mirror.settings, shutdown) as client:
        return gdc.read_listing(client, mirror.settings.api, on_page=progress.listing)


def _read_images(
    mirror: Mirror, progress: Progress, shutdown: Shutdown
) -> tuple[list[FoundImage], list[Orphan]]:
    """Return the valid images, one for each slide, and the other files. Raises Interrupted."""
    store = Store(mirror.root, mirror.settings.form)

    def check_stop() -> None:
        if shutdown.stop.is_set():
            raise Interrupted("rebuild: stopped, and nothing was changed. Run it again")

    def size_of(path: str) -> int:
        with suppress(OSError):
            return (mirror.root / path).lstat().st_size
        return 0

    def read(path: str) -> FoundImage | Orphan:
        try:
            return read_image(store, path, mirror.settings.target, check_stop)
        except Damaged as error:
            return Orphan(path, str(error))
        except OSError as error:
            return Orphan(path, f"cannot be read ({error.strerror or error})")

    paths = list(image_files(mirror.root))
    progress.start_images(len(paths), sum(map(size_of, paths)))
    newest: dict[str, FoundImage] = {}
    refused: list[Orphan] = []
    threads, stopped = reader_threads(), shutdown.stop.is_set
    for batch in in_batches(read, paths, at_once=threads, size_of=size_of, stopped=stopped):
        for _, image in batch:
            if isinstance(image, Orphan):
                refused.append(image)
                continue
            other = newest.setdefault(image.slide.file_name, image)
            if other is not image:
                older, newer = sorted((other, image), key=lambda each: each.made)
                newest[image.slide.file_name] = newer
                why = f"{newer.picture.path} is a newer one of the slide"
                refused.append(Orphan(older.picture.path, why))
        progress.add_images(len(batch), sum(size_of(path) for path, _ in batch))
    check_stop()
    return list(newest.values()), refused


# The new catalogue -----------------------------------------------------------------


def _fill(
    mirror: Mirror, path: Path, listing: Listing | None, images: Sequence[FoundImage]
) -> RebuildReport:
    """Write the catalogue at `path`."""
    settings, names = mirror.settings, {image.slide.file_name for image in images}
    with Catalogue.create(path) as catalogue:
        for key, value in mirror.fixed_facts.items():
            catalogue.set_fact(key, value)
        run = catalogue.begin_run("rebuild", time.time())
        if listing is not None:
            catalogue.listing.merge(listing, time.time())
            note_read(catalogue, time.time(), 0)
        slides = sorted((image.slide for image in images), key=lambda slide: slide.file_id)
        catalogue.listing.adopt(slides, Upstream.CURRENT if listing is None else Upstream.WITHDRAWN)
        wanted = settings.slides
        if settings.lock is None:
            order = catalogue.sample.order(settings.plan)
        else:
            lock = read_lock(mirror.root / settings.lock)
            order, wanted = lock.among(catalogue.sample.candidates()), None
        chosen = sample_of(order, names, len(names) if listing is None else wanted)
        is_planned = catalogue.sample.order(settings.plan, len(chosen)) == chosen
        facts = addition_facts(catalogue, settings.plan, len(chosen)) if is_planned else {}
        catalogue.exclusions.add(read_exclusions(mirror.root))
        catalogue.sample.add(chosen, time.time(), facts)
        changed = catalogue.images.restore(images)
        sampled = catalogue.sample.count()
        catalogue.end_run(run, exit_code=ExitCode.DONE, now=time.time())
        catalogue.check_integrity()
    if listing is None:
        return RebuildReport(None, 0, sampled, len(images), changed, unlisted=0)
    unlisted = len(names.difference(slide.file_name for slide in listing.slides))
    return RebuildReport(
        listing.release, len(listing.slides), sampled, len(images), changed, unlisted
    )


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
            now = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
            ends = chain(("",), map("-{}".format, count(2)))
            names = (place.with_name(f"{place.name}.damaged-{now}{end}") for end in ends)
            kept = next(name for name in names if not os.path.lexists(name))
            for end in JOURNALS:
                with suppress(FileNotFoundError):
                    place.with_name(place.name + end).rename(kept.with_name(kept.name + end))
            try:
                os.link(place, kept)
            except OSError:
                # This file system has no hard links, or the old catalogue is not a file.
                place.rename(kept)
        else:
            _remove(place, *JOURNALS)
        new.replace(place)
        sync_folder(place.parent)
    return kept


def _remove(path: Path, *ends: str) -> None:
    """Remove the files beside `path` whose names go on with these ends."""
    for end in ends:
        path.with_name(path.name + end).unlink(missing_ok=True)
