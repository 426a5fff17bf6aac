"""Fetch images from a mirror or an export, check their digests, and resume partial files."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO, Protocol

from tcgamirror.catalogue.images import Image
from tcgamirror.model.errors import ChecksumMismatch, Damaged, NotFound
from tcgamirror.system.files import disk_errors, file_digest, make_folder, partial_path


class ImageSource(Protocol):
    """The images of another mirror or an export. Any number of threads may fetch at once."""

    def fetch(self, image: Image, file: BinaryIO) -> None:
        """Append the rest of the image to `file`, or write all of it again.

        Raises:
            NotFound, SizeMismatch, NetworkError, Damaged, Interrupted.
        """
        ...


def find_or_fetch(source: ImageSource, image: Image, root: Path) -> bool:
    """Find an image at its path in a mirror, or fetch it to its partial file there.

    Returns:
        whether it was fetched.

    Raises:
        ChecksumMismatch: if its digest differs.
        UsageError, DiskFull: as `disk_errors` does. Other errors as `ImageSource.fetch`.
    """
    place = root / image.path
    if size_at(place) == image.bytes and file_digest(place, "sha256") == image.sha256:
        return False
    with disk_errors(place):
        make_folder(place.parent)
        fetch_to_partial(source, image, partial_path(place))
    return True


def fetch_to_partial(source: ImageSource, image: Image, part: Path) -> None:
    """Fetch an image to a file, of which a killed run may have left a part.

    The file is removed after NotFound, Damaged or ChecksumMismatch.
    """
    if size_at(part) is None:
        # Remove a link, which O_NOFOLLOW would refuse to open.
        part.unlink(missing_ok=True)
    handle = os.open(part, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    try:
        with os.fdopen(handle, "r+b") as file:
            offset = file.seek(0, os.SEEK_END)
            if offset >= image.bytes and file_digest(part, "sha256") != image.sha256:
                offset = file.truncate(0)
            for _ in range(2 if offset else 1):
                source.fetch(image, file)
                file.flush()
                if file_digest(part, "sha256") == image.sha256:
                    return
                # The part may have been of an older image.
                file.truncate(0)
        raise ChecksumMismatch(
            f"{image.path}: its digest differs from the catalogue's. Run tcgamirror verify "
            "--repair in the mirror that it comes from"
        )
    except (NotFound, Damaged, ChecksumMismatch):
        part.unlink(missing_ok=True)
        raise


def size_at(path: Path) -> int | None:
    """Return the bytes of the plain file at `path`; None if there is none."""
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None
