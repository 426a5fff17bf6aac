"""A tar archive that is an object in a bucket, written and read in parts."""

from __future__ import annotations

import io
from typing import Any

from tcgamirror.model.errors import UsageError
from tcgamirror.net.object_store import ObjectStore, Tag, Writer, split_address


class StoredArchive:
    """The archive at an address, such as `s3://bucket/tcga.tar`. key: its path in the store."""

    def __init__(self, address: str) -> None:
        """Prepare for the archive; nothing is requested yet. Raises UsageError."""
        scheme, bucket, path = split_address(address)
        folder, _, self.key = path.rpartition("/")
        if not self.key.lower().endswith(".tar"):
            raise UsageError(
                f"{address}: is not the name of a .tar archive in a bucket. To keep a mirror in a "
                "bucket, use tcgamirror sync"
            )
        self._store = ObjectStore(f"{scheme}://{bucket}/{folder}")

    def __str__(self) -> str:
        return f"{self._store.name}/{self.key}"

    def check_free(self) -> None:
        """Raise UsageError if there is such an object."""
        if self._store.find(self.key) is not None:
            raise UsageError(f"{self}: exists already. Name another object, or remove it first")

    def writer(self, size: int) -> Writer:
        """Return the archive to be written. size: bytes that it will have, about."""
        return self._store.writer(self.key, size)

    def reader(self) -> io.BufferedReader:
        """Return the archive to be read from its start to its end. Raises UsageError."""
        found = self._store.find(self.key)
        if found is None or not found.size:
            fault = "does not exist" if found is None else "is empty"
            raise UsageError(f"{self}: {fault}. Correct the address")
        return io.BufferedReader(_Reader(self._store, self.key))


class _Reader(io.RawIOBase):
    """An object, read forwards, all of one version."""

    def __init__(self, store: ObjectStore, key: str) -> None:
        self._store = store
        self._key = key
        self._tag: Tag | None = None
        self._size: int | None = None
        self._position = 0
        self._piece = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        if not self._piece and self._position != self._size:
            found, piece = self._store.read(self._key, self._position, tag=self._tag)
            self._tag, self._size = found.tag, found.size
            self._piece = memoryview(piece)
            self._position += len(piece)
        count = min(len(buffer), len(self._piece))
        buffer[:count] = self._piece[:count]
        self._piece = self._piece[count:]
        return count
