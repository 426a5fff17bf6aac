"""Lock files, which name the slides of a sample: written, read, and compared with a mirror.

A paper cites a lock file, and others make the same sample from it. It is plain text:
a title, the digest of the lines below, the settings of the sample, and a line for
each slide, by rank. It holds no time and no path, so that the same mirror gives the
same bytes. Columns and keys are separated by tabs; `-` stands for unknown.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice, takewhile
from pathlib import Path
from typing import BinaryIO

from tcgamirror import __version__
from tcgamirror.catalogue.catalogue import Catalogue
from tcgamirror.catalogue.exclusions import Exclusion
from tcgamirror.mirror.provenance import sample_plan
from tcgamirror.mirror.settings import LOCKED, OPTIONAL, Settings, read_sample, sample_values
from tcgamirror.model import fields as values
from tcgamirror.model.errors import BadLockFile, BadSettings
from tcgamirror.model.sampling import Plan
from tcgamirror.model.slide import ImageFormat, Slide
from tcgamirror.model.text import timestamp
from tcgamirror.system.files import open_regular

MOST_SLIDES = 2_000_000
"""Slides of a sample or a listing; TCGA has 30,000, and other collections have more."""

MOST_BYTES = 500 * MOST_SLIDES
"""Bytes of a lock file; the 30,000 slides of TCGA take 10 MB."""

MOST_LINE, MOST_FIELDS = 1 << 20, 20
"""Bytes of a line, where a slide takes at most 455; lines of the head."""

_TITLE = "# tcgamirror lock 1"
_DIGEST = "# sha256 of the lines below: "
_NONE = "-"
_WHOLE = re.compile(r"-?[0-9]{1,40}")
_NUMBER = re.compile(r"[0-9]{1,20}(\.[0-9]{1,20})?(e[+-][0-9]{1,3})?")
_SHA256 = re.compile(r"[0-9a-f]{64}")

_PLAN = ("seed", "order", "by", "kind", "projects")

_KEYS = frozenset({"program", "release", "resample", "format", "slides", *_PLAN})
"""Keys of the head that each lock file has, beside those of _SOME."""

_SOME = frozenset({"mpp", "max_size"}) | OPTIONAL

_LISTS = {"projects": ",", "sample_types": "|", "diseases": "|", "cases": "|"}
"""Keys of names, and what stands between these."""

_COLUMNS = ("file_name", "file_id", "md5", "sha256", "mpp_x", "mpp_y")
_PIXELS = "pixels_sha256"
"""Column that lock files of older versions lack."""

_EXCLUDED = "excluded"
"""Column with the reason of each excluded slide, in a lock file that has any."""

_SAMPLE = """
SELECT mirror.file_name, mirror.file_id, slides.md5,
    CASE mirror.status WHEN 'done' THEN mirror.sha256 END,
    CASE mirror.status WHEN 'done' THEN mirror.mpp_x END,
    CASE mirror.status WHEN 'done' THEN mirror.mpp_y END,
    CASE mirror.status WHEN 'done' THEN mirror.pixels_sha256 END,
    CASE mirror.status WHEN 'excluded' THEN mirror.error END
FROM mirror JOIN slides ON slides.file_name = mirror.file_name
ORDER BY mirror.sample_rank, mirror.file_name
"""

_NOW = """
SELECT slides.file_name, slides.upstream IN ('current', 'changed'), slides.md5,
    CASE images.status WHEN 'done' THEN images.sha256 END,
    images.mpp_x, images.mpp_y,
    CASE images.status WHEN 'done' THEN images.pixels_sha256 END
FROM slides LEFT JOIN images ON images.file_name = slides.file_name
"""


@dataclass(frozen=True, slots=True)
class LockedSlide:
    """A locked slide.

    md5: of the GDC's file. sha256, mpp_x, mpp_y, pixels_sha256: of its image, if any. excluded:
    reason for which it was left out; None if it was not.
    """

    file_name: str
    file_id: str
    md5: str | None
    sha256: str | None
    mpp_x: float | None
    mpp_y: float | None
    pixels_sha256: str | None = None
    excluded: str | None = None


@dataclass(frozen=True, slots=True)
class LockFile:
    """Content of a lock file.

    settings: of the sample and its images alone. planned: whether the plan of the
    settings chose the slides; otherwise the plan is unknown. altered: whether the file was
    changed after it was written, so that it is not the one that was cited.
    """

    program: str
    release: str | None
    settings: Settings
    slides: tuple[LockedSlide, ...]
    planned: bool = True
    altered: bool = False

    @property
    def names(self) -> list[str]:
        """File names, by rank."""
        return [slide.file_name for slide in self.slides]

    @property
    def plan(self) -> Plan | None:
        """The plan that chose the slides, if it is known."""
        return self.settings.plan if self.planned else None

    def among(self, slides: Iterable[Slide]) -> list[str]:
        """Return the file names that are listed, by rank."""
        listed = {slide.file_name for slide in slides}
        return [name for name in self.names if name in listed]


# Writing -------------------------------------------------------------------------


def make_lock(settings: Settings, catalogue: Catalogue) -> LockFile:
    """Return the lock of the sample as it is now, with the plan that chose it.

    Raises BadLockFile for a slide that no lock file can name.
    """
    with catalogue.snapshot() as connection:
        rows = connection.execute(_SAMPLE)
        columns = (*_COLUMNS, _PIXELS, _EXCLUDED)
        slides = tuple(_slide(columns, [_text(value) for value in row]) for row in rows)
        plan, release = sample_plan(catalogue, settings.plan), catalogue.listing.release()
    if plan is not None and plan != settings.plan:
        settings = replace(settings, plan=plan)
    return LockFile(f"tcgamirror {__version__}", release, settings, slides, plan is not None)


def lock_lines(lock: LockFile) -> Iterator[bytes]:
    """Yield the lines of the lock file; a million slides are never held as text.

    Raises BadLockFile, before the first line, for a lock that could not be read again.
    """
    sha256 = hashlib.sha256(usedforsecurity=False)
    size = 0
    for line in _body(lock):
        sha256.update(line)
        size += len(line)
    head = f"{_TITLE}\n{_DIGEST}{sha256.hexdigest()}\n".encode()
    if size + len(head) > MOST_BYTES:
        raise BadLockFile(f"{len(lock.slides):,} slides are more than a lock file can name")
    _check_head(lock)
    yield head
    yield from _body(lock)


def _body(lock: LockFile) -> Iterator[bytes]:
    """Yield all lines but the first two."""
    some_excluded = any(slide.excluded for slide in lock.slides)
    columns = (*_COLUMNS, _PIXELS, *((_EXCLUDED,) if some_excluded else ()))
    rows = ([_text(getattr(slide, name)) for name in columns] for slide in lock.slides)
    for fields in chain[Iterable[str]](_header(lock), ((), columns), rows):
        yield ("\t".join(fields) + "\n").encode()


def _check_head(lock: LockFile) -> None:
    """Raise BadLockFile for a head that could not be read again."""
    try:
        _settings(_keys(["\t".join(pair) for pair in _header(lock)]))
    except (BadLockFile, BadSettings) as error:
        raise BadLockFile(f"no lock file can tell how this sample was drawn: {error}") from error


def _header(lock: LockFile) -> Iterator[tuple[str, str]]:
    yield "program", lock.program
    yield "release", _text(values.text(lock.release))
    for name, value in sample_values(lock.settings).items():
        if name in _LISTS:
            value = _LISTS[name].join(value) or None
        if lock.planned or name not in (*_PLAN, *OPTIONAL):
            yield name, "yes" if value is True else _text(value)
    if not lock.planned:
        yield from ((name, _NONE) for name in _PLAN)


def _text(value: object) -> str:
    """Return a value without loss: floats have all digits that are needed to read them again."""
    return _NONE if value is None else repr(value) if isinstance(value, float) else str(value)


# Reading -------------------------------------------------------------------------


def read_lock(path: Path, *, accept_altered: bool = False) -> LockFile:
    """Return the lock file at `path`. Raises BadLockFile for anything else.

    accept_altered: whether to accept a file that was changed after it was written, as one is
    from which slides were taken out by hand. Its plan is unknown then.
    """
    try:
        with open_regular(path) as file:
            return parse_lock(file, accept_altered=accept_altered)
    except (BadLockFile, BadSettings) as error:
        raise BadLockFile(
            f"{path} is not a valid lock file: {error}. Name one written by tcgamirror lock; a GDC "
            "manifest is for init --manifest"
        ) from error
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise BadLockFile(f"{path}: the lock file cannot be read ({why}). Name another") from error


def parse_lock(file: BinaryIO, *, accept_altered: bool = False) -> LockFile:
    """Read the file twice, for its digest and for its lines, so that only slides take memory.

    Raises BadLockFile or BadSettings.
    """
    if file.seek(0, os.SEEK_END) > MOST_BYTES:
        raise BadLockFile(f"it has more than {MOST_BYTES:,} bytes")
    file.seek(0)
    altered = not _matches_digest(_lines(file))
    if altered and not accept_altered:
        raise BadLockFile("it was changed: its content does not match the digest in line 2")
    file.seek(0)
    # Bytes that are not UTF-8 become surrogates, which the checks refuse.
    texts = (line.decode(errors="surrogateescape").removesuffix("\n") for line in _lines(file))
    lines = islice(texts, 2, None)
    # One line more than allowed, so that an excess is seen.
    keys = _keys(list(islice(takewhile(bool, lines), MOST_FIELDS + 1)))
    if altered:
        keys |= dict.fromkeys(_PLAN, _NONE)
    settings, planned = _settings(keys), keys["seed"] != _NONE
    release, slides = _known(keys["release"]), tuple(_slides(lines))
    return LockFile(keys["program"], release, settings, slides, planned, altered)


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """Yield the lines with the line ends they were written with; mail and git change these."""
    while line := file.readline(MOST_LINE):
        yield line[:-2] + b"\n" if line.endswith(b"\r\n") else line


def _matches_digest(lines: Iterator[bytes]) -> bool:
    """Return whether the lines below match the digest. Raises BadLockFile without a title."""
    if next(lines, b"") != f"{_TITLE}\n".encode():
        raise BadLockFile(f"it does not begin with the line {_TITLE!r}")
    recorded = next(lines, b"")
    sha256 = hashlib.sha256(usedforsecurity=False)
    for line in lines:
        sha256.update(line)
    return recorded == f"{_DIGEST}{sha256.hexdigest()}\n".encode()


def _keys(lines: Sequence[str]) -> dict[str, str]:
    """Return the keys and values of the head's lines."""
    pairs = [line.split("\t") for line in lines if len(lines) <= MOST_FIELDS]
    keys = {pair[0]: pair[1] for pair in pairs if len(pair) == 2}
    if len(keys) != len(lines) or not keys.keys() <= _KEYS | _SOME:
        raise BadLockFile("its head has unknown lines")
    if missing := _KEYS - keys.keys():
        raise BadLockFile(f"its head has no line {min(missing)!r}")
    for name in keys.keys() - _LISTS.keys():
        # A list may be longer than a text; each of its names is checked by itself.
        if values.text(keys[name]) != keys[name]:
            raise BadLockFile(f"invalid {name}: not plain text")
    return keys


def _known(text: str) -> str | None:
    return None if text == _NONE else text


def _settings(keys: Mapping[str, str]) -> Settings:
    """Return the settings of the head. Raises BadLockFile or BadSettings."""
    ignored = {"program", "release"}
    if {keys[name] for name in _PLAN} == {_NONE}:
        ignored |= {*_PLAN, *OPTIONAL}
    found = {name: _read(name, keys[name]) for name in keys.keys() - ignored}
    return replace(read_sample(found), lock=LOCKED)


def _read(name: str, text: str) -> object:
    """Return the value of a key of the head as the settings have it, to be checked there."""
    if name in _LISTS:
        return [] if text == _NONE else text.split(_LISTS[name])
    if name == "one_per_case":
        return text == "yes" or text
    if name in ("max_size", "seed") or (name == "slides" and text != "all"):
        return _whole(text)
    return _number(text) if name == "mpp" else text


def _whole(text: str) -> int:
    if _WHOLE.fullmatch(text) is None:
        raise BadLockFile(f"invalid whole number {text!r:.50}")
    return int(text)


def _number(text: str) -> float:
    if _NUMBER.fullmatch(text) is None or not math.isfinite(float(text)):
        raise BadLockFile(f"invalid number {text!r:.50}")
    return float(text)


def _slides(lines: Iterator[str]) -> Iterator[LockedSlide]:
    """Yield the slides of the table. lines: those of the table, with its header."""
    columns = next(lines, "").split("\t")
    if columns != [*_COLUMNS, *(name for name in (_PIXELS, _EXCLUDED) if name in columns)]:
        raise BadLockFile("unknown columns in its table")
    seen: set[str] = set()
    for line in lines:
        fields = line.split("\t")
        if len(fields) != len(columns):
            raise BadLockFile(f"expected {len(columns)} columns in its table, got {len(fields)}")
        slide = _slide(columns, fields)
        if slide.file_name in seen:
            raise BadLockFile(f"duplicate slide {slide.file_name}")
        if len(seen) == MOST_SLIDES:
            raise BadLockFile(f"it names more than {MOST_SLIDES:,} slides")
        seen.add(slide.file_name)
        yield slide


def _slide(columns: Sequence[str], fields: Sequence[str]) -> LockedSlide:
    file_name, file_id = values.file_name(fields[0]), values.file_id(fields[1])
    if file_name is None or file_id is None:
        raise BadLockFile(f"invalid file name {fields[0]!r:.100} or file_id {fields[1]!r:.50}")
    more = dict(zip(columns[6:], map(_known, fields[6:]), strict=True))
    md5, sha256, pixels_sha256 = _known(fields[2]), _known(fields[3]), more.get(_PIXELS)
    if md5 is not None and values.md5(md5) != md5:
        raise BadLockFile(f"invalid md5 {md5!r:.50} for {file_name}")
    for digest in (sha256, pixels_sha256):
        if digest is not None and _SHA256.fullmatch(digest) is None:
            raise BadLockFile(f"invalid sha256 {digest!r:.80} for {file_name}")
    mpp_x, mpp_y = (None if text == _NONE else _number(text) for text in fields[4:6])
    if mpp_x == 0 or mpp_y == 0 or (mpp_x is None) != (mpp_y is None):
        raise BadLockFile(f"invalid resolution {fields[4]}, {fields[5]} for {file_name}")
    excluded = more.get(_EXCLUDED)
    if values.text(excluded) != excluded:
        raise BadLockFile(f"invalid reason {excluded!r:.80} for {file_name}")
    return LockedSlide(file_name, file_id, md5, sha256, mpp_x, mpp_y, pixels_sha256, excluded)


def locked_exclusions(lock: LockFile, now: float) -> list[Exclusion]:
    """Return the exclusions of a lock file for a mirror that is made from it."""
    left_out = ((slide.file_name, slide.excluded) for slide in lock.slides)
    moment = timestamp(now)
    return [Exclusion(name, reason, "lock file", moment) for name, reason in left_out if reason]


# Comparing -----------------------------------------------------------------------

WAYS = {
    "missing": "not to be had any more (not listed)",
    "changed": "changed at the GDC since (listed with another md5)",
    "others": "with another image than locked (another digest)",
    "excluded": "excluded here and not there, or there and not here",
    "waiting": "",
}
"""Ways in which a slide is not as locked, in words. The next update fetches waiting ones.

missing: neither listed nor held. others: other pixels or another resolution; where pixels are
unknown, another digest.
"""

Differences = Mapping[str, Sequence[str]]
"""File names of slides that are not as locked, in the lock file's order, by the way."""


def compares_pixels(lock: LockFile, settings: Settings) -> bool:
    """Return whether images of these settings are compared with the locked ones by their pixels.

    Neither JPEG images nor lock files of older versions have a digest of pixels.
    """
    has_pixels = any(slide.pixels_sha256 for slide in lock.slides)
    is_jpeg = ImageFormat.JPEG in (lock.settings.form, settings.form)
    return lock.settings.target == settings.target and has_pixels and not is_jpeg


def compare(lock: LockFile, settings: Settings, catalogue: Catalogue) -> Differences:
    """Return the slides that the mirror does not have as locked.

    settings: of the mirror. Images of another target than the locked ones are not compared, and
    images of another format by their pixels alone.
    """
    same_files, by_pixels = lock.settings.fixed == settings.fixed, compares_pixels(lock, settings)
    wanted = set(lock.names)
    now = {name: known for name, *known in catalogue.reports.query(_NOW).rows if name in wanted}
    # Of slides that are not sampled or not listed, too.
    excluded = {exclusion.file_name for exclusion in catalogue.exclusions.all()}
    found: dict[str, list[str]] = {way: [] for way in WAYS}
    for slide in lock.slides:
        if not same_files:
            pixels_sha256 = slide.pixels_sha256 if by_pixels else None
            slide = replace(slide, sha256=None, pixels_sha256=pixels_sha256)
        known = now.get(slide.file_name, (False, *[None] * 5))
        if way := _difference(slide, *known, excluded=slide.file_name in excluded):
            found[way].append(slide.file_name)
    return found


def _difference(
    slide: LockedSlide,
    listed: object,
    md5: object,
    sha256: object,
    *pixels: object,
    excluded: bool,
) -> str | None:
    """Return the way in which a slide differs, None if it is as locked.

    pixels: resolution of the image, and digest of its pixels.
    """
    if excluded or slide.excluded:
        return None if excluded and slide.excluded else "excluded"
    same = None
    if sha256 is not None and slide.sha256 is not None:
        same = sha256 == slide.sha256
    if slide.pixels_sha256 is not None and pixels[-1] is not None:
        same = pixels == (slide.mpp_x, slide.mpp_y, slide.pixels_sha256)
    if same:
        return None
    if slide.md5 and md5 and md5 != slide.md5:
        return "changed"
    if sha256 is not None:
        return None if same is None else "others"
    return "waiting" if listed else "missing"


def compare_listing(lock: LockFile, md5s: Mapping[str, str | None]) -> Differences:
    """Return the slides that a listing lacks, or lists as another file.

    md5s: of the listed slides, by file name; None for an unknown one.
    """
    known = [(slide, md5s.get(slide.file_name)) for slide in lock.slides]
    return {
        "missing": [name for name in lock.names if name not in md5s],
        "changed": [each.file_name for each, md5 in known if each.md5 and md5 and md5 != each.md5],
    }
