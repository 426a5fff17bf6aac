"""The differences between a mirror and its source, and the actions of a sync."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from typing import Self

from tcgamirror.catalogue.catalogue import Catalogue
from tcgamirror.catalogue.images import Image
from tcgamirror.catalogue.rows import ImageState, are_different
from tcgamirror.mirror.directory import FIXED
from tcgamirror.model.errors import ExitCode
from tcgamirror.model.fields import matching
from tcgamirror.transfer.sync.remote import CatalogueVersion
from tcgamirror.transfer.untrusted import UntrustedCatalogue

_TAG = matching(r"[ -~]{0,1000}")


@dataclass(frozen=True, slots=True)
class ImageFailure:
    """An image that could not be fetched."""

    path: str
    file_name: str
    why: str


@dataclass(frozen=True, slots=True)
class SyncResult:
    """Result of a sync; with dry_run, of the sync that would follow.

    kept: images that were here. adopted: files found here by their digest; in a dry run,
    those of the right size. fetched, bytes: images copied. removed: images. others: slides
    here that the source does not have, or has no image of. changed: whether the catalogue
    differs from before.
    """

    dry_run: bool
    kept: int = 0
    adopted: int = 0
    fetched: int = 0
    bytes: int = 0
    removed: int = 0
    others: int = 0
    changed: bool = False
    failed: tuple[ImageFailure, ...] = ()

    @property
    def exit_code(self) -> ExitCode:
        return ExitCode.SOME_FAILED if self.failed else ExitCode.DONE


# Files and rows here ---------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Local:
    """The catalogue of the target, empty where there is no mirror yet.

    size: returns the bytes of the file at a path, None if there is none. fixed: its fact FIXED,
    None where there is no mirror. images: all that are recorded, by rank. states: of all sampled
    slides, by file name. excluded: file names of slides that were excluded there, not by a source.
    """

    size: Callable[[str], int | None]
    fixed: str | None = None
    images: Sequence[Image] = ()
    states: Mapping[str, ImageState] = field(default_factory=dict)
    excluded: frozenset[str] = frozenset()

    @classmethod
    def of(cls, catalogue: Catalogue, size: Callable[[str], int | None]) -> Self:
        return cls(
            size,
            catalogue.fact(FIXED) or "",
            catalogue.images.recorded(),
            catalogue.rows.image_states(),
            frozenset(each.file_name for each in catalogue.exclusions.all() if each.own),
        )

    def has_file(self, image: Image) -> bool:
        """Return whether a file of the image's size is in its place."""
        return self.size(image.path) == image.bytes


@dataclass(frozen=True, slots=True)
class SyncState:
    """The end of the last sync that fetched everything.

    source: digest of its name, which may be secret. seen: its catalogue. images: done at the
    target. others: slides that the source does not have, or has no image of. here: SHA-256 of the
    catalogue of a target that does not hold the state itself.
    """

    source: str
    seen: CatalogueVersion
    images: int = 0
    others: int = 0
    here: str = ""

    @classmethod
    def of(cls, source: str, seen: CatalogueVersion) -> Self:
        """Return the state after a sync from the source of this name."""
        return cls(hashlib.sha256(os.fsencode(source)).hexdigest()[:16], seen)

    @classmethod
    def parse(cls, text: str | bytes, source: str) -> Self | None:
        """Return the state as JSON; None if it is not one of a sync from this source."""
        with suppress(KeyError, TypeError, ValueError, OverflowError, RecursionError):
            fields = json.loads(text)
            state = cls.of(source, CatalogueVersion(**fields["seen"]))
            for tag in (state.seen.etag, state.seen.modified):
                # Whoever writes to the bucket chooses what the source is sent as a header.
                _TAG("" if tag is None else tag)
            if fields["source"] == state.source:
                images, others = int(fields["images"]), int(fields["others"])
                return replace(state, images=images, others=others, here=fields.get("here", ""))
        return None

    def json(self) -> str:
        return json.dumps(asdict(self))


@dataclass(frozen=True, slots=True)
class Arrival:
    """The images of a source that are at the target, and those to remove there.

    received: file names of slides whose images are there as the source records them, or wait
    beside their places. replaced: those that wait. removed: images with no place at the source.
    keep_others: whether to keep images and slides that the source does not have.
    """

    received: frozenset[str]
    replaced: Sequence[Image]
    removed: Sequence[Image]
    keep_others: bool


# The plan --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SyncPlan:
    """Actions for the images of the source.

    images: all of the source. kept: number of images that the catalogue here records. check:
    files of the right size that it does not record. fetch: the rest. replaced: paths of images
    that are done here and differ there. moved: images here that have another path there.
    obsolete: those that the source does not have. left: file names of slides that are done here
    and to be fetched again there, or excluded on either side; they stay as they are.
    """

    images: Sequence[Image]
    kept: int
    check: Sequence[Image]
    fetch: Sequence[Image]
    replaced: frozenset[str]
    moved: Sequence[Image]
    obsolete: Sequence[Image]
    left: frozenset[str]

    @property
    def bytes(self) -> int:
        """Bytes to fetch."""
        return sum(image.bytes for image in self.fetch)


def make_plan(
    local: Local, source: UntrustedCatalogue, found: Mapping[str, str] | None = None
) -> SyncPlan:
    """Compare recorded digests, and the sizes of files.

    Args:
        found: digests by path of images that this run has fetched or found here.

    Raises:
        Damaged: for an image in the place of another slide's.
    """
    found = found or {}
    remote = source.images()
    by_path = {image.path: image for image in local.images}
    source.check_places({image.path: image.file_name for image in local.images})
    own_images = {image.file_name: image for image in local.images if image.done}
    slides = source.rows("slides") if own_images else ()
    md5s = {row["file_name"]: row["md5"] for row in slides}
    kept = 0
    left = {*local.excluded} | source.names("exclusions")
    check, fetch, replaced = [], [], set()
    for image in remote:
        if image.file_name in left:
            continue
        here = by_path.get(image.path)
        own = None if image.done else own_images.get(image.file_name)
        if own is not None and own.sha256 != image.sha256 and local.has_file(own):
            listed_here = local.states[image.file_name].md5
            if not are_different(md5s[image.file_name], listed_here):
                left.add(image.file_name)
                continue
        is_done = here is not None and here.done
        is_same = here is not None and here.sha256 == image.sha256
        if not local.has_file(image):
            fetch.append(image)
        elif found.get(image.path) == image.sha256 or (is_done and is_same):
            kept += 1
        elif is_done:
            # The file is another image of the same size.
            fetch.append(image)
        else:
            check.append(image)
        if is_done and not is_same:
            replaced.add(image.path)
    places = {image.path for image in remote}
    names = {image.file_name for image in remote}
    return SyncPlan(
        images=remote,
        kept=kept,
        check=check,
        fetch=fetch,
        replaced=frozenset(replaced),
        moved=[
            here for here in local.images if here.path not in places and here.file_name in names
        ],
        obsolete=[here for here in local.images if here.file_name not in names],
        left=frozenset(left),
    )
