"""What an export is called and holds, and how large anything in it may be.

The page that lies in an export, for whoever finds it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path

from tcgamirror import __version__
from tcgamirror.mirror import settings
from tcgamirror.mirror.directory import CATALOGUE
from tcgamirror.mirror.settings import FILE_NAME, Settings
from tcgamirror.model.errors import BadExport, UsageError
from tcgamirror.transfer import untrusted

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
    FILE_NAME: settings.MOST_BYTES,
    CATALOGUE: untrusted.MOST_BYTES,
    SUMS: 1 << 27,
    EARLIER: 1 << 27,
}
"""Of each file but the images, whose sizes the catalogue tells."""

MOST_LOCK = 400 * MOST_ENTRIES
"""Bytes; `lockfile` tells how many a slide takes."""

_SUM = re.compile(r"(?P<sha256>[0-9a-f]{64})[ ][ *](?P<path>[ -~]+)")


_OTHER_PACKERS = frozenset(
    {".7z", ".br", ".bz2", ".gz", ".lz", ".lz4", ".lzma", ".rar", ".tb2", ".tbz", ".tbz2"}
    | {".tgz", ".tlz", ".txz", ".tzst", ".xz", ".z", ".zip", ".zipx", ".zst"}
)
"""Endings of archives of other kinds."""

_PIECE_OF_ARCHIVE = re.compile(r"\.(?:part)?[0-9]{2,4}")
"""Ending of one of several files into which an archive was cut."""

_PAGE = """\
TCGA whole-slide images at a known resolution

This is an export of a mirror made by tcgamirror {version}.

  images     {target}
  release    {release}
  sample     {sample}
  in here    {images} images

images/          one image a slide; each tells its resolution and slide inside
catalogue.db     SQLite; its view `mirror` has a row for each slide of the sample
tcgamirror.toml  the settings of the mirror
gallery/         pages to look at, if they were made: open gallery/index.html
{sums:16} digests of all of these files
{earlier}
To check that all is as it was made, in this directory (Linux; `shasum -a 256 -c` on a Mac):

  sha256sum -c {sums}

To make a mirror of it, or add it to one (of the archive, too, without unpacking it):

  tcgamirror --mirror DIR import THIS

The slides are the work of The Cancer Genome Atlas (https://www.cancer.gov/tcga),
served by the NCI Genomic Data Commons (https://gdc.cancer.gov).
"""

_EARLIER = """\

{count} images are not in here, because an earlier export holds them:
import that one first. {name} names them.
"""


class Form(StrEnum):
    """What an export is made as, by the ending of its name."""

    DIRECTORY = ""
    TAR = ".tar"

    @classmethod
    def of(cls, path: Path) -> Form:
        """Return the form that a path's name stands for.

        >>> Form.of(Path("a.TAR")).name, Form.of(Path("tcga")).name
        ('TAR', 'DIRECTORY')
        """
        return cls.TAR if path.suffix.lower() == cls.TAR else cls.DIRECTORY


def check_ending(path: Path) -> None:
    """Raise UsageError for the name of an archive that is not made."""
    if _is_other_archive(path):
        raise UsageError(
            f"{path}: only directories and .tar archives are written. To compress or to split "
            "an archive, export to - and pipe it to zstd or split"
        )


def refusal(path: Path) -> UsageError:
    """Return the error for a file that is not a directory or a .tar, with what to do about it."""
    if not path.is_file():
        return UsageError(f"{path} is not there: name a directory or a .tar archive")
    if _PIECE_OF_ARCHIVE.fullmatch(path.suffix):
        return UsageError(
            f"{path}: a part of an archive cannot be read. Join the parts with cat and pipe them "
            "to tcgamirror import -"
        )
    if _is_other_archive(path):
        return UsageError(
            f"{path}: only directories and .tar archives are read. Unpack it and name the "
            "directory, or pipe the unpacked tar to tcgamirror import -"
        )
    return UsageError(f"{path} is no directory and no .tar")


def _is_other_archive(path: Path) -> bool:
    endings = [suffix.lower() for suffix in path.suffixes]
    if endings and _PIECE_OF_ARCHIVE.fullmatch(endings[-1]):
        return bool({Form.TAR, *_OTHER_PACKERS}.intersection(endings[:-1]))
    return bool(endings) and endings[-1] in _OTHER_PACKERS


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


def readme(
    settings: Settings,
    release: str | None,
    slides: Mapping[str, int],
    images: int,
    left_out: int,
) -> str:
    """The page. slides: by status. left_out: images that an earlier export holds."""
    counts = ", ".join(f"{count:,} {status}" for status, count in sorted(slides.items()))
    return _PAGE.format(
        version=__version__,
        target=settings.fixed,
        release=release or "none listed yet",
        sample=f"{sum(slides.values()):,} slides: {counts or 'none'}",
        images=f"{images:,}",
        sums=SUMS,
        earlier=_EARLIER.format(count=f"{left_out:,}", name=EARLIER) if left_out else "",
    )
