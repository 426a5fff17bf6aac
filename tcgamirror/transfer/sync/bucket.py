"""A mirror in a bucket: the source or the target of a sync.

Its objects are laid out as the files of a mirror, so that a web server may publish them. The
catalogue is replaced only if it is still the version that was read, and names only images that
are there. Its metadata name the version of the source that it was made from, so that a sync
without news requests nothing else. Each image has its SHA-256 as metadata, by which an
interrupted sync resumes.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO

from tcgamirror.catalogue.catalogue import Catalogue
from tcgamirror.catalogue.images import Image
from tcgamirror.imaging.store import IMAGES
from tcgamirror.mirror.directory import CATALOGUE, FIXED, Mirror, check_same_target
from tcgamirror.mirror.settings import FILE_NAME, LOCKED, Settings
from tcgamirror.model.errors import (
    Damaged,
    Interrupted,
    Locked,
    NotAMirror,
    NotFound,
    TooLong,
    UsageError,
)
from tcgamirror.net.object_store import ObjectStore, Tag
from tcgamirror.net.throttle import RateLimit
from tcgamirror.system.files import check_room, disk_errors
from tcgamirror.system.parallel import for_each
from tcgamirror.transfer.fetching import Check, check_image, fetch_to_partial
from tcgamirror.transfer.sync.commit import replace_rows
from tcgamirror.transfer.sync.lease import Lease, hold
from tcgamirror.transfer.sync.plan import Local, SyncPlan, SyncState
from tcgamirror.transfer.sync.remote import CatalogueVersion, RemoteMirror
from tcgamirror.transfer.sync.target import Arrival
from tcgamirror.transfer.untrusted import MAX_BYTES, UntrustedCatalogue

_STATE, _SHA256 = "tcgamirror", "sha256"
"""Keys of metadata: of the catalogue, and of each image."""

_AT_ONCE = 64 << 20
"""Bytes of one request for a catalogue; that of 50,000 slides has 40 MB."""

_WAITING = "images"
"""Folder beside the catalogue's copy, for images that wait for their upload."""

_CONTENT_TYPES = {".png": "image/png", ".jpg": "image/jpeg", ".tif": "image/tiff"}


def _download(
    store: ObjectStore, path: str, copy: Path, most: int, known: str | None = None
) -> Tag | None:
    """Copy one version of an object to a file; return its tag, or None for the known ETag."""
    answer = store.read_new(path, known, count=_AT_ONCE)
    if answer is None:
        return None
    found, piece = answer
    if found.size > most:
        raise TooLong(f"{store.name}/{path}: {found.size:,} bytes, more than any has")
    with disk_errors(copy), copy.open("wb") as file:
        file.write(piece)
        while file.tell() < found.size:
            _, piece = store.read(path, file.tell(), tag=found.tag, count=_AT_ONCE)
            file.write(piece)
    return found.tag


class BucketMirror:
    """A mirror in a bucket as the source of a sync."""

    workers = 16

    def __init__(self, store: ObjectStore, rate: float | None, stop: threading.Event) -> None:
        """Read nothing yet. rate: most bytes per second; None for no limit."""
        self.store = store
        self.name = store.name
        self._stop = stop
        self._rate = RateLimit(rate, stop)

    def catalogue(self, folder: Path, known: CatalogueVersion | None) -> CatalogueVersion | None:
        copy = folder / "incomplete.db"
        etag = None if known is None else known.etag
        try:
            tag = _download(self.store, CATALOGUE, copy, MAX_BYTES, etag)
        except NotFound as error:
            raise NotAMirror(
                f"{self.name}: holds no mirror, as it has no {CATALOGUE}. Correct the address"
            ) from error
        if tag is None:
            return None
        return replace(CatalogueVersion.of_copy(copy, folder), etag=tag.etag)

    def copy(self, name: str, copy: Path, max_bytes: int) -> Path:
        """Copy settings or a lock file; return the copy's path."""
        _download(self.store, name, copy, max_bytes)
        return copy

    def fetch(self, image: Image, file: BinaryIO) -> None:
        tag: Tag | None = None
        while (start := file.seek(0, os.SEEK_END)) < image.bytes:
            if self._stop.is_set():
                raise Interrupted("stopped while copying; the next sync resumes")
            found, piece = self.store.read(image.path, start, tag=tag)
            if found.size != image.bytes:
                raise Damaged(f"{image.path} has {found.size:,} bytes, expected {image.bytes:,}")
            tag = found.tag
            file.write(piece)
            self._rate.wait_for(len(piece))


class BucketTarget:
    """A mirror in a bucket as the target of a sync.

    Its catalogue is changed in a local copy, beside which images wait for their upload.
    """

    workers = 16

    def __init__(
        self, store: ObjectStore, stop: threading.Event, check: Check = check_image
    ) -> None:
        self._store = store
        self._stop = stop
        self._check = check
        self._stack = ExitStack()
        self._root = Path()
        self._tag: Tag | None = None
        self._kept: int | None = None
        self._lease: Lease | None = None
        self._sizes: dict[str, int] = {}

    def check_other(self, source: RemoteMirror) -> None:
        if source.name == self._store.name:
            raise UsageError(f"{self._store.name}: is SRC itself. Name another place as DST")

    @contextmanager
    def opened(self, note: Callable[[str], None], *, dry_run: bool) -> Iterator[Path]:
        del note, dry_run  # The lock is taken only once there is something to write.
        with TemporaryDirectory(prefix="tcgamirror-") as folder, self._stack:
            self._root = Path(folder) / "mirror"
            (self._root / _WAITING).mkdir(parents=True)
            yield Path(folder)

    # The last sync ------------------------------------------------------------------

    def state(self, source: str) -> SyncState | None:
        found = self._store.find(CATALOGUE)
        with suppress(KeyError, TypeError, ValueError, RecursionError):
            fields = json.loads(found.metadata[_STATE]) if found else {}
            self._kept = int(fields["images"])
            if fields["source"] == _hash(source):
                seen = CatalogueVersion(**fields["seen"])
                return SyncState(source, seen, others=int(fields["others"]))
        return None

    def write_state(self, state: SyncState) -> None:
        """Do nothing, because `commit` writes the state into the metadata of the catalogue."""

    def count_images(self) -> int | None:
        return self._kept

    # What is there ------------------------------------------------------------------

    def check_fixed(self, source: str, fixed: str) -> bool:
        path = self._root / CATALOGUE
        if self._tag is None:
            self._load()
        if not path.exists():
            return False
        with Catalogue.open(path, read_only=True) as catalogue:
            here = catalogue.fact(FIXED) or ""
            check_same_target(fixed, here, source, self._store.name)
        return True

    def _load(self) -> None:
        """Copy the catalogue, unless the copy is of the current version."""
        path, name = self._root / CATALOGUE, f"the catalogue of {self._store.name}"
        known = None if self._tag is None else self._tag.etag
        with suppress(NotFound):
            tag = _download(self._store, CATALOGUE, path, MAX_BYTES, known)
            if tag is not None:
                self._tag = tag
                with closing(UntrustedCatalogue(path, name)) as untrusted:
                    untrusted.check()
                Catalogue.migrate(path)

    def local(self) -> Local:
        path = self._root / CATALOGUE
        if not path.exists():
            return Local(self._size)
        with Catalogue.open(path, read_only=True) as catalogue:
            local = Local.of(catalogue, self._size)
        if self._lease is None:
            # Until the bucket is listed, every image in the catalogue is taken to be there.
            self._sizes = {image.path: image.bytes for image in local.images}
        return local

    def _size(self, path: str) -> int | None:
        return self._sizes.get(path)

    def reserve(self, plan: SyncPlan) -> bool:
        if self._lease is not None or not (plan.check or plan.fetch or plan.moved or plan.obsolete):
            return False
        waiting = sum(image.bytes for image in plan.fetch if image.path in plan.replaced)
        check_room(self._root, waiting)
        self._lease = self._stack.enter_context(hold(self._store, self._stop))
        self._load()
        self._sizes = self._store.sizes(IMAGES)
        return True

    def create(self, settings: Settings, lock: Iterable[bytes]) -> None:
        Mirror.create(self._root, settings, lock)

    # Images -------------------------------------------------------------------------

    def obtain(self, source: RemoteMirror, image: Image, *, is_replaced: bool) -> bool:
        if self._has(image):
            return False
        part = self._part(image)
        with disk_errors(part):
            fetch_to_partial(source, image, part, self._check)
        if not is_replaced:
            self._put(image)
        return True

    def _has(self, image: Image) -> bool:
        """Return whether the bucket has an image, as an interrupted sync may leave it."""
        if self._sizes.get(image.path) != image.bytes:
            return False
        found = self._store.find(image.path)
        return found is not None and found.metadata.get(_SHA256) == image.sha256

    def _part(self, image: Image) -> Path:
        return self._root / _WAITING / hashlib.sha256(image.path.encode()).hexdigest()

    def _put(self, image: Image) -> None:
        if self._lease is not None:
            self._lease.check()
        part = self._part(image)
        kind = _CONTENT_TYPES.get(Path(image.path).suffix, "application/octet-stream")
        self._store.put(image.path, part, {"Content-Type": kind, _SHA256: image.sha256})
        self._sizes[image.path] = image.bytes
        part.unlink()

    # The catalogue ------------------------------------------------------------------

    def commit(self, remote: UntrustedCatalogue, arrival: Arrival, state: SyncState | None) -> int:
        path = self._root / CATALOGUE
        waiting = [image for image in arrival.replaced if self._part(image).exists()]
        if waiting:
            # If the sync is killed while it replaces images, no row may name one of them.
            with Catalogue.open(path) as catalogue:
                catalogue.images.clear([image.file_name for image in waiting])
            self._put_catalogue({})
            for_each(self._put, waiting, self.workers, "put")
        with Catalogue.open(path) as catalogue:
            local = Local.of(catalogue, self._size)
            others = replace_rows(
                catalogue,
                remote,
                keep_others=arrival.keep_others,
                received=arrival.received,
                present={image.file_name for image in local.images if local.has_file(image)},
            )
            images = len(catalogue.images.done())
        for name in (FILE_NAME, LOCKED):
            if (self._root / name).exists():
                self._store.put(name, self._root / name, {"Content-Type": "text/plain"})
        fields = {} if state is None else _fields(replace(state, others=others), images)
        self._put_catalogue(fields)
        if arrival.removed:
            self._store.delete([image.path for image in arrival.removed])
        return others

    def _put_catalogue(self, metadata: Mapping[str, str]) -> None:
        """Replace the catalogue, if it is still the version that was read."""
        if self._lease is not None:
            self._lease.check()
        tag = self._store.put_if(CATALOGUE, self._root / CATALOGUE, metadata, self._tag)
        if tag is None:
            raise Locked(
                f"{self._store.name}: another sync wrote its {CATALOGUE} meanwhile. Run again"
            )
        self._tag = tag


def _fields(state: SyncState, images: int) -> Mapping[str, str]:
    """Return a catalogue's metadata, with SRC hashed because the bucket may be public."""
    fields = {
        "source": _hash(state.source),
        "seen": asdict(state.seen),
        "others": state.others,
        "images": images,
    }
    return {_STATE: json.dumps(fields)}


def _hash(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:16]
