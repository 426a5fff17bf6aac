"""What people write for numbers, bytes and times on the command line. Errors are argparse's."""

from __future__ import annotations

import argparse
import re

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*([smhd]?)")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kMGT]?)B?")


def duration(text: str) -> float:
    """Seconds of `90`, `90s`, `30m`, `2h` or `1d`.

    >>> duration("2h")
    7200.0
    """
    match = _DURATION.fullmatch(text)
    if match is None or not float(match[1]):
        raise argparse.ArgumentTypeError(f"{text!r} is no duration such as 90s, 30m or 2h")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}[match[2]]


def byte_rate(text: str) -> float:
    """Bytes per second of `500k`, `5M` or `1.5M`, in powers of 1,000.

    >>> byte_rate("1.5M")
    1500000.0
    """
    match = _SIZE.fullmatch(text)
    if match is None or not float(match[1]):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of bytes such as 500k or 5M")
    return float(match[1]) * 1000.0 ** " kMGT".index(match[2] or " ")


def whole_number(text: str) -> int:
    """A number of slides or workers, at least one."""
    if not (text.isascii() and text.isdigit() and int(text)):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of 1 or more")
    return int(text)


def slides(text: str) -> int | None:
    """A number of slides, or None for `all`."""
    return None if text == "all" else whole_number(text)


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
