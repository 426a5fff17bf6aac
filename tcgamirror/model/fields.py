"""Checks of values from outside, before they become part of a Slide.

File names and project names end up in paths, file_ids in URLs: values that could lead out of
the mirror are refused. Each check returns the value, or None for an invalid one.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping

MOST_TEXT = 500
"""Characters kept of a text field; the GDC's longest disease type has fewer than 100."""

MOST_BYTES = 2**50
"""Largest file size that is believed."""

_FILE_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._ -]{0,200}")
_PROJECT_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_AMOUNT = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]*)", re.ASCII | re.IGNORECASE)
_MD5 = re.compile(r"[0-9a-f]{32}")

BYTES = {f"{unit}{b}": 1000**n for n, unit in enumerate(("", *"kmgt")) for b in ("", "b")}
"""Numbers of bytes of a unit in lower case."""


def file_id(value: object) -> str | None:
    """Return the UUID in lower case."""
    return _lower(value, _FILE_ID)


def file_name(value: object) -> str | None:
    """Return the name as it is; None for one with path separators or control characters.

    >>> file_name("a b.svs"), file_name("../a.svs"), file_name("a.svs\\n")
    ('a b.svs', None, None)
    """
    return value if isinstance(value, str) and _FILE_NAME.fullmatch(value) else None


def project_id(value: object) -> str | None:
    """Return the project's name, which names a directory."""
    return value if isinstance(value, str) and _PROJECT_ID.fullmatch(value) else None


def md5(value: object) -> str | None:
    """Return 32 hexadecimal digits in lower case."""
    return _lower(value, _MD5)


def _lower(value: object, pattern: re.Pattern[str]) -> str | None:
    lower = value.lower() if isinstance(value, str) else ""
    return lower if pattern.fullmatch(lower) else None


def size(value: object) -> int | None:
    """Return a positive number of bytes.

    >>> size(5), size(True), size("5"), size(0)
    (5, None, None, None)
    """
    try:
        return whole(1, MOST_BYTES)(value)
    except ValueError:
        return None


def text(value: object) -> str | None:
    """Return at most 500 characters in one line, stripped and without control characters.

    >>> text(" Breast\\x1b[31m\\r\\nof,\\tNOS "), text(7), text("\\n")
    ('Breast[31m of, NOS', None, None)
    """
    if not isinstance(value, str):
        return None
    if not value.isprintable():
        # Tabs and line ends separate words.
        value = " ".join(value.split())
        # Cc, Cf, Cs: terminal escapes, direction marks and what UTF-8 cannot hold.
        value = "".join(sign for sign in value if unicodedata.category(sign)[0] != "C")
    return value.strip()[:MOST_TEXT].strip() or None


def shown(value: object) -> str:
    """Return a value in one line, as it stands in the settings or on the command line.

    >>> shown(0.50), shown("all"), shown(["range", "tiles", ""]), shown([])
    ('0.5', "'all'", "range,tiles,''", 'empty')
    """
    if isinstance(value, float):
        return f"{value:g}"
    if not isinstance(value, list | tuple):
        return repr(value)
    return ",".join(map(_item, value)) or "empty"


def _item(value: object) -> str:
    return value if isinstance(value, str) and value and value.isprintable() else repr(value)


# Checks made to measure: each returns the value, or raises ValueError.


def whole(least: int, most: int) -> Callable[[object], int]:
    """Return a check of whole numbers in a range.

    >>> whole(1, 5)(5)
    5
    """

    def check(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise ValueError
        return value

    return check


def number(least: float, most: float) -> Callable[[object], float]:
    """Return a check of finite numbers in a range.

    >>> number(0, math.inf)(3)
    3.0
    """

    def check(value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError
        # By way of text, because float() raises OverflowError for integers beyond its range.
        result = value if isinstance(value, float) else float(str(value))
        if not math.isfinite(result) or not least <= result <= most:
            raise ValueError
        return result

    return check


def amount(text: str, units: Mapping[str, float]) -> float:
    """Return a number times its unit; 0 for other text.

    >>> amount("1.5M", BYTES), amount("200 kB", BYTES), amount("5 days", BYTES)
    (1500000.0, 200000.0, 0.0)
    """
    match = _AMOUNT.fullmatch(text)
    return float(match[1]) * units.get(match[2].lower(), 0) if match else 0.0


def byte_count(least: float, most: float) -> Callable[[object], float]:
    """Return a check of a number of bytes in a range, or of text with a unit.

    >>> byte_count(1, math.inf)("5M")
    5000000.0
    """
    check = number(least, most)
    return lambda value: check(amount(value, BYTES) if isinstance(value, str) else value)


def matching(pattern: str) -> Callable[[object], str]:
    """Return a check of text that a regular expression matches as a whole."""
    expression = re.compile(pattern)

    def check(value: object) -> str:
        if not isinstance(value, str) or expression.fullmatch(value) is None:
            raise ValueError
        return value

    return check


def one_of(choices: Iterable[str]) -> Callable[[object], str]:
    """Return a check of text that is one of some words, such as a StrEnum's."""
    words = frozenset(map(str, choices))

    def check(value: object) -> str:
        if not isinstance(value, str) or value not in words:
            raise ValueError
        return value

    return check
