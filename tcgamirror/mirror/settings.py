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
from operator import attrgetter
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar
from urllib.parse import urlsplit

from tcgamirror.model import fields
from tcgamirror.model.errors import BadSettings
from tcgamirror.model.sampling import By, Order, Plan
from tcgamirror.model.slide import SOURCES, ImageFormat, Kind, Resample, Target
from tcgamirror.model.text import command_line
from tcgamirror.net.timeouts import Timeouts
from tcgamirror.system.files import atomic_write, disk_errors, open_files, open_regular

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

MOST_CONNECTIONS = 256

MOST_TRIES = 100

MOST_SECONDS = 86_400.0
"""Seconds of one wait; the system's clocks overflow at far longer ones."""

LEAST_RATE = 1000.0
"""Bytes per second; at less, a slide takes days and every connection times out."""

LEAST_WORK = 10_000_000
"""Bytes; less would hold no slide."""

_HELP = "see tcgamirror help settings"

Value = TypeVar("Value")

Choice = TypeVar("Choice", bound=StrEnum)

MOST_WORKERS = 64

WORKERS_A_CORE = 4
"""Slides at a time for each core at first: one decodes while the others wait for the network."""

MOST_WORKERS_A_CORE = 16
"""The same at most, however slow the network is."""

FILES_A_WORKER, OTHER_FILES = 12, 64
"""Open files of a slide in flight, its connections included, and of all else."""

_PLAN = Plan(0, kinds=frozenset({Kind.DIAGNOSTIC}))


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


def _choice(choices: type[Choice]) -> Check[Choice]:
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

count = _up_to(2**31)
positive = Check(fields.number(_ABOVE_ZERO, math.inf), "a number above 0")
seconds = Check(
    fields.number(_ABOVE_ZERO, MOST_SECONDS), f"seconds, above 0 and up to {MOST_SECONDS:.0f}"
)
byte_rate = Check(
    fields.number(LEAST_RATE, math.inf), f"a number of bytes per second from {LEAST_RATE:.0f} up"
)
work_limit = Check(
    lambda value: int(fields.number(LEAST_WORK, 2**50)(value)),
    f"a number of bytes from {LEAST_WORK} up",
)
address = Check(_read_address, f"an address such as {GDC}")
ladder = Check(_read_ladder, f"one or more of {', '.join(SOURCES)}, none of them twice")
kinds = Check(_read_kinds, "one of diagnostic, tissue, all")
names = Check(_read_names, "a list of names that are not empty")
file_path = Check(_accept(_is_path), "the path of a file, in UTF-8")
image_format = _choice(ImageFormat)
resample = _choice(Resample)
order = _choice(Order)
by = _choice(By)


def kind_of(wanted: frozenset[Kind]) -> str:
    """Return the word that `kinds` reads as these kinds."""
    return "all" if len(wanted) > 1 else min(wanted)


def target(
    mpp: object,
    max_size: object,
    method: object,
    options: tuple[str, str] = ("target.mpp", "target.max_size"),
) -> Target:
    """Return the target of exactly one of mpp and max_size. options: their names for the user."""
    if (mpp is None) == (max_size is None):
        raise BadSettings(
            f"give either {options[0]} (µm per pixel) or {options[1]} (pixels of the longer side), "
            "one of them and not both"
        )
    return Target(
        mpp=None if mpp is None else positive(mpp, options[0]),
        max_size=None if max_size is None else count(max_size, options[1]),
        resample=resample(method, "target.resample"),
    )


# The file ----------------------------------------------------------------------


_PARTS: Mapping[str, Any] = {"target": Target, "plan": Plan, "timeouts": Timeouts}
"""Attributes of Settings that hold the values of several keys."""


@dataclass(frozen=True, slots=True)
class _Key:
    """One key of the file.

    comment: written beside the key. attribute: of Settings or of one of its parts. none: the
    value that stands for None; a key without one is left out. option: of the command line.
    """

    table: str
    name: str
    check: Check[Any]
    comment: str = ""
    attribute: str = ""
    none: str | None = None
    option: str = ""

    @property
    def path(self) -> str:
        """Return the place of the value in Settings, such as `plan.seed`."""
        name = self.attribute or self.name
        parts = (part for part, kind in _PARTS.items() if name in kind.__dataclass_fields__)
        return ".".join((*parts, name))

    def read(self, value: object, label: str) -> object:
        """Return the checked value. Raises BadSettings, which names the key by `label`."""
        if value == self.none:
            return None
        other = f', or "{self.none}"' if self.none else ""
        return replace(self.check, expected=f"{self.check.expected}{other}")(value, label)

    def line(self, settings: Settings) -> str:
        """Return the key as the file has it."""
        value = attrgetter(self.path)(settings)
        if value is None and self.none is None:
            return ""
        shown = self.none if value is None else kind_of(value) if self.check is kinds else value
        comment = f"  # {self.comment}" if self.comment else ""
        return f"{self.name} = {_toml(shown)}{comment}\n"


_CONNECTIONS = _up_to(MOST_CONNECTIONS)
_FLAG = Check(_accept(lambda value: isinstance(value, bool)), "true or false")
_PLAIN_NAME = Check(
    _accept(fields.file_name), f"the name of a file in the mirror, such as {LOCKED}"
)

_RESAMPLE = "exact, fast, or native: the pixels of the nearest finer level"
_PAUSE = "of all requests to a busy host; doubled up to ten times that"

_KEYS = (
    _Key("target", "mpp", positive, "µm per pixel"),
    _Key("target", "max_size", count, "pixels of the longer side, at most"),
    _Key("target", "resample", resample, _RESAMPLE),
    _Key("target", "format", image_format, "png, jpeg, tiff", "form"),
    _Key("sample", "slides", count, 'a number, or "all"; lowering it deletes nothing', none="all"),
    _Key("sample", "seed", Check(_accept(lambda value: type(value) is int), "a whole number")),
    _Key("sample", "order", order, "stable, or shuffle: random.shuffle over the listing"),
    _Key("sample", "by", by, "none, project_id, primary_site: go round these in turn"),
    _Key("sample", "kind", kinds, "diagnostic, tissue, all", "kinds"),
    _Key("sample", "projects", names, 'such as "TCGA-BRCA"; none: any', option="project"),
    _Key(
        *("sample", "sample_types", names, 'such as "Primary Tumor"; none: any'),
        option="sample_type",
    ),
    _Key(
        *("sample", "diseases", names, "disease types as the catalogue has them; none: any"),
        option="disease",
    ),
    _Key("sample", "one_per_case", _FLAG, "one slide of each case"),
    _Key("sample", "cases", names, "names of cases, slides or file_ids; none: any"),
    _Key(
        *("sample", "manifest", file_path, "a GDC manifest to list from, instead of the GDC"),
        none="",
    ),
    _Key(
        *("sample", "lock", _PLAIN_NAME, "a lock file in the mirror: exactly its slides are taken"),
        none="",
    ),
    _Key("fetch", "via", ladder, "tried in this order"),
    _Key("fetch", "workers", _up_to(MOST_WORKERS), 'slides in flight, or "auto"', none="auto"),
    _Key("fetch", "rate", byte_rate, "bytes per second over all connections", none="unlimited"),
    _Key("fetch", "work_limit", work_limit, "bytes in work/ at the same time", none="unlimited"),
    _Key("gdc", "api", address),
    _Key("gdc", "tiles", address),
    _Key("gdc", "bucket", address, 'the open-data bucket, or "none"', none="none"),
    _Key("gdc", "labels", _FLAG, "read what the GDC knows of each slide's tissue and case"),
    _Key("gdc", "api_connections", _CONNECTIONS, "at once"),
    _Key("gdc", "bucket_connections", _CONNECTIONS),
    _Key("network", "connect", seconds),
    _Key("network", "first_byte", seconds),
    _Key("network", "stall", seconds),
    _Key("network", "tries", _up_to(MOST_TRIES)),
    _Key("network", "backoff", seconds, "before the second try; doubled before each further one"),
    _Key("network", "pause", seconds, _PAUSE),
)
"""All keys, in the order of the file."""

_MPP, _MAX_SIZE = _KEYS[:2]

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
        raise BadSettings(f"{path} cannot be read: {error.strerror}") from error
    except BadSettings as error:
        raise BadSettings(f"{path}: {error}") from error
    except (ValueError, RecursionError) as error:
        # Beside TOMLDecodeError: bytes that are not UTF-8, endless numbers, endless brackets.
        raise BadSettings(f"{path} is not TOML: {error}; correct it by hand") from error


def _parse(file: Mapping[str, object]) -> Settings:
    keys = {(key.table, key.name): key for key in _KEYS}
    tables = {key.table for key in _KEYS}
    values: dict[_Key, object] = {}
    for table, content in file.items():
        if table not in tables:
            raise BadSettings(f"[{table:.80}] is no table of settings; {_HELP}")
        if not isinstance(content, dict):
            raise BadSettings(f"[{table}] has to be a table")
        for name, value in content.items():
            if (table, name) not in keys:
                raise BadSettings(f"{table}.{name:.80} is no setting; {_HELP}")
            values[keys[table, name]] = value
    return _with_values(UNSIZED, values, lambda key: f"{key.table}.{key.name}")


def with_options(settings: Settings, options: Mapping[str, object]) -> Settings:
    """Return settings changed by the options of a command line, by their names with _ for -.

    Options that are no settings are ignored. Raises BadSettings, which names the option.
    """
    keys = {key.option or key.name: key for key in _KEYS}
    labels = {key: f"--{option.replace('_', '-')}" for option, key in keys.items()}
    values = {keys[option]: value for option, value in options.items() if option in keys}
    return _with_values(settings, values, labels.__getitem__)


def _with_values(
    settings: Settings, values: Mapping[_Key, object], label: Callable[[_Key], str]
) -> Settings:
    parts: dict[str, dict[str, Any]] = {part: {} for part in ("", *_PARTS)}
    for key, value in values.items():
        part, _, attribute = key.path.rpartition(".")
        parts[part][attribute] = key.read(value, label(key))
    whole = {name: replace(getattr(settings, name), **parts[name]) for name in _PARTS}
    size = whole["target"]
    target(size.mpp, size.max_size, size.resample, (label(_MPP), label(_MAX_SIZE)))
    return replace(settings, **whole, **parts[""])


_SLIDES = re.compile(r"(?m)^(\s*\[\s*sample\s*\](?:.*\n(?!\s*\[))*?.*\n\s*slides\s*=\s*)[^\s#]+")


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
            f"nothing. Leave slides out by {command_line('exclude', root)}"
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


def format_settings(settings: Settings) -> str:
    """Return the file's text, which is read as the same settings."""
    text, table = _HEADER, ""
    for key in _KEYS:
        if key.table != table:
            table = key.table
            text += f"\n{_TITLES.get(table, f'[{table}]')}\n"
        text += key.line(settings)
    return text


def _toml(value: object) -> str:
    if isinstance(value, frozenset):
        return _toml(tuple(sorted(value)))
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple) and len(value) > NAMES_IN_LINE:
        return "".join(("[\n", *(f"    {_toml(name)},\n" for name in value), "]"))
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, str):
        # JSON's strings are TOML's, but for DEL, which TOML wants escaped.
        return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007F")
    return str(value)


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
    # Imported late, as most commands start no thread.
    from tcgamirror.system.parallel import usable_cores

    if settings.workers is not None:
        return Bounds(settings.workers, settings.workers)
    by_bucket = settings.via[0] == "range" and settings.bucket is not None
    connections = settings.bucket_connections if by_bucket else settings.api_connections
    by_files = max(1, (open_files() - OTHER_FILES) // FILES_A_WORKER)
    most, cores = min(connections, MOST_WORKERS, by_files), usable_cores()
    return Bounds(min(most, WORKERS_A_CORE * cores), min(most, MOST_WORKERS_A_CORE * cores))


def divided(settings: Settings, parts: int) -> Settings:
    """Return the settings of one of several runs that share workers, connections and rate."""
    counts = ("workers", "api_connections", "bucket_connections")
    shares = {name: max(1, count // parts) for name in counts if (count := getattr(settings, name))}
    rate = None if settings.rate is None else settings.rate / parts
    return replace(settings, rate=rate, **shares)
