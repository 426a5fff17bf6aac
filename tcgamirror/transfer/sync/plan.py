"""How one mirror differs from another: what is to be done, and what was found out before."""

from __future__ import annotations

import json
import os
import re
import stat
import tempfile
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from tcgamirror.catalogue.catalogue import Catalogue
from tcgamirror.catalogue.images import Image
from tcgamirror.catalogue.rows import are_different
from tcgamirror.mirror.directory import CATALOGUE, FIXED, Mirror
from tcgamirror.mirror.settings import FILE_NAME, Settings, target
from tcgamirror.model.errors import BadSettings, Damaged, ExitCode, UsageError
from tcgamirror.model.slide import ImageFormat, Resample, Status
from tcgamirror.system.files import atomic_write, file_digest
from tcgamirror.transfer.sync.remote import Folder, Publisher, Seen
from tcgamirror.transfer.untrusted import UntrustedCatalogue

STATE = ".sync.json"
"""Beside the catalogue: what of it is known to be as it was at the source."""

_MOST_STATE = 10_000
_MADE = rf"({'|'.join(Resample)}), ({'|'.join(ImageFormat)})"
_BY_MPP = re.compile(rf"([0-9.e+-]{{1,30}}) µm/px, {_MADE}")
_BY_SIZE = re.compile(rf"at most ([0-9]{{1,10}}) px, {_MADE}")


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done about the images of the source.

    kept: those that are here, by this mirror's own catalogue. check: files of
    the right size that it does not vouch for. fetch: the rest. replaced: paths of
    images that are done here and others there. moved: images of this mirror that
    lie elsewhere in the source. obsolete: those of which the source has none.
    left: file names of slides that are done here, and at the source to be fetched
    again: what is here stays.
    """

    kept: int
    check: Sequence[Image]
    fetch: Sequence[Image]
    replaced: frozenset[str]
    moved: Sequence[Image]
    obsolete: Sequence[Image]
    left: frozenset[str]

    @property
    def bytes(self) -> int:
        """Of the images to be fetched."""
        return sum(image.bytes for image in self.fetch)


def plan_of(
    root: Path,
    theirs: Sequence[Image],
    ours: Sequence[Image],
    right: Collection[str],
    seen: Mapping[str, str],
) -> Plan:
    """Compares by digest, looking at no file but for its size.

    right: file names of slides whose images here are of the files that the source lists.
    seen: digests, by path, of images this run has itself put or found here.
    Raises Damaged for an image in the place of another slide's.
    """
    here = {image.path: image for image in ours}
    stay = {image.file_name: image for image in ours if image.file_name in right}
    kept = 0
    left = set()
    check, fetch, replaced = [], [], set()
    for image in theirs:
        mine = here.get(image.path)
        if mine is not None and mine.file_name != image.file_name:
            raise Damaged(
                f"the source has an image of {image.file_name} at {image.path}, which here is "
                f"that of {mine.file_name}: nothing is taken"
            )
        own = None if image.done else stay.get(image.file_name)
        if own is not None and own.sha256 != image.sha256 and is_there(root, own):
            left.add(image.file_name)
            continue
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
    names = {image.file_name for image in theirs}
    moved = [each for each in ours if each.path not in places and each.file_name in names]
    obsolete = [each for each in ours if each.file_name not in names]
    return Plan(kept, check, fetch, frozenset(replaced), moved, obsolete, frozenset(left))


def _vouched(mine: Image | None, image: Image) -> bool:
    return mine is not None and mine.done and mine.sha256 == image.sha256


def size_at(path: Path) -> int | None:
    """Bytes of the file there; None if there is none, or something else."""
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None


def is_there(root: Path, image: Image) -> bool:
    """Whether a file of its size lies in its place."""
    return size_at(root / image.path) == image.bytes


def right_here(root: Path, foreign: UntrustedCatalogue) -> set[str]:
    """File names of slides that are done here, of the files that the source lists."""
    if not (root / CATALOGUE).exists():
        return set()
    with Catalogue.open(root / CATALOGUE, read_only=True) as catalogue:
        having = catalogue.rows.image_states()
    done = {name: have.md5 for name, have in having.items() if have.status is Status.DONE}
    names = ((str(row["file_name"]), row["md5"]) for row in foreign.sampled())
    return {name for name, md5 in names if name in done and not are_different(md5, done[name])}


def images_here(root: Path) -> list[Image]:
    """What this mirror's own catalogue says is there; nothing if there is none yet."""
    if not (root / CATALOGUE).exists():
        return []
    with Catalogue.open(root / CATALOGUE, read_only=True) as catalogue:
        rows = catalogue.reports.query(
            "SELECT file_name, path, bytes, sha256, status FROM mirror WHERE path IS NOT NULL "
            "AND bytes IS NOT NULL AND sha256 IS NOT NULL ORDER BY sample_rank"
        ).rows
        return [
            Image(str(name), str(path), int(str(size)), str(sha256), status == "done")
            for name, path, size, sha256, status in rows
        ]


def sampled_here(root: Path) -> set[str]:
    """File names of this mirror's own slides, also of those without an image."""
    if not (root / CATALOGUE).exists():
        return set()
    with Catalogue.open(root / CATALOGUE, read_only=True) as catalogue:
        return set(catalogue.sample.names())


@dataclass(frozen=True, slots=True)
class State:
    """What the last sync left that came to its end.

    source: where from. seen: the source's catalogue. here: SHA-256 of this mirror's
    own catalogue after that. others: slides that the source lacks, or has no image of.
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
            if file_digest(root / CATALOGUE, "sha256") == state.here:
                return state
        return None

    def keep(self, root: Path) -> None:
        """Writes it down; a tag that may come to name another catalogue is left out."""
        kept = asdict(self)
        if not self.seen.lasting:
            kept["seen"] = asdict(Seen(self.seen.digest))
        with atomic_write(root / STATE) as file:
            file.write(json.dumps(kept).encode())


@dataclass(frozen=True, slots=True)
class Failure:
    """An image that could not be had."""

    path: str
    file_name: str
    why: str


@dataclass(frozen=True, slots=True)
class Synced:
    """What was done, or with dry_run would be.

    kept: images that were here. adopted: files found here by their digest, in a
    dry run those of the right size. fetched, bytes: what moved. removed: images.
    others: slides of this mirror that the source lacks, or has no image of. changed:
    whether the catalogue is another one than before.
    """

    dry_run: bool
    kept: int = 0
    adopted: int = 0
    fetched: int = 0
    bytes: int = 0
    removed: int = 0
    others: int = 0
    changed: bool = False
    failed: tuple[Failure, ...] = ()

    @property
    def exit_code(self) -> ExitCode:
        return ExitCode.SOME_FAILED if self.failed else ExitCode.DONE


def rehearse(source: Publisher, root: Path, *, delete: bool) -> Synced:
    """What `synchronize` would do; changes nothing at `root`."""
    refuse_itself(source, root)
    with tempfile.TemporaryDirectory(prefix="tcgamirror-") as folder:
        seen = source.catalogue(Path(folder), None)
        if seen is None:
            raise Damaged(f"{source.name} gives no catalogue, though it was asked for one")
        with UntrustedCatalogue(
            seen.path(Path(folder)), f"the catalogue of {source.name}"
        ) as foreign:
            foreign.check(settings_of(foreign.fixed).form)
            check_target(source, root, foreign.fixed)
            right = right_here(root, foreign)
            plan = plan_of(root, foreign.images(), images_here(root), right, {})
            sampled = sampled_by(foreign)
            others = len(sampled_here(root) - sampled)
            others += sum(image.file_name in sampled for image in plan.obsolete)
    return Synced(
        dry_run=True,
        kept=plan.kept,
        adopted=len(plan.check),
        fetched=len(plan.fetch),
        bytes=plan.bytes,
        removed=len(plan.obsolete) if delete else 0,
        others=0 if delete else others,
        changed=bool(plan.check or plan.fetch or plan.moved or plan.obsolete),
    )


def refuse_itself(source: Publisher, root: Path) -> None:
    if isinstance(source, Folder) and source.root.resolve() == root.resolve():
        raise UsageError(f"{root} cannot be brought to what itself is; name another directory")


def check_target(source: Publisher, root: Path, fixed: str) -> bool:
    """Whether there is a mirror, of the same images. Raises BadSettings for one of others."""
    if not (root / FILE_NAME).exists():
        return False
    mirror = Mirror.find(root, above=False)
    with Catalogue.open(root / CATALOGUE, read_only=True) as catalogue:
        same_target(fixed, catalogue.fact(FIXED) or mirror.settings.fixed, source.name, root)
    return True


def settings_of(fixed: str) -> Settings:
    """Settings for the images that a mirror was made for, told as the fact FIXED tells them.

    Raises Damaged for words that no mirror has.
    """
    by_mpp, by_size = _BY_MPP.fullmatch(fixed), _BY_SIZE.fullmatch(fixed)
    match = by_mpp or by_size
    if match is not None:
        try:
            asked = target(
                float(match[1]) if by_mpp else None,
                int(match[1]) if by_size else None,
                match[2],
            )
        except (ValueError, BadSettings) as error:
            raise _no_target(fixed) from error
        settings = Settings(target=asked, form=ImageFormat(match[3]))
        if settings.fixed == fixed:
            return settings
    raise _no_target(fixed)


def _no_target(fixed: str) -> Damaged:
    return Damaged(f"the catalogue says that it is of {fixed[:80]!r}, which no mirror is")


def same_target(theirs: str, ours: str, source: str, here: Path) -> None:
    """Raises BadSettings, with the difference, for mirrors of other images."""
    if theirs != ours:
        raise BadSettings(
            f"{source} holds images of {theirs}, but {here} images of {ours}: "
            "name another directory"
        )


def sampled_by(foreign: UntrustedCatalogue) -> set[object]:
    return {row["file_name"] for row in foreign.rows("sample")}
