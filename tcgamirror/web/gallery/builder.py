"""Build the gallery, writing only files that changed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.resources import files as resources
from pathlib import Path

from tcgamirror.catalogue.catalogue import Catalogue
from tcgamirror.mirror.directory import CATALOGUE, GALLERY, Mirror
from tcgamirror.model.errors import UsageError
from tcgamirror.system import files, lock
from tcgamirror.system.parallel import in_batches, usable_cores
from tcgamirror.web.gallery import packs, pages
from tcgamirror.web.gallery.entries import Entries, Image, read_entries
from tcgamirror.web.gallery.packs import Pack, Script
from tcgamirror.web.gallery.statistics import Statistics, read_statistics

FACTS, THUMBNAILS = "facts", "thumbnails"
LOCK = ".lock"
ASSETS = ("style.css", "common.js", "grid.js", "viewer.js")
MOST_DECODERS = 4
"""Threads that decode images, which takes memory as well as time."""
WRITERS = 4
"""Threads that write, most of which wait for the disk."""


@dataclass(frozen=True, slots=True)
class GalleryReport:
    """Result of one build. thumbnails: made now. unreadable: images without one. files: written."""

    page: Path
    slides: int
    thumbnails: int
    unreadable: int
    files: int


def build(mirror: Mirror, on_progress: Callable[[int, int], None]) -> GalleryReport:
    """Build the gallery of a mirror; each file is written atomically.

    Args:
        on_progress: Called with the thumbnails made so far and their total.

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
            statistics = read_statistics(catalogue, entries)
        return _Gallery(mirror, folder, entries).build(statistics, on_progress)


class _Gallery:
    """One run of `build`."""

    def __init__(self, mirror: Mirror, folder: Path, entries: Entries) -> None:
        self._mirror = mirror
        self._folder = folder
        self._entries = entries
        self._packs = packs.packs(entries)
        self._written = self._thumbnails = self._unreadable = 0

    def build(
        self, statistics: Statistics, on_progress: Callable[[int, int], None]
    ) -> GalleryReport:
        about = {"target": self._mirror.settings.fixed, "release": statistics.counts.release}
        self._write(self._facts())
        self._write(self._thumbnail_packs(on_progress))
        index = packs.index_script(self._entries, self._packs, about)
        self._write(_changed([Script.of(self._folder / "index.js", index)]))
        self._put_pages(pages.all_pages(self._mirror.settings.fixed, statistics))
        # Last, because an open page still requests the packs of its index.
        self._remove_others()
        return GalleryReport(
            page=self._folder / "index.html",
            slides=len(self._entries.rows),
            thumbnails=self._thumbnails,
            unreadable=self._unreadable,
            files=self._written,
        )

    def _write(self, scripts: Iterable[Script]) -> None:
        """Write scripts by several threads, which mostly wait for the disk."""
        batches = in_batches(Script.write, scripts, at_once=WRITERS, batch_size=1)
        self._written += sum(map(len, batches))

    def _facts(self) -> Iterator[Script]:
        columns = self._entries.columns
        return _changed(
            Script.of(self._place(FACTS, pack), packs.facts_script(columns, pack))
            for pack in self._packs
        )

    def _place(self, kind: str, pack: Pack) -> Path:
        return self._folder / kind / f"{pack.name}.js"

    def _put_pages(self, texts: Iterable[tuple[str, str]]) -> None:
        assets = resources("tcgamirror.web.gallery") / "assets"
        contents = [(name, (assets / name).read_bytes()) for name in ASSETS]
        contents += [(name, text.encode()) for name, text in texts]
        for name, data in contents:
            path = self._folder / name
            if not path.is_file() or path.read_bytes() != data:
                with files.atomic_write(path) as file:
                    file.write(data)
                self._written += 1

    def _thumbnail_packs(self, on_progress: Callable[[int, int], None]) -> Iterator[Script]:
        """Yield each thumbnail pack whose images differ from those it was made of."""
        due = [
            pack
            for pack in self._packs
            if packs.read_digest(self._place(THUMBNAILS, pack)) != packs.digest(pack.images)
        ]
        if not due:
            return
        # Imported late, because a gallery without new images needs no decoder.
        from tcgamirror.web.gallery.thumbnails import Thumbnails

        maker = Thumbnails()

        def make(step: _Step) -> str | None:
            _, image = step
            return None if image is None else maker.make(self._mirror.root / image.path)

        total, done = sum(len(pack.images) for pack in due), 0
        on_progress(done, total)
        steps = (step for pack in due for step in self._builder(pack).steps())
        at_once = min(MOST_DECODERS, usable_cores())
        for batch in in_batches(make, steps, at_once=at_once, batch_size=4):
            for (builder, image), thumbnail in batch:
                if image is not None:
                    self._thumbnails += thumbnail is not None
                    self._unreadable += thumbnail is None
                    builder.add(image, thumbnail)
                    continue
                yield builder.script()
                done += len(builder.pack.images)
                on_progress(done, total)

    def _builder(self, pack: Pack) -> _PackBuilder:
        return _PackBuilder(pack, self._place(THUMBNAILS, pack))

    def _remove_others(self) -> None:
        """Remove packs without slides and the partial files of a killed run."""
        names = {f"{pack.name}.js" for pack in self._packs}
        for kind in (FACTS, THUMBNAILS):
            place = self._folder / kind
            for path in place.iterdir() if place.is_dir() else ():
                if path.name not in names and path.name.endswith((".js", ".part")):
                    path.unlink()


def _changed(scripts: Iterable[Script]) -> Iterator[Script]:
    return (script for script in scripts if not script.is_current())


class _PackBuilder:
    """Builder of one pack of thumbnails."""

    def __init__(self, pack: Pack, place: Path) -> None:
        self.pack = pack
        self._place = place
        self._made_of = packs.digest(pack.images)
        self._known = dict(packs.read_thumbnails(place))

    def steps(self) -> Iterator[_Step]:
        """Yield a step for each new image, then one for the pack itself."""
        images = [entry.image for entry in self.pack.entries if entry.image]
        yield from ((self, image) for image in images if image.sha256 not in self._known)
        yield self, None

    def add(self, image: Image, thumbnail: str | None) -> None:
        if thumbnail is None:
            self._made_of = packs.UNFINISHED
        else:
            self._known[image.sha256] = thumbnail

    def script(self) -> Script:
        rows = [
            (name, sha256, self._known[sha256])
            for name, sha256 in self.pack.images
            if sha256 in self._known
        ]
        return Script(self._place, self._made_of, packs.script("thumbnails", self.pack.name, rows))


_Step = tuple[_PackBuilder, Image | None]
"""Image whose thumbnail to make for a pack; None: the pack is complete."""
