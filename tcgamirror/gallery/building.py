"""Makes the gallery, or what of it is no longer as the catalogue says."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib.resources import files as resources
from pathlib import Path

from tcgamirror import files
from tcgamirror.catalogue import Catalogue
from tcgamirror.errors import WrongUse
from tcgamirror.gallery import packs, pages
from tcgamirror.gallery.entries import Entries, read_entries
from tcgamirror.gallery.figures import Figures, read_figures
from tcgamirror.home import CATALOGUE, Home

FOLDER = "gallery"
FACTS, THUMBNAILS = "facts", "thumbnails"
LOCK = ".lock"
ASSETS = ("style.css", "common.js", "grid.js", "viewer.js")
MOST_THREADS = 4
"""Decoding takes memory as well as time."""


@dataclass(frozen=True, slots=True)
class Made:
    """What one run left. thumbnails: made now. unreadable: images without one. files: written."""

    page: Path
    slides: int
    thumbnails: int
    unreadable: int
    files: int


def build(home: Home, on_progress: Callable[[int, int], None]) -> Made:
    """Makes the gallery of a mirror, each of its files in one step.

    on_progress: told how many of how many thumbnails there are. Raises Locked
    if another run makes it, WrongUse where `gallery` is no directory of its own,
    NoRoom, Damaged.
    """
    folder = home.root / FOLDER
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise WrongUse(f"{folder} is no directory of the mirror: move it away first")
    with files.Lock(folder / LOCK, FOLDER):
        with Catalogue.open(home.root / CATALOGUE, read_only=True) as catalogue:
            entries = read_entries(catalogue)
            figures = read_figures(catalogue, entries)
        return _Gallery(home, folder, entries).build(figures, on_progress)


class _Gallery:
    """One run of `build`."""

    def __init__(self, home: Home, folder: Path, entries: Entries) -> None:
        self._home = home
        self._folder = folder
        self._entries = entries
        self._packs = packs.packs(entries)
        self._written = self._thumbnails = self._unreadable = 0

    def build(self, figures: Figures, on_progress: Callable[[int, int], None]) -> Made:
        about = {"target": self._home.settings.fixed, "release": figures.counts.release}
        for pack in self._packs:
            self._put(FACTS, pack.name, packs.facts_script(self._entries.columns, pack))
        self._make_thumbnails(on_progress)
        index = packs.index_script(self._entries, self._packs, about)
        self._written += packs.put(self._folder / "index.js", index)
        self._put_pages(pages.all_pages(self._home.settings.fixed, figures))
        # Last: a page that is open still asks for the packs its index names.
        self._remove_others()
        return Made(
            page=self._folder / "index.html",
            slides=len(self._entries.rows),
            thumbnails=self._thumbnails,
            unreadable=self._unreadable,
            files=self._written,
        )

    def _put(self, kind: str, name: str, data: bytes) -> None:
        self._written += packs.put(self._folder / kind / f"{name}.js", data)

    def _put_pages(self, made: Iterable[tuple[str, str]]) -> None:
        assets = resources("tcgamirror.gallery") / "assets"
        wanted = [(name, (assets / name).read_bytes()) for name in ASSETS]
        wanted += [(name, text.encode()) for name, text in made]
        for name, data in wanted:
            path = self._folder / name
            if not path.is_file() or path.read_bytes() != data:
                with files.replacing(path) as file:
                    file.write(data)
                self._written += 1

    # Thumbnails --------------------------------------------------------------------

    def _make_thumbnails(self, on_progress: Callable[[int, int], None]) -> None:
        """Makes the packs whose images are others than they were made of."""
        all_packs = ((pack, packs.digest_of(pack.images)) for pack in self._packs)
        due = [each for each in all_packs if packs.told_digest(self._file(each[0])) != each[1]]
        if not due:
            return
        # Only now: a gallery that shows no new image needs no decoder.
        from tcgamirror.gallery.thumbnails import Thumbnails

        maker = Thumbnails()
        total = sum(len(pack.images) for pack, _ in due)
        got = 0
        with ThreadPoolExecutor(_threads(), "thumbnail") as pool:
            for pack, made_of in due:
                on_progress(got, total)
                self._make_pack(pack, made_of, partial(pool.map, maker.of))
                got += len(pack.images)
        on_progress(total, total)

    def _file(self, pack: packs.Pack) -> Path:
        return self._folder / THUMBNAILS / f"{pack.name}.js"

    def _make_pack(
        self,
        pack: packs.Pack,
        made_of: str,
        make: Callable[[Sequence[Path]], Iterable[str | None]],
    ) -> None:
        file = self._file(pack)
        known = dict(packs.thumbnails_in(file))
        fresh = [
            entry.image for entry in pack.entries if entry.image and entry.image.sha256 not in known
        ]
        made = make([self._home.root / image.path for image in fresh])
        for image, thumbnail in zip(fresh, made, strict=True):
            if thumbnail is None:
                self._unreadable += 1
                made_of = packs.UNFINISHED
            else:
                self._thumbnails += 1
                known[image.sha256] = thumbnail
        rows = [(name, sha256, known[sha256]) for name, sha256 in pack.images if sha256 in known]
        packs.write(file, made_of, packs.script("thumbnails", pack.name, rows))
        self._written += 1

    def _remove_others(self) -> None:
        """Packs that no slide is in any more, and what a killed run left."""
        names = {f"{pack.name}.js" for pack in self._packs}
        for kind in (FACTS, THUMBNAILS):
            place = self._folder / kind
            for path in place.iterdir() if place.is_dir() else ():
                if path.name not in names and path.name.endswith((".js", ".part")):
                    path.unlink()


def _threads() -> int:
    return max(1, min(MOST_THREADS, os.cpu_count() or 1))
