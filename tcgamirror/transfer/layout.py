"""What an export is called and holds, and how large anything in it may be."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path

from tcgamirror import foreign
from tcgamirror.errors import BadExport, WrongUse
from tcgamirror.home import CATALOGUE
from tcgamirror.settings import FILE_NAME

README = "README.txt"
SUMS = "SHA256SUMS"
EARLIER = "SHA256SUMS.earlier"
"""Of what an export since another one leaves out, because an earlier one holds it."""

UNFINISHED = ".part"
"""Ends the name of the directory in which an export is made."""

HELD = ".export.lock"
"""The lock in that directory. No mirror has a file of that name, by which it is told from one."""

MOST_NAME = 300
MOST_ENTRIES = 500_000
"""Files in an export: all of TCGA has 30,000 slides. A larger mirror takes several, or a sync.

Each of their names is held while an export is read.
"""

MOST_BYTES = {
    README: 1 << 20,
    FILE_NAME: 1 << 20,
    CATALOGUE: foreign.MOST_BYTES,
    SUMS: 1 << 27,
    EARLIER: 1 << 27,
}
"""Of each file but the images, whose sizes the catalogue tells."""

MOST_LOCK = 400 * MOST_ENTRIES
"""Bytes; `lockfile` tells how many a slide takes."""

MOST_PARTS = 999
_PART = re.compile(r"(?P<whole>.+)\.part(?P<number>\d{3})")
_SUM = re.compile(r"(?P<sha256>[0-9a-f]{64})[ ][ *](?P<path>[ -~]+)")


_OTHER_PACKERS = frozenset(
    {".7z", ".br", ".bz2", ".gz", ".lz", ".lz4", ".lzma", ".rar", ".tb2", ".tbz", ".tbz2"}
    | {".tgz", ".tlz", ".txz", ".tzst", ".xz", ".z", ".zipx", ".zst"}
)
"""Endings of archives of other kinds."""


class Form(StrEnum):
    """What an export is made as, by the ending of its name."""

    DIRECTORY = ""
    TAR = ".tar"
    ZSTD = ".tar.zst"
    ZIP = ".zip"

    @classmethod
    def of(cls, path: Path) -> Form:
        """By the name, without regard to its being one part of several.

        >>> Form.of(Path("a.tar.zst.part001")).name, Form.of(Path("tcga")).name
        ('ZSTD', 'DIRECTORY')
        """
        name = whole_name(path.name).lower()
        return next((form for form in cls if form and name.endswith(form)), cls.DIRECTORY)


def check_ending(path: Path) -> None:
    """Raises WrongUse for the name of an archive of a kind that is not made."""
    ending = Path(whole_name(path.name)).suffix.lower()
    if Form.of(path) is Form.DIRECTORY and ending in _OTHER_PACKERS:
        raise WrongUse(f"{path} cannot be made: an archive's name ends in .tar, .tar.zst or .zip")


def whole_name(name: str) -> str:
    """The archive's name, of which `name` may be one part's."""
    match = _PART.fullmatch(name)
    return name if match is None else match["whole"]


def part_name(whole: str, number: int) -> str:
    """
    >>> part_name("tcga.tar", 2)
    'tcga.tar.part002'
    """
    return f"{whole}.part{number:03}"


def part_number(name: str) -> int | None:
    """Which part the name is of; None if it is no part's."""
    match = _PART.fullmatch(name)
    return None if match is None else int(match["number"])


def checked_name(name: str) -> str:
    """An entry's name as a relative path, or BadExport for what no export has.

    >>> checked_name("./tcga/images/TCGA-OV/a b.png")
    'tcga/images/TCGA-OV/a b.png'
    """
    if len(name) > MOST_NAME:
        raise BadExport(f"it has a name of {len(name):,} characters, {name[:40]!r} and so on")
    if not name.isprintable() or "\\" in name:
        raise BadExport(f"it has the name {name!r}, which no export has")
    parts = name.removeprefix("./").split("/")
    if any(part in ("", ".", "..") for part in parts):
        raise BadExport(f"it has the name {name!r}, which may lead out of a directory")
    return "/".join(parts)


def formatted_sums(sums: dict[str, str]) -> str:
    """The text of SHA256SUMS: digests by path."""
    return "".join(f"{sums[path]}  {path}\n" for path in sorted(sums))


def parsed_sums(text: str, called: str) -> dict[str, str]:
    """Digests by path, of a file `called` so. Raises BadExport for what is no such list."""
    sums = {}
    for line in text.splitlines():
        match = _SUM.fullmatch(line)
        if match is None:
            raise BadExport(f"{called} is no list of digests as sha256sum makes it")
        sums[match["path"].removeprefix("./")] = match["sha256"]
    return sums
