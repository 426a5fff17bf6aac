"""The settings of a mirror, read from `tcgamirror.toml` and written to it.

People edit the file: errors name the key and what it may be, and each key has a
comment beside it.
"""

from __future__ import annotations

import json
import math
import re
import tomllib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar
from urllib.parse import urlsplit

from tcgamirror.model import fields
from tcgamirror.model.errors import BadSettings
from tcgamirror.model.sampling import By, Order, Plan
from tcgamirror.model.slide import SOURCES, ImageFormat, Kind, Resample, Target
from tcgamirror.model.text import command_line
from tcgamirror.net.timeouts import Timeouts
from tcgamirror.system.cores import usable_cores
from tcgamirror.system.files import (
    FORBIDDEN,
    atomic_write,
    disk_errors,
    open_file_limit,
    open_regular,
)

FILE_NAME = "tcgamirror.toml"

LOCKED = "sample.lock"
"""Name of the lock file in a mirror made by `init --lock`."""

MOST_BYTES = 1 << 20
"""Bytes of the file; `format_settings` writes two thousand."""

MOST_DOTS, FEW_DOTS = 5000, 4
"""Dots in the lines that have more than a few: the time to parse a key grows with their square."""

MOST_CASES = 500_000
"""Characters of all names of `cases`, which a catalogue and a lock file keep as one text."""

GDC = "https://api.gdc.cancer.gov"
GDC_TILES = "https://api.gdc.cancer.gov/tile"
BUCKET = "https://tcga-2-open.s3.amazonaws.com"

MOST_SECONDS = 86_400.0
"""Seconds of one wait; the system's clocks overflow at far longer ones."""

LEAST_RATE = 1000.0
"""Bytes per second; at less, a slide takes days and every connection times out."""

LEAST_WORK = 10_000_000
"""Bytes; less would hold no slide."""

MOST_WORKERS = 64

WORKERS_A_CORE, MOST_WORKERS_A_CORE = 8, 16
"""Slides at a time for each core, at first, as one decodes while others wait, and at most."""

FILES_A_WORKER, OTHER_FILES = 12, 64
"""Open files of a slide in flight, its connections included, and of all else."""

_HELP = "see tcgamirror help settings"
_PLAN = Plan(0, kinds=frozenset({Kind.DIAGNOSTIC}))

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of a mirror. Target, format and the sample's plan are fixed at `init`.

    slides: to sample, None for all. manifest: file to list from instead of the GDC.
    lock: lock file in the mirror. via: ladder of sources. workers: slides in flight, None
    for as many as keep the cores busy. rate: bytes per second over all connections, None for no
    limit. work_limit: bytes of partial downloads, None for no limit. labels: read those of
    slides and cases. api_connections, bucket_connections: connections at a time, by host.
    """

    target: Target
    slides: int | None = 100
    plan: Plan = _PLAN
    manifest: str | None = None
    lock: str | None = None
    form: ImageFormat = ImageFormat.PNG
    via: tuple[str, ...] = SOURCES
    workers: int | None = None
    rate: float | None = None
    work_limit: int | None = None
    api: str = GDC
    tiles: str = GDC_TILES
    bucket: str | None = BUCKET
    labels: bool = True
    api_connections: int = 4
    bucket_connections: int = 64
    timeouts: Timeouts = field(default_factory=Timeouts)

    @property
    def fixed(self) -> str:
        """Target and format in words; any change of them changes the words."""
        target = self.target
        if target.mpp is None:
            return f"{target}, {self.form}"
        return f"{str(target.mpp).removesuffix('.0')} µm/px, {target.resample}, {self.form}"


UNSIZED = Settings(Target(None, None))
"""The defaults, to which a target is still to be added."""

# Checks of values ---------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Check(Generic[Value]):
    """The check of a setting's value.

    read: returns the value in its own type, or raises ValueError. expected: in words.
    """

    read: Callable[[object], Value]
    expected: str

    def __call__(self, value: object, name: str) -> Value:
        """Return the checked value. Raises BadSettings, which names the setting."""
        try:
            return self.read(value)
        except ValueError:
            shown = fields.shown(value)
            raise BadSettings(f"{name} is {shown:.80}, but has to be {self.expected}") from None


def _up_to(most: int) -> Check[int]:
    return Check(fields.whole(1, most), f"a whole number from 1 to {most}")


def _choice(choices: type[StrEnum]) -> Check[StrEnum]:
    return Check(lambda value: choices(str(value)), f"one of {', '.join(choices)}")


def _read_address(value: object) -> str:
    text = value.rstrip("/") if isinstance(value, str) else ""
    parts = urlsplit(text)
    plain = text.isprintable() and " " not in text and not parts.query and not parts.fragment
    if not (plain and parts.scheme in ("http", "https") and parts.hostname and parts.port != 0):
        raise ValueError
    return text


def _read_ladder(value: object) -> tuple[str, ...]:
    sources = tuple(map(str, value)) if isinstance(value, list | tuple) else ()
    if not sources or len(set(sources)) < len(sources) or not set(sources) <= set(SOURCES):
        raise ValueError
    return sources


def _read_kinds(value: object) -> frozenset[Kind]:
    return frozenset(Kind) if value == "all" else frozenset({Kind(str(value))})


def _read_names(value: object) -> frozenset[str]:
    if not isinstance(value, list | tuple) or not all(
        isinstance(item, str) and item and item.isprintable() for item in value
    ):
        raise ValueError
    return frozenset(value)


def _accept(is_valid: Callable[[Any], object]) -> Callable[[object], Any]:
    """Return a check that returns valid values as they are."""

    def check(value: object) -> object:
        if not is_valid(value):
            raise ValueError
        return value

    return check


def _is_path(value: object) -> bool:
    # UnicodeEncodeError, for text that TOML cannot hold, is a ValueError.
    return isinstance(value, str) and value.encode() != b"" and "\0" not in value


_ABOVE_ZERO = math.ulp(0)
_MPP = Check(fields.number(_ABOVE_ZERO, math.inf), "a number above 0")
_COUNT = _up_to(2**31)
_SECONDS = Check(
    fields.number(_ABOVE_ZERO, MOST_SECONDS), f"seconds, above 0 and up to {MOST_SECONDS:.0f}"
)
_WORK = Check(
    lambda value: int(fields.byte_count(LEAST_WORK, 2**50)(value)),
    f'a number of bytes from {LEAST_WORK} up, such as "20G"',
)
_SEED = Check(_accept(lambda value: type(value) is int), "a whole number")
_FLAG = Check(_accept(lambda value: isinstance(value, bool)), "true or false")
_KINDS = Check(_read_kinds, "one of diagnostic, tissue, all")
_NAMES = Check(_read_names, "a list of names that are not empty")
_PATH = Check(_accept(_is_path), "the path of a file, in UTF-8")
_PLAIN_NAME = Check(
    _accept(fields.file_name), f"the name of a file in the mirror, such as {LOCKED}"
)
_LADDER = Check(_read_ladder, f"one or more of {', '.join(SOURCES)}, none of them twice")
_CONNECTIONS = _up_to(256)

byte_rate = Check(
    fields.byte_count(LEAST_RATE, math.inf),
    f'a number of bytes per second from {LEAST_RATE:.0f} up, such as "5M"',
)
address = Check(_read_address, f"an address such as {GDC}")

# The table of settings -----------------------------------------------------------


_PARTS: Mapping[str, Any] = {"target": Target, "plan": Plan, "timeouts": Timeouts}
"""Attributes of Settings that hold the values of several keys."""


@dataclass(frozen=True, slots=True)
class _Key:
    """One key of the file.

    comment: written beside the key. none: the value that stands for None; a key without one is
    left out. attribute: of Settings or of one of its parts. option: of the command line.
    """

    table: str
    name: str
    check: Check[Any]
    comment: str = ""
    none: str | None = None
    attribute: str = ""
    option: str = ""

    @property
    def place(self) -> tuple[str, str]:
        """Return the part of Settings that holds the value, if one does, and its attribute."""
        name = self.attribute or self.name
        parts = (part for part, kind in _PARTS.items() if name in kind.__dataclass_fields__)
        return next(parts, ""), name

    def read(self, value: object, label: str) -> object:
        """Return the checked value. Raises BadSettings, which names the key by `label`."""
        if value is not None and value == self.none:
            return None
        other = f', or "{self.none}"' if self.none else ""
        return replace(self.check, expected=f"{self.check.expected}{other}")(value, label)

    def value(self, settings: Settings) -> Any:
        """Return the value as the file has it; None for a key that is left out."""
        part, name = self.place
        value = getattr(getattr(settings, part) if part else settings, name)
        if self.check is _KINDS:
            return "all" if len(value) > 1 else min(value)
        if isinstance(value, frozenset):
            return sorted(value)
        return self.none if value is None else value


_KEYS = (
    _Key("target", "mpp", _MPP, "µm per pixel"),
    _Key("target", "max_size", _COUNT, "pixels of the longer side, at most"),
    _Key(
        *("target", "resample", _choice(Resample)),
        "exact, fast, or native: the pixels of the nearest finer level",
    ),
    _Key("target", "format", _choice(ImageFormat), "png, jpeg, tiff", attribute="form"),
    _Key("sample", "slides", _COUNT, 'a number, or "all"; lowering it deletes nothing', "all"),
    _Key("sample", "seed", _SEED),
    _Key("sample", "order", _choice(Order), "stable, or shuffle: random.shuffle over the listing"),
    _Key("sample", "by", _choice(By), "none, project_id, primary_site: go round these in turn"),
    _Key("sample", "kind", _KINDS, "diagnostic, tissue, all", attribute="kinds"),
    _Key("sample", "projects", _NAMES, 'such as "TCGA-BRCA"; none: any', option="project"),
    _Key(
        *("sample", "sample_types", _NAMES, 'such as "Primary Tumor"; none: any'),
        option="sample_type",
    ),
    _Key(
        *("sample", "diseases", _NAMES, "disease types as the catalogue has them; none: any"),
        option="disease",
    ),
    _Key("sample", "cases", _NAMES, "names of cases, slides or file_ids; none: any"),
    _Key("sample", "one_per_case", _FLAG, "one slide of each case"),
    _Key("sample", "manifest", _PATH, "a GDC manifest to list from, instead of the GDC", ""),
    _Key(
        *("sample", "lock", _PLAIN_NAME),
        *("a lock file in the mirror: exactly its slides are taken", ""),
    ),
    _Key("fetch", "via", _LADDER, "tried in this order"),
    _Key("fetch", "workers", _up_to(MOST_WORKERS), 'slides in flight, or "auto"', "auto"),
    _Key("fetch", "rate", byte_rate, "bytes per second over all connections", "unlimited"),
    _Key("fetch", "work_limit", _WORK, "bytes in work/ at the same time", "unlimited"),
    _Key("gdc", "api", address),
    _Key("gdc", "tiles", address),
    _Key("gdc", "bucket", address, 'the open-data bucket, or "none"', "none"),
    _Key("gdc", "labels", _FLAG, "read what the GDC knows of each slide's tissue and case"),
    _Key("gdc", "api_connections", _CONNECTIONS, "at once"),
    _Key("gdc", "bucket_connections", _CONNECTIONS),
    _Key("network", "connect", _SECONDS),
    _Key("network", "first_byte", _SECONDS),
    _Key("network", "stall", _SECONDS),
    _Key("network", "tries", _up_to(100)),
    _Key("network", "backoff", _SECONDS, "before the second try; doubled before each further one"),
    _Key(
        *("network", "pause", _SECONDS),
        "of all requests to a busy host; doubled up to ten times that",
    ),
)
"""All keys, in the order of the file."""

_BY_PLACE = {f"{key.table}.{key.name}": key for key in _KEYS}
_BY_OPTION = {f"--{(key.option or key.name).replace('_', '-')}": key for key in _KEYS}
_BY_NAME = {key.name: key for key in _KEYS[:14]}
"""Keys by the names that errors give them; those of the last tell a sample and its images."""

OPTIONAL = frozenset({"sample_types", "diseases", "one_per_case", "cases"})
"""Keys of a plan that older versions lack; they are told where they are set."""


def _change(settings: Settings, keys: Mapping[str, _Key], values: Mapping[str, object]) -> Settings:
    """Return settings changed by values, which are checked. Raises BadSettings."""
    parts: dict[str, dict[str, Any]] = {part: {} for part in ("", *_PARTS)}
    for name, value in values.items():
        part, attribute = keys[name].place
        parts[part][attribute] = keys[name].read(value, name)
    whole = {part: replace(getattr(settings, part), **parts[part]) for part in _PARTS}
    if (whole["target"].mpp is None) == (whole["target"].max_size is None):
        mpp, max_size, *_ = keys
        raise BadSettings(
            f"give either {mpp} (µm per pixel) or {max_size} (pixels of the longer side), one of "
            "them and not both"
        )
    return replace(settings, **whole, **parts[""])


def with_options(settings: Settings, options: Mapping[str, object]) -> Settings:
    """Return settings changed by the options of a command line, by their names with _ for -.

    Options that are no settings are ignored. Raises BadSettings, which names the option.
    """
    named = {f"--{name.replace('_', '-')}": value for name, value in options.items()}
    values = {name: value for name, value in named.items() if name in _BY_OPTION}
    return _change(settings, _BY_OPTION, values)


def remedy_for_option(option: str) -> str:
    """Return how to change the setting of an option of `init` in a mirror; "" for no setting.

    >>> remedy_for_option("--mpp"), remedy_for_option("--workers"), remedy_for_option("--bogus")
    ('It is fixed at init. Make another mirror', 'Set workers in [fetch] of tcgamirror.toml', '')
    """
    key = _BY_OPTION.get(option)
    if key is None:
        return ""
    if key.table == "target" or key.place[0] == "plan" or key.name == "lock":
        return "It is fixed at init. Make another mirror"
    return f"Set {key.name} in [{key.table}] of {FILE_NAME}"


def format_options(settings: Settings) -> str:
    """Return the options of `init` for all values of settings that are not the defaults."""
    import shlex

    words = []
    for option, key in _BY_OPTION.items():
        value = key.value(settings)
        if value is None or value == key.value(UNSIZED):
            continue
        if key.name == "cases":
            value = "FILE"
        for each in value if isinstance(value, list) else [value]:
            text = f"{each:.15g}" if isinstance(each, float) else str(each)
            words += [option] if each is True else [option, text]
    return shlex.join(words)


def sample_values(settings: Settings) -> dict[str, Any]:
    """Return what tells the sample and its images: the values that the file has, by their keys."""
    values = {name: key.value(settings) for name, key in _BY_NAME.items()}
    return {
        name: value
        for name, value in values.items()
        if value is not None and (value or name not in OPTIONAL)
    }


def read_sample(values: Mapping[str, object]) -> Settings:
    """Return the settings that `sample_values` describes. Raises BadSettings."""
    return _change(UNSIZED, _BY_NAME, values)


def plan_values(plan: Plan) -> dict[str, Any]:
    """Return the plan in the terms of the settings."""
    values = sample_values(replace(UNSIZED, plan=plan))
    return {name: value for name, value in values.items() if _BY_NAME[name].place[0] == "plan"}


def read_plan(values: Mapping[str, object]) -> Plan:
    """Return the plan that `plan_values` describes. Raises BadSettings, or KeyError for others."""
    names = {*plan_values(_PLAN), *OPTIONAL.intersection(values)}
    return read_sample({"mpp": 1.0, **{name: values[name] for name in names}}).plan


# The file ------------------------------------------------------------------------


_HEADER = """\
# Settings of a mirror made by tcgamirror. Edit them freely, but for [target] and the
# sample's plan (seed, order, by, kind, projects and the like): another one belongs in another
# mirror.
"""

NAMES_IN_LINE = 40
"""Names of a list in one line; a longer list has one in each line."""

_TITLES = {"network": "[network]  # limits of waits in seconds"}


def read_settings(path: Path) -> Settings:
    """Return the settings in a file. Raises BadSettings, which names the file and the key."""
    try:
        with open_regular(path) as file:
            data = file.read(MOST_BYTES + 1)
        if len(data) > MOST_BYTES:
            raise BadSettings(f"it has more than {MOST_BYTES:,} bytes")
        # No key goes on in another line. A line of `cases` has few dots.
        dots = (line.count(b".") for line in data.splitlines())
        if sum(count for count in dots if count > FEW_DOTS) > MOST_DOTS:
            raise BadSettings(f"it has more than {MOST_DOTS:,} dots in long lines")
        return _parse(tomllib.loads(data.decode()))
    except OSError as error:
        remedy = "Change its permissions" if error.errno in FORBIDDEN else "Put a copy back"
        raise BadSettings(f"{path} cannot be read ({error.strerror}). {remedy}") from error
    except BadSettings as error:
        raise BadSettings(f"{path}: {error}") from error
    except (ValueError, RecursionError) as error:
        # Beside TOMLDecodeError: bytes that are not UTF-8, endless numbers, endless brackets.
        raise BadSettings(f"{path} is not TOML: {error}; correct it by hand") from error


def _parse(file: Mapping[str, object]) -> Settings:
    tables = {key.table for key in _KEYS}
    values: dict[str, object] = {}
    for table, content in file.items():
        if table not in tables:
            raise BadSettings(f"[{table:.80}] is no table of settings; {_HELP}")
        if not isinstance(content, dict):
            raise BadSettings(f"[{table}] has to be a table")
        for name, value in content.items():
            place = f"{table}.{name}"
            if place not in _BY_PLACE:
                raise BadSettings(f"{place:.100} is no setting; {_HELP}")
            values[place] = value
    return _change(UNSIZED, _BY_PLACE, values)


def format_settings(settings: Settings) -> str:
    """Return the file's text, which is read as the same settings."""
    text, table = _HEADER, ""
    for key in _KEYS:
        if key.table != table:
            table = key.table
            text += f"\n{_TITLES.get(table, f'[{table}]')}\n"
        if (value := key.value(settings)) is not None:
            comment = f"  # {key.comment}" if key.comment else ""
            text += f"{key.name} = {_toml(value)}{comment}\n"
    return text


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple) and len(value) > NAMES_IN_LINE:
        return "".join(("[\n", *(f"    {_toml(name)},\n" for name in value), "]"))
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, str):
        # JSON's strings are TOML's, but for DEL, which TOML wants escaped.
        return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007F")
    return str(value)


_SLIDES = re.compile(r"(?m)^(\s*slides\s*=\s*)[^\s#]+")


def more_slides(root: Path, settings: Settings, slides: int | None) -> Settings:
    """Return a mirror's settings with a higher number of slides, None for all.

    Raises BadSettings for a lower number, and for a mirror of a lock file's slides.
    """
    path = root / FILE_NAME
    if settings.lock is not None:
        raise BadSettings(
            f"{path}: the mirror has exactly the slides of {settings.lock}. For more make another "
            "mirror by init"
        )
    is_lower = slides is not None and (settings.slides is None or slides < settings.slides)
    if is_lower:
        raise BadSettings(
            f"{path}: slides is {settings.slides or 'all'}, and a lower number would delete "
            f"nothing. Leave slides out by {command_line('exclude SLIDE', root)}"
        )
    return replace(settings, slides=slides)


def raise_slides(root: Path, slides: int | None) -> Settings:
    """Raise the number of slides in a mirror's settings for good; return the settings.

    Only the number is changed: comments and all other lines stay.

    Args:
        slides: None for all.

    Raises:
        BadSettings: see `more_slides`, or the number is not on a line of its own.
    """
    path = root / FILE_NAME
    before = read_settings(path)
    after = more_slides(root, before, slides)
    if after == before:
        return before
    value = _toml(slides or "all")
    with open_regular(path) as file:
        text = file.read().decode()
    new = _SLIDES.sub(lambda match: match[1] + value, text, count=1)
    with suppress(BadSettings, ValueError):
        if _parse(tomllib.loads(new)) == after:
            with disk_errors(path), atomic_write(path) as out:
                out.write(new.encode())
            return after
    raise BadSettings(f"{path}: no line for slides in [sample]. Write slides = {value} there")


# Numbers in flight ---------------------------------------------------------------


class Bounds(NamedTuple):
    """Numbers of slides in flight: at first, and at most."""

    first: int
    most: int


def worker_bounds(settings: Settings) -> Bounds:
    """Return how many slides may be in flight: as set, or enough to keep the cores busy.

    Without a setting there are at most as many as connections and open files allow.
    `whole` counts those of the GDC although it asks the bucket too: each slide takes a
    gigabyte of disk.
    """
    if settings.workers is not None:
        return Bounds(settings.workers, settings.workers)
    by_bucket = settings.via[0] == "range" and settings.bucket is not None
    connections = settings.bucket_connections if by_bucket else settings.api_connections
    by_files = max(1, (open_file_limit() - OTHER_FILES) // FILES_A_WORKER)
    most, cores = min(connections, MOST_WORKERS, by_files), usable_cores()
    return Bounds(min(most, WORKERS_A_CORE * cores), min(most, MOST_WORKERS_A_CORE * cores))


def divided(settings: Settings, parts: int) -> Settings:
    """Return the settings of one of several runs that share workers, connections and rate."""
    counts = ("workers", "api_connections", "bucket_connections")
    shares = {name: max(1, count // parts) for name in counts if (count := getattr(settings, name))}
    rate = None if settings.rate is None else settings.rate / parts
    return replace(settings, rate=rate, **shares)
