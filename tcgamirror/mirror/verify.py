"""Whether a mirror's images are still what the catalogue says, and what lies there beside them.

An image whose bytes have the digest that was recorded is the one that was
written, and it was whole then: it is read once and its header compared, but its
pixels are decoded only where that is asked for, or where the digest differs and
a person will want to know what became of it.

No lock is taken: before an image is reported its row is read again, and the
image checked again if the row has changed. A run that replaces an image makes
its row pending first.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import random
import stat
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path

from tcgamirror.catalogue.catalogue import Catalogue
from tcgamirror.catalogue.images import Kept
from tcgamirror.imaging.image_reader import read_size
from tcgamirror.imaging.store import IMAGES
from tcgamirror.imaging.verified import Compared, same, sign
from tcgamirror.mirror.checkpoint import Round
from tcgamirror.mirror.directory import Mirror
from tcgamirror.mirror.orphans import Orphan, find_orphans
from tcgamirror.mirror.progress import Progress
from tcgamirror.model.errors import Damaged, ExitCode, Interrupted
from tcgamirror.model.slide import ImageFormat
from tcgamirror.system.files import YOUNG, Reader
from tcgamirror.system.openat import Tree
from tcgamirror.system.parallel import in_batches, threads

MOST_CHECKERS = 8

NOT_PLAIN = "a link, or not a file"
"""What is wrong with whatever else lies in an image's place."""

_RECHECKS = 5


@dataclass(frozen=True, slots=True)
class VerifyOptions:
    """What the command line asks for.

    quick: only that the files are there and have their size. decode: every
    pixel too. sample: so many images, chosen by the day. time_limit: seconds.
    """

    quick: bool = False
    decode: bool = False
    sample: int | None = None
    time_limit: float | None = None


@dataclass(frozen=True, slots=True)
class BadImage:
    """An image that is not as it was recorded."""

    path: str
    what: str
    file_name: str


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What was found.

    images, bytes, seconds: checked by this run. earlier: images checked by the
    run that this one went on with. of: images recorded as done. left: not
    checked for want of time. awaited: older images whose slides are to be fetched
    again, and which are therefore not checked. strays: files that no row knows. sample_of: the
    day that chose the sample.
    """

    images: int
    earlier: int
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


class Deadline:
    """When to stop: at once if the event is set, or after so many seconds."""

    def __init__(self, stop: threading.Event, seconds: float | None) -> None:
        self.stop = stop
        self._end = None if seconds is None else time.monotonic() + seconds

    @property
    def left(self) -> float | None:
        """Seconds; None for any number."""
        return None if self._end is None else max(0.0, self._end - time.monotonic())

    @property
    def reached(self) -> bool:
        return self.stop.is_set() or (self._end is not None and time.monotonic() >= self._end)

    def check(self) -> None:
        """Raises Interrupted if it is reached."""
        if self.reached:
            raise Interrupted("stopped before the end")


def reader_threads() -> int:
    """Threads that read images: hashing and unpacking leave the interpreter to others."""
    return threads(MOST_CHECKERS)


def verify_images(
    mirror: Mirror,
    catalogue: Catalogue,
    asked: VerifyOptions,
    progress: Progress,
    deadline: Deadline,
) -> VerifyReport:
    """Checks the catalogue, then every image it says is done, then what lies beside them.

    A run over all images that was stopped is gone on with. Raises Damaged for
    the catalogue itself, BadSettings if they ask for other images than these.
    """
    begun = time.monotonic()
    catalogue.check_whole()
    mirror.check_target(catalogue)
    recorded = catalogue.kept()
    day = None if asked.sample is None else datetime.now(UTC).strftime("%Y-%m-%d")
    round_ = Round.of(mirror.root, asked.decode, whole=not asked.quick and day is None)
    images = recorded if day is None else _sampled(recorded, asked.sample or 0, day)
    images = round_.to_check(images)
    progress.start_images(len(images), 0 if asked.quick else sum(map(_size_of, images)))
    checker = Checker(mirror.root, mirror.settings.form, asked, deadline)
    compared = Compared(mirror.root)
    if round_.fresh:
        compared.trim(len(recorded))
    signs = frozenset[str]() if asked.quick else compared.signs()
    wrong: list[BadImage] = []
    checked = size = 0
    batches = in_batches(
        checker.fault,
        images,
        at_once=reader_threads(),
        size_of=_size_of,
        stopped=lambda: deadline.reached,
    )
    for batch in batches:
        try:
            found = _all_confirmed(catalogue, checker, batch)
        except Interrupted:
            # None of this batch counts as checked: the next run goes on with it.
            break
        compared.add(each for each in checker.signs() if each not in signs)
        if found:
            # A disk may have changed its bytes and said nothing.
            now = chain.from_iterable(catalogue.kept(each.file_name) for each in found)
            compared.take_back({image.sha256 for image in now})
        wrong += found
        checked += len(batch)
        batch_bytes = 0 if asked.quick else sum(_size_of(image) for image, _ in batch)
        size += batch_bytes
        progress.add_images(len(batch), batch_bytes)
        round_.passed([image for image, _ in batch], [each.file_name for each in wrong])
    left = len(images) - checked
    strays = () if left else tuple(find_orphans(mirror, catalogue))
    round_.end(complete=not left)
    return VerifyReport(
        images=checked,
        earlier=round_.earlier,
        of=len(recorded),
        left=left,
        awaited=catalogue.awaited(),
        bytes=size,
        seconds=time.monotonic() - begun,
        wrong=tuple(wrong),
        strays=strays,
        sample_of=day,
        interrupted=deadline.stop.is_set(),
    )


def _size_of(image: Kept) -> int:
    return image.bytes or 0


def _sampled(images: Sequence[Kept], count: int, day: str) -> list[Kept]:
    """The same ones all day, others the next: in time every image has its turn."""
    chosen = random.Random(day).sample(range(len(images)), min(count, len(images)))
    return [images[place] for place in sorted(chosen)]


def _all_confirmed(
    catalogue: Catalogue, checker: Checker, batch: Iterable[tuple[Kept, str | None]]
) -> list[BadImage]:
    """Those of a batch that are wrong by what the catalogue says now. Raises Interrupted."""
    faults = ((image, fault) for image, fault in batch if fault is not None)
    sure = (_confirmed(catalogue, checker, image, fault) for image, fault in faults)
    return [wrong for wrong in sure if wrong is not None]


def _confirmed(catalogue: Catalogue, checker: Checker, image: Kept, fault: str) -> BadImage | None:
    """The fault, if it is one still by what the catalogue says now. Raises Interrupted."""
    for _ in range(_RECHECKS):
        now = catalogue.kept(image.file_name)
        if not now:
            return None
        if now[0] == image:
            return BadImage(image.path or "", fault, image.file_name)
        image = now[0]
        again = checker.fault(image)
        if again is None:
            return None
        fault = again
    return BadImage(image.path or "", fault, image.file_name)


class Checker:
    """Compares image files with what was recorded of them; for any number of threads."""

    def __init__(
        self, root: Path, form: ImageFormat, asked: VerifyOptions, deadline: Deadline
    ) -> None:
        self._tree = Tree(root)
        self._form = form
        self._asked = asked
        self._deadline = deadline
        self._reader = Reader()
        self._signs: deque[str] = deque()

    def signs(self) -> Iterator[str]:
        """Of the images found to have their digests since this was asked last."""
        while self._signs:
            yield self._signs.popleft()

    def fault(self, image: Kept) -> str | None:
        """What is wrong with it, in words; None if nothing is. Raises Interrupted."""
        self._deadline.check()
        if image.path is None or image.sha256 is None or not _is_inside(image.path):
            return f"the catalogue says that it lies at {image.path!r}"
        try:
            # A folder may be a link to another disk, an image may not.
            if self._asked.quick:
                return _wrong_look(self._tree.stat(image.path, linked_folders=True), image)
            with self._tree.open(image.path, linked_folders=True) as file:
                return self._fault_of(file, image)
        except (FileNotFoundError, NotADirectoryError):
            return "missing"
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENXIO):
                return NOT_PLAIN
            return f"cannot be read ({error.strerror or error})"

    def _fault_of(self, file: io.FileIO, image: Kept) -> str | None:
        before = os.fstat(file.fileno())
        size, digest = self._digest(file)
        if (size, digest) != (image.bytes, image.sha256):
            return self._difference(file, size, image)
        ripe = time.time() - before.st_ctime > YOUNG
        if ripe and same(before, os.fstat(file.fileno())) and (known := sign(before, digest)):
            self._signs.append(known)
        try:
            pixels = read_size(file, self._form)
            if pixels != image.size:
                return f"{pixels} pixels, recorded as {image.size}"
            if self._asked.decode:
                self._decode(file)
        except Damaged as error:
            return f"as it was recorded, but {error}"
        return None

    def _digest(self, file: io.FileIO) -> tuple[int, str]:
        taken = hashlib.sha256(usedforsecurity=False)
        size = 0
        for piece in self._reader.pieces(file.fileno()):
            self._deadline.check()
            taken.update(piece)
            size += len(piece)
        return size, taken.hexdigest()

    def _difference(self, file: io.FileIO, size: int, image: Kept) -> str:
        """Why the digest is another one, as far as the file tells."""
        try:
            pixels = read_size(file, self._form)
            self._decode(file)
        except Damaged as error:
            return f"{_wrong_size(size, image) or 'changed bytes'}: {error}"
        if pixels == image.size:
            return "another image than was recorded"
        return f"another image than was recorded, {pixels} pixels instead of {image.size}"

    def _decode(self, file: io.FileIO) -> None:
        # Only now: to read images that are as they were needs no decoder.
        from tcgamirror.imaging.image_reader import decode_all

        decode_all(file, self._form, self._deadline.check)


def _wrong_look(found: os.stat_result, image: Kept) -> str | None:
    return _wrong_size(found.st_size, image) if stat.S_ISREG(found.st_mode) else NOT_PLAIN


def _wrong_size(size: int, image: Kept) -> str | None:
    return None if size == image.bytes else f"{size:,} bytes instead of {image.bytes or 0:,}"


def _is_inside(path: str) -> bool:
    parts = path.split("/")
    return len(parts) > 1 and parts[0] == IMAGES and ".." not in parts
