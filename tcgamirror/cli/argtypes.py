"""Types of arguments: numbers, bytes and durations."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tcgamirror.model.shard import Shard

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*([smhd]?)")

MOST = 2**31
"""Limit of slides, pixels or seconds."""

MOST_BYTES = 2**60

MOST_LEVELS = 64

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)b?", re.ASCII | re.IGNORECASE)


def duration(text: str) -> float:
    """Return the seconds of `90`, `90s`, `30m`, `2h` or `1d`.

    >>> duration("2h")
    7200.0
    """
    match = _DURATION.fullmatch(text)
    seconds = 0.0
    if match is not None:
        seconds = float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}[match[2]]
    if not 0 < seconds <= MOST:
        raise argparse.ArgumentTypeError(
            f"invalid duration {text!r:.60}. Expected one such as 90s, 30m or 2h"
        )
    return seconds


def byte_count(text: str) -> float:
    """Return the bytes, or bytes per second, of `500k`, `5M` or `1.5m`, in powers of 1,000.

    >>> byte_count("1.5M"), byte_count("200K"), byte_count("5m")
    (1500000.0, 200000.0, 5000000.0)
    """
    match = _SIZE.fullmatch(text)
    count = 0.0
    if match is not None:
        count = float(match[1]) * 1000.0 ** " kmgt".index(match[2].lower() or " ")
    if not 0 < count <= MOST_BYTES:
        raise argparse.ArgumentTypeError(
            f"invalid number of bytes {text!r:.60}. Expected one such as 500k or 5M"
        )
    return count


def whole_number(text: str, most: int = MOST, instead: str = "") -> int:
    """Return a whole number from 1 on.

    Args:
        instead: Text for the error that names what else is allowed.

    >>> whole_number("007")
    7
    """
    # Length first, because Python refuses to read a number of thousands of digits.
    digits = text.lstrip("0") if text.isascii() and text.isdigit() else ""
    if not digits or len(digits) > len(str(most)) or int(digits) > most:
        raise argparse.ArgumentTypeError(
            f"invalid number {text!r:.60}. Expected a whole number from 1 to {most}{instead}"
        )
    return int(digits)


def level(text: str) -> int:
    """Return the index of a pyramid's level, from 0 on."""
    return 0 if text == "0" else whole_number(text, MOST_LEVELS, ", or 0 for the base")


def slides(text: str) -> int | str:
    """Return a number of slides, or `all`."""
    return text if text == "all" else whole_number(text, instead=", or all")


def workers(text: str) -> int:
    """Return a number of slides that are fetched at a time."""
    from tcgamirror.mirror.settings import MOST_WORKERS

    return whole_number(text, MOST_WORKERS)


def shard(text: str) -> Shard:
    """Return the shard that `K/N` means.

    >>> str(shard("3/4"))
    '3/4'
    """
    from tcgamirror.model.shard import MOST_SHARDS, Shard

    numbers = text.split("/")
    if len(numbers) == 2:
        number, count = (whole_number(part, MOST_SHARDS) for part in numbers)
        if number <= count:
            return Shard(number, count)
    raise argparse.ArgumentTypeError(
        f"invalid shard {text!r:.60}. Expected K/N with K from 1 to N, such as 3/8"
    )


def number(text: str) -> float:
    """Return any number; the settings check its range."""
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"invalid number {text!r:.60}") from None


def project(text: str) -> str:
    """Return a TCGA project's id; its code alone and lower case are understood.

    >>> project("BRCA"), project("tcga-ov")
    ('TCGA-BRCA', 'TCGA-OV')
    """
    from tcgamirror.model.slide import PROJECTS

    name = f"TCGA-{text.upper().removeprefix('TCGA-')}"
    if name not in PROJECTS:
        codes = ", ".join(each.removeprefix("TCGA-") for each in PROJECTS)
        raise argparse.ArgumentTypeError(f"unknown project {text!r:.60}. Choose of {codes}")
    return name


def sample_type(text: str) -> str:
    """Return a sample type; its code and small letters are understood.

    >>> sample_type("11"), sample_type("primary tumor")
    ('Solid Tissue Normal', 'Primary Tumor')
    """
    from tcgamirror.model.slide import SAMPLE_TYPES

    known = {name.lower(): name for name in SAMPLE_TYPES.values()}
    return SAMPLE_TYPES.get(text) or known.get(text.lower(), text)


def seed(text: str) -> int:
    """Return any whole number."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"invalid whole number {text!r:.60}") from None


def dask(text: str) -> str:
    """Return the address of a Dask scheduler, which Dask checks, or `local:N`.

    >>> dask("local:4"), dask("tcp://10.0.0.1:8786")
    ('local:4', 'tcp://10.0.0.1:8786')
    """
    if text.startswith("local:"):
        workers(text.removeprefix("local:"))
    return text


def earlier_export(text: str) -> Path:
    """Return the path of an export, which is not read from a bucket."""
    from tcgamirror.net.object_store import is_object_address

    if is_object_address(text):
        raise argparse.ArgumentTypeError(
            f"{text!r:.60} is in a bucket. Name a directory, an archive or a SHA256SUMS here"
        )
    return Path(text)


VALUES: Mapping[str, Callable[[str], Any]] = MappingProxyType(
    {
        **{"BYTES": byte_count, "N": whole_number, "PX": whole_number, "X": number},
        **{"EXPORT": earlier_export, "FILE": Path, "TIME": duration, "S": seed, "K/N": shard},
        **{"ID": project, "TYPE": sample_type, "SOURCES": lambda text: text.split(",")},
        "SCHEDULER": dask,
    }
)
"""Types of the options' values, by the names that --help gives them; others are text."""
