"""How far a `verify` over all images has come, so that the next one goes on there.

It is kept beside the catalogue, not in it: `verify` writes to the catalogue
only to repair, so that it needs no lock and runs on a read-only mirror.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from tcgamirror.catalogue.images import Kept
from tcgamirror.model.errors import Damaged, DiskFull, UsageError
from tcgamirror.system.files import atomic_write

FILE = ".verify.json"
GOES_ON_DAYS = 7.0
"""After so long a round begins anew: what it saw first is no longer news."""
SAVE_SECONDS = 5.0
MOST_BYTES = 10_000_000


@dataclass(slots=True)
class Round:
    """One round over all images, by rank, in as many runs as it takes.

    path: the file it is kept in; None for a run that is no part of a round.
    begun: seconds since the epoch. rank: the last one that was reached.
    images: checked so far. wrong: file names of those found damaged by earlier
    runs, which are checked again. earlier: images those runs found whole.
    """

    path: Path | None
    decode: bool
    begun: float
    rank: int = 0
    images: int = 0
    wrong: frozenset[str] = frozenset()
    earlier: int = field(init=False)
    _found: Sequence[str] = ()
    _saved: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.images -= len(self.wrong)
        self.earlier = self.images

    @classmethod
    def of(cls, root: Path, decode: bool, *, whole: bool) -> Self:
        """The round to go on with, or a new one. whole: whether all images are to be read."""
        now = time.time()
        if not whole:
            return cls(None, decode, now)
        with suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
            with (root / FILE).open("rb") as file:
                kept = json.loads(file.read(MOST_BYTES))
            begun, rank, images = float(kept["begun"]), int(kept["rank"]), int(kept["images"])
            if kept["decode"] is decode and 0 <= now - begun < GOES_ON_DAYS * 86400:
                wrong = frozenset(map(str, kept["wrong"]))
                return cls(root / FILE, decode, begun, rank, images, wrong)
        return cls(root / FILE, decode, now)

    @property
    def fresh(self) -> bool:
        """Whether all images are to be read by this run."""
        return self.path is not None and self.rank == 0

    def to_check(self, images: Sequence[Kept]) -> list[Kept]:
        """Those found damaged before, then those that were not reached."""
        again = [each for each in images if each.file_name in self.wrong and each.rank <= self.rank]
        return again + [each for each in images if each.rank > self.rank]

    def passed(self, images: Sequence[Kept], found: Sequence[str]) -> None:
        """These are done with; `found` are the damaged ones of this run. Kept now and then."""
        self.rank = max(self.rank, *(each.rank for each in images))
        self.images += len(images)
        self.wrong -= {each.file_name for each in images}
        self._found = found
        if time.monotonic() - self._saved > SAVE_SECONDS:
            self._save()

    def end(self, *, complete: bool) -> None:
        """Keeps how far it came, or forgets the round if it came to its end."""
        if self.path is not None and complete:
            with suppress(OSError):
                self.path.unlink(missing_ok=True)
        else:
            self._save()

    def _save(self) -> None:
        if self.path is None:
            return
        self._saved = time.monotonic()
        wrong = sorted({*self.wrong, *self._found})
        kept = {
            "begun": self.begun,
            "rank": self.rank,
            "images": self.images + len(self.wrong),
            "decode": self.decode,
            "wrong": wrong,
        }
        # A mirror that cannot be written can be verified all the same, in one go.
        with suppress(OSError, DiskFull, UsageError, Damaged), atomic_write(self.path) as file:
            file.write(json.dumps(kept).encode())
