"""Objects in a bucket: files copied from it, and archives written and read there."""

from __future__ import annotations

from pathlib import Path

from tcgamirror.model.errors import TooLong, UsageError
from tcgamirror.net.object_store import ObjectStore, Tag, Writer, split_address
from tcgamirror.system.files import check_room, disk_errors

_AT_ONCE = 64 << 20
"""Bytes of one request; a catalogue of 50,000 slides has 40 MB."""


def download(
    store: ObjectStore, path: str, copy: Path, most: int | None = None, known: str | None = None
) -> Tag | None:
    """Copy one version of an object to a file; return its tag, or None for the known ETag.

    Raises:
        NotFound; TooLong for more than `most` bytes; DiskFull.
    """
    answer = store.read_new(path, known, count=_AT_ONCE)
    if answer is None:
        return None
    found, piece = answer
    if most is not None and found.size > most:
        raise TooLong(f"{store.name}/{path}: {found.size:,} bytes, more than any has")
    check_room(copy.parent, found.size)
    with disk_errors(copy), copy.open("wb") as file:
        file.write(piece)
        while file.tell() < found.size:
            _, piece = store.read(path, file.tell(), tag=found.tag, count=_AT_ONCE)
            file.write(piece)
    return found.tag


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

    def copy(self, path: Path) -> None:
        """Copy the archive to a file. Raises UsageError, DiskFull."""
        found = self._store.find(self.key)
        if found is None or not found.size:
            fault = "does not exist" if found is None else "is empty"
            raise UsageError(f"{self}: {fault}. Correct the address")
        download(self._store, self.key, path)
