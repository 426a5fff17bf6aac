"""Images added to a mirror: written beside their places, checked, put there in batches.

An image is renamed to its path after its digest and pixels were checked, and its row follows.
If it replaces another one, the row is made pending first, as by an update.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import BinaryIO, Self

from tcgamirror.catalogue.catalogue import Catalogue
from tcgamirror.catalogue.database import Row
from tcgamirror.catalogue.images import Image
from tcgamirror.catalogue.rows import ImageState, ReceivedImage, are_different
from tcgamirror.imaging.metadata import parse_metadata
from tcgamirror.mirror.directory import Mirror
from tcgamirror.mirror.orphans import Orphan
from tcgamirror.mirror.progress import Progress
from tcgamirror.mirror.recovery import fits_target
from tcgamirror.mirror.settings import Settings
from tcgamirror.model.errors import ChecksumMismatch, Damaged, Interrupted
from tcgamirror.model.slide import Status
from tcgamirror.system.files import disk_errors, partial_path, sync_folder
from tcgamirror.system.parallel import in_batches
from tcgamirror.transfer.fetching import WORKERS, ImageSource, check_image, find_or_fetch

_BATCH_IMAGES = 256
"""Images recorded at once, or fewer large ones."""


@dataclass(frozen=True, slots=True)
class IncomingImage:
    """An image to add to a mirror.

    row: in the export's catalogue. differs: whether it shows another file than the one
    listed here. replaces: whether its slide is done here. old_path: of the image that it
    replaces, if that has another path.
    """

    row: Row
    differs: bool = False
    replaces: bool = False
    old_path: str | None = None

    @classmethod
    def of(cls, row: Row, state: ImageState | None) -> Self:
        """Return the image of a row in the export; state: of the slide's image here, if any."""
        if state is None:
            return cls(row)
        return cls(
            row,
            differs=are_different(row["md5"], state.md5),
            replaces=state.status is Status.DONE,
            old_path=None if state.path == row["path"] else state.path,
        )

    @property
    def path(self) -> str:
        """Path relative to the mirror, as in the export."""
        return str(self.row["path"])

    @property
    def file_name(self) -> str:
        return str(self.row["file_name"])

    @property
    def image(self) -> Image:
        return Image.of_row(self.row)


def check_row(
    file: BinaryIO,
    image: Image,
    *,
    row: Row,
    settings: Settings,
    decode: bool,
    check_stopped: Callable[[], None] = lambda: None,
) -> None:
    """Give an image the time at which it was fetched. Raise Damaged if its row differs."""
    header = check_image(file, image, decode=decode, check_stopped=check_stopped)
    metadata = parse_metadata(header.metadata)
    found = (metadata.slide.file_name, metadata.mpp_x, metadata.mpp_y)
    if found != (image.file_name, row["mpp_x"], row["mpp_y"]):
        raise Damaged("it has another slide or resolution than the catalogue says")
    if not fits_target(settings.target, metadata, header.size):
        raise Damaged(f"it is not of {settings.target}")
    fetched_at = datetime.fromisoformat(str(row["fetched_at"])).timestamp()
    os.utime(file.fileno(), (fetched_at, fetched_at))


class Intake:
    """Adds images to a mirror: several threads write and check them, one records them.

    attempts: returns the rows of the attempts at a slide, by its file name. decode: whether to
    decode every pixel. images, bytes: added. refused: images that differ from their rows.
    """

    def __init__(
        self,
        source: ImageSource,
        mirror: Mirror,
        catalogue: Catalogue,
        run: int,
        attempts: Callable[[str], Iterable[Row]],
        *,
        decode: bool,
    ) -> None:
        self._source = source
        self._mirror = mirror
        self._catalogue = catalogue
        self._run = run
        self._attempts = attempts
        self._decode = decode
        self._parts: set[Path] = set()
        self._ended = threading.Event()
        self.refused: list[Orphan] = []
        self.images = self.bytes = 0

    def add(self, images: Iterable[IncomingImage], progress: Progress) -> None:
        """Add every image that is as its row says."""
        try:
            for batch in in_batches(
                self._obtain,
                images,
                at_once=WORKERS,
                batch_size=_BATCH_IMAGES,
                size_of=lambda incoming: incoming.image.bytes,
                ended=self._ended,
            ):
                good = []
                for incoming, file in batch:
                    if isinstance(file, Path):
                        good.append((incoming, file))
                    else:
                        self.refused.append(file)
                    progress.add_images(1, incoming.image.bytes)
                self._put(good)
        finally:
            for part in self._parts:
                part.unlink(missing_ok=True)

    def _obtain(self, incoming: IncomingImage) -> Path | Orphan:
        """Return the checked file of an image, or why it is refused.

        The file lies beside its place, or there if a killed import put it.
        """
        place = self._place(incoming)
        part = partial_path(place)
        self._parts.add(part)
        check = partial(
            check_row,
            row=incoming.row,
            settings=self._mirror.settings,
            decode=self._decode,
            check_stopped=self._check_stopped,
        )
        try:
            is_fetched = find_or_fetch(self._source, incoming.image, self._mirror.root, check)
        except (ChecksumMismatch, Damaged) as error:
            return Orphan(incoming.path, str(error))
        return part if is_fetched else place

    def _check_stopped(self) -> None:
        if self._ended.is_set():
            raise Interrupted("stopped while an image was decoded")

    def _place(self, image: IncomingImage) -> Path:
        return self._mirror.root / image.path

    def _put(self, images: list[tuple[IncomingImage, Path]]) -> None:
        """Make rows of replaced images pending, move the files to their places, record them."""
        replaced = [image.file_name for image, _ in images if image.replaces]
        if replaced:
            self._catalogue.queue.requeue(replaced)
        for image, file in images:
            place = self._place(image)
            with disk_errors(place):
                if file != place:
                    file.replace(place)
                if image.old_path is not None:
                    (self._mirror.root / image.old_path).unlink(missing_ok=True)
        for folder in {self._place(image).parent for image, _ in images}:
            sync_folder(folder)
        self._catalogue.rows.add_images(
            [
                ReceivedImage(image.row, image.differs, self._attempts(image.file_name))
                for image, _ in images
            ],
            self._run,
        )
        self._parts.difference_update(file for _, file in images)
        self.images += len(images)
        self.bytes += sum(incoming.image.bytes for incoming, _ in images)
