"""The layout of an export: its files, their names and largest sizes, its digests and its page."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tcgamirror import __version__
from tcgamirror.mirror.settings import Settings
from tcgamirror.model.errors import BadExport, UsageError
from tcgamirror.system.files import FORBIDDEN

README = "README.txt"

SUMS = "SHA256SUMS"

EARLIER = "SHA256SUMS.earlier"
"""Digests of the files that an export leaves out because an earlier one has them."""

UNFINISHED = ".part"
"""Suffix of the folder in which an export is made."""

EXPORT_LOCK = ".export.lock"
"""The lock in that folder. No mirror has a file of that name."""

COPY_AGAIN = "Copy or export it again"
"""Remedy for what was damaged on its way, or on a stick."""

MAX_NAME_LENGTH = 300

MAX_FILES = 500_000
"""Files in an export. All of TCGA has 30,000 slides; a larger mirror takes several, or a sync.

The names of all of them are held in memory while an export is read.
"""

MAX_SUMS = 1 << 27
"""Bytes of a list of digests."""

PIECE = 1 << 20

_SUM = re.compile(r"(?P<sha256>[0-9a-f]{64})[ ][ *](?P<path>[ -~]+)")

_OTHER_ARCHIVE = re.compile(
    r".+\.(7z|br|bz2|gz|lz4?|lzma|rar|tb2|tbz2?|tgz|tlz|txz|tzst|xz|z|zipx?|zst)"
    r"|.+\.(tar|7z|tgz|zip)(\..+)?\.(part)?[0-9]{2,4}",
    re.IGNORECASE,
)
"""Names of archives of other kinds, and of parts into which one was split."""

_PAGE = """\
TCGA whole-slide images at a known resolution

This is an export of a mirror made by tcgamirror {version}.

  images     {target}
  release    {release}
  sample     {sample}
  in here    {images} images

images/          one image for each slide, with its resolution and slide inside
catalogue.db     SQLite; its view `mirror` has a row for each slide of the sample
tcgamirror.toml  the settings of the mirror
gallery/         pages for a browser, if they were made: open gallery/index.html
{sums:16} digests of all of these files
{earlier}
To compare all files with their digests, in this directory (Linux; on a Mac `shasum -a 256 -c`):

  sha256sum -c {sums}

To make a mirror of it, or add it to one (an archive need not be unpacked):

  tcgamirror --mirror DIR import THIS

The slides are the work of The Cancer Genome Atlas (https://www.cancer.gov/tcga),
served by the NCI Genomic Data Commons (https://gdc.cancer.gov).
"""

_EARLIER = """\

{count} images are not in here, because an earlier export holds them:
import that one first. {name} names them.
"""


def is_tar(path: Path) -> bool:
    """Return whether a path's name is that of a tar archive.

    >>> is_tar(Path("a.TAR")), is_tar(Path("tcga"))
    (True, False)
    """
    return path.suffix.lower() == ".tar"


def check_suffix(path: Path) -> None:
    """Raise UsageError for the name of an archive that cannot be written."""
    if _OTHER_ARCHIVE.fullmatch(path.name):
        raise UsageError(
            f"{path}: only directories and .tar archives are written. To compress or to split "
            "an archive, export to - and pipe it to zstd or split"
        )


def refusal(path: Path) -> UsageError:
    """Return the error for a path that is not a directory or a .tar archive."""
    if not path.is_file():
        return UsageError(f"{path}: does not exist. Name a directory or a .tar archive")
    remedy = "Name an export"
    if _OTHER_ARCHIVE.fullmatch(path.name):
        remedy = "Unpack it, or pipe it as a plain tar to tcgamirror import -"
    return UsageError(f"{path}: only directories and .tar archives are read. {remedy}")


class Member(NamedTuple):
    """A plain file in an export. offset: of its first byte in an archive."""

    name: str
    size: int
    offset: int = 0


def read_pieces(handle: int, name: str, size: int, offset: int = 0) -> Iterator[bytes]:
    """Yield `size` bytes of an open file from an offset on, with any number of threads at it.

    Raises BadExport, with this name, if the file is shorter or cannot be read.
    """
    end = offset + size
    while offset < end:
        with read_errors(name):
            piece = os.pread(handle, min(end - offset, PIECE), offset)
        if not piece:
            raise BadExport(f"{name} is cut off. {COPY_AGAIN}")
        offset += len(piece)
        yield piece


@contextmanager
def read_errors(name: str) -> Iterator[None]:
    """Raise BadExport in place of OSError. name: of a file, unless the error names one."""
    try:
        yield
    except OSError as error:
        what = error.filename or name
        remedy = "Change its permissions" if error.errno in FORBIDDEN else COPY_AGAIN
        raise BadExport(f"{what} cannot be read ({error.strerror}). {remedy}") from error


def checked_name(name: str) -> str:
    """Return the name of a file in an export as a relative path.

    Raises:
        BadExport: for a name that no export has.

    >>> checked_name("./tcga/images/TCGA-OV/a b.png")
    'tcga/images/TCGA-OV/a b.png'
    """
    if len(name) > MAX_NAME_LENGTH:
        raise BadExport(f"it has a name of {len(name):,} characters, {name[:40]!r} and so on")
    if not name.isprintable() or "\\" in name:
        raise BadExport(f"it has the name {name!r}, which no export has")
    parts = name.removeprefix("./").split("/")
    if any(part in ("", ".", "..") for part in parts):
        raise BadExport(f"it has the name {name!r}, which may lead out of a directory")
    return "/".join(parts)


def format_sums(sums: Mapping[str, str]) -> str:
    """Return the text of SHA256SUMS. sums: digests by path."""
    return "".join(f"{sums[path]}  {path}\n" for path in sorted(sums))


def read_sums(path: Path, name: str) -> dict[str, str]:
    """Return the digests by path in a SHA256SUMS. Raises BadExport, which has its `name`."""
    size = path.stat().st_size
    if size > MAX_SUMS:
        raise BadExport(f"{name} has {size:,} bytes, more than any has")
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise BadExport(f"{name} is not text") from error
    sums = {}
    for line in lines:
        match = _SUM.fullmatch(line)
        if match is None:
            raise BadExport(f"{name} is not a list of digests as sha256sum makes it")
        sums[match["path"].removeprefix("./")] = match["sha256"]
    return sums


def readme(
    settings: Settings,
    release: str | None,
    slides: Mapping[str, int],
    images: int,
    images_left_out: int,
) -> str:
    """Return the page for people who find an export.

    Args:
        slides: how many there are, by status.
        images_left_out: those that an earlier export has.
    """
    counts = ", ".join(f"{count:,} {status}" for status, count in sorted(slides.items()))
    earlier = _EARLIER.format(count=f"{images_left_out:,}", name=EARLIER)
    return _PAGE.format(
        version=__version__,
        target=settings.fixed,
        release=release or "none listed yet",
        sample=f"{sum(slides.values()):,} slides: {counts or 'none'}",
        images=f"{images:,}",
        sums=SUMS,
        earlier=earlier if images_left_out else "",
    )
