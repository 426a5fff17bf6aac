"""Diagnosis of machine, program, mirror and servers, for the command `doctor`.

Everything is tried as an update does it, and nothing is changed. Findings hold no secrets:
proxies are shown without credentials, and of the environment only the variables that the
program reads.
"""

from __future__ import annotations

import os
import platform
import resource
import sqlite3
import ssl
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from urllib.parse import urlsplit

from tcgamirror import __version__
from tcgamirror.catalogue import database
from tcgamirror.catalogue.catalogue import Catalogue
from tcgamirror.imaging.deepzoom import DeepZoom, decode_tile
from tcgamirror.mirror.directory import CATALOGUE, WORK, Mirror
from tcgamirror.mirror.probes import probes
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
from tcgamirror.net.proxies import without_credentials
from tcgamirror.sources import gdc
from tcgamirror.sources.origins import Origin
from tcgamirror.sources.tiles import fetch_tile
from tcgamirror.system import mounts
from tcgamirror.system.files import free_bytes
from tcgamirror.system.parallel import usable_cores

ROOM = 6_000_000_000
"""Free bytes that `whole` needs; the largest slide has 5.1 GB."""

LEAST_INODES = 10_000

CHECK_SECONDS = 10.0
"""Seconds for the check of the catalogue's pages; `verify` checks all of them."""

_CHECK_STEPS = 1000
"""Steps of SQLite between two looks at the clock."""

PART = 1 << 20
"""Bytes read of a slide to measure the rate."""

SLIDES = 20
"""Slides listed, of which the smallest is tried."""

TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""First bytes of a TIFF; the latter two are Big TIFF."""

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


LEAST_FILES = 256
"""Open files that a run with many workers and connections needs."""

PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")

BUNDLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
"""Variables that name trusted certificates; the first that is set counts."""

SYSTEM_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)
"""Certificates of Debian, Red Hat, SUSE and Alpine."""

_LIBRARIES = (
    *("numpy", "PIL", "simplejpeg", "isal", "openslide", "requests", "urllib3", "socks", "certifi"),
    *("tqdm", "shtab"),
)


def findings() -> Iterator[Finding]:
    """Yield findings about machine, program, limits and network variables."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    few = 0 <= soft < LEAST_FILES
    kernel = f"{platform.system()} {platform.release()}, {platform.machine()}"
    yield Finding("machine", "system", _system())
    yield Finding("machine", "kernel", kernel)
    yield Finding("machine", "processors", f"{usable_cores()}, {memory:.1f} GB of memory")
    yield Finding(
        *("machine", "open files", f"{soft} allowed, at most {hard}"),
        f"allow more open files: ulimit -n {LEAST_FILES}" if few else None,
    )
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


def _system() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        version = platform.mac_ver()[0]
        return f"macOS {version}" if version else "unknown"


def _libraries() -> Iterator[str]:
    for name in _LIBRARIES:
        # A part that does not load is what a report is for.
        try:
            version = getattr(import_module(name), "__version__", "version unknown")
        except (ImportError, OSError) as error:
            version = f"does not load: {str(error).splitlines()[0]}"
        yield f"{'pillow' if name == 'PIL' else name} {version}"
    yield f"OpenSlide {_openslide()}"
    yield f"SQLite {sqlite3.sqlite_version}"
    yield ssl.OPENSSL_VERSION


def _openslide() -> str:
    try:
        return str(import_module("openslide").__library_version__)
    except (ImportError, OSError):
        return "does not load"


def _certificates() -> Finding:
    named = next((name for name in BUNDLES if os.environ.get(name)), None)
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
    whole = "whole" in mirror.settings.via
    yield _room(work if work.exists() else mirror.root, ROOM if whole else PART)
    yield _inodes(mirror.root)
    yield _catalogue(mirror)


def _file_system(what: str, path: Path) -> Finding:
    kind = mounts.kind_at(path) or "unknown"
    if not os.access(path, os.W_OK):
        return Finding(
            "mirror", what, kind, f"{path.absolute()} cannot be written: change its permissions"
        )
    try:
        mounts.check_locks(path)
    except UsageError as error:
        return Finding("mirror", what, f"{kind}, without locks", str(error))
    return Finding("mirror", what, f"{kind}, with locks")


def _room(path: Path, wanted: int) -> Finding:
    free = free_bytes(path)
    advice = (
        f"free some: a slide fetched whole takes up to {ROOM / 1e9:.0f} GB for a while, "
        "or leave whole out of fetch.via"
    )
    return Finding("mirror", "room", f"{free / 1e9:,.1f} GB", None if free >= wanted else advice)


def _inodes(path: Path) -> Finding:
    file_system = os.statvfs(path)
    # Btrfs and others without a fixed number tell 0 of 0.
    if not file_system.f_files:
        return Finding("mirror", "files", "as many as there is room for")
    few = file_system.f_favail < LEAST_INODES
    advice = "few more files fit on this file system: raise the quota" if few else None
    return Finding("mirror", "files", f"{file_system.f_favail:,} more", advice)


def _catalogue(mirror: Mirror) -> Finding:
    path = mirror.root / CATALOGUE
    try:
        with Catalogue.open(path, read_only=True) as catalogue:
            counts = catalogue.reports.counts()
        is_whole = _is_checked(path)
    except TcgaMirrorError as error:
        return Finding("mirror", "catalogue", "cannot be read", str(error))
    words = f"{counts.listed:,} listed, {counts.done:,} done, {counts.failed:,} failed"
    whole = "whole" if is_whole else f"not checked to its end in {CHECK_SECONDS:.0f} s"
    journal = database.journal_for(path)
    return Finding("mirror", "catalogue", f"{words}; {whole}; journal while writing: {journal}")


def _is_checked(path: Path) -> bool:
    """Return whether SQLite finished its check in time. Raises Damaged for what it found."""
    end = time.monotonic() + CHECK_SECONDS
    with (
        database.translate_errors(path),
        closing(database.connect(path, read_only=True)) as connection,
    ):
        connection.set_progress_handler(lambda: time.monotonic() > end, _CHECK_STEPS)
        try:
            (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_INTERRUPT:
                raise
            return False
    if found != "ok":
        raise database.damage(path, f"it is damaged ({' '.join(found.split())})")
    return True


# The servers ---------------------------------------------------------------------


Answer = tuple[str, str | None]
"""A server's behaviour, and the advice, if any."""


class Servers:
    """The servers of the settings, each tried once as an update would."""

    def __init__(self, settings: Settings, client: HttpClient) -> None:
        self._settings = settings
        self._client = client
        self._slide: Slide | None = None

    def report(self) -> Iterator[str]:
        """Yield lines with the servers' raw answers, about the slide that `looks` chose."""
        return probes(self._settings, self._client, self._slide)

    def looks(self) -> Iterator[Finding]:
        """Yield what each origin supports. Without a listing the others are not tried."""
        api, bucket = self._settings.api, self._settings.bucket
        yield _timed("status", self._status, f"see whether {_shown(api)}/status opens in a browser")
        yield _timed("listing", self._listing, "try again later; the GDC is down at times")
        slide = self._slide
        if slide is None:
            for what in ("bucket", "/data", "tiles") if bucket else ("/data", "tiles"):
                yield Finding("servers", what, "not tried: no slide is known to try it with")
            return
        if bucket:
            yield _timed(
                "bucket",
                lambda: self._part(Origin("bucket", bucket), slide),
                "the GDC's own /data is used instead; set gdc.bucket to none to save the tries",
            )
        yield _timed(
            "/data",
            lambda: self._part(Origin("gdc", api), slide),
            "the bucket serves as well, or leave range out of fetch.via",
        )
        yield _timed(
            "tiles",
            lambda: self._tile(slide),
            f"range needs no tiles; an older address of theirs is {OTHER_TILES} (gdc.tiles)",
        )

    def _status(self) -> Answer:
        release = gdc.read_release(self._client, self._settings.api)
        return f"{release} at {_shown(self._settings.api)}", None

    def _listing(self) -> Answer:
        slides, total = gdc.read_first_slides(self._client, self._settings.api, SLIDES)
        self._slide = min(slides, key=lambda slide: slide.size or 0, default=None)
        advice = None if slides else f"{_shown(self._settings.api)} lists no TCGA slide at all"
        return f"{total:,} slides", advice

    def _part(self, origin: Origin, slide: Slide) -> Answer:
        """Read the first part of the slide."""
        stop = min(PART, slide.size or PART)
        began = time.monotonic()
        part = self._client.span(origin.url(slide), Span(0, stop), total=slide.size)
        seconds = max(time.monotonic() - began, 1e-3)
        rate = f"{stop / 1e6:.1f} MB at {stop / 1e6 / seconds:.1f} MB/s"
        etag = "an ETag" if part.etag else "no ETag"
        advice = None if part.data[:4] in TIFF else f"what {_shown(origin.base)} sends is no TIFF"
        return f"honours Range, {etag}, {rate} ({_shown(origin.base)})", advice

    def _tile(self, slide: Slide) -> Answer:
        """Read the finest tile that shows the whole slide."""
        address = self._settings.tiles
        metadata = self._client.json(f"{address}/metadata/{slide.file_id}", limit=PART)
        zoom = DeepZoom.from_metadata(metadata)
        level = zoom.finest_one_tile_dz_level
        url = f"{address}/{slide.file_id}?level={level}&x=0&y=0"
        data = fetch_tile(self._client, url, PART * 8)
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
        found, advice = str(error), way_out
        reached = what not in ("status", "listing") or not isinstance(error, NetworkError)
    return Finding("servers", what, found, advice, time.monotonic() - began, reached)


def _shown(url: str) -> str:
    """Return an address without the credentials that it may hold."""
    return f"{urlsplit(url).scheme}://{display_url(url)}"
