"""Files in `images/` that have no row in the catalogue."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tcgamirror.catalogue.catalogue import Catalogue
from tcgamirror.imaging.store import IMAGES, Store
from tcgamirror.mirror.directory import Mirror
from tcgamirror.system.files import partial_path

STALE_SECONDS = 3600.0
"""Age from which a partial file counts as a killed run's, not as one being written."""


@dataclass(frozen=True, slots=True)
class Orphan:
    """A file in `images/` without a row. unfinished: a partial file that a killed run left."""

    path: str
    what: str
    unfinished: bool = False


def image_files(root: Path) -> Iterator[str]:
    """Yield what the folders of `images/` hold, as paths relative to the mirror.

    A folder of `images/` may be a link to another disk. A folder inside such a folder
    is yielded with a final `/`.
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
    """Yield the files in `images/` that have no row in the catalogue.

    The path of any sampled slide counts as known: an update may be writing there.

    Args:
        held: this run holds the lock. Without it a partial file is yielded only if it
            is old, since another run may be writing it.
    """
    found = list(image_files(mirror.root))
    # Read after the files: an image that a run adds meanwhile has its row first.
    recorded = catalogue.images.paths()
    found = [path for path in found if path not in recorded]
    if not found:
        return
    store = Store(mirror.root, mirror.settings.form)
    known = recorded | {store.path(slide) for slide in catalogue.sample.slides()}
    unfinished = set(map(partial_path, known))
    for path in found:
        if path in unfinished:
            if held or _is_stale(mirror.root / path):
                yield Orphan(path, "left unfinished by a run that was killed", unfinished=True)
        elif path not in known:
            yield Orphan(path, "no row of the catalogue knows it")


def _is_stale(path: Path) -> bool:
    with suppress(OSError):
        return time.time() - path.lstat().st_mtime > STALE_SECONDS
    return False


def remove_partial_files(mirror: Mirror, catalogue: Catalogue) -> list[str]:
    """Remove the partial files of killed runs and return their paths. Needs the lock."""
    removed = []
    for stray in find_orphans(mirror, catalogue, held=True):
        path = mirror.root / stray.path
        if stray.unfinished and path.is_file() and not path.is_symlink():
            path.unlink(missing_ok=True)
            removed.append(stray.path)
    return removed
