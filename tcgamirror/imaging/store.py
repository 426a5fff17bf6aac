"""Write a mirror's image files, each of them whole or not at all."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from tcgamirror.imaging.metadata import build_metadata
from tcgamirror.model.slide import SLIDE_SUFFIX, ImageFormat, Picture, Slide
from tcgamirror.system.files import atomic_write, disk_errors, file_digest
from tcgamirror.system.parallel import result_or_error, start_further_thread

if TYPE_CHECKING:
    from tcgamirror.imaging.decode import Pixels
    from tcgamirror.imaging.level_reader import LevelReader

IMAGES = "images"
"""The folder of a mirror's images."""
_FOLDER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
"""Matches a project that is safe as the name of a folder."""


class Store:
    """The image files of one mirror.

    scratch: Directory that holds an image while it is written; None for the image's own.
    """

    scratch: Path | None = None

    def __init__(self, folder: Path, form: ImageFormat) -> None:
        self.folder = folder
        self.form = form

    def path(self, slide: Slide) -> str:
        """Return the path of the slide's image, relative to the mirror, with slashes."""
        project = slide.project_id or ""
        folder = project if _FOLDER_NAME.fullmatch(project) else "unknown"
        return f"{IMAGES}/{folder}/{self.name(slide.file_name)}"

    def name(self, file_name: str) -> str:
        """Return the name of the image of a slide's file, without a directory."""
        stem = file_name
        if stem.lower().endswith(SLIDE_SUFFIX):
            stem = stem[: -len(SLIDE_SUFFIX)]
        return f"{stem}{self.form.suffix}"

    def write(
        self,
        slide: Slide,
        source: str,
        reader: LevelReader,
        turn: AbstractContextManager[None] | None = None,
    ) -> Picture:
        """Write the slide's image, which replaces an older one in one step.

        A TIFF of a level that is not resampled gets copies of the slide's tiles, if these can be
        copied.

        In any other file the metadata come before the pixels, and tell the number of patched
        tiles. If a tile then turns out not to decode, that number is too low, and the image is
        written again.

        Args:
            turn: Held while the image is made, and released before the file is forced to the
                disk.

        Raises SlideError if a tile is damaged or the format cannot hold the image. Raises as
        `atomic_write` if the disk cannot hold it. An older image is kept in both cases.
        """
        # Imported late, because most commands use only `path`.
        from tcgamirror.imaging.copied_tiff import write_copied_tiff
        from tcgamirror.imaging.image_writer import write_image
        from tcgamirror.imaging.resample import render

        path = self.path(slide)
        file = self.folder / path
        pyramid, rendition = reader.pyramid, reader.rendition
        mpp = None
        if rendition.mpp_x is not None and rendition.mpp_y is not None:
            mpp = (rendition.mpp_x, rendition.mpp_y)

        def metadata() -> Mapping[str, object]:
            return build_metadata(slide, source, pyramid, rendition, reader.count_patched())

        pixels_sha256 = None
        with atomic_write(file, self.scratch) as out, turn or nullcontext():
            if self.form is ImageFormat.TIFF and reader.stored is not None:
                write_copied_tiff(out, reader.stored, mpp, metadata)
            else:
                while True:
                    facts = metadata()
                    pixels = hashlib.sha256(usedforsecurity=False)
                    strips = _pass_to(pixels.update, render(reader.tiles, rendition.size))
                    write_image(out, self.form, rendition.size, strips, mpp, facts)
                    if facts == metadata():
                        if self.form is not ImageFormat.JPEG:
                            pixels_sha256 = pixels.hexdigest()
                        break
                    out.seek(0)
                    out.truncate()
        with disk_errors(file):
            size, sha256 = file.stat().st_size, file_digest(file, "sha256")
        return Picture(
            source=source,
            level=rendition.level,
            level_downsample=pyramid.levels[rendition.level].downsample,
            mpp=pyramid.mpp,
            mpp_x=rendition.mpp_x,
            mpp_y=rendition.mpp_y,
            size=rendition.size,
            path=path,
            bytes=size,
            sha256=sha256,
            patched_tiles=reader.count_patched(),
            pixels_sha256=pixels_sha256,
        )


def begin_imports() -> None:
    """Have another thread import what `Store.write` needs, which takes 0.1 s, mostly for numpy."""

    def import_all() -> None:
        for name in ("level_reader", "resample", "image_writer", "copied_tiff"):
            import_module(f"tcgamirror.imaging.{name}")

    start_further_thread(lambda: result_or_error(import_all), "import")


def former_path(old: str | None, new: str) -> str | None:
    """Return `old` if it is the image `new` in another project's folder, else None.

    >>> former_path("images/TCGA-OV/a.png", "images/TCGA-GBM/a.png")
    'images/TCGA-OV/a.png'
    """
    if old is None or old == new:
        return None
    before, after = PurePosixPath(old), PurePosixPath(new)
    is_same_image = before.parent.parent == after.parent.parent and before.name == after.name
    return old if is_same_image and ".." not in before.parts else None


def _pass_to(add: Callable[[memoryview], None], strips: Iterable[Pixels]) -> Iterator[Pixels]:
    """Yield the strips, after passing the bytes of each to `add`."""
    for strip in strips:
        add(strip.data)
        yield strip
