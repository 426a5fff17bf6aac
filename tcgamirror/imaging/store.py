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
from tcgamirror.system.files import atomic_write, file_digest

if TYPE_CHECKING:
    from tcgamirror.imaging.decode import Pixels
    from tcgamirror.imaging.level_reader import LevelReader

IMAGES = "images"
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class Store:
    """The image files of one mirror.

    scratch: Directory of images that are being written; None for that of each image.
    """

    scratch: Path | None = None

    def __init__(self, folder: Path, form: ImageFormat) -> None:
        self.folder = folder
        self.form = form

    def path(self, slide: Slide) -> str:
        """Return the path of the slide's image, relative to the mirror, with slashes."""
        project = slide.project_id or ""
        folder = project if _PLAIN.fullmatch(project) else "unknown"
        return f"{IMAGES}/{folder}/{self.name(slide.file_name)}"

    def name(self, file_name: str) -> str:
        """Return the name of a slide's image in its folder."""
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

        A TIFF of a level's own pixels gets its tiles as the slide stores them, if it can.

        The metadata, which come first in other files, have the number of patched tiles. If a
        tile turns out not to decode, that number was too low, and the image is written again.

        `turn` is held while the image is made, but no longer while the disk is waited for.

        Raises SlideError if a tile is not whole or the format cannot hold the image, and
        DiskFull if the disk cannot. An older image is kept then.
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
                    strips = _passed_to(pixels.update, render(reader.tiles, rendition.size))
                    write_image(out, self.form, rendition.size, strips, mpp, facts)
                    if facts == metadata():
                        if self.form is not ImageFormat.JPEG:
                            pixels_sha256 = pixels.hexdigest()
                        break
                    out.seek(0)
                    out.truncate()
        return Picture(
            source=source,
            level=rendition.level,
            level_downsample=pyramid.levels[rendition.level].downsample,
            mpp=pyramid.mpp,
            mpp_x=rendition.mpp_x,
            mpp_y=rendition.mpp_y,
            size=rendition.size,
            path=path,
            bytes=file.stat().st_size,
            sha256=file_digest(file, "sha256"),
            patched_tiles=reader.count_patched(),
            pixels_sha256=pixels_sha256,
        )


def import_rendering() -> None:
    """Import what `Store.write` and its readers need: 0.1 s, mostly for numpy."""
    for name in ("level_reader", "resample", "image_writer", "copied_tiff"):
        import_module(f"tcgamirror.imaging.{name}")


def former_path(old: str | None, new: str) -> str | None:
    """Return `old` if it is an image of the same slide in another project's folder.

    >>> former_path("images/TCGA-OV/a.png", "images/TCGA-GBM/a.png")
    'images/TCGA-OV/a.png'
    """
    if old is None or old == new:
        return None
    before, after = PurePosixPath(old), PurePosixPath(new)
    is_ours = before.parent.parent == after.parent.parent and before.name == after.name
    return old if is_ours and ".." not in before.parts else None


def _passed_to(add: Callable[[memoryview], None], strips: Iterable[Pixels]) -> Iterator[Pixels]:
    """Yield the strips, the bytes of each passed to `add` before."""
    for strip in strips:
        add(strip.data)
        yield strip
