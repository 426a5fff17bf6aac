"""What lies in `images/`, and what of it the catalogue does not know."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tcgamirror.catalogue.catalogue import Catalogue
from tcgamirror.imaging.store import IMAGES, Store
from tcgamirror.mirror.directory import Mirror
from tcgamirror.system.files import partial_path

STALE_SECONDS = 3600.0
"""An unfinished file untouched for so long is a killed run's, not one that is being written."""


@dataclass(frozen=True, slots=True)
class Orphan:
    """A file in `images/` that no row knows. unfinished: a killed run of ours left it."""

    path: str
    what: str
    unfinished: bool = False


def image_files(root: Path) -> Iterator[str]:
    """What lies in the folders of `images/`, as paths relative to the mirror; folders end in `/`.

    A folder may be a link to another disk; one inside it is nobody's.
    """
    images = root / IMAGES
    for folder in _entries(images):
        if not folder.is_dir():
            yield f"{IMAGES}/{folder.name}"
            continue
        for entry in _entries(images / folder.name):
            end = "/" if entry.is_dir() else ""
            yield f"{IMAGES}/{folder.name}/{entry.name}{end}"


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError:
        return []


def find_orphans(mirror: Mirror, catalogue: Catalogue, *, held: bool = False) -> Iterator[Orphan]:
    """What lies in `images/` that no row of the catalogue knows.

    held: whether this run holds the lock; else an unfinished file is told only
    if it is old, for another run may be writing it. The place of any sampled
    slide is known, whatever has become of it: an update may just fill it.
    """
    found = list(image_files(mirror.root))
    # Only now: what a run has put there meanwhile, the catalogue knew before.
    recorded = catalogue.images.paths()
    found = [path for path in found if path not in recorded]
    if not found:
        return
    store = Store(mirror.root, mirror.settings.form)
    known = recorded | {store.path(slide) for slide in catalogue.sample.slides()}
    unfinished = {partial_path(Path(path)).as_posix() for path in known}
    for path in found:
        if path in unfinished:
            if held or _is_stale(mirror.root / path):
                yield Orphan(path, "left unfinished by a run that was killed", unfinished=True)
        elif path not in known:
            yield Orphan(path, "no row of the catalogue knows it")


def _is_stale(path: Path) -> bool:
    try:
        return time.time() - path.lstat().st_mtime > STALE_SECONDS
    except OSError:
        return False


def remove_partial_files(mirror: Mirror, catalogue: Catalogue) -> list[str]:
    """Removes what killed runs left half-written, and nothing else; for who holds the lock."""
    removed = []
    for stray in find_orphans(mirror, catalogue, held=True):
        path = mirror.root / stray.path
        if stray.unfinished and path.is_file() and not path.is_symlink():
            path.unlink(missing_ok=True)
            removed.append(stray.path)
    return removed
