"""What of a mirror's images lacks in another one, and what was found out about it before."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from tcgamirror.catalogue import Catalogue
from tcgamirror.files import digest, replacing
from tcgamirror.foreign import Image
from tcgamirror.home import CATALOGUE
from tcgamirror.publishers import Seen

STATE = ".sync.json"
"""Beside the catalogue: what of it is known to be as it was at the source."""

_MOST_STATE = 10_000


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done about the images of the source.

    kept: those that are here, by this mirror's own catalogue. check: files of
    the right size that it does not vouch for. fetch: the rest. replaced: paths of
    images that are done here and others there. obsolete: images of this mirror
    that have no place in the source.
    """

    kept: int
    check: Sequence[Image]
    fetch: Sequence[Image]
    replaced: frozenset[str]
    obsolete: Sequence[Image]

    @property
    def bytes(self) -> int:
        """Of the images to be fetched."""
        return sum(image.bytes for image in self.fetch)


def plan_of(
    root: Path, theirs: Sequence[Image], ours: Sequence[Image], seen: Mapping[str, str]
) -> Plan:
    """Compares by digest, looking at no file but for its size.

    seen: digests, by path, of images this run has itself put or found here.
    """
    here = {image.path: image for image in ours}
    kept = 0
    check, fetch, replaced = [], [], set()
    for image in theirs:
        mine = here.get(image.path)
        if size_at(root / image.path) != image.bytes:
            fetch.append(image)
        elif seen.get(image.path) == image.sha256 or _vouched(mine, image):
            kept += 1
        elif mine is not None and mine.done:
            # The catalogue knows what lies there: another image of the same size.
            fetch.append(image)
        else:
            check.append(image)
        if mine is not None and mine.done and mine.sha256 != image.sha256:
            replaced.add(image.path)
    places = {image.path for image in theirs}
    obsolete = [image for image in ours if image.path not in places]
    return Plan(kept, check, fetch, frozenset(replaced), obsolete)


def _vouched(mine: Image | None, image: Image) -> bool:
    return mine is not None and mine.done and mine.sha256 == image.sha256


def size_at(path: Path) -> int | None:
    """Bytes of the file there; None if there is none, or something else."""
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None


def images_here(root: Path) -> list[Image]:
    """What this mirror's own catalogue says is there; nothing if there is none yet."""
    if not (root / CATALOGUE).exists():
        return []
    with Catalogue.open(root / CATALOGUE, read_only=True) as catalogue:
        rows = catalogue.query(
            "SELECT file_name, path, bytes, sha256, status FROM mirror WHERE path IS NOT NULL "
            "AND bytes IS NOT NULL AND sha256 IS NOT NULL ORDER BY sample_rank"
        ).rows
        return [
            Image(str(name), str(path), int(str(size)), str(sha256), status == "done")
            for name, path, size, sha256, status in rows
        ]


@dataclass(frozen=True, slots=True)
class State:
    """What the last sync left that came to its end.

    source: where from. seen: the source's catalogue. here: SHA-256 of this mirror's
    own catalogue after that. others: slides that the source lacks.
    """

    source: str
    seen: Seen
    here: str
    others: int

    @classmethod
    def read(cls, root: Path) -> Self | None:
        """The state, if it tells of what is here still."""
        with suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
            with (root / STATE).open("rb") as file:
                kept = json.loads(file.read(_MOST_STATE))
            state = cls(kept["source"], Seen(**kept["seen"]), kept["here"], int(kept["others"]))
            if digest(root / CATALOGUE, "sha256") == state.here:
                return state
        return None

    def keep(self, root: Path) -> None:
        """Writes it down; a tag that may come to name another catalogue is left out."""
        kept = asdict(self)
        if not self.seen.lasting:
            kept["seen"] = asdict(Seen(self.seen.digest))
        with replacing(root / STATE) as file:
            file.write(json.dumps(kept).encode())
