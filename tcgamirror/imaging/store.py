"""Where images lie in a mirror, and how one gets there whole or not at all."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from tcgamirror.imaging.metadata import build_metadata
from tcgamirror.model.slide import SLIDE_SUFFIX, ImageFormat, Picture, Slide
from tcgamirror.system.files import atomic_write, file_digest

if TYPE_CHECKING:
    from tcgamirror.imaging.decode import LevelReader

IMAGES = "images"
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class Store:
    """The image files of one mirror."""

    def __init__(self, mirror: Path, form: ImageFormat) -> None:
        self._mirror = mirror
        self._form = form

    def path(self, slide: Slide) -> str:
        """The slide's image, relative to the mirror, with slashes."""
        project = slide.project_id or ""
        folder = project if _PLAIN.fullmatch(project) else "unknown"
        stem = slide.file_name
        if stem.lower().endswith(SLIDE_SUFFIX):
            stem = stem[: -len(SLIDE_SUFFIX)]
        return f"{IMAGES}/{folder}/{stem}{self._form.suffix}"

    def put(self, slide: Slide, source: str, opened: LevelReader) -> Picture:
        """Make the image and put it in its place in one step.

        An image tells inside how many tiles were patched. Where a tile turns out not to
        decode while the image is made, it is made again, because that number comes first.

        Raises SlideError if a tile is not whole or the format cannot hold the
        image, DiskFull if the disk cannot; nothing is left in its place then.
        """
        # Only now: most who ask where an image lies make none.
        from tcgamirror.imaging.image_writer import write_image
        from tcgamirror.imaging.resample import render

        path = self.path(slide)
        file = self._mirror / path
        pyramid, rendition = opened.pyramid, opened.rendition
        level = pyramid.levels[rendition.level]
        mpp = None
        if rendition.mpp_x is not None and rendition.mpp_y is not None:
            mpp = (rendition.mpp_x, rendition.mpp_y)
        with atomic_write(file) as out:
            while True:
                patched = opened.patched()
                facts = build_metadata(slide, source, pyramid, rendition, patched)
                strips = render(opened.tiles, rendition.size)
                write_image(out, self._form, rendition.size, strips, mpp, facts)
                if opened.patched() == patched:
                    break
                out.seek(0)
                out.truncate()
        return Picture(
            source=source,
            level=rendition.level,
            level_downsample=level.downsample,
            mpp=pyramid.mpp,
            mpp_x=rendition.mpp_x,
            mpp_y=rendition.mpp_y,
            size=rendition.size,
            path=path,
            bytes=file.stat().st_size,
            sha256=file_digest(file, "sha256"),
            patched_tiles=patched,
        )
