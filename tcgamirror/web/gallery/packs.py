"""Scripts with data: the index, and packs of fifty slides' facts or thumbnails.

The first line of each has the digest of its input, so that the next build sees
whether to make it again without reading on.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tcgamirror.model.labels import COLUMNS
from tcgamirror.system.files import atomic_write
from tcgamirror.web.gallery.entries import Entries, Entry

PACK = 50
"""Slides in a pack; more of them make fewer files, but more to load for one thumbnail."""

MOST_BYTES = 1 << 24
"""Limit of a pack of thumbnails that is read again; fifty have about half a megabyte."""

UNFINISHED = "unfinished"
"""Stands for the digest if an image could not be read, so that the next build retries it."""

_PLAIN = re.compile(r"[A-Z0-9][A-Z0-9-]{0,63}")
_HEAD = re.compile(rb"// made of ([0-9a-f]{64}|unfinished)\n")
_BASE64 = re.compile(r"[A-Za-z0-9+/]+={0,2}")
_WORDS = (
    *("project_id", "primary_site", "disease_type", "sample_type"),
    *("kind", "status", "upstream", "source", "error"),
)
_MOST_CHOICES = 200
"""Limit of a label's different values; one with more, such as a number of days, is no filter."""

_VALUES = ("file_name", "file_id", "slide_barcode", "mpp_x", "sample_rank", "fetched_at")


@dataclass(frozen=True, slots=True)
class Pack:
    """Up to fifty slides of one project; a slide stays in its pack, because ranks are stable."""

    name: str
    entries: Sequence[Entry]

    @property
    def images(self) -> list[tuple[str, str]]:
        """Names and digests of slides with an image: the input of the thumbnails."""
        return [(entry.name, entry.image.sha256) for entry in self.entries if entry.image]


def packs(entries: Entries) -> list[Pack]:
    """Return packs of all slides, in the order of the slides."""
    packed: list[Pack] = []
    start = 0
    for end, entry in enumerate(entries.rows, start=1):
        following = entries.rows[end] if end < len(entries.rows) else None
        if following is None or following.project != entry.project:
            for number, first in enumerate(range(start, end, PACK)):
                rows = entries.rows[first : min(first + PACK, end)]
                packed.append(Pack(f"{slug(entry.project)}-{number}", rows))
            start = end
    return packed


def slug(project: str | None) -> str:
    """Return a file name that no other project has on any file system.

    >>> slug("TCGA-BRCA"), slug(None), slug("../../a")
    ('TCGA-BRCA', '_unknown', '_2ea9d7db53a1')
    """
    if project is None:
        return "_unknown"
    if _PLAIN.fullmatch(project):
        return project
    return f"_{hashlib.sha256(project.encode()).hexdigest()[:12]}"


# Contents -----------------------------------------------------------------


def script(call: str, *arguments: object) -> bytes:
    r"""Return a statement that passes JSON to the pages' scripts.

    >>> script("index", {"a": "</script>\u2028"})
    b'tcga.index({"a":"\\u003c/script>\\u2028"});\n'
    """
    # ASCII, so that no encoding and no line end of JavaScript can change it.
    shown = [
        json.dumps(argument, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
        for argument in arguments
    ]
    return f"tcga.{call}({','.join(shown)});\n".encode("ascii")


def index_script(entries: Entries, listed: Sequence[Pack], about: object) -> bytes:
    """Return the data that the grid filters, sorts and shows; each word is stored once."""
    words: dict[str, list[object]] = {}
    columns: dict[str, list[object]] = {}
    labels = [name for name in COLUMNS if _is_filter(entries, name)]
    for name in (*_WORDS, *labels):
        places: dict[object, int] = {}
        columns[name] = [places.setdefault(fact, len(places)) for fact in entries.column(name)]
        words[name] = list(places)
    for name in _VALUES:
        columns[name] = list(entries.column(name))
    sizes = [[pack.name, len(pack.entries)] for pack in listed]
    index = {"about": about, "words": words, "columns": columns, "labels": labels, "packs": sizes}
    return script("index", index)


def _is_filter(entries: Entries, label: str) -> bool:
    """Return whether slides can be chosen by a label's values."""
    values = set(entries.column(label))
    return values != {None} and len(values) <= _MOST_CHOICES


def facts_script(columns: Sequence[str], pack: Pack) -> bytes:
    """Return all facts of a pack's slides."""
    return script("facts", pack.name, columns, [entry.facts for entry in pack.entries])


# Files ---------------------------------------------------------------------------


def put_script(path: Path, data: bytes) -> bool:
    """Write a script whose input is its text, if it has changed; return whether it has."""
    made_of = hashlib.sha256(data).hexdigest()
    is_changed = read_digest(path) != made_of
    if is_changed:
        write_script(path, data, made_of)
    return is_changed


def write_script(path: Path, data: bytes, made_of: str) -> None:
    """Write a script atomically. made_of: digest of its input."""
    with atomic_write(path) as file:
        file.write(f"// made of {made_of}\n".encode())
        file.write(data)


def digest(made_of: object) -> str:
    """Return the SHA-256 of a value's JSON."""
    return hashlib.sha256(json.dumps(made_of).encode()).hexdigest()


def read_digest(path: Path) -> str | None:
    """Return the digest in the first line of a script, or None."""
    try:
        with path.open("rb") as file:
            match = _HEAD.match(file.read(100))
    except OSError:
        return None
    return match[1].decode() if match else None


def read_thumbnails(path: Path) -> Iterator[tuple[str, str]]:
    """Yield digest and thumbnail of each image in a pack; yield nothing for another file."""
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
