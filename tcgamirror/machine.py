"""What this machine, its limits and the program's own parts are, as `doctor` tells them.

Nothing here asks the network, and nothing secret is told: of proxies the
credentials are left out, of the environment only what changes how the program works.
"""

from __future__ import annotations

import os
import platform
import resource
import sqlite3
import ssl
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from tcgamirror import __version__
from tcgamirror.proxies import without_credentials

LEAST_FILES = 256
"""Open files that a run with many workers and connections gets by with."""

PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
BUNDLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
"""The first that is set names the certificates trusted."""

SYSTEM_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)
"""Where Debian, Red Hat, SUSE and Alpine keep theirs."""

_LIBRARIES = (
    *("numpy", "PIL", "simplejpeg", "openslide", "requests", "urllib3", "socks", "certifi"),
    *("tqdm", "shtab"),
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    seconds: how long the answer took, None where there was nothing to wait for.
    advice: what to do about it, None if all is well. reached: False if a server
    without which nothing works gave no answer.
    """

    topic: str
    what: str
    found: str
    advice: str | None = None
    seconds: float | None = None
    reached: bool = True


def findings() -> Iterator[Finding]:
    """The machine, the program, its limits and what it is told of the network."""
    for what, found in (("system", _system()), ("kernel", _kernel()), ("processors", _power())):
        yield Finding("machine", what, found)
    yield _open_files()
    yield Finding("program", "tcgamirror", f"{__version__}, {_how_it_came()}")
    yield Finding("program", "Python", platform.python_version())
    yield Finding("program", "C library", _c_library())
    yield Finding("program", "libraries", ", ".join(_libraries()))
    yield from _proxies(os.environ)
    yield _certificates(os.environ)


def _system() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return "unknown"


def _kernel() -> str:
    return f"{platform.system()} {platform.release()}, {platform.machine()}"


def _power() -> str:
    bytes_each, pages = os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_PHYS_PAGES")
    return f"{len(os.sched_getaffinity(0))}, {bytes_each * pages / 1e9:.1f} GB of memory"


def _open_files() -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    few = 0 <= soft < LEAST_FILES
    advice = f"allow more open files: ulimit -n {LEAST_FILES}" if few else None
    return Finding("machine", "open files", f"{soft} allowed, at most {hard}", advice)


def _how_it_came() -> str:
    # The folder of its files is told by PyInstaller's start.
    unpacked = getattr(sys, "_MEIPASS", None)
    return f"{sys.executable}, unpacked in {unpacked}" if unpacked else f"source in {_package()}"


def _package() -> Path:
    return Path(__file__).parent


def _c_library() -> str:
    known = os.confstr("CS_GNU_LIBC_VERSION") if sys.platform == "linux" else None
    whose = "inside the executable" if getattr(sys, "frozen", False) else "the system's"
    return f"{known or 'unknown'}, {whose}"


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


def _proxies(environment: Mapping[str, str]) -> Iterator[Finding]:
    for name in PROXIES:
        value = environment.get(name) or environment.get(name.upper())
        if value:
            shown = value if name == "no_proxy" else without_credentials(value)
            yield Finding("network", name, shown)


def _certificates(environment: Mapping[str, str]) -> Finding:
    named = next((name for name in BUNDLES if environment.get(name)), None)
    if named is not None:
        path = Path(environment[named])
        advice = None if path.exists() else f"{named} names what is not there: correct it"
        return Finding("network", "certificates", f"{path} (by {named})", advice)
    system = next((path for path in SYSTEM_BUNDLES if Path(path).exists()), None)
    there = f"; the system's, with those of a company, by SSL_CERT_FILE={system}" if system else ""
    return Finding("network", "certificates", f"the program's own{there}")
