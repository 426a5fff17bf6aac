"""Text for people: sizes, durations, plurals, times, and values that are safe to print."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit


def format_bytes(count: float) -> str:
    """Return bytes with a unit, in powers of 1,000.

    >>> format_bytes(999), format_bytes(2_621_440), format_bytes(13.2e12)
    ('999 B', '2.6 MB', '13.2 TB')
    """
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 999.95 or unit == "TB":
            break
        count /= 1000
    return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"


def format_duration(seconds: float) -> str:
    """Return a duration in its two largest units.

    >>> format_duration(0.42), format_duration(75), format_duration(7260), format_duration(200_000)
    ('0.4 s', '1 min 15 s', '2 h 1 min', '2 d 7 h')
    """
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    # Rounded before it is divided, so that nothing shows 60 s.
    whole = round(seconds)
    minutes, hours, days = whole // 60, whole // 3600, whole // 86400
    if not minutes:
        return f"{whole} s"
    if not hours:
        return f"{minutes} min {whole % 60} s"
    return f"{hours} h {minutes % 60} min" if not days else f"{days} d {hours % 24} h"


def slides(count: int) -> str:
    """Return a number of slides in words.

    >>> slides(1), slides(11765)
    ('1 slide', '11,765 slides')
    """
    return f"{count:,} slide{'' if count == 1 else 's'}"


def images(count: int) -> str:
    """Return a number of images in words."""
    return f"{count:,} image{'' if count == 1 else 's'}"


def is_or_are(count: int) -> str:
    """Return the verb that follows a number."""
    return "is" if count == 1 else "are"


def plain(value: object) -> str:
    r"""Return a value in one printable line: numbers to four decimals, bytes in hex.

    Bytes of a path that are not UTF-8 are escaped.

    >>> plain(15.234545454545456), plain(1.2e-05), plain(3), plain(None), plain("two\nlines")
    ('15.2345', '1.2e-05', '3', '', 'two lines')
    >>> print(plain("/caf\udce9"))
    /caf\xe9
    """
    if isinstance(value, float):
        return f"{value:.4g}" if 0 < abs(value) < 0.01 else str(round(value, 4))
    if isinstance(value, bytes):
        return value.hex()
    shown = "" if value is None else str(value)
    if shown.isprintable():
        return shown
    return "".join(letter if letter.isprintable() else _escaped(letter) for letter in shown)


def _escaped(letter: str) -> str:
    return f"\\x{ord(letter) - 0xDC00:x}" if "\udc80" <= letter <= "\udcff" else " "


def timestamp(now: float) -> str:
    """Return seconds since the epoch as ISO 8601 text in UTC, to the second.

    >>> timestamp(1795353255.9)
    '2026-11-22T13:14:15Z'
    """
    return datetime.fromtimestamp(int(now), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def printable(text: str, limit: int = 200) -> str:
    r"""Return the text without control characters, cut to `limit` characters.

    >>> printable("no\x1b[2J\naccess", limit=8)
    'no [2J …'
    """
    clean = text[: limit + 1]
    if not clean.isprintable():
        clean = "".join(letter if letter.isprintable() else " " for letter in clean)
    return clean if len(clean) <= limit else clean[: limit - 1] + "…"


def did_you_mean(word: str, choices: Collection[str]) -> str:
    """Return a question that names the choice, by its last word, nearest to a word; or nothing.

    >>> did_you_mean("updaet", ["init", "update"]), did_you_mean("x", ["init"])
    ('Did you mean update?', '')
    """
    import difflib

    # The dashes of options would make all of them alike.
    bare = {choice.rpartition(" ")[2].lstrip("-"): choice for choice in choices}
    near = difflib.get_close_matches(word.lstrip("-"), bare, 1)
    return f"Did you mean {bare[near[0]]}?" if near else ""


def distinct(names: Sequence[str]) -> list[str]:
    """Return unique names, as an object can hold no two values of one name.

    >>> distinct(["n", "path", "n", "n", "n_2"])
    ['n', 'path', 'n_2', 'n_3', 'n_2_2']
    """
    unique: list[str] = []
    for name in names:
        number, free = 1, name
        while free in unique:
            number += 1
            free = f"{name}_{number}"
        unique.append(free)
    return unique


def display_url(url: str) -> str:
    """Return host and path of a URL, without credentials and query, for messages.

    >>> display_url("https://me:secret@api.gdc.cancer.gov/data/1?token=x")
    'api.gdc.cancer.gov/data/1'
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        return printable(url.partition("?")[0])
    return printable(parts.netloc.rpartition("@")[2] + parts.path)


def command_line(command: str, mirror: Path) -> str:
    """Return a command of this program as a shell takes it, for the mirror in a directory.

    >>> command_line("verify --repair", Path("my mirror"))
    "tcgamirror --mirror 'my mirror' verify --repair"
    >>> command_line("update", Path())
    'tcgamirror update'
    """
    import shlex

    if mirror.absolute() == Path().absolute():
        return f"tcgamirror {command}"
    name = plain(mirror)
    # Bytes that are not UTF-8 are escaped in what bash and zsh call ANSI-C quotes.
    escaped = name != str(mirror) and "'" not in name
    quoted = f"$'{name}'" if escaped else shlex.quote(str(mirror))
    return f"tcgamirror --mirror {quoted} {command}"
