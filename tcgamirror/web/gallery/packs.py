"""The scripts that carry data: the index, and packs of fifty slides' facts and thumbnails.

Each begins with a line that tells the digest of what it was made from, so that
the next run sees without reading on whether it has to be made again.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tcgamirror.system.files import atomic_write
from tcgamirror.web.gallery.entries import Entries, Entry

PACK = 50
"""Slides in a pack. More of them make fewer files, but also more to load for one thumbnail."""

MOST_BYTES = 1 << 24
"""Of a pack of thumbnails that is read again; fifty have about half a megabyte."""

UNFINISHED = "unfinished"
"""In place of the digest where an image could not be read: the next run tries again."""

_PLAIN = re.compile(r"[A-Z0-9][A-Z0-9-]{0,63}")
_HEAD = re.compile(rb"// made of ([0-9a-f]{64}|unfinished)\n")
_BASE64 = re.compile(r"[A-Za-z0-9+/]+={0,2}")
_WORDS = (
    *("project_id", "primary_site", "disease_type", "sample_type"),
    *("kind", "status", "upstream", "source", "error"),
)
_VALUES = ("file_name", "file_id", "slide_barcode", "mpp_x", "sample_rank", "fetched_at")


@dataclass(frozen=True, slots=True)
class Pack:
    """Up to fifty slides of one project. A slide stays in its pack: ranks only ever grow."""

    name: str
    entries: Sequence[Entry]

    @property
    def images(self) -> list[tuple[str, str]]:
        """Name and digest of every slide that has an image: what its thumbnails are made of."""
        return [(entry.name, entry.image.sha256) for entry in self.entries if entry.image]


def packs(entries: Entries) -> list[Pack]:
    """All slides, in packs, in the order of the slides."""
    made: list[Pack] = []
    start = 0
    for end, entry in enumerate(entries.rows, start=1):
        following = entries.rows[end] if end < len(entries.rows) else None
        if following is None or following.project != entry.project:
            for number, first in enumerate(range(start, end, PACK)):
                rows = entries.rows[first : min(first + PACK, end)]
                made.append(Pack(f"{slug(entry.project)}-{number}", rows))
            start = end
    return made


def slug(project: str | None) -> str:
    """A file name for a project, one that no other project has on any file system.

    >>> slug("TCGA-BRCA"), slug(None), slug("../../a")
    ('TCGA-BRCA', '_unknown', '_2ea9d7db53a1')
    """
    if project is None:
        return "_unknown"
    if _PLAIN.fullmatch(project):
        return project
    return f"_{hashlib.sha256(project.encode()).hexdigest()[:12]}"


@dataclass(frozen=True, slots=True)
class Script:
    """A script at its place, as it is to be. made_of: the digest of what it was made from."""

    path: Path
    made_of: str
    data: bytes

    @classmethod
    def of(cls, path: Path, data: bytes) -> Script:
        """One that is to be made again if anything in it changes."""
        return cls(path, hashlib.sha256(data).hexdigest(), data)

    def is_there(self) -> bool:
        return told_digest(self.path) == self.made_of

    def write(self) -> None:
        """Puts it in its place in one step."""
        with atomic_write(self.path) as file:
            file.write(f"// made of {self.made_of}\n".encode())
            file.write(self.data)


# What is in them -----------------------------------------------------------------


def script(call: str, *arguments: object) -> bytes:
    r"""A statement that hands JSON to the pages' scripts.

    >>> script("index", {"a": "</script>\u2028"})
    b'tcga.index({"a":"\\u003c/script>\\u2028"});\n'
    """
    # In ASCII: no file is read as another encoding, no line ends where JavaScript alone sees it.
    shown = [
        json.dumps(argument, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
        for argument in arguments
    ]
    return f"tcga.{call}({','.join(shown)});\n".encode("ascii")


def index_script(entries: Entries, listed: Sequence[Pack], about: object) -> bytes:
    """What the grid filters, sorts and shows: words that recur stand once."""
    words: dict[str, list[object]] = {}
    columns: dict[str, list[object]] = {}
    for name in _WORDS:
        places: dict[object, int] = {}
        columns[name] = [places.setdefault(fact, len(places)) for fact in entries.column(name)]
        words[name] = list(places)
    for name in _VALUES:
        columns[name] = list(entries.column(name))
    sizes = [[pack.name, len(pack.entries)] for pack in listed]
    return script("index", {"about": about, "words": words, "columns": columns, "packs": sizes})


def facts_script(columns: Sequence[str], pack: Pack) -> bytes:
    """All facts of a pack's slides."""
    return script("facts", pack.name, columns, [entry.facts for entry in pack.entries])


# Files ---------------------------------------------------------------------------


def digest_of(made_of: object) -> str:
    """Of anything that JSON can hold."""
    return hashlib.sha256(json.dumps(made_of).encode()).hexdigest()


def told_digest(path: Path) -> str | None:
    """What the file says that it was made of, if it is one of ours."""
    try:
        with path.open("rb") as file:
            match = _HEAD.match(file.read(100))
    except OSError:
        return None
    return match[1].decode() if match else None


def thumbnails_in(path: Path) -> Iterator[tuple[str, str]]:
    """Digest and thumbnail of every image of an older pack; nothing of what is none of ours."""
    try:
        if path.stat().st_size > MOST_BYTES:
            return
        text = path.read_text(encoding="ascii")
        rows = json.loads(text[text.index(",[") + 1 : text.rindex(");")])
    except (OSError, ValueError, RecursionError):
        return
    for row in rows if isinstance(rows, list) else []:
        if isinstance(row, list) and len(row) == 3 and all(isinstance(part, str) for part in row):
            _, sha256, thumbnail = row
            if _BASE64.fullmatch(thumbnail):
                yield sha256, thumbnail
