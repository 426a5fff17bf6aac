"""Slides made once, kept in .build and listed under many names."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import openslide
from openslide.deepzoom import DeepZoomGenerator

from tcgamirror.imaging.svs import Svs
from tcgamirror.imaging.tiff import Tiff
from tcgamirror.model.byteranges import Span
from tcgamirror.model.slide import Target
from tcgamirror.sources.whole import LocalFile
from tests.gdc import Listed, listed, made_up_name
from tests.gdc.listing import made_up_id
from tests.support.slides import SlideSpec, make_slide

MADE = Path(".build") / "bench-slides"
MPP = 15.0
"""µm per pixel of the images that all ways make."""
HALVINGS = 5
"""From a slide at 0.25 µm per pixel to the Deep Zoom level next above 15."""
DEEP_ZOOM_TILE = 512
DEEP_ZOOM_OVERLAP = 1


@dataclass(frozen=True, slots=True)
class Kind:
    """Slides of one make. name: in the tables."""

    name: str
    spec: SlideSpec

    @property
    def has_levels(self) -> bool:
        return len(self.spec.downsamples) > 1

    @property
    def path(self) -> Path:
        return _made(self.spec)

    def listing(self, slides: int, *, tiles: bool = False) -> list[Listed]:
        """List the one file under that many names. tiles: whether the tile server has it, too."""
        first = replace(_listed(self.path), tiles=tiles, dzi=_tiles(self.path) if tiles else None)
        names = [made_up_name(f"{self.name} {number}") for number in range(slides)]
        return [replace(first, file_name=name, file_id=made_up_id(name)) for name in names]


@dataclass(frozen=True, slots=True)
class Needed:
    """Parts of a slide's file that the image at `MPP` needs.

    blocks: the level's tiles, and the base's counts, which tell of missing tiles. bytes: of both.
    """

    directories: int
    bytes: int
    blocks: tuple[Span, ...]


@contextmanager
def structure(path: Path) -> Iterator[tuple[LocalFile, Svs]]:
    with LocalFile(path) as file:
        yield file, Svs(file)


def level_for(slide: Svs, mpp: float) -> int:
    return Target(mpp=mpp, max_size=None).rendition(slide.pyramid).level


def needed(kind: Kind) -> Needed:
    """Read the needs from the slide's file."""
    with structure(kind.path) as (file, slide):
        level = level_for(slide, MPP)
        spans = [*slide.tile_table(level).runs(gap=0), slide.counts_span(0)]
        return Needed(
            directories=sum(1 for _ in Tiff(file).directories()),
            bytes=sum(span.length for span in spans),
            blocks=tuple(spans),
        )


def _made(spec: SlideSpec) -> Path:
    """Return the slide's file, made if it is missing; another spec is another file."""
    name = hashlib.sha256(repr(spec).encode()).hexdigest()[:12]
    path = MADE / f"{name}.svs"
    if not path.exists():
        MADE.mkdir(parents=True, exist_ok=True)
        make_slide(path.with_suffix(".part"), spec).rename(path)
    return path


@cache
def _listed(path: Path) -> Listed:
    return listed(path)


def _tiles(path: Path) -> Path:
    """Make the one Deep Zoom level that is requested, so that serving a tile costs no work."""
    dzi = path.with_suffix(".dzi")
    if dzi.exists():
        return dzi
    folder = dzi.with_name(f"{dzi.stem}_files")
    shutil.rmtree(folder, ignore_errors=True)
    with openslide.OpenSlide(path) as slide:
        zoom = DeepZoomGenerator(slide, DEEP_ZOOM_TILE, DEEP_ZOOM_OVERLAP)
        dz_level = zoom.level_count - 1 - HALVINGS
        (folder / str(dz_level)).mkdir(parents=True)
        columns, rows = zoom.level_tiles[dz_level]
        for column in range(columns):
            for row in range(rows):
                tile = zoom.get_tile(dz_level, (column, row))
                tile.save(folder / str(dz_level) / f"{column}_{row}.png")
        dzi.write_text(zoom.get_dzi("png"))
    return dzi
