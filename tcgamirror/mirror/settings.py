"""`tcgamirror.toml` to a frozen Settings and back.

People edit the file, so that reading names the key that is wrong and what it
may be, and writing explains each key beside it.
"""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from tcgamirror.model import fields
from tcgamirror.model.errors import BadSettings
from tcgamirror.model.sampling import By, Order, Plan
from tcgamirror.model.slide import SOURCES, ImageFormat, Kind, Resample, Target
from tcgamirror.net.timeouts import Timeouts
from tcgamirror.system.files import open_regular
from tcgamirror.system.parallel import usable_cores

FILE_NAME = "tcgamirror.toml"

LOCKED = "sample.lock"
"""Where a mirror made by `init --lock` keeps the lock file."""

MOST_BYTES = 1 << 20
"""Bytes of the file; what `format_settings` writes has two thousand."""

MOST_DOTS = 5000
"""In the file: the time that a key takes grows with the square of the dots in it."""

GDC = "https://api.gdc.cancer.gov"

GDC_TILES = "https://api.gdc.cancer.gov/tile"

BUCKET = "https://tcga-2-open.s3.amazonaws.com"

MOST_CONNECTIONS = 256

MOST_TRIES = 100

MOST_SECONDS = 86_400.0
"""Of one wait. The system's clocks overflow at far longer ones."""

LEAST_RATE = 1000.0
"""Bytes per second. At less, a slide takes days and every wait of a connection runs out."""

LEAST_WORK = 10_000_000
"""Bytes. Less would do for no slide."""

Value = TypeVar("Value")

Choice = TypeVar("Choice", bound=StrEnum)

MOST_WORKERS = 64

WORKERS_A_CORE = 4
"""Slides of which one decodes while the others wait for the network."""


@dataclass(frozen=True, slots=True)
class Settings:
    """All that `init` fixes and a person may later change, but for `target` and `form`.

    slides: how many to sample, None for all. manifest: a listing from a file
    instead of the GDC. lock: a file in the mirror that names the sample. via: the
    ladder of sources. workers: slides at the same time, None for as many as suit
    the machine. rate: bytes per second over all connections. work_limit:
    bytes that partial downloads may take, None for as many as the disk has.
    api_connections, bucket_connections: at once, by host.
    """

    target: Target
    slides: int | None = 100
    seed: int = 0
    order: Order = Order.STABLE
    by: By = By.NONE
    kinds: frozenset[Kind] = frozenset({Kind.DIAGNOSTIC})
    projects: tuple[str, ...] = ()
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
    api_connections: int = 4
    bucket_connections: int = 16
    timeouts: Timeouts = field(default_factory=Timeouts)

    @property
    def plan(self) -> Plan:
        return Plan(self.seed, self.order, self.by, self.kinds, frozenset(self.projects))

    @property
    def fixed(self) -> str:
        """What may not change after `init`, in words that any change changes."""
        asked = self.target
        if asked.mpp is None:
            return f"{asked}, {self.form}"
        return f"{str(asked.mpp).removesuffix('.0')} µm/px, {asked.resample}, {self.form}"


# Values, each with what it may be ----------------------------------------------


def refused(value: object, name: str, may: str) -> BadSettings:
    """The error that says what a setting is and what it may be, in one line."""
    return BadSettings(f"{name} is {fields.shown(value):.80}, but has to be {may}")


def count(value: object, name: str, most: int = 2**31) -> int:
    """A whole number of at least one."""
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        raise refused(value, name, f"a whole number from 1 to {most}")
    return value


def positive(value: object, name: str) -> float:
    """A finite number above zero."""
    return _number(value, name, math.ulp(0), math.inf, "a number above 0")


def seconds(value: object, name: str) -> float:
    """How long to wait."""
    may = f"seconds, above 0 and up to {MOST_SECONDS:.0f}"
    return _number(value, name, math.ulp(0), MOST_SECONDS, may)


def byte_rate(value: object, name: str) -> float:
    """Bytes per second."""
    may = f"a number of bytes per second from {LEAST_RATE:.0f} up"
    return _number(value, name, LEAST_RATE, math.inf, may)


def work_limit(value: object, name: str) -> int:
    """Bytes, enough for the directories of any slide."""
    may = f"a number of bytes from {LEAST_WORK} up"
    return int(_number(value, name, LEAST_WORK, 2**50, may))


def _number(value: object, name: str, least: float, most: float, may: str) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise refused(value, name, may)
    # By way of text, because float() raises for whole numbers beyond its range.
    number = float(str(value))
    if not math.isfinite(number) or not least <= number <= most:
        raise refused(value, name, may)
    return number


def address(value: object, name: str) -> str:
    """An http or https address, without a final slash."""
    text = value.rstrip("/") if isinstance(value, str) else ""
    if not _leads_somewhere(text):
        raise refused(value, name, f"an address such as {GDC}")
    return text


def _leads_somewhere(text: str) -> bool:
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        return False
    plain = text.isprintable() and " " not in text and not parts.query and not parts.fragment
    return plain and parts.scheme in ("http", "https") and bool(parts.hostname) and port != 0


def one_of(value: object, name: str, choices: type[Choice]) -> Choice:
    """A member of a StrEnum."""
    try:
        return choices(str(value))
    except ValueError:
        raise refused(value, name, f"one of {', '.join(choices)}") from None


def ladder(value: object, name: str) -> tuple[str, ...]:
    """Sources in the order they are tried, each once."""
    sources = tuple(map(str, value)) if isinstance(value, list | tuple) else ()
    if not sources or len(set(sources)) < len(sources) or not set(sources) <= set(SOURCES):
        raise refused(value, name, f"one or more of {', '.join(SOURCES)}, none of them twice")
    return sources


def kinds(value: object, name: str) -> frozenset[Kind]:
    """`diagnostic`, `tissue`, or `all` for both."""
    if value == "all":
        return frozenset(Kind)
    if value not in tuple(Kind):
        raise refused(value, name, "one of diagnostic, tissue, all")
    return frozenset({Kind(str(value))})


def kind_of(wanted: frozenset[Kind]) -> str:
    """What `kinds` was told."""
    return "all" if len(wanted) > 1 else min(wanted)


def names(value: object, name: str) -> tuple[str, ...]:
    """A list of printable text."""
    if not isinstance(value, list | tuple) or not all(
        isinstance(item, str) and item and item.isprintable() for item in value
    ):
        raise refused(value, name, "a list of names, such as TCGA-BRCA")
    return tuple(value)


def file_path(value: object, name: str) -> str:
    """A path that the settings, which are UTF-8, can hold."""
    try:
        if isinstance(value, str) and value.encode() and "\0" not in value:
            return value
    except UnicodeEncodeError:
        pass
    raise refused(value, name, "the path of a file, in UTF-8")


def plain_name(value: object, name: str) -> str:
    """The name of a file that lies beside the settings."""
    if fields.file_name(value) is None:
        raise refused(value, name, f"the name of a file in the mirror, such as {LOCKED}")
    return str(value)


def target(
    mpp: object,
    max_size: object,
    resample: object,
    called: tuple[str, str] = ("target.mpp", "target.max_size"),
) -> Target:
    """Exactly one of mpp and max_size. called: what the user knows them as."""
    if (mpp is None) == (max_size is None):
        raise BadSettings(
            f"give either {called[0]} (µm per pixel) or {called[1]} (pixels of the longer side), "
            "one of them and not both"
        )
    return Target(
        mpp=None if mpp is None else positive(mpp, called[0]),
        max_size=None if max_size is None else count(max_size, called[1]),
        resample=one_of(resample, "target.resample", Resample),
    )


# The file ----------------------------------------------------------------------


class _Table:
    """One table of the file, whose keys are taken one by one; what is left over is unknown."""

    def __init__(self, file: Mapping[str, object], name: str) -> None:
        table = file.get(name, {})
        if not isinstance(table, dict):
            raise BadSettings(f"[{name}] has to be a table")
        self._name = name
        self._left = dict(table)

    def plain(self, key: str, default: object) -> object:
        return self._left.pop(key, default)

    def take(self, key: str, read: Callable[[object, str], Value], default: Value) -> Value:
        if key not in self._left:
            return default
        return read(self._left.pop(key), f"{self._name}.{key}")

    def optional(
        self, key: str, read: Callable[[object, str], Value], default: Value | None, none: object
    ) -> Value | None:
        """As `take`, with `none` standing for no value."""
        if self._left.get(key) == none and key in self._left:
            del self._left[key]
            return None
        return self.take(key, read, default) if key in self._left else default

    def end(self) -> None:
        for key in self._left:
            raise BadSettings(f"{self._name}.{key:.80} is no setting; see tcgamirror help settings")


def read_settings(path: Path) -> Settings:
    """The settings in the file at `path`. Raises BadSettings naming the file and the key."""
    try:
        with open_regular(path) as file:
            data = file.read(MOST_BYTES + 1)
        if len(data) > MOST_BYTES:
            raise BadSettings(f"it has more than {MOST_BYTES:,} bytes")
        if data.count(b".") > MOST_DOTS:
            raise BadSettings(f"it has more than {MOST_DOTS:,} dots")
        return _parsed(tomllib.loads(data.decode()))
    except OSError as error:
        raise BadSettings(f"{path} cannot be read: {error.strerror}") from error
    except BadSettings as error:
        raise BadSettings(f"{path}: {error}") from error
    except (ValueError, RecursionError) as error:
        # Beside TOMLDecodeError: bytes that are no UTF-8, endless numbers, endless brackets.
        raise BadSettings(f"{path} is not TOML: {error}; correct it by hand") from error


def _parsed(file: Mapping[str, object]) -> Settings:
    for name in file:
        if name not in ("target", "sample", "fetch", "gdc", "network"):
            raise BadSettings(f"[{name:.80}] is no table of settings; see tcgamirror help settings")
    wanted, sample, fetch, gdc, network = (
        _Table(file, name) for name in ("target", "sample", "fetch", "gdc", "network")
    )
    usual = Settings(
        target=target(
            wanted.plain("mpp", None),
            wanted.plain("max_size", None),
            wanted.plain("resample", Resample.EXACT),
        )
    )
    connections = _up_to(MOST_CONNECTIONS)
    settings = replace(
        usual,
        form=wanted.take("format", _choice(ImageFormat), usual.form),
        slides=sample.optional("slides", count, usual.slides, none="all"),
        seed=sample.take("seed", _seed, usual.seed),
        order=sample.take("order", _choice(Order), usual.order),
        by=sample.take("by", _choice(By), usual.by),
        kinds=sample.take("kind", kinds, usual.kinds),
        projects=sample.take("projects", names, usual.projects),
        manifest=sample.optional("manifest", file_path, usual.manifest, none=""),
        lock=sample.optional("lock", plain_name, usual.lock, none=""),
        via=fetch.take("via", ladder, usual.via),
        workers=fetch.optional("workers", _up_to(MOST_WORKERS), usual.workers, none="auto"),
        rate=fetch.optional("rate", byte_rate, usual.rate, none="unlimited"),
        work_limit=fetch.optional("work_limit", work_limit, usual.work_limit, none="unlimited"),
        api=gdc.take("api", address, usual.api),
        tiles=gdc.take("tiles", address, usual.tiles),
        bucket=gdc.optional("bucket", address, usual.bucket, none="none"),
        api_connections=gdc.take("api_connections", connections, usual.api_connections),
        bucket_connections=gdc.take("bucket_connections", connections, usual.bucket_connections),
        timeouts=_timeouts(network, usual.timeouts),
    )
    for table in (wanted, sample, fetch, gdc, network):
        table.end()
    return settings


def _seed(value: object, name: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise refused(value, name, "a whole number")
    return value


def _choice(choices: type[Choice]) -> Callable[[object, str], Choice]:
    return lambda value, name: one_of(value, name, choices)


def _up_to(most: int) -> Callable[[object, str], int]:
    return lambda value, name: count(value, name, most)


def _timeouts(network: _Table, usual: Timeouts) -> Timeouts:
    return Timeouts(
        connect=network.take("connect", seconds, usual.connect),
        first_byte=network.take("first_byte", seconds, usual.first_byte),
        stall=network.take("stall", seconds, usual.stall),
        tries=network.take("tries", _up_to(MOST_TRIES), usual.tries),
        backoff=network.take("backoff", seconds, usual.backoff),
        pause=network.take("pause", seconds, usual.pause),
    )


def format_settings(settings: Settings) -> str:
    """The file's text; reading it gives the same settings."""
    asked = settings.target
    size = f"mpp = {asked.mpp}" if asked.mpp is not None else f"max_size = {asked.max_size}"
    return f"""\
# Settings of a mirror made by tcgamirror. Edit them freely, but for [target] and the
# sample's plan (seed, order, by, kind, projects): another one belongs in another mirror.

[target]
{size}  # {"µm per pixel" if asked.mpp is not None else "pixels of the longer side, at most"}
resample = {_text(asked.resample)}  # exact, fast, or native: the pixels of the nearest finer level
format = {_text(settings.form)}  # png, jpeg, tiff

[sample]
slides = {settings.slides or _text("all")}  # a number, or "all"; lowering it deletes nothing
seed = {settings.seed}
order = {_text(settings.order)}  # stable, or shuffle: random.shuffle over the listing
by = {_text(settings.by)}  # none, project_id, primary_site: go round these in turn
kind = {_text(kind_of(settings.kinds))}  # diagnostic, tissue, all
projects = {_list(settings.projects)}  # such as "TCGA-BRCA"; none: any
manifest = {_text(settings.manifest or "")}  # a GDC manifest to list from, instead of the GDC
lock = {_text(settings.lock or "")}  # a lock file in the mirror: exactly its slides are taken

[fetch]
via = {_list(settings.via)}  # tried in this order
workers = {settings.workers or _text("auto")}  # slides at the same time, or "auto"
rate = {settings.rate or _text("unlimited")}  # bytes per second over all connections
work_limit = {settings.work_limit or _text("unlimited")}  # bytes in work/ at the same time

[gdc]
api = {_text(settings.api)}
tiles = {_text(settings.tiles)}
bucket = {_text(settings.bucket or "none")}  # the open-data bucket, or "none"
api_connections = {settings.api_connections}  # at once
bucket_connections = {settings.bucket_connections}

[network]  # limits of waits in seconds
connect = {settings.timeouts.connect}
first_byte = {settings.timeouts.first_byte}
stall = {settings.timeouts.stall}
tries = {settings.timeouts.tries}
backoff = {settings.timeouts.backoff}  # before the second try; doubled before each further one
pause = {settings.timeouts.pause}  # of all requests to a busy host; doubled up to ten times that
"""


def _text(value: str) -> str:
    # JSON's strings are TOML's, but for DEL, which TOML wants escaped.
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007F")


def _list(values: tuple[str, ...]) -> str:
    return f"[{', '.join(map(_text, values))}]"


def worker_count(settings: Settings) -> int:
    """Slides at a time: as many as are asked for, or else as keep the cores at work.

    No more then than there are connections for that: `whole`, though it asks the
    bucket too, is held to the few of the GDC, because each slide takes a gigabyte of disk.
    """
    by_bucket = settings.via[0] == "range" and settings.bucket is not None
    connections = settings.bucket_connections if by_bucket else settings.api_connections
    return settings.workers or min(connections, WORKERS_A_CORE * usable_cores())
