"""Add images to a mirror: check them, write them beside their places, move them in batches.

An image is renamed to its path after it was checked, and then its row is written. If it
replaces another image, the row is made pending first, as by an update.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

from tcgamirror.catalogue.catalogue import Catalogue
from tcgamirror.catalogue.database import Row
from tcgamirror.catalogue.images import Image
from tcgamirror.catalogue.rows import ImageState, ReceivedImage, are_different
from tcgamirror.imaging.metadata import parse_metadata
from tcgamirror.mirror.orphans import Orphan
from tcgamirror.mirror.progress import Progress
from tcgamirror.mirror.recovery import fits_target
from tcgamirror.mirror.settings import Settings
from tcgamirror.model.errors import BadExport, ChecksumMismatch, Damaged
from tcgamirror.model.slide import Status
from tcgamirror.system.files import disk_errors, partial_path, sync_paths
from tcgamirror.system.parallel import in_batches, thread_count
from tcgamirror.transfer.archive.format import COPY_AGAIN
from tcgamirror.transfer.fetching import (
    BATCH_BYTES,
    ImageSource,
    check_image,
    fetch_to_partial,
    find_or_fetch,
)

_MAX_THREADS = 4
"""More of them take turns from the thread that records, which small images wait for."""

_BATCH_IMAGES = 256
"""Most images in a thread's batch; a batch of large images has fewer."""

_MOST_RECORDED = 2048
"""Most images that are recorded at once. Their names go into one SQL value."""


@dataclass(frozen=True, slots=True)
class IncomingImage:
    """An image to add. row: from the export's catalogue. state: of its slide's image here."""

    image: Image
    row: Row
    state: ImageState | None

    def to_received(self) -> ReceivedImage:
        """Return the image as the catalogue takes it."""
        # The image may show another file than the one that is listed here.
        differs = self.state is not None and are_different(self.row["md5"], self.state.md5)
        return ReceivedImage(self.row, differs)


@dataclass(slots=True)
class Intake:
    """Adds images to the mirror at `root`: several threads check and write them, one records them.

    attempts: as `RemoteCatalogue.attempts`. decode: whether to decode every pixel. images, bytes:
    what was added. refused: images that differ from their rows. parts: partial files to remove at
    the end. ended: set when no further image is added, so that threads stop early.
    """

    source: ImageSource
    root: Path
    settings: Settings
    attempts: Callable[[Sequence[str]], Iterable[Row]]
    decode: bool
    images: int = 0
    bytes: int = 0
    refused: list[Orphan] = field(default_factory=list)
    parts: set[str] = field(default_factory=set)
    ended: threading.Event = field(default_factory=threading.Event)

    def check_any(self, images: Sequence[IncomingImage], part: Path) -> None:
        """Raise BadExport if there are images and none is usable.

        part: the file to which images are fetched, one after the other, up to the first usable one.
        """
        fault = None
        for each in images:
            try:
                with disk_errors(part):
                    fetch_to_partial(self.source, each.image, str(part), self._check(each.row))
            except (ChecksumMismatch, Damaged) as error:
                fault = fault or f"{each.image.path}: {error}"
            else:
                return
        if fault:
            raise BadExport(
                f"none of {len(images):,} new images is as its catalogue says ({fault}). "
                f"{COPY_AGAIN}"
            )

    def add(
        self, images: Iterable[IncomingImage], catalogue: Catalogue, run: int, progress: Progress
    ) -> None:
        """Add every image that is as its row says."""
        files: list[tuple[IncomingImage, str]] = []
        try:
            for batch in in_batches(
                self._obtain,
                images,
                at_once=thread_count(_MAX_THREADS),
                batch_size=_BATCH_IMAGES,
                size_of=lambda incoming: incoming.image.bytes,
                ended=self.ended,
            ):
                files += [(each, file) for each, file in batch if isinstance(file, str)]
                self.refused += [file for _, file in batch if isinstance(file, Orphan)]
                progress.add_images(len(batch), sum(each.image.bytes for each, _ in batch))
                size = sum(each.image.bytes for each, _ in files)
                if size >= BATCH_BYTES or len(files) >= _MOST_RECORDED:
                    self._put(files, catalogue, run)
                    files = []
            self._put(files, catalogue, run)
        finally:
            for part in self.parts:
                Path(part).unlink(missing_ok=True)

    def _obtain(self, incoming: IncomingImage) -> str | Orphan:
        """Return the checked file of an image, or why it is refused.

        The file is the partial one beside its place, or its place if a killed import put it there.
        """
        place = f"{self.root}/{incoming.image.path}"
        part = partial_path(place)
        self.parts.add(part)
        check = self._check(incoming.row)
        with disk_errors(self.root):
            try:
                is_fetched = find_or_fetch(self.source, incoming.image, str(self.root), check)
            except (ChecksumMismatch, Damaged) as error:
                return Orphan(incoming.image.path, str(error))
            file = part if is_fetched else place
            fetched_at = datetime.fromisoformat(str(incoming.row["fetched_at"])).timestamp()
            os.utime(file, (fetched_at, fetched_at))
        return file

    def _check(self, row: Row) -> Callable[[BinaryIO, Image], None]:
        """Return a check that compares an image with its row and with the mirror's target."""

        def check(file: BinaryIO, image: Image) -> None:
            header = check_image(file, image, decode=self.decode, stop=self.ended)
            metadata = parse_metadata(header.metadata)
            found = (metadata.slide.file_name, metadata.mpp_x, metadata.mpp_y)
            if found != (image.file_name, row["mpp_x"], row["mpp_y"]):
                raise Damaged("it has another slide or resolution than the catalogue says")
            if not fits_target(self.settings.target, metadata, header.size):
                raise Damaged(f"it is not of {self.settings.target}")

        return check

    def _put(self, files: list[tuple[IncomingImage, str]], catalogue: Catalogue, run: int) -> None:
        """Make rows of replaced images pending, move the files to their places, and record them."""
        images = [incoming.image for incoming, _ in files]
        replaced = [each for each, _ in files if each.state and each.state.status is Status.DONE]
        with disk_errors(self.root):
            # A crash leaves no name of an unwritten image, and no row of an image without its name.
            sync_paths(file for _, file in files)
            if replaced:
                catalogue.queue.requeue([each.image.file_name for each in replaced])
            for incoming, file in files:
                place, state = f"{self.root}/{incoming.image.path}", incoming.state
                if file != place:
                    os.replace(file, place)
                if state is not None and state.path not in (None, incoming.image.path):
                    (self.root / str(state.path)).unlink(missing_ok=True)
            sync_paths({f"{self.root}/{image.path.rpartition('/')[0]}/" for image in images})
        attempts = self.attempts([image.file_name for image in images])
        catalogue.rows.add_images([each.to_received() for each, _ in files], attempts, run)
        self.parts.difference_update(file for _, file in files)
        self.images += len(images)
        self.bytes += sum(image.bytes for image in images)
