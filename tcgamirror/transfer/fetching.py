"""Fetch images from a mirror or an export, resume partial files, and compare with the rows."""

from __future__ import annotations

import hashlib
import os
import stat
import threading
from collections.abc import Callable
from io import BufferedRandom, BufferedReader, BufferedWriter, BytesIO, FileIO
from pathlib import Path
from typing import BinaryIO, Protocol

from tcgamirror.catalogue.images import Image
from tcgamirror.catalogue.rows import are_different
from tcgamirror.imaging.bounded import Header
from tcgamirror.imaging.image_reader import decode_all, read_header
from tcgamirror.model.errors import ChecksumMismatch, Damaged, Interrupted, NotFound
from tcgamirror.model.slide import ImageFormat
from tcgamirror.system.files import (
    PIECE,
    make_folder,
    open_regular,
    partial_path,
)

WORKERS = 8
"""Threads that fetch images: while some wait for the disk, others compute digests."""

BATCH_BYTES = 64 << 20
"""Bytes of images after which all of them are forced to the disk."""

_IN_MEMORY = 1 << 20
"""Largest image that is checked before it is written; a larger one is read again for that."""

_Content = BufferedRandom | BufferedReader | BytesIO

Check = Callable[[BinaryIO, Image], object]
"""Raises Damaged if an open image with the right digest differs from its row in another way."""


class ImageSource(Protocol):
    """The images of another mirror or an export. Any number of threads may fetch at once."""

    def fetch(self, image: Image, file: BinaryIO) -> None:
        """Append the rest of the image to `file`, or write all of it again.

        Raises:
            NotFound, SizeMismatch, NetworkError, Damaged, Interrupted.
        """
        ...


def find_or_fetch(source: ImageSource, image: Image, root: str, check: Check) -> bool:
    """Find an image at its path in a mirror, or fetch it to its partial file there.

    Returns:
        whether it was fetched.

    Raises:
        ChecksumMismatch: if the digest of the fetched file differs.
        OSError: if the disk fails. Other errors as `ImageSource.fetch` and `check`.
    """
    place = f"{root}/{image.path}"
    if size_at(place) == image.bytes:
        with open_regular(place) as file:
            if _is_checked(file, image, check):
                return False
    fetch_to_partial(source, image, partial_path(place), check)
    return True


def fetch_to_partial(source: ImageSource, image: Image, part: str, check: Check) -> None:
    """Fetch an image to the file at `part`, some of which a killed run may have left.

    The file is removed after NotFound, Damaged or ChecksumMismatch.
    """
    is_small = image.bytes <= _IN_MEMORY
    try:
        with FileIO(_open_partial(part), "r+") as raw:
            kept = raw.read(image.bytes) if is_small else None
            file = BufferedRandom(raw, PIECE) if kept is None else BytesIO(kept)
            with file:
                size = file.seek(0, os.SEEK_END)
                # A part may be of an older image.
                tries = 2 if 0 < size < image.bytes else 1
                while not _is_checked(file, image, check):
                    if not tries:
                        raise ChecksumMismatch("its digest differs from the catalogue's")
                    if size and tries == 1:
                        file.truncate(0)
                    tries -= 1
                    source.fetch(image, file)
                if isinstance(file, BytesIO):
                    if kept:
                        raw.seek(0)
                        raw.truncate()
                    # On a full disk, `raw` alone would write a part and raise nothing.
                    with BufferedWriter(raw) as whole:
                        whole.write(file.getbuffer())
    except (NotFound, Damaged, ChecksumMismatch):
        Path(part).unlink(missing_ok=True)
        raise


def _open_partial(part: str) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
    try:
        return os.open(part, flags | os.O_EXCL, 0o644)
    except FileNotFoundError:
        make_folder(Path(part).parent)
    except FileExistsError:
        if size_at(part) is None:
            Path(part).unlink()
    return os.open(part, flags, 0o644)


def _is_checked(file: _Content, image: Image, check: Check) -> bool:
    """Return whether an open file has the image's size and digest. If it has, `check` it."""
    if file.seek(0, os.SEEK_END) != image.bytes:
        return False
    file.seek(0)
    if hashlib.file_digest(file, "sha256").hexdigest() != image.sha256:
        return False
    check(file, image)
    return True


def check_size(image: Image, size: int) -> None:
    """Raise Damaged if an image's file, of `size` bytes, has another size than recorded."""
    if size != image.bytes:
        raise Damaged(f"{size:,} bytes instead of {image.bytes:,}")


def check_image(
    file: BinaryIO, image: Image, *, decode: bool = False, stop: threading.Event | None = None
) -> Header:
    """Return an image's header. Raise Damaged if it has other dimensions or pixels than its row.

    decode: whether to decode every pixel and compare the digest. stop: set to end that early, with
    Interrupted.
    """

    def check_stopped() -> None:
        if stop is not None and stop.is_set():
            raise Interrupted("stopped while an image was decoded; the next run resumes")

    form = ImageFormat.of_path(image.path)
    header = read_header(file, form)
    if header.size != image.size:
        raise Damaged(f"it has {header.size} pixels, not as many as the catalogue says")
    if decode and are_different(decode_all(file, form, check_stopped), image.pixels_sha256):
        raise Damaged("it has other pixels than the catalogue says")
    return header


def size_at(path: str) -> int | None:
    """Return the size in bytes of the regular file at `path`; None if there is none."""
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None
