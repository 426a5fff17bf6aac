"""A mirror in a bucket: the source or the target of a sync.

Its objects are laid out as the files of a mirror, so that a web server may publish them. The
catalogue is replaced only if it is still the version that was read, and names only images that
are there. Its metadata name the version of the source that it was made from, so that a sync
without news requests nothing else. Each image has its SHA-256 as metadata, by which an
interrupted sync resumes.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from tcgamirror.catalogue.catalogue import Catalogue
from tcgamirror.catalogue.images import Image
from tcgamirror.imaging.store import IMAGES
from tcgamirror.mirror.directory import CATALOGUE
from tcgamirror.mirror.settings import FILE_NAME, LOCKED
from tcgamirror.model.errors import Locked, NotAMirror, NotFound
from tcgamirror.net.object_store import ObjectStore, Tag
from tcgamirror.system.files import check_room, disk_errors
from tcgamirror.system.parallel import for_each
from tcgamirror.transfer.fetching import Check, check_image, check_size, fetch_to_partial
from tcgamirror.transfer.objects import download
from tcgamirror.transfer.sync.commit import replace_rows
from tcgamirror.transfer.sync.lease import Lease, hold
from tcgamirror.transfer.sync.plan import Arrival, Local, SyncPlan, SyncState
from tcgamirror.transfer.sync.remote import INCOMPLETE, CatalogueVersion, FileMirror, RemoteMirror
from tcgamirror.transfer.sync.target import Target
from tcgamirror.transfer.untrusted import MAX_BYTES, UntrustedCatalogue

_STATE, _SHA256 = "tcgamirror", "sha256"
"""Keys of metadata: of the catalogue, and of each image."""

_WAITING = "images"
"""Folder beside the catalogue's copy, for images that wait for their upload."""

_CONTENT_TYPES = {".png": "image/png", ".jpg": "image/jpeg", ".tif": "image/tiff"}


class BucketMirror(FileMirror):
    """A mirror in a bucket as the source of a sync."""

    workers = 16

    def __init__(self, store: ObjectStore, rate: float | None, stop: threading.Event) -> None:
        super().__init__(store.name, store.name, rate, stop)
        self._store = store

    def catalogue(self, folder: Path, known: CatalogueVersion | None) -> CatalogueVersion | None:
        copy = folder / INCOMPLETE
        etag = None if known is None else known.etag
        try:
            tag = download(self._store, CATALOGUE, copy, MAX_BYTES, etag)
        except NotFound as error:
            raise NotAMirror(
                f"{self.name}: holds no mirror, as it has no {CATALOGUE}. Correct the address"
            ) from error
        if tag is None:
            return None
        return replace(CatalogueVersion.of_copy(copy, folder), etag=tag.etag)

    def copy(self, name: str, copy: Path, max_bytes: int) -> Path:
        download(self._store, name, copy, max_bytes)
        return copy

    def _pieces(self, image: Image, offset: int) -> Iterator[bytes]:
        tag: Tag | None = None
        while offset < image.bytes:
            found, piece = self._store.read(image.path, offset, tag=tag)
            check_size(image, found.size)
            tag = found.tag
            yield piece
            offset += len(piece)


class BucketTarget(Target):
    """A mirror in a bucket as the target of a sync.

    Its catalogue is changed in a local copy, beside which images wait for their upload.
    """

    workers = 16

    def __init__(
        self, store: ObjectStore, stop: threading.Event, check: Check = check_image
    ) -> None:
        super().__init__(store.name, store.name, Path(), check)
        self._store = store
        self._stop = stop
        self._stack = ExitStack()
        self._tag: Tag | None = None
        self._lease: Lease | None = None
        self._sizes: dict[str, int] = {}

    @contextmanager
    def opened(self, note: Callable[[str], None], *, dry_run: bool) -> Iterator[Path]:
        del note, dry_run  # The lock is taken only once there is something to write.
        with TemporaryDirectory(prefix="tcgamirror-") as folder, self._stack:
            self._root = Path(folder) / "mirror"
            (self._root / _WAITING).mkdir(parents=True)
            yield Path(folder)

    def state(self, source: str) -> SyncState | None:
        found = self._store.find(CATALOGUE)
        return SyncState.parse(found.metadata.get(_STATE, ""), source) if found else None

    # What is there ------------------------------------------------------------------

    def _load(self) -> None:
        """Copy the catalogue, unless the copy is of the current version."""
        path, name = self._root / CATALOGUE, f"the catalogue of {self.name}"
        known = None if self._tag is None else self._tag.etag
        with suppress(NotFound):
            tag = download(self._store, CATALOGUE, path, MAX_BYTES, known)
            if tag is not None:
                self._tag = tag
                with closing(UntrustedCatalogue(path, name)) as untrusted:
                    untrusted.check()
                Catalogue.migrate(path)

    def local(self) -> Local:
        if self._tag is None:
            self._load()
        if not (self._root / CATALOGUE).exists():
            return Local(self.size)
        local = self._local()
        if self._lease is None:
            # Until the bucket is listed, every image in the catalogue is taken to be there.
            self._sizes = {image.path: image.bytes for image in local.images}
        return local

    def size(self, path: str) -> int | None:
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

    # Images -------------------------------------------------------------------------

    def obtain(self, source: RemoteMirror, image: Image, *, is_replaced: bool) -> bool:
        if self._has(image):
            return False
        part = self._part(image)
        with disk_errors(part):
            fetch_to_partial(source, image, str(part), self._check)
        if not is_replaced:
            self._put(image)
        return True

    def settle(self) -> None:
        """Do nothing: an image is there once its upload has ended."""

    def _has(self, image: Image) -> bool:
        """Return whether the bucket has an image, as an interrupted sync may leave it."""
        if self._sizes.get(image.path) != image.bytes:
            return False
        found = self._store.find(image.path)
        return found is not None and found.metadata.get(_SHA256) == image.sha256

    def _part(self, image: Image) -> Path:
        return self._root / _WAITING / hashlib.sha256(image.path.encode()).hexdigest()

    def _put(self, image: Image) -> None:
        self._check_lease()
        part = self._part(image)
        kind = _CONTENT_TYPES.get(Path(image.path).suffix, "application/octet-stream")
        self._store.put(image.path, part, {"Content-Type": kind, _SHA256: image.sha256})
        self._sizes[image.path] = image.bytes
        part.unlink()

    def _check_lease(self) -> None:
        if self._lease is not None:
            self._lease.check()

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
            others = replace_rows(catalogue, remote, arrival, self.size)
            images = len(catalogue.images.done())
        for name in (FILE_NAME, LOCKED):
            if (self._root / name).exists():
                self._store.put(name, self._root / name, {"Content-Type": "text/plain"})
        done = None if state is None else replace(state, others=others, images=images)
        self._put_catalogue({} if done is None else {_STATE: done.json()})
        if arrival.removed:
            self._store.delete([image.path for image in arrival.removed])
        return others

    def _put_catalogue(self, metadata: Mapping[str, str]) -> None:
        """Replace the catalogue, if it is still the version that was read."""
        self._check_lease()
        tag = self._store.put_if(CATALOGUE, self._root / CATALOGUE, metadata, self._tag)
        if tag is None:
            raise Locked(f"{self.name}: another sync wrote its {CATALOGUE} meanwhile. Run again")
        self._tag = tag
