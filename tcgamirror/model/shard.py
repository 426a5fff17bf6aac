"""Shards: parts of a sample that machines fetch side by side."""

from __future__ import annotations

from dataclasses import dataclass

MOST_SHARDS = 100_000


@dataclass(frozen=True, slots=True)
class Shard:
    """One part of a sample divided into `count` parts. number: from 1 to `count`."""

    number: int
    count: int

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def holds(self, file_name: str) -> bool:
        """Return whether the slide belongs to this shard."""
        return shard_of(file_name, self.count) == self.number


def shard_of(file_name: str, count: int) -> int:
    """Return the number of the shard, from 1 to `count`, to which a slide belongs.

    >>> shard_of("TCGA-3C-AALI-01Z-00-DX1.svs", 1), shard_of("TCGA-3C-AALI-01Z-00-DX1.svs", 4)
    (1, 4)
    """
    # Imported late, as most commands ask for no shard.
    from hashlib import sha256

    # With the count, so that a part carried elsewhere fills the shards of other counts there.
    return int.from_bytes(sha256(f"{count} {file_name}".encode()).digest()[:8]) % count + 1
