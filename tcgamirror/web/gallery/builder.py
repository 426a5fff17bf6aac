"""Build the gallery, writing only files that changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.resources import files as resources
from pathlib import Path
from typing import NamedTuple

from tcgamirror.catalogue.catalogue import Catalogue
from tcgamirror.mirror.directory import CATALOGUE, GALLERY, Mirror
from tcgamirror.model.errors import UsageError
from tcgamirror.system import lock
from tcgamirror.system.files import atomic_write
from tcgamirror.system.parallel import in_batches
from tcgamirror.web.gallery import packs, pages
from tcgamirror.web.gallery.entries import Entries, read_entries
from tcgamirror.web.gallery.overview import build_overview
from tcgamirror.web.gallery.packs import Pack
from tcgamirror.web.gallery.thumbnails import Thumbnails

FACTS, THUMBNAILS = "facts", "thumbnails"
LOCK = ".lock"
ASSETS = ("style.css", "common.js", "grid.js", "viewer.js")
THREADS = 4
"""Threads that decode images, which takes memory as well as time, and wait for the disk."""


@dataclass(frozen=True, slots=True)
class GalleryReport:
    """Result of one build. thumbnails: made now. unreadable: images without one. files: written."""

    page: Path
    slides: int
    thumbnails: int
    unreadable: int
    files: int


class _Written(NamedTuple):
    """Numbers of what was made for one pack, as in GalleryReport."""

    files: int
    thumbnails: int = 0
    unreadable: int = 0


def build(mirror: Mirror, on_progress: Callable[[int, int], None]) -> GalleryReport:
    """Build the gallery of a mirror; each file is written atomically.

    Args:
        on_progress: Called with the images that are ready so far and their total.

    Raises:
        Locked: Another run builds it.
        UsageError: `gallery` is a link or a file.
        DiskFull, Damaged: As elsewhere.
    """
    folder = mirror.root / GALLERY
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise UsageError(f"{folder}: not a directory. Move it away first")
    with lock.Lock(folder / LOCK, GALLERY):
        with Catalogue.open(mirror.root / CATALOGUE, read_only=True) as catalogue:
            entries = read_entries(catalogue)
            counts = catalogue.reports.counts()
            charts = build_overview(catalogue, counts, entries)
        gallery = _Gallery(mirror.root, folder, entries, packs.packs(entries))
        written = gallery.put_packs(on_progress)
        target, release = mirror.settings.fixed, counts.release
        about = {"target": target, "release": release}
        index = packs.index_script(entries, gallery.packs, about)
        files = int(packs.put_script(folder / "index.js", index))
        assets = resources("tcgamirror.web.gallery") / "assets"
        contents = {name: (assets / name).read_bytes() for name in ASSETS}
        files += _put_files(folder, contents | pages.all_pages(target, release, charts))
        # Last, because an open page still requests the packs of its index.
        gallery.remove_others()
    return GalleryReport(
        page=folder / "index.html",
        slides=len(entries.rows),
        thumbnails=sum(each.thumbnails for each in written),
        unreadable=sum(each.unreadable for each in written),
        files=files + sum(each.files for each in written),
    )


@dataclass(frozen=True, slots=True)
class _Gallery:
    """One run of `build`."""

    root: Path
    folder: Path
    entries: Entries
    packs: list[Pack]
    thumbnails: Thumbnails = field(default_factory=Thumbnails)

    def put_packs(self, on_progress: Callable[[int, int], None]) -> list[_Written]:
        """Write the packs that differ from what they would be made of."""
        total, done = sum(len(pack.images) for pack in self.packs), 0
        on_progress(done, total)
        written = []
        for batch in in_batches(self._put_pack, self.packs, at_once=THREADS, batch_size=1):
            for pack, each in batch:
                written.append(each)
                done += len(pack.images)
                on_progress(done, total)
        return written

    def _put_pack(self, pack: Pack) -> _Written:
        facts = packs.facts_script(self.entries.columns, pack)
        files = packs.put_script(self.folder / FACTS / f"{pack.name}.js", facts)
        path = self.folder / THUMBNAILS / f"{pack.name}.js"
        made_of = packs.digest(pack.images)
        if packs.read_digest(path) == made_of:
            return _Written(files)
        known = dict(packs.read_thumbnails(path))
        rows, made, unreadable = [], 0, 0
        for entry in pack.entries:
            if entry.image is None:
                continue
            sha256 = entry.image.sha256
            thumbnail = known.get(sha256)
            if thumbnail is None:
                thumbnail = self.thumbnails.make(self.root / entry.image.path)
                made += thumbnail is not None
                unreadable += thumbnail is None
            if thumbnail is not None:
                rows.append((entry.name, sha256, thumbnail))
        script = packs.script("thumbnails", pack.name, rows)
        packs.write_script(path, script, packs.UNFINISHED if unreadable else made_of)
        return _Written(files + 1, made, unreadable)

    def remove_others(self) -> None:
        """Remove packs without slides and the partial files of a killed run."""
        names = {f"{pack.name}.js" for pack in self.packs}
        for kind in (FACTS, THUMBNAILS):
            for path in (self.folder / kind).glob("*"):
                if path.name not in names and path.name.endswith((".js", ".part")):
                    path.unlink()


def _put_files(folder: Path, contents: dict[str, bytes]) -> int:
    """Write the files that have changed; return their number."""
    changed = {
        folder / name: data
        for name, data in contents.items()
        if not (folder / name).is_file() or (folder / name).read_bytes() != data
    }
    for path, data in changed.items():
        with atomic_write(path) as file:
            file.write(data)
    return len(changed)
