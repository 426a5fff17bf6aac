"""Exclusion of slides from a mirror, and taking it back."""

from __future__ import annotations

import dataclasses
import getpass
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from tcgamirror.catalogue.catalogue import Catalogue
from tcgamirror.catalogue.exclusions import NO_REASON, Exclusion
from tcgamirror.mirror import sample
from tcgamirror.mirror.directory import Mirror, hold
from tcgamirror.mirror.exclusion_file import write_exclusions
from tcgamirror.mirror.settings import raise_slides
from tcgamirror.model import fields
from tcgamirror.model.errors import UsageError
from tcgamirror.model.text import command_line, timestamp
from tcgamirror.system.files import disk_errors, file_digest


@dataclass(frozen=True, slots=True)
class ExclusionReport:
    """Result of an exclusion, or of taking it back.

    slides: number that the names mean. sampled: those of them in the sample whose exclusion
    changed. removed: images. replaced: slides that took a place of these. unknown: names
    without a slide.
    """

    slides: int
    sampled: int
    removed: int
    replaced: int
    unknown: tuple[str, ...]


def exclude(
    mirror: Mirror,
    names: Sequence[str],
    reason: str | None,
    *,
    keep: bool,
    replace: bool,
    warn: Callable[[str], None],
) -> ExclusionReport:
    """Exclude the slides that names mean, in the sample or not, and remove their images.

    A run that is killed before the images are removed leaves them recorded: the same command
    removes them, and raises the number of slides to that of the sample.

    Args:
        reason: None keeps the reason, user and time of earlier exclusions; "-" clears the reason.
        keep: leave the images in their places.
        replace: sample as many of the next slides as are newly excluded in the sample.

    Raises:
        UsageError: no name means a slide.
    """
    text = fields.text(reason)
    shown = NO_REASON if text in (None, "-") else str(text)
    with hold(mirror.root, "exclude"), mirror.open_to_write(warn) as catalogue:
        slides, unknown = _resolve(mirror, catalogue, names)
        if replace:
            _check_replaceable(mirror)
            # Fill free places first, so that they are not counted as replacements.
            sample.fill(mirror, catalogue, warn)
        now, user = timestamp(time.time()), _user()
        exclusions = {name: Exclusion(name, shown, user, now) for name in slides}
        if text is None:
            exclusions |= {
                each.file_name: dataclasses.replace(each, own=True)
                for each in catalogue.exclusions.all()
                if each.file_name in exclusions
            }
        # In one transaction: after a kill, none of the slides is excluded, or all are replaced.
        with catalogue.change():
            fresh = catalogue.exclusions.add([*exclusions.values()])
            added = sample.fill_places(mirror, catalogue, len(fresh)) if replace else 0
        write_exclusions(mirror.root, catalogue)
        removed = 0 if keep else _remove_images(mirror, catalogue, slides)
        if replace and mirror.settings.slides is not None:
            raise_slides(mirror.root, max(mirror.settings.slides, catalogue.sample.count()))
    return ExclusionReport(len(slides), len(fresh), removed, added, tuple(unknown))


def include(mirror: Mirror, names: Sequence[str], warn: Callable[[str], None]) -> ExclusionReport:
    """Take exclusions back. A slide is done if its kept image is whole and not outdated.

    Raises UsageError if no name means an excluded slide.
    """
    with hold(mirror.root, "include"), mirror.open_to_write(warn) as catalogue:
        excluded = {exclusion.file_name for exclusion in catalogue.exclusions.all()}
        slides, unknown = catalogue.exclusions.resolve(names)
        chosen = [*slides, *excluded.intersection(unknown)]
        if not excluded.intersection(chosen):
            raise UsageError(
                f"{mirror.root}: none of these slides is excluded. List those that are by "
                + command_line('query "select * from exclusions"', mirror.root)
            )
        removed, sampled = catalogue.exclusions.remove(chosen)
        write_exclusions(mirror.root, catalogue)
        whole = []
        for image in catalogue.images.recorded(removed):
            with suppress(OSError):
                if file_digest(mirror.root / image.path, "sha256") == image.sha256:
                    whole.append(image.file_name)
        catalogue.images.accept_kept(whole)
    return ExclusionReport(
        len(removed), sampled, 0, 0, tuple(name for name in unknown if name not in excluded)
    )


def _resolve(
    mirror: Mirror, catalogue: Catalogue, names: Sequence[str]
) -> tuple[list[str], list[str]]:
    """Return file names and unknown names. Raises UsageError if no name means a slide."""
    slides, unknown = catalogue.exclusions.resolve(names)
    if slides:
        return slides, unknown
    if catalogue.listing.release() is None:
        raise UsageError(f"no listing yet. Run {command_line('refresh', mirror.root)} first")
    shown = ", ".join(map(repr, unknown[: sample.MOST_NAMED]))
    query = command_line('query "select case_barcode, file_name from mirror"', mirror.root)
    raise UsageError(
        f"no listed slide has a name such as {shown}. Name cases, slides or file_ids, as shown by: "
        f"{query}"
    )


def _check_replaceable(mirror: Mirror) -> None:
    """Raise UsageError where no next slide can take a place."""
    if mirror.settings.lock is not None:
        raise UsageError(
            "--replace: this mirror has exactly the slides of a lock file. Leave --replace out"
        )
    if mirror.settings.slides is None:
        raise UsageError("--replace: all slides are sampled. Leave --replace out")


def _remove_images(mirror: Mirror, catalogue: Catalogue, names: Sequence[str]) -> int:
    """Remove the images of excluded slides, then what is recorded of them."""
    removed = 0
    images = catalogue.images.recorded(names)
    for image in images:
        path = mirror.root / image.path
        with disk_errors(path), suppress(FileNotFoundError):
            path.unlink()
            removed += 1
    catalogue.images.clear([image.file_name for image in images])
    return removed


def _user() -> str:
    try:
        return fields.text(getpass.getuser()) or str(os.getuid())
    except (KeyError, OSError):
        # A container's user may have no name.
        return str(os.getuid())
