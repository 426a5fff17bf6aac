"""What a mirror, or a listing, does not have as a lock file names it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tcgamirror.catalogue.catalogue import Catalogue
from tcgamirror.mirror.lockfile import LockedSlide, LockFile

_NOW = """
SELECT slides.file_name, slides.upstream IN ('current', 'changed'), slides.md5,
    CASE images.status WHEN 'done' THEN images.sha256 END
FROM slides LEFT JOIN images ON images.file_name = slides.file_name
"""


@dataclass(frozen=True, slots=True)
class Differences:
    """File names of a lock's slides that a mirror does not have as locked, in their order.

    missing: not listed any more, nor held. changed: the GDC's file is another
    now. others: the image has another digest. waiting: not fetched yet.
    """

    missing: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    waiting: tuple[str, ...] = ()

    @property
    def lasting(self) -> Mapping[str, Sequence[str]]:
        """What no further update mends, by what is to be said of it."""
        said = {
            "not to be had any more (not listed)": self.missing,
            "changed at the GDC since (listed with another md5)": self.changed,
            "with another image than locked (another digest)": self.others,
        }
        return {words: names for words, names in said.items() if names}


def compare(lock: LockFile, catalogue: Catalogue) -> Differences:
    """Which slides of the lock the mirror does not have as they were locked."""
    wanted = set(lock.names)
    now = {name: known for name, *known in catalogue.query(_NOW).rows if name in wanted}
    found: dict[str, list[str]] = {}
    for slide in lock.slides:
        if way := _difference(slide, *now.get(slide.file_name, (False, None, None))):
            found.setdefault(way, []).append(slide.file_name)
    return Differences(**{way: tuple(names) for way, names in found.items()})


def _difference(slide: LockedSlide, listed: object, md5: object, sha256: object) -> str | None:
    """Where in `Differences` it belongs, if it differs. md5, sha256: what they are now."""
    if sha256 is not None and sha256 == slide.sha256:
        return None
    if slide.md5 and md5 and md5 != slide.md5:
        return "changed"
    if sha256 is not None:
        return None if slide.sha256 is None else "others"
    return "waiting" if listed else "missing"


def compare_listing(lock: LockFile, md5s: Mapping[str, str | None]) -> Differences:
    """Which slides of the lock a listing lacks, or lists as another file.

    md5s: of those that it lists, by file name, as far as it tells them.
    """
    missing = [name for name in lock.names if name not in md5s]
    changed = [
        slide.file_name
        for slide in lock.slides
        if slide.md5 and (md5 := md5s.get(slide.file_name)) and md5 != slide.md5
    ]
    return Differences(missing=tuple(missing), changed=tuple(changed))
