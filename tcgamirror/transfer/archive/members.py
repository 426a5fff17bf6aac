"""What every kind of export gives when it is read: plain files, one after another."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tcgamirror.model.errors import BadExport
from tcgamirror.transfer.archive.format import MOST_ENTRIES, checked_name

PIECE = 1 << 20


@dataclass(frozen=True, slots=True)
class Member:
    """A regular file in an export. read: the next bytes of it, valid until the next member."""

    name: str
    size: int
    read: Callable[[int], bytes]

    def pieces(self) -> Iterator[bytes]:
        """All of it. Raises BadExport if it is shorter than it says."""
        left = self.size
        while left:
            try:
                piece = self.read(min(left, PIECE))
            except OSError as error:
                raise BadExport(f"{self.name} cannot be read ({error.strerror})") from error
            if not piece:
                raise BadExport(f"{self.name} is cut off")
            left -= len(piece)
            yield piece


class Names:
    """The names met so far. Raises BadExport for one that comes twice, or that none may have."""

    def __init__(self) -> None:
        self._seen: set[str] = set()

    def checked(self, name: str) -> str:
        name = checked_name(name)
        if name in self._seen:
            raise BadExport(f"it has {name} twice")
        self._seen.add(name)
        if len(self._seen) > MOST_ENTRIES:
            raise BadExport(f"it has more than {MOST_ENTRIES:,} files")
        return name
