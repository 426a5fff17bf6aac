"""Images added to a mirror: written beside their places, checked, put there in batches.

An image is renamed to its path after its digest and pixels were checked, and its row follows.
If it replaces another one, the row is made pending first, as by an update.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Self

from tcgamirror.catalogue.catalogue import Catalogue
from tcgamirror.catalogue.database import Row
from tcgamirror.catalogue.rows import ImageState, ReceivedImage, are_different
from tcgamirror.imaging.image_reader import decode_all, read_header
from tcgamirror.imaging.metadata import parse_metadata
from tcgamirror.mirror.directory import Mirror
from tcgamirror.mirror.orphans import Orphan
from tcgamirror.mirror.recovery import fits_target
from tcgamirror.mirror.settings import Settings
from tcgamirror.mirror.verify import reader_threads
from tcgamirror.model.errors import BadExport, Damaged, Interrupted
from tcgamirror.model.geometry import Size
from tcgamirror.model.slide import Status
from tcgamirror.system.files import (
    disk_errors,
    file_digest,
    make_folder,
    partial_path,
    sync_folder,
)
from tcgamirror.system.parallel import in_batches
from tcgamirror.transfer.archive.format import Member

_BATCH_IMAGES = 32
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
    def bytes(self) -> int:
        return int(self.row["bytes"] or 0)


def write_image(image: IncomingImage, member: Member, part: Path) -> None:
    """Write an image of the export to `part`. Raises Damaged if size or digest differ."""
    if member.size != image.bytes:
        raise Damaged(f"{member.size:,} bytes instead of {image.bytes:,}")
    sha256 = hashlib.sha256()
    try:
        with disk_errors(part):
            make_folder(part.parent)
            # A link there would be followed.
            part.unlink(missing_ok=True)
            with part.open("xb") as file:
                for piece in member.pieces():
                    sha256.update(piece)
                    file.write(piece)
    except BadExport as error:
        raise Damaged(str(error)) from error
    if sha256.hexdigest() != image.row["sha256"]:
        raise Damaged("its digest differs from the catalogue's")


def check_image(
    image: IncomingImage, path: Path, settings: Settings, check_stopped: Callable[[], None]
) -> None:
    """Decode an image, and fsync it. Raises Damaged if its row differs."""
    row = image.row
    with path.open("rb+") as file:
        header = read_header(file, settings.form)
        if header.size != Size(int(row["width"] or 0), int(row["height"] or 0)):
            raise Damaged(f"it has {header.size} pixels, not as many as the catalogue says")
        metadata = parse_metadata(header.metadata)
        found = (metadata.slide.file_name, metadata.mpp_x, metadata.mpp_y)
        if found != (image.file_name, row["mpp_x"], row["mpp_y"]):
            raise Damaged("it has another slide or resolution than the catalogue says")
        if not fits_target(settings.target, metadata, header.size):
            raise Damaged(f"it is not of {settings.target}")
        decode_all(file, settings.form, check_stopped)
        with disk_errors(path):
            fetched_at = datetime.fromisoformat(str(row["fetched_at"])).timestamp()
            os.utime(file.fileno(), (fetched_at, fetched_at))
            os.fsync(file.fileno())


class Intake:
    """Adds images to a mirror: one thread writes them, several check them.

    attempts: returns the rows of the attempts at a slide, by its file name. images, bytes:
    added. refused: images that differ from their rows.
    """

    def __init__(
        self,
        mirror: Mirror,
        catalogue: Catalogue,
        run: int,
        attempts: Callable[[str], Iterable[Row]],
    ) -> None:
        self._mirror = mirror
        self._catalogue = catalogue
        self._run = run
        self._attempts = attempts
        self._parts: set[Path] = set()
        self._ended = threading.Event()
        self.refused: list[Orphan] = []
        self.images = self.bytes = 0

    def add(self, images: Iterable[tuple[IncomingImage, Member]]) -> None:
        """Add every image that is as its row says."""
        try:
            for batch in in_batches(
                self._fault,
                self._write_all(images),
                at_once=reader_threads(),
                batch_size=_BATCH_IMAGES,
                size_of=lambda written: written[0].bytes,
                ended=self._ended,
            ):
                for (image, _), fault in batch:
                    if fault is not None:
                        self._refuse(image, fault)
                self._put([written for written, fault in batch if fault is None])
        finally:
            for part in self._parts:
                part.unlink(missing_ok=True)

    def _fault(self, written: tuple[IncomingImage, Path]) -> Damaged | None:
        """Return the fault of an image."""
        try:
            check_image(*written, self._mirror.settings, self._check_stopped)
        except Damaged as error:
            return error
        return None

    def _check_stopped(self) -> None:
        if self._ended.is_set():
            raise Interrupted("stopped while an image was decoded")

    def _write_all(
        self, images: Iterable[tuple[IncomingImage, Member]]
    ) -> Iterator[tuple[IncomingImage, Path]]:
        """Yield each image with its file."""
        for image, member in images:
            try:
                file = self._write(image, member)
            except Damaged as error:
                self._refuse(image, error)
            else:
                yield image, file

    def _write(self, image: IncomingImage, member: Member) -> Path:
        """Write an image beside its place, unless a killed import put it there; return its path."""
        place = self._place(image)
        with suppress(OSError):
            is_whole = place.stat().st_size == member.size == image.bytes
            if is_whole and file_digest(place, "sha256") == image.row["sha256"]:
                return place
        part = partial_path(place)
        self._parts.add(part)
        write_image(image, member, part)
        return part

    def _place(self, image: IncomingImage) -> Path:
        return self._mirror.root / image.path

    def _refuse(self, image: IncomingImage, error: Damaged) -> None:
        self.refused.append(Orphan(image.path, str(error)))
        partial_path(self._place(image)).unlink(missing_ok=True)

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
        self.bytes += sum(image.bytes for image, _ in images)
