"""Image files read back without their catalogue, by the metadata inside them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from tcgamirror.catalogue.images import FoundImage
from tcgamirror.imaging.image_reader import decode_all, read_header
from tcgamirror.imaging.metadata import ImageMetadata, parse_metadata
from tcgamirror.imaging.store import Store
from tcgamirror.model.errors import Damaged
from tcgamirror.model.geometry import LEVEL_TOLERANCE, Size
from tcgamirror.model.slide import (
    FALLBACK_MAX_SIZE,
    Picture,
    Resample,
    Target,
)
from tcgamirror.system.files import open_file_digest
from tcgamirror.system.openat import Tree


def read_image(store: Store, path: str, target: Target, check: Callable[[], None]) -> FoundImage:
    """Read and decode the whole image at `path`, relative to the store's directory.

    check: called between pieces; what it raises ends the reading.

    Raises:
        Damaged: it is not an image that this program would have written there.
        OSError: it cannot be read.
    """
    form = store.form
    if not path.endswith(form.suffix):
        raise Damaged(f"no {form} file")
    # A folder may be a link to another disk, an image may not.
    with Tree(store.folder).open(path, linked_folders=True) as file:
        header = read_header(file, form)
        metadata = parse_metadata(header.metadata)
        place, name = store.path(metadata.slide), metadata.slide.file_name
        if place != path:
            raise Damaged(
                f"it is an image of {name}, which lies at {place}"
                if place
                else f"it is an image of another slide, {name}"
            )
        if not fits_target(target, metadata, header.size):
            raise Damaged(f"it is not of {target}")
        pixels_sha256 = decode_all(file, form, check)
        file.seek(0)
        sha256 = open_file_digest(file, "sha256", lambda _: check())
        size = file.tell()
        made = os.fstat(file.fileno()).st_mtime
    picture = Picture(
        source=metadata.source,
        level=metadata.level,
        level_downsample=metadata.level_downsample,
        mpp=metadata.mpp,
        mpp_x=metadata.mpp_x,
        mpp_y=metadata.mpp_y,
        size=header.size,
        path=path,
        bytes=size,
        sha256=sha256,
        patched_tiles=metadata.patched_tiles,
        pixels_sha256=pixels_sha256,
    )
    return FoundImage(metadata.slide, picture, min(max(made, 0.0), time.time()))


def fits_target(target: Target, metadata: ImageMetadata, size: Size) -> bool:
    """Return whether an image of this size and metadata can have been made for the target.

    >>> from tcgamirror.model.slide import UNKNOWN_MPP, Slide
    >>> unknown = ImageMetadata(Slide("", ""), "range", 0, 1.0, UNKNOWN_MPP, None, None, None)
    >>> [fits_target(Target(15.0, None), unknown, Size(9, height)) for height in (2048, 2049)]
    [True, False]
    """
    if metadata.resample not in (target.resample, None):
        return False
    if target.level is not None:
        return metadata.level == target.level
    if target.mpp is not None and metadata.mpp_x is not None and metadata.mpp_y is not None:
        resolutions = zip((metadata.mpp_x, metadata.mpp_y), size, strict=True)
        if target.resample is Resample.NATIVE:
            return all(mpp <= target.mpp * (1 + 2 * LEVEL_TOLERANCE) for mpp, _ in resolutions)
        # The size is rounded to whole pixels, so it differs by half a pixel at most.
        return all(abs(mpp / target.mpp - 1) <= 0.5 / side + 1e-6 for mpp, side in resolutions)
    if target.mpp is not None and target.resample is Resample.NATIVE:
        return True
    return size.longer <= (target.max_size or FALLBACK_MAX_SIZE)
