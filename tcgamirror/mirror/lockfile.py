"""A lock file: names the slides of a sample, so that a paper can cite it and others have the same.

Plain text: two lines that say what it is and give the digest of the rest, a few
lines of what was asked for, and a line for each slide, by rank. It holds no
time and no path: the same mirror always gives the same bytes. Columns and keys
are parted by tabs; `-` stands for what is not known.

What a mirror, or a listing, does not have as a lock file names it.
"""

from __future__ import annotations

import hashlib
import io
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
from tcgamirror.mirror import settings as setting
from tcgamirror.mirror.directory import Mirror
from tcgamirror.mirror.provenance import sample_plan
from tcgamirror.mirror.settings import LOCKED, Settings
from tcgamirror.model import fields as values
from tcgamirror.model.errors import BadLockFile, BadSettings
from tcgamirror.model.sampling import Candidate, Plan, ordered
from tcgamirror.system.files import open_regular

MOST_SLIDES = 2_000_000
"""Sampled or listed ones: all of TCGA has 30,000, and other collections have more."""

MOST_BYTES = 400 * MOST_SLIDES
"""So much that any sample can be told; all 30,000 slides of TCGA take 8 MB."""

MOST_LINE, MOST_FIELDS = 1 << 20, 20
"""Bytes of a line, of which one that names a slide has at most 390; lines of the head."""

_TITLE = "# tcgamirror lock 1"

_DIGEST = "# sha256 of the lines below: "

_PLAN = ("seed", "order", "by", "kind", "projects")

_KEYS = ("program", "release", "mpp", "max_size", "resample", "format", "slides", *_PLAN)

_COLUMNS = ("file_name", "file_id", "md5", "sha256", "mpp_x", "mpp_y")

_NONE = "-"

_WHOLE = re.compile(r"-?[0-9]{1,40}")

_SHA256 = re.compile(r"[0-9a-f]{64}")

_NUMBER = re.compile(r"[0-9]{1,20}(\.[0-9]{1,20})?(e[+-][0-9]{1,3})?")

_SAMPLE = """
SELECT mirror.file_name, mirror.file_id, slides.md5,
    CASE mirror.status WHEN 'done' THEN mirror.sha256 END,
    CASE mirror.status WHEN 'done' THEN mirror.mpp_x END,
    CASE mirror.status WHEN 'done' THEN mirror.mpp_y END
FROM mirror JOIN slides ON slides.file_name = mirror.file_name
ORDER BY mirror.sample_rank, mirror.file_name
"""

_NOW = """
SELECT slides.file_name, slides.upstream IN ('current', 'changed'), slides.md5,
    CASE images.status WHEN 'done' THEN images.sha256 END
FROM slides LEFT JOIN images ON images.file_name = slides.file_name
"""


@dataclass(frozen=True, slots=True)
class LockedSlide:
    """One slide. md5: of the GDC's file. sha256, mpp_x, mpp_y: of the image, None without one."""

    file_name: str
    file_id: str
    md5: str | None
    sha256: str | None
    mpp_x: float | None
    mpp_y: float | None


@dataclass(frozen=True, slots=True)
class LockFile:
    """What a lock file says.

    settings: with no more than what names a sample and its images. planned:
    whether their plan drew the slides; else it is not known how they were drawn.
    """

    program: str
    release: str | None
    settings: Settings
    slides: tuple[LockedSlide, ...]
    planned: bool = True

    @property
    def names(self) -> list[str]:
        """File names of the slides, by rank."""
        return [slide.file_name for slide in self.slides]

    @property
    def plan(self) -> Plan | None:
        """What drew the slides, if it is known."""
        return self.settings.plan if self.planned else None

    def among(self, candidates: Iterable[Candidate]) -> list[str]:
        """File names of those that are listed, by rank."""
        listed = {candidate.file_name for candidate in candidates}
        return [name for name in self.names if name in listed]


# Writing -------------------------------------------------------------------------


def make_lock(settings: Settings, catalogue: Catalogue) -> LockFile:
    """The sample as it is now, with the plan that drew it, whatever the settings ask for now.

    Raises BadLockFile for a slide that no lock file could name.
    """
    with catalogue.snapshot() as connection:
        rows = connection.execute(_SAMPLE)
        slides = tuple(_slide([_text(value) for value in row]) for row in rows)
        plan, release = sample_plan(catalogue, settings.plan), catalogue.listing.release()
    if plan is not None and plan != settings.plan:
        settings = replace(
            settings,
            seed=plan.seed,
            order=plan.order,
            by=plan.by,
            kinds=plan.kinds,
            projects=tuple(sorted(plan.projects)),
        )
    return LockFile(f"tcgamirror {__version__}", release, settings, slides, plan is not None)


def formatted(lock: LockFile) -> bytes:
    """The file, as `lock_lines` gives it."""
    return b"".join(lock_lines(lock))


def lock_lines(lock: LockFile) -> Iterator[bytes]:
    """The file, line by line: of a million slides it takes memory. Reading it gives the same lock.

    Raises BadLockFile, before the first line, for what could not be read again.
    """
    taken = hashlib.sha256(usedforsecurity=False)
    size = 0
    for line in _body(lock):
        taken.update(line)
        size += len(line)
    head = f"{_TITLE}\n{_DIGEST}{taken.hexdigest()}\n".encode()
    if size + len(head) > MOST_BYTES:
        raise BadLockFile(f"{len(lock.slides):,} slides are more than a lock file can name")
    _check_head(lock)
    yield head
    yield from _body(lock)


def _body(lock: LockFile) -> Iterator[bytes]:
    """All lines but the first two."""
    rows = ([_text(getattr(slide, name)) for name in _COLUMNS] for slide in lock.slides)
    for fields in chain[Iterable[str]](_header(lock), ((), _COLUMNS), rows):
        yield ("\t".join(fields) + "\n").encode()


def _check_head(lock: LockFile) -> None:
    """Raises BadLockFile for what drew a sample, if it could not be read again."""
    try:
        _settings(_keys(["\t".join(pair) for pair in _header(lock)]))
    except (BadLockFile, BadSettings) as error:
        raise BadLockFile(f"no lock file can tell how this sample was drawn: {error}") from error


def _header(lock: LockFile) -> Iterator[tuple[str, str]]:
    asked, target = lock.settings, lock.settings.target
    yield "program", lock.program
    yield "release", _text(values.text(lock.release))
    yield ("max_size", _text(target.max_size)) if target.mpp is None else ("mpp", _text(target.mpp))
    yield "resample", str(target.resample)
    yield "format", str(asked.form)
    yield "slides", _text(asked.slides or "all")
    if not lock.planned:
        yield from ((name, _NONE) for name in _PLAN)
        return
    yield "seed", _text(asked.seed)
    yield "order", str(asked.order)
    yield "by", str(asked.by)
    yield "kind", setting.kind_of(asked.kinds)
    yield "projects", ",".join(asked.projects) or _NONE


def _text(value: object) -> str:
    """A value without loss: floats with as many digits as give the same one back."""
    return _NONE if value is None else repr(value) if isinstance(value, float) else str(value)


# Reading -------------------------------------------------------------------------


def read_lock(path: Path) -> LockFile:
    """The lock file at `path`. Raises BadLockFile, in one sentence, for anything else."""
    try:
        with open_regular(path) as file:
            return _parsed(file)
    except (BadLockFile, BadSettings) as error:
        raise BadLockFile(f"{path} is no lock file to go by: {error}") from error
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise BadLockFile(f"the lock file {path} cannot be read: {why}") from error


def parsed(data: bytes) -> LockFile:
    """What the bytes of a lock file say. Raises BadLockFile or BadSettings."""
    return _parsed(io.BytesIO(data))


def _parsed(file: BinaryIO) -> LockFile:
    """Reads it twice, for its digest and line by line: so it takes no memory but the slides'."""
    if file.seek(0, os.SEEK_END) > MOST_BYTES:
        raise BadLockFile(f"it has more than {MOST_BYTES:,} bytes")
    file.seek(0)
    _check_digest(_lines(file))
    file.seek(0)
    # What is no UTF-8 becomes what is no plain text.
    texts = (line.decode(errors="surrogateescape").removesuffix("\n") for line in _lines(file))
    lines = islice(texts, 2, None)
    # One more than there may be: so that it shows.
    keys = _keys(list(islice(takewhile(bool, lines), MOST_FIELDS + 1)))
    settings, planned = _settings(keys), keys["seed"] != _NONE
    release, slides = _known(keys["release"]), tuple(_slides(lines))
    return LockFile(keys["program"], release, settings, slides, planned)


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """As they were made: mail and git may have ended them in another way."""
    while line := file.readline(MOST_LINE):
        yield line[:-2] + b"\n" if line.endswith(b"\r\n") else line


def _check_digest(lines: Iterator[bytes]) -> None:
    if next(lines, b"") != f"{_TITLE}\n".encode():
        raise BadLockFile(f"it does not begin with the line {_TITLE!r}")
    told = next(lines, b"")
    taken = hashlib.sha256(usedforsecurity=False)
    for line in lines:
        taken.update(line)
    if told != f"{_DIGEST}{taken.hexdigest()}\n".encode():
        raise BadLockFile("it is not as it was made: its digest in line 2 is another")


def _keys(lines: Sequence[str]) -> dict[str, str]:
    """What the lines of its head say."""
    pairs = [line.split("\t") for line in lines if len(lines) <= MOST_FIELDS]
    keys = {pair[0]: pair[1] for pair in pairs if len(pair) == 2}
    if len(keys) != len(lines) or not set(keys) <= set(_KEYS):
        raise BadLockFile("its head is none that this version knows")
    for name in _KEYS:
        if name not in keys and name not in ("mpp", "max_size"):
            raise BadLockFile(f"its head lacks {name}")
        # Of projects there may be many: each of them is looked at for itself.
        if name != "projects" and values.text(keys.get(name, _NONE)) != keys.get(name, _NONE):
            raise BadLockFile(f"its {name} is no plain text")
    return keys


def _known(text: str) -> str | None:
    return None if text == _NONE else text


def _settings(keys: Mapping[str, str]) -> Settings:
    slides = None if keys["slides"] == "all" else setting.count(_whole(keys["slides"]), "slides")
    mpp, max_size = keys.get("mpp"), keys.get("max_size")
    asked = Settings(
        target=setting.target(
            None if mpp is None else _number(mpp),
            None if max_size is None else _whole(max_size),
            keys["resample"],
            ("mpp", "max_size"),
        ),
        form=setting.image_format(keys["format"], "format"),
        slides=slides,
        lock=LOCKED,
    )
    if {keys[name] for name in _PLAN} == {_NONE}:
        return asked
    projects = _known(keys["projects"])
    return replace(
        asked,
        seed=_whole(keys["seed"]),
        order=setting.order(keys["order"], "order"),
        by=setting.by(keys["by"], "by"),
        kinds=setting.kinds(keys["kind"], "kind"),
        projects=setting.names(projects.split(",") if projects else (), "projects"),
    )


def _whole(text: str) -> int:
    if _WHOLE.fullmatch(text) is None:
        raise BadLockFile(f"{text!r:.50} is no whole number")
    return int(text)


def _number(text: str) -> float:
    if _NUMBER.fullmatch(text) is None or not math.isfinite(float(text)):
        raise BadLockFile(f"{text!r:.50} is no number")
    return float(text)


def _slides(lines: Iterator[str]) -> Iterator[LockedSlide]:
    """The table's. lines: with that of its columns."""
    if next(lines, "") != "\t".join(_COLUMNS):
        raise BadLockFile("its table has other columns than this version knows")
    seen: set[str] = set()
    for line in lines:
        slide = _slide(line.split("\t"))
        if slide.file_name in seen:
            raise BadLockFile(f"it names {slide.file_name} twice")
        if len(seen) == MOST_SLIDES:
            raise BadLockFile(f"it names more than {MOST_SLIDES:,} slides")
        seen.add(slide.file_name)
        yield slide


def _slide(fields: Sequence[str]) -> LockedSlide:
    if len(fields) != len(_COLUMNS):
        raise BadLockFile(f"a line of its table has {len(fields)} columns, not {len(_COLUMNS)}")
    file_name, file_id = values.file_name(fields[0]), values.file_id(fields[1])
    if file_name is None or file_id is None:
        raise BadLockFile(f"{fields[0]!r:.100} with {fields[1]!r:.50} is no slide of the GDC")
    md5, sha256 = _known(fields[2]), _known(fields[3])
    if md5 is not None and values.md5(md5) != md5:
        raise BadLockFile(f"{file_name} has no md5 but {md5!r:.50}")
    if sha256 is not None and _SHA256.fullmatch(sha256) is None:
        raise BadLockFile(f"{file_name} has no sha256 but {sha256!r:.80}")
    mpp_x, mpp_y = (None if text == _NONE else _number(text) for text in fields[4:])
    if mpp_x == 0 or mpp_y == 0 or (mpp_x is None) != (mpp_y is None):
        raise BadLockFile(f"{file_name} has no resolution but {fields[4]} and {fields[5]}")
    return LockedSlide(file_name, file_id, md5, sha256, mpp_x, mpp_y)


def sample_order(mirror: Mirror, candidates: Sequence[Candidate]) -> list[str]:
    """File names of what a mirror may sample, the first to be taken first.

    Those of its lock file, whatever else is listed, if it was made from one.
    """
    if mirror.settings.lock is None:
        return ordered(candidates, mirror.settings.plan)
    return read_lock(mirror.root / mirror.settings.lock).among(candidates)


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
    now = {name: known for name, *known in catalogue.reports.query(_NOW).rows if name in wanted}
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
