"""Verification of a mirror's images against the catalogue.

An image is read once, and its digest and header are compared with its row. An
image with the recorded digest is the one that was written, and was whole then.
Its pixels are decoded only by request, or to describe damage.

No lock is taken. Before an image is reported its row is read again, and the
image is checked again if the row has changed: a run that replaces an image
makes its row pending first.
"""

from __future__ import annotations

import errno
import io
import random
import stat
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from tcgamirror.catalogue.catalogue import Catalogue
from tcgamirror.catalogue.images import Image
from tcgamirror.catalogue.rows import are_different
from tcgamirror.imaging.image_reader import read_header
from tcgamirror.imaging.store import IMAGES
from tcgamirror.mirror.directory import Mirror
from tcgamirror.mirror.orphans import Orphan, find_orphans
from tcgamirror.mirror.progress import Progress
from tcgamirror.model.errors import Damaged, ExitCode, Interrupted
from tcgamirror.model.slide import ImageFormat
from tcgamirror.system.files import open_file_digest
from tcgamirror.system.interrupt import Deadline
from tcgamirror.system.openat import Tree
from tcgamirror.system.parallel import in_batches, thread_count

MOST_THREADS = 8

NOT_REGULAR = "a link, or not a file"
"""The fault of anything else in an image's place."""

_RECHECKS = 5
"""Times that an image is checked again because its row has changed."""


@dataclass(frozen=True, slots=True)
class VerifyOptions:
    """Options of one verification.

    quick: compare the size of the files alone. decode: decode every pixel.
    sample: number of images, chosen by the day; None for all.
    """

    quick: bool = False
    decode: bool = False
    sample: int | None = None
    deadline: Deadline = field(default_factory=Deadline)


@dataclass(frozen=True, slots=True)
class BadImage:
    """An image that differs from its row."""

    path: str
    what: str
    file_name: str


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """Result of one verification.

    images, bytes: checked. of: images recorded as done. left: images not reached.
    awaited: older images whose slides wait to be fetched again; these are not
    checked. wrong: damaged or missing images. strays: files without a row.
    sample_of: day that chose the sample.
    """

    images: int
    of: int
    left: int
    awaited: int
    bytes: int
    seconds: float
    wrong: tuple[BadImage, ...]
    strays: tuple[Orphan, ...]
    sample_of: str | None
    interrupted: bool

    @property
    def exit_code(self) -> ExitCode:
        if self.interrupted:
            return ExitCode.INTERRUPTED
        return ExitCode.DAMAGED if self.wrong else ExitCode.DONE


def reader_threads() -> int:
    """Return the number of threads that read images; hashing needs no interpreter's lock."""
    return thread_count(MOST_THREADS)


def verify_images(
    mirror: Mirror,
    catalogue: Catalogue,
    options: VerifyOptions,
    progress: Progress,
    stop: threading.Event,
) -> VerifyReport:
    """Check the catalogue, then every image that is done, then look for files without a row.

    Raises:
        Damaged: the catalogue itself is damaged.
        BadSettings: the settings ask for other images than these.
    """
    begun = time.monotonic()
    catalogue.check_integrity()
    mirror.check_fixed(catalogue.fact)
    recorded = catalogue.images.done()
    day = None if options.sample is None else datetime.now(UTC).strftime("%Y-%m-%d")
    images = recorded if day is None else _sample(recorded, options.sample or 0, day)

    def size_of(image: Image) -> int:
        return 0 if options.quick else image.bytes

    def stopped() -> bool:
        return stop.is_set() or options.deadline.is_reached

    progress.start_images(len(images), sum(map(size_of, images)))
    checker = ImageChecker(mirror.root, mirror.settings.form, options, stopped)
    wrong: list[BadImage] = []
    checked = size = 0
    batches = in_batches(
        checker.find_fault, images, at_once=reader_threads(), size_of=size_of, stopped=stopped
    )
    for batch in batches:
        try:
            wrong += [
                bad
                for image, fault in batch
                if fault and (bad := _check_again(catalogue, checker, image, fault))
            ]
        except Interrupted:
            # None of this batch counts as checked.
            break
        batch_bytes = sum(size_of(image) for image, _ in batch)
        checked, size = checked + len(batch), size + batch_bytes
        progress.add_images(len(batch), batch_bytes)
    left = len(images) - checked
    return VerifyReport(
        images=checked,
        of=len(recorded),
        left=left,
        awaited=catalogue.images.count_outdated(),
        bytes=size,
        seconds=time.monotonic() - begun,
        wrong=tuple(wrong),
        strays=() if left else tuple(find_orphans(mirror, catalogue)),
        sample_of=day,
        interrupted=stop.is_set(),
    )


def _sample(images: Sequence[Image], count: int, day: str) -> list[Image]:
    """Return the images of one day; over the days every image is chosen."""
    chosen = random.Random(day).sample(range(len(images)), min(count, len(images)))
    return [images[place] for place in sorted(chosen)]


def _check_again(
    catalogue: Catalogue, checker: ImageChecker, image: Image, fault: str
) -> BadImage | None:
    """Return the image's fault if it persists with the row as it is now. Raises Interrupted."""
    for _ in range(_RECHECKS):
        rows = catalogue.images.done(image.file_name)
        if rows == [image]:
            break
        again = checker.find_fault(rows[0]) if rows else None
        if again is None:
            return None
        image, fault = rows[0], again
    return BadImage(image.path, fault, image.file_name)


class ImageChecker:
    """Comparison of image files with their rows. Safe for any number of threads."""

    def __init__(
        self, root: Path, form: ImageFormat, options: VerifyOptions, stopped: Callable[[], bool]
    ) -> None:
        self._tree = Tree(root)
        self._form = form
        self._options = options
        self._stopped = stopped

    def _check_stop(self, _: object = None) -> None:
        """Raise Interrupted if the reading has to end."""
        if self._stopped():
            raise Interrupted("stopped before the end")

    def find_fault(self, image: Image) -> str | None:
        """Return the fault of an image in words, None for a good one. Raises Interrupted."""
        self._check_stop()
        if not image.sha256 or not _is_inside(image.path):
            return f"the catalogue says that it lies at {image.path!r}"
        try:
            # A folder may be a link to another disk, an image may not.
            if self._options.quick:
                found = self._tree.stat(image.path, linked_folders=True)
                if not stat.S_ISREG(found.st_mode):
                    return NOT_REGULAR
                return _size_fault(found.st_size, image)
            with self._tree.open(image.path, linked_folders=True) as file:
                return self._content_fault(file, image)
        except (FileNotFoundError, NotADirectoryError):
            return "missing"
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENXIO):
                return NOT_REGULAR
            return f"cannot be read ({error.strerror or error})"

    def _content_fault(self, file: io.FileIO, image: Image) -> str | None:
        """Return how a file differs, as far as the file tells. Raises Interrupted."""
        sha256 = open_file_digest(file, "sha256", self._check_stop)
        size, digest = file.tell(), None
        is_recorded = (size, sha256) == (image.bytes, image.sha256)
        try:
            pixels = read_header(file, self._form).size
            if self._options.decode or not is_recorded:
                digest = self._decode(file)
        except Damaged as error:
            changed = f"{_size_fault(size, image) or 'changed bytes'}:"
            return f"{'as it was recorded, but' if is_recorded else changed} {error}"
        if not is_recorded:
            other = f", {pixels} pixels instead of {image.size}" if pixels != image.size else ""
            return f"another image than was recorded{other}"
        if pixels != image.size:
            return f"{pixels} pixels, recorded as {image.size}"
        if are_different(digest, image.pixels_sha256):
            return "as it was recorded, but its pixels have another digest"
        return None

    def _decode(self, file: io.FileIO) -> str | None:
        """Return the digest of the pixels, None if they have none. Raises Damaged."""
        # Imported late: the decoders take longer to load than most checks take.
        from tcgamirror.imaging.image_reader import decode_all

        return decode_all(file, self._form, self._check_stop)


def _size_fault(size: int, image: Image) -> str | None:
    return None if size == image.bytes else f"{size:,} bytes instead of {image.bytes:,}"


def _is_inside(path: str) -> bool:
    parts = path.split("/")
    return len(parts) > 1 and parts[0] == IMAGES and ".." not in parts
