"""Images on their way into a mirror: written beside their places, checked, put there in batches."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Self

from tcgamirror.catalogue.database import Row
from tcgamirror.catalogue.rows import ImageState, are_different
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
from tcgamirror.system.parallel import start_pool
from tcgamirror.transfer.archive.format import Member

_BATCH_IMAGES, _BATCH_BYTES = 32, 64 << 20

Record = Callable[[list["IncomingImage"], Callable[[], None]], None]
"""Record a batch of images. The function that it is given puts their files in place."""


@dataclass(frozen=True, slots=True)
class IncomingImage:
    """An image to add to a mirror.

    row: in the export's catalogue. differs: whether it shows another file than the one
    listed here. replaces: whether its slide is done here. old_path: of the image that it
    replaces, if that lies elsewhere.
    """

    row: Row
    differs: bool
    replaces: bool
    old_path: str | None

    @classmethod
    def of(cls, row: Row, state: ImageState | None) -> Self:
        """Return the image of a row in the export; state: of the slide's image here, if any."""
        if state is None:
            return cls(row, differs=False, replaces=False, old_path=None)
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
        if sha256.hexdigest() != image.row["sha256"]:
            raise Damaged("its digest differs from the catalogue's")
    except BadExport as error:
        part.unlink(missing_ok=True)
        raise Damaged(str(error)) from error
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def check_image(
    image: IncomingImage, path: Path, settings: Settings, check_stopped: Callable[[], None]
) -> None:
    """Decode an image, and have it reach the disk. Raises Damaged if its row differs."""
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
    """Images are added by one thread that reads and several that check."""

    def __init__(self, mirror: Mirror, record: Record) -> None:
        self._mirror = mirror
        self._record = record
        self._pool = start_pool(reader_threads(), "import")
        self._stopped = threading.Event()
        self._batch: list[tuple[IncomingImage, Path, Future[None]]] = []
        self._batch_bytes = 0
        self.refused: list[Orphan] = []
        self.images = self.bytes = 0

    def add(self, image: IncomingImage, member: Member) -> None:
        """Read one image of the export."""
        try:
            file = self._write(image, member)
        except Damaged as error:
            self._refuse(image, error)
            return
        self._batch.append((image, file, self._pool.submit(self._check, image, file)))
        self._batch_bytes += image.bytes
        if len(self._batch) >= _BATCH_IMAGES or self._batch_bytes >= _BATCH_BYTES:
            self.finish()

    def finish(self) -> None:
        """Record every image that was read and is right."""
        good: list[tuple[IncomingImage, Path]] = []
        for image, file, check in self._batch:
            try:
                check.result()
            except Damaged as error:
                self._refuse(image, error)
                self._discard(image, file)
            else:
                good.append((image, file))
        if good:
            self._record([image for image, _ in good], lambda: self._put(good))
        self._batch, self._batch_bytes = [], 0
        self.images += len(good)
        self.bytes += sum(image.bytes for image, _ in good)

    def close(self) -> None:
        """End the threads, within a second, and remove what was not recorded."""
        self._stopped.set()
        self._pool.shutdown(wait=True, cancel_futures=True)
        for image, file, _ in self._batch:
            self._discard(image, file)

    def _place(self, image: IncomingImage) -> Path:
        return self._mirror.root / image.path

    def _discard(self, image: IncomingImage, file: Path) -> None:
        if file != self._place(image):
            file.unlink(missing_ok=True)

    def _refuse(self, image: IncomingImage, error: Damaged) -> None:
        self.refused.append(Orphan(image.path, str(error)))

    def _write(self, image: IncomingImage, member: Member) -> Path:
        """Return where the image is now: beside its place, or there if a killed import put it."""
        place = self._place(image)
        with suppress(OSError):
            is_whole = place.stat().st_size == member.size == image.bytes
            if is_whole and file_digest(place, "sha256") == image.row["sha256"]:
                return place
        part = partial_path(place)
        write_image(image, member, part)
        return part

    def _check(self, image: IncomingImage, path: Path) -> None:
        check_image(image, path, self._mirror.settings, self._check_stopped)

    def _check_stopped(self) -> None:
        if self._stopped.is_set():
            raise Interrupted("stopped while an image was decoded")

    def _put(self, images: list[tuple[IncomingImage, Path]]) -> None:
        """Move images to their places, and remove those that they replace elsewhere."""
        for image, file in images:
            place = self._place(image)
            with disk_errors(place):
                if file != place:
                    file.replace(place)
                if image.old_path is not None:
                    (self._mirror.root / image.old_path).unlink(missing_ok=True)
        for folder in {self._place(image).parent for image, _ in images}:
            sync_folder(folder)
