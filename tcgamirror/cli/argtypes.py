"""What people write for numbers, bytes and times on the command line. Errors are argparse's."""

from __future__ import annotations

import argparse
import re

from tcgamirror.mirror.settings import MOST_WORKERS

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*([smhd]?)")

MOST = 2**31
"""Slides, pixels or seconds: nobody means more."""

MOST_BYTES = 2**60

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)b?", re.ASCII | re.IGNORECASE)


def duration(text: str) -> float:
    """Seconds of `90`, `90s`, `30m`, `2h` or `1d`.

    >>> duration("2h")
    7200.0
    """
    match = _DURATION.fullmatch(text)
    seconds = 0.0
    if match is not None:
        seconds = float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}[match[2]]
    if not 0 < seconds <= MOST:
        raise argparse.ArgumentTypeError(f"{text!r:.60} is no duration such as 90s, 30m or 2h")
    return seconds


def byte_count(text: str) -> float:
    """Bytes, or bytes per second, of `500k`, `5M` or `1.5m`, in powers of 1,000.

    >>> byte_count("1.5M"), byte_count("200K"), byte_count("5m")
    (1500000.0, 200000.0, 5000000.0)
    """
    match = _SIZE.fullmatch(text)
    count = 0.0
    if match is not None:
        count = float(match[1]) * 1000.0 ** " kmgt".index(match[2].lower() or " ")
    if not 0 < count <= MOST_BYTES:
        raise argparse.ArgumentTypeError(f"{text!r:.60} is no number of bytes such as 500k or 5M")
    return count


def whole_number(text: str, most: int = MOST, instead: str = "") -> int:
    """A number of slides or pixels, at least one. instead: words for what else may be said.

    >>> whole_number("007")
    7
    """
    # By its length first: Python itself refuses to read a number of thousands of digits.
    digits = text.lstrip("0") if text.isascii() and text.isdigit() else ""
    if not digits or len(digits) > len(str(most)) or int(digits) > most:
        raise argparse.ArgumentTypeError(
            f"{text!r:.60} is no whole number of 1 or more, up to {most}{instead}"
        )
    return int(digits)


def slides(text: str) -> int | None:
    """A number of slides, or None for `all`."""
    return None if text == "all" else whole_number(text, instead=", nor all")


def workers(text: str) -> int:
    """A number of slides at the same time."""
    return whole_number(text, MOST_WORKERS)


def number(text: str) -> float:
    """Any number; what it may be is the setting's affair."""
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number") from None


def seed(text: str) -> int:
    """Any whole number."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number") from None
