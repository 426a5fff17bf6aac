"""Images on their way into a mirror: written beside their places, checked, put there in batches."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from tcgamirror.catalogue.images import Row
from tcgamirror.imaging.image_reader import decode_all, read_header
from tcgamirror.imaging.metadata import parse_metadata
from tcgamirror.mirror.directory import Mirror
from tcgamirror.mirror.orphans import Orphan
from tcgamirror.mirror.recovery import fits
from tcgamirror.mirror.verify import reader_threads
from tcgamirror.model.errors import BadExport, Damaged, Interrupted
from tcgamirror.model.geometry import Size
from tcgamirror.system.files import disk_errors, file_digest, make_folder, partial_path, sync_folder
from tcgamirror.transfer.archive.format import Member

_BATCH_IMAGES, _BATCH_BYTES = 32, 64 << 20


@dataclass(frozen=True, slots=True)
class Wanted:
    """An image that is to be taken in.

    row: as the export's catalogue has it. differs: it is of another file than the
    one listed here. replaces: whether its slide is done. older: where another
    image of the slide lies, if not in its place.
    """

    row: Row
    differs: bool
    replaces: bool
    older: str | None

    @property
    def place(self) -> str:
        """Relative to the mirror, as in the export."""
        return str(self.row["path"])

    @property
    def file_name(self) -> str:
        return str(self.row["file_name"])

    @property
    def bytes(self) -> int:
        return int(self.row["bytes"] or 0)


class Arrivals:
    """Takes images in, one thread reading, several checking.

    record: called with a batch of images that are about to lie in their places
    and a function that puts them there: what is noted before and after is its affair.
    """

    def __init__(
        self,
        mirror: Mirror,
        wanted: Mapping[str, Wanted],
        record: Callable[[list[Wanted], Callable[[], None]], None],
    ) -> None:
        self._mirror = mirror
        self._wanted = wanted
        self._record = record
        self._pool = ThreadPoolExecutor(reader_threads(), "import")
        self._stopped = threading.Event()
        self._batch: list[tuple[Wanted, Path, Future[None]]] = []
        self._batch_bytes = 0
        self.refused: list[Orphan] = []
        self.seen = self.images = self.bytes = 0

    def add(self, member: Member) -> None:
        """Reads one image that is wanted."""
        wanted = self._wanted[member.name]
        self.seen += 1
        try:
            written = self._written(member, wanted)
        except Damaged as error:
            self._refuse(wanted, str(error))
            return
        check = self._pool.submit(self._check, written, wanted)
        self._batch.append((wanted, written, check))
        self._batch_bytes += wanted.bytes
        if len(self._batch) >= _BATCH_IMAGES or self._batch_bytes >= _BATCH_BYTES:
            self._put()

    def end(self) -> None:
        """Puts what is left."""
        self._put()

    def close(self) -> None:
        """End the threads, within a second, and remove what was not put."""
        self._stopped.set()
        self._pool.shutdown(wait=True, cancel_futures=True)
        for wanted, written, _ in self._batch:
            if written != self._mirror.root / wanted.place:
                written.unlink(missing_ok=True)

    def _written(self, member: Member, wanted: Wanted) -> Path:
        """Where the image lies now: in its place, left by a killed import, or beside it."""
        if member.size != wanted.bytes:
            raise Damaged(f"{member.size:,} bytes instead of {wanted.bytes:,}")
        place = self._mirror.root / wanted.place
        with suppress(OSError):
            if (
                place.stat().st_size == member.size
                and file_digest(place, "sha256") == wanted.row["sha256"]
            ):
                return place
        part = self._mirror.root / partial_path(wanted.place)
        taken = hashlib.sha256()
        try:
            with disk_errors(part):
                make_folder(part.parent)
                # Whatever lies there, be it a link, is not written through.
                part.unlink(missing_ok=True)
                with part.open("xb") as file:
                    for piece in member.pieces():
                        taken.update(piece)
                        file.write(piece)
            if taken.hexdigest() != wanted.row["sha256"]:
                raise Damaged("its digest is another one than the catalogue says")
        except BadExport as error:
            part.unlink(missing_ok=True)
            raise Damaged(str(error)) from error
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        return part

    def _check(self, written: Path, wanted: Wanted) -> None:
        """Raises Damaged if it is no image as its row says; has it reach the disk if it is."""
        row, form = wanted.row, self._mirror.settings.form
        with written.open("rb+") as file:
            header = read_header(file, form)
            if header.size != Size(int(row["width"] or 0), int(row["height"] or 0)):
                raise Damaged(f"it has {header.size} pixels, not as many as the catalogue says")
            told = parse_metadata(header.facts)
            if (told.slide.file_name, told.mpp_x, told.mpp_y) != (
                wanted.file_name,
                row["mpp_x"],
                row["mpp_y"],
            ):
                raise Damaged("it tells of another slide or resolution than the catalogue")
            if not fits(self._mirror.settings.target, told, header.size):
                raise Damaged(f"it is not of {self._mirror.settings.target}")
            decode_all(file, form, self._check_stopped)
            with disk_errors(written):
                moment = datetime.fromisoformat(str(row["fetched_at"])).timestamp()
                os.utime(file.fileno(), (moment, moment))
                os.fsync(file.fileno())

    def _check_stopped(self) -> None:
        if self._stopped.is_set():
            raise Interrupted("stopped while an image was decoded")

    def _put(self) -> None:
        """Puts those of the batch that are right."""
        right: list[tuple[Wanted, Path]] = []
        for wanted, written, check in self._batch:
            try:
                check.result()
            except Damaged as error:
                self._refuse(wanted, str(error))
                if written != self._mirror.root / wanted.place:
                    written.unlink(missing_ok=True)
            else:
                right.append((wanted, written))

        def put() -> None:
            folders = set()
            for wanted, written in right:
                place = self._mirror.root / wanted.place
                with disk_errors(place):
                    if written != place:
                        written.replace(place)
                    if wanted.older is not None:
                        (self._mirror.root / wanted.older).unlink(missing_ok=True)
                folders.add(place.parent)
            for folder in folders:
                sync_folder(folder)

        if right:
            self._record([wanted for wanted, _ in right], put)
        self._batch, self._batch_bytes = [], 0
        self.images += len(right)
        self.bytes += sum(wanted.bytes for wanted, _ in right)

    def _refuse(self, wanted: Wanted, why: str) -> None:
        self.refused.append(Orphan(wanted.place, why))
