"""Types of arguments: numbers, bytes, durations, and names that the GDC or Slurm knows."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from tcgamirror.model import fields
from tcgamirror.model.text import did_you_mean

if TYPE_CHECKING:
    from tcgamirror.model.shard import Shard

MOST = 2**31
"""Limit of slides, pixels or seconds."""

MOST_BYTES = 2**60

FOLDERS, FILES = ("DIR", "DST"), ("FILE", "PATH", "SRC", "DEST", "EXPORT")
"""Names of arguments that are paths."""

_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


def _amount(units: Mapping[str, float], most: float, name: str, examples: str, text: str) -> float:
    """Return a number times its unit.

    >>> TYPES["TIME"]("2h"), TYPES["BYTES"]("1.5M"), TYPES["--rate"]("unlimited")
    (7200.0, 1500000.0, 'unlimited')
    """
    amount = fields.amount(text, units)
    if not 0 < amount <= most:
        raise argparse.ArgumentTypeError(
            f"invalid {name} {text!r:.60}. Expected one such as {examples}"
        )
    return amount


_bytes = partial(_amount, fields.BYTES, MOST_BYTES, "number of bytes")


def _limit(text: str) -> float | str:
    return text if text == "unlimited" else _bytes("500k, 5M or unlimited", text)


def whole_number(text: str, most: int = MOST, least: int = 1, instead: str = "") -> int:
    """Return a whole number.

    instead: text for the error that names what else is allowed.

    >>> whole_number("007")
    7
    """
    # Length first, because Python refuses to read a number of thousands of digits.
    digits = text.lstrip("0") or "0" if text.isascii() and text.isdigit() else ""
    if not digits or len(digits) > len(str(most)) or not least <= int(digits) <= most:
        raise argparse.ArgumentTypeError(
            f"invalid number {text!r:.60}. Expected a whole number from {least} to {most}{instead}"
        )
    return int(digits)


def _slides(text: str) -> int | str:
    return text if text == "all" else whole_number(text, instead=", or all")


def _shard(text: str) -> Shard:
    """
    >>> str(_shard("3/4"))
    '3/4'
    """
    from tcgamirror.model.shard import MOST_SHARDS, Shard

    match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text, re.ASCII)
    if match is not None and 1 <= int(match[1]) <= int(match[2]) <= MOST_SHARDS:
        return Shard(int(match[1]), int(match[2]))
    raise argparse.ArgumentTypeError(
        f"invalid shard {text!r:.60}. Expected K/N with K from 1 to N, such as 3/8"
    )


def _read(kind: Callable[[str], float], name: str, text: str) -> float:
    """Return any number of the kind; the settings check its range."""
    try:
        return kind(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"invalid {name} {text!r:.60}") from None


def _project(text: str) -> str:
    """Return a TCGA project's id; its code alone and lower case are understood.

    >>> _project("BRCA"), _project("tcga-ov")
    ('TCGA-BRCA', 'TCGA-OV')
    """
    from tcgamirror.model.slide import PROJECTS

    name = f"TCGA-{text.upper().removeprefix('TCGA-')}"
    if name not in PROJECTS:
        codes = [each.removeprefix("TCGA-") for each in PROJECTS]
        code = name.removeprefix("TCGA-")
        # A longer word is that of an organ: "brain" is not BRCA.
        hint = did_you_mean(code, codes) if len(code) <= max(map(len, codes)) else ""
        if "," in text:
            hint = "Repeat --project for each one"
        hint = hint or f"Choose one of {', '.join(codes)}"
        raise argparse.ArgumentTypeError(f"unknown project {text!r:.60}. {hint}")
    return name


def _sample_type(text: str) -> str:
    """Return a sample type; its code and small letters are understood.

    >>> _sample_type("11"), _sample_type("primary tumor")
    ('Solid Tissue Normal', 'Primary Tumor')
    """
    from tcgamirror.model.slide import SAMPLE_TYPES

    known = {name.lower(): name for name in SAMPLE_TYPES.values()}
    return SAMPLE_TYPES.get(text) or known.get(text.lower(), text)


def _dask(text: str) -> str:
    """Return the address of a Dask scheduler, which Dask checks, or `local:N`."""
    if text.startswith("local:"):
        TYPES["--workers"](text.removeprefix("local:"))
    return text


def _earlier_export(text: str) -> Path:
    """Return the path of an export, which is not read from a bucket."""
    from tcgamirror.net.object_store import is_object_address

    if is_object_address(text):
        raise argparse.ArgumentTypeError(
            f"{text!r:.60} is in a bucket. Name a directory, an archive or a SHA256SUMS here"
        )
    return Path(text)


def _time_of_day(text: str) -> tuple[int, int]:
    """Return hour and minute."""
    match = re.fullmatch(r"([01]?\d|2[0-3]):([0-5]\d)", text, re.ASCII)
    if match is None:
        raise argparse.ArgumentTypeError(
            f"invalid time of day {text!r:.60}. Expected one such as 02:15; "
            "a job's limit is --time-limit"
        )
    return int(match[1]), int(match[2])


def _array(text: str) -> tuple[int, int | None]:
    """Return the number of jobs, and how many may run at a time; None for no limit.

    >>> _array("16"), _array("16%4")
    ((16, None), (16, 4))
    """
    from tcgamirror.model.shard import MOST_SHARDS

    shards, limited, at_once = text.partition("%")
    return whole_number(shards, MOST_SHARDS), whole_number(at_once) if limited else None


def _slurm_names(text: str) -> str:
    """Return a partition or account, or several with commas between them."""
    if re.fullmatch(r"[A-Za-z0-9_.,:@+/-]+", text) is None:
        raise argparse.ArgumentTypeError(
            f"invalid name {text!r:.60}. Expected letters, digits and any of _.,:@+/-"
        )
    return text


TYPES: Mapping[str, Callable[[str], Any]] = MappingProxyType(
    {
        "--slides": _slides,
        "--workers": partial(whole_number, most=64),
        "--level": partial(whole_number, most=64, least=0),
        "--port": partial(whole_number, most=65535, least=0),
        "--rate": _limit,
        "--work-limit": _limit,
        "BYTES": partial(_bytes, "500k or 5M"),
        "EXPORT": _earlier_export,
        "FILE": Path,
        "HH:MM": _time_of_day,
        "ID": _project,
        "K/N": _shard,
        "N": whole_number,
        "N[%M]": _array,
        "NAME": _slurm_names,
        "PX": whole_number,
        "S": partial(_read, int, "whole number"),
        "SCHEDULER": _dask,
        "SOURCES": lambda text: text.split(","),
        "TIME": partial(_amount, _SECONDS, MOST, "duration", "90s, 30m or 2h"),
        "TYPE": _sample_type,
        "X": partial(_read, float, "number"),
    }
)
"""Types of values, by an option or by the name that --help gives the value; others are text."""
