"""Diagnosis of machine, program, mirror and servers, for the command `doctor`.

Everything is tried as an update does it, and nothing is changed. Findings hold no secrets:
proxies are shown without credentials, and of the environment only the variables that the
program reads.
"""

from __future__ import annotations

import os
import platform
import resource
import socket
import sqlite3
import ssl
import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from urllib.parse import urlsplit

from tcgamirror import __version__
from tcgamirror.catalogue import database
from tcgamirror.catalogue.catalogue import Catalogue
from tcgamirror.imaging.deepzoom import DeepZoom, decode_tile
from tcgamirror.mirror.directory import CATALOGUE, WORK, Mirror
from tcgamirror.mirror.settings import Settings
from tcgamirror.model.byteranges import Span
from tcgamirror.model.errors import (
    ExitCode,
    NetworkError,
    RangeUnsupported,
    TcgaMirrorError,
    UsageError,
)
from tcgamirror.model.geometry import Size
from tcgamirror.model.slide import Slide
from tcgamirror.model.text import display_url
from tcgamirror.net.client import HttpClient
from tcgamirror.net.exchange import ca_bundle_variable
from tcgamirror.net.proxies import without_credentials
from tcgamirror.net.response import root_cause
from tcgamirror.sources import gdc
from tcgamirror.sources.origins import Origin
from tcgamirror.sources.tiles import fetch_tile
from tcgamirror.system import mounts
from tcgamirror.system.cores import usable_cores
from tcgamirror.system.files import free_bytes

ROOM = 6_000_000_000
"""Free bytes that `whole` needs; the largest slide has 5.1 GB."""

PART = 1 << 20
"""Bytes read of a slide to measure the rate."""

SLIDES = 20
"""Slides listed, of which the smallest is tried."""

TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""First bytes of a TIFF; the latter two are Big TIFF."""

_NO_NAMES = (
    "this machine finds no server by its name, so it has no DNS or no internet; on a compute node "
    "see tcgamirror help cluster"
)

OTHER_TILES = "https://portal.gdc.cancer.gov/auth/api/v0/tile"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    advice: what to do about it, None if all is well. seconds: time of a server's answer.
    reached: False if a server without which nothing works gave no answer.
    """

    topic: str
    what: str
    found: str
    advice: str | None = None
    seconds: float | None = None
    reached: bool = True


PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")

SYSTEM_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)
"""Certificates of Debian, Red Hat, SUSE and Alpine."""

_MODULES = (
    *("numpy", "simplejpeg", "imagecodecs", "isal", "openslide", "requests", "urllib3", "socks"),
    *("certifi", "tqdm", "shtab"),
)
_LIBRARIES = (
    *((name, "__version__", name) for name in _MODULES),
    *(("pillow", "__version__", "PIL"), ("OpenSlide", "__library_version__", "openslide")),
)
"""Name, attribute of its version, and module of each library."""


def findings() -> Iterator[Finding]:
    """Yield findings about machine, program, limits and network variables."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # A run with many workers and connections needs as many.
    more = "allow more open files: ulimit -n 256" if 0 <= soft < 256 else None
    kernel = f"{platform.system()} {platform.release()}, {platform.machine()}"
    try:
        system = platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        version = platform.mac_ver()[0]
        system = f"macOS {version}" if version else "unknown"
    yield Finding("machine", "system", system)
    yield Finding("machine", "kernel", kernel)
    yield Finding("machine", "processors", f"{usable_cores()}, {memory:.1f} GB of memory")
    yield Finding("machine", "open files", f"{soft} allowed, at most {hard}", more)
    # PyInstaller's start sets the folder of its files.
    unpacked = getattr(sys, "_MEIPASS", None)
    source = f"source in {Path(__file__).parents[1]}"
    start = f"unpacked in {unpacked}" if unpacked else source
    yield Finding("program", "tcgamirror", f"{__version__}, {start}")
    if unpacked:
        words = f"delete {sys.executable} and {Path(unpacked).parent}"
        yield Finding("program", "uninstall", words)
    yield Finding("program", "Python", platform.python_version())
    libc = os.confstr("CS_GNU_LIBC_VERSION") if sys.platform == "linux" else None
    whose = "inside the executable" if getattr(sys, "frozen", False) else "the system's"
    yield Finding("program", "C library", f"{libc or 'unknown'}, {whose}")
    yield Finding("program", "libraries", ", ".join(_libraries()))
    for name in PROXIES:
        if value := os.environ.get(name) or os.environ.get(name.upper()):
            shown = value if name == "no_proxy" else without_credentials(value)
            yield Finding("network", name, shown)
    yield _certificates()


def _libraries() -> Iterator[str]:
    for name, attribute, module in _LIBRARIES:
        # A part that does not load is what a report is for.
        try:
            version = getattr(import_module(module), attribute, "version unknown")
        except (ImportError, OSError) as error:
            version = f"does not load: {str(error).splitlines()[0]}"
        yield f"{name} {version}"
    yield f"SQLite {sqlite3.sqlite_version}"
    yield ssl.OPENSSL_VERSION


def _certificates() -> Finding:
    named = ca_bundle_variable()
    if named is not None:
        path = Path(os.environ[named])
        advice = None if path.exists() else f"{named} names a missing file: correct it"
        return Finding("network", "certificates", f"{path} (by {named})", advice)
    system = next((path for path in SYSTEM_BUNDLES if Path(path).exists()), None)
    hint = f"; the system's, with those of a company, by SSL_CERT_FILE={system}" if system else ""
    return Finding("network", "certificates", f"the program's own{hint}")


def exit_code(findings: list[Finding]) -> ExitCode:
    """Return the exit code of a report: done, unreachable, or some advice."""
    if not all(finding.reached for finding in findings):
        return ExitCode.UNREACHABLE
    advice = any(finding.advice for finding in findings)
    return ExitCode.SOME_FAILED if advice else ExitCode.DONE


# The mirror ----------------------------------------------------------------------


def mirror_findings(mirror: Mirror) -> Iterator[Finding]:
    """Yield findings about the mirror's file systems and its catalogue."""
    yield Finding("mirror", "directory", str(mirror.root.absolute()))
    yield Finding("mirror", "images", mirror.settings.fixed)
    yield _file_system("file system", mirror.root)
    work = mirror.root / WORK
    # The work folder may be a link to a faster disk.
    if work.exists() and work.stat().st_dev != mirror.root.stat().st_dev:
        yield _file_system("work's", work)
    free = free_bytes(work if work.exists() else mirror.root)
    advice = (
        f"free some: a slide fetched whole takes up to {ROOM / 1e9:.0f} GB for a while, "
        "or leave whole out of fetch.via"
    )
    enough = free >= (ROOM if "whole" in mirror.settings.via else PART)
    yield Finding("mirror", "room", f"{free / 1e9:,.1f} GB", None if enough else advice)
    yield _catalogue(mirror)


def _file_system(what: str, path: Path) -> Finding:
    kind = mounts.kind_at(path) or "unknown"
    if not os.access(path, os.W_OK):
        advice = f"{path.absolute()} cannot be written: change its permissions"
        return Finding("mirror", what, kind, advice)
    try:
        mounts.check_locks(path)
    except UsageError as error:
        return Finding("mirror", what, f"{kind}, without locks", str(error))
    return Finding("mirror", what, f"{kind}, with locks")


def _catalogue(mirror: Mirror) -> Finding:
    path = mirror.root / CATALOGUE
    try:
        with Catalogue.open(path, read_only=True) as catalogue:
            counts = catalogue.reports.counts()
            catalogue.check_integrity()
    except TcgaMirrorError as error:
        return Finding("mirror", "catalogue", "cannot be read", str(error))
    words = f"{counts.listed:,} listed, {counts.done:,} done, {counts.failed:,} failed"
    journal = database.journal_for(path)
    return Finding("mirror", "catalogue", f"{words}; whole; journal while writing: {journal}")


# The servers ---------------------------------------------------------------------


Answer = tuple[str, str | None]
"""A server's behaviour, and the advice, if any."""


def server_findings(
    settings: Settings, client: HttpClient, mirror: Mirror | None = None
) -> Generator[Finding, None, Slide | None]:
    """Yield what each server supports, tried once as an update would; return the slide it chose.

    Without a listing the slide is one of the mirror's catalogue. Without either the others are
    not tried.
    """
    api, tiles = settings.api, settings.tiles
    listed: list[Slide] = []

    def status() -> Answer:
        return f"{gdc.read_release(client, api)} at {_shown(api)}", None

    def listing() -> Answer:
        slides, total = gdc.read_first_slides(client, api, SLIDES)
        listed.extend(slides)
        return f"{total:,} slides", None if slides else f"{_shown(api)} lists no TCGA slide at all"

    yield _timed("status", status, f"see whether {_shown(api)}/status opens in a browser")
    yield _timed("listing", listing, "try again later; the GDC is down at times")
    if not listed and mirror is not None:
        # The report has told of a catalogue that cannot be read.
        with (
            suppress(TcgaMirrorError),
            Catalogue.open(mirror.root / CATALOGUE, read_only=True) as catalogue,
        ):
            listed = catalogue.sample.candidates()
    slide = min(listed, key=lambda slide: slide.size or 0, default=None)
    looks: list[tuple[str, Callable[[Slide], Answer], str]] = [
        (
            "/data",
            partial(_read_part, client, Origin("gdc", api)),
            "the bucket serves as well, or leave range out of fetch.via",
        ),
        (
            "tiles",
            partial(_read_tile, client, tiles),
            f"range needs no tiles; an older address of theirs is {OTHER_TILES} (gdc.tiles)",
        ),
    ]
    if settings.bucket:
        read = partial(_read_part, client, Origin("bucket", settings.bucket))
        advice = "the GDC's own /data is used instead; set gdc.bucket to none to save the tries"
        looks.insert(0, ("bucket", read, advice))
    for what, look, way_out in looks:
        if slide is None:
            yield Finding("servers", what, "not tried: no slide is known to try it with")
        else:
            yield _timed(what, partial(look, slide), way_out)
    return slide


def _read_part(client: HttpClient, origin: Origin, slide: Slide) -> Answer:
    """Read the first part of the slide."""
    stop = min(PART, slide.size or PART)
    began = time.monotonic()
    part = client.span(origin.url(slide), Span(0, stop), total=slide.size)
    seconds = max(time.monotonic() - began, 1e-3)
    rate = f"{stop / 1e6:.1f} MB at {stop / 1e6 / seconds:.1f} MB/s"
    etag = "an ETag" if part.etag else "no ETag"
    advice = None if part.data[:4] in TIFF else f"what {_shown(origin.base)} sends is no TIFF"
    return f"honours Range, {etag}, {rate} ({_shown(origin.base)})", advice


def _read_tile(client: HttpClient, address: str, slide: Slide) -> Answer:
    """Read the finest tile that shows the whole slide."""
    metadata = client.json(f"{address}/metadata/{slide.file_id}", limit=PART)
    zoom = DeepZoom.from_metadata(metadata)
    level = zoom.finest_one_tile_dz_level
    data = fetch_tile(client, f"{address}/{slide.file_id}?level={level}&x=0&y=0", PART * 8)
    grid = zoom.grid(level)
    rows, columns = decode_tile(data, zoom.served_box(grid, 0, 0), grid.box(0, 0)).shape[:2]
    form = "PNG" if data.startswith(b"\x89PNG") else "JPEG"
    found = f"{form} of {zoom.tile} pixels and an overlap of {zoom.overlap}"
    return f"{found}; one of {Size(columns, rows)} read ({_shown(address)})", None


def _timed(what: str, look: Callable[[], Answer], way_out: str) -> Finding:
    """Return the finding about a server. way_out: the advice if it fails."""
    began = time.monotonic()
    reached = True
    try:
        found, advice = look()
    except RangeUnsupported:
        found, advice = "ignores Range", way_out
    except TcgaMirrorError as error:
        found = str(error)
        advice = _NO_NAMES if isinstance(root_cause(error), socket.gaierror) else way_out
        reached = what not in ("status", "listing") or not isinstance(error, NetworkError)
    return Finding("servers", what, found, advice, time.monotonic() - began, reached)


def _shown(url: str) -> str:
    """Return an address without the credentials that it may hold."""
    return f"{urlsplit(url).scheme}://{display_url(url)}"
