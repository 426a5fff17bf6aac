"""What several test modules share: made slides, and a stand-in GDC with small ones."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from hypothesis import settings

from tcgamirror.net.client import HttpClient
from tests.gdc import Listed, StandIn
from tests.support.fetching import SHORT
from tests.support.levels import ZOO, MadeSlides
from tests.support.raw_server import Close, Listener, RawServer, Request, Step, head


def pytest_configure() -> None:
    """Prepare the process before any test starts a command."""
    pass_on_interrupts()


pytest.register_assert_rewrite("tests.support.command", "tests.support.mirrors")

# How long one example takes tells of the machine's other work.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

from tests.support.buckets import S3Server, seaweed  # noqa: E402
from tests.support.command import pass_on_interrupts  # noqa: E402
from tests.support.mirrors import DIAGNOSTIC, TISSUE, filled, small_slide  # noqa: E402
from tests.support.proxies import Relay  # noqa: E402


@pytest.fixture(scope="session")
def zoo_slides(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """The path of every slide of the zoo by its name, not to be written to.

    Each is made at its first use in any of the workers.
    """
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "zoo"
    folder.mkdir(exist_ok=True)
    return MadeSlides(folder, ZOO)


@pytest.fixture(scope="session")
def small_slides(tmp_path_factory: pytest.TempPathFactory) -> tuple[Listed, ...]:
    """Slides of three projects, the last ones frozen, each of its own size."""
    folder = tmp_path_factory.mktemp("small-slides")
    return tuple(small_slide(folder, number) for number in range(DIAGNOSTIC + TISSUE))


@pytest.fixture
def small_gdc(small_slides: tuple[Listed, ...]) -> Iterator[StandIn]:
    with StandIn(small_slides) as gdc:
        yield gdc


@pytest.fixture
def client() -> Iterator[HttpClient]:
    """A client that waits for nothing long."""
    with HttpClient(timeouts=SHORT) as client:
        yield client


@pytest.fixture(scope="session")
def mirror(tmp_path_factory: pytest.TempPathFactory, small_slides: tuple[Listed, ...]) -> Path:
    """A mirror that is done, its GDC gone, for commands that only look."""
    with StandIn(small_slides) as gdc:
        return filled(tmp_path_factory.mktemp("done") / "mirror", gdc, slides=6)


@pytest.fixture(scope="session")
def pattern(
    tmp_path_factory: pytest.TempPathFactory, small_slides: tuple[Listed, ...]
) -> Iterator[Path]:
    """A mirror of two slides that is done, its GDC there, for tests to spoil a copy of."""
    with StandIn(small_slides) as gdc:
        root = filled(tmp_path_factory.mktemp("pattern") / "m", gdc, slides=2)
        yield root


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A real S3 server with the buckets `bucket` and `public`."""
    with seaweed(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def relay(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Relay]:
    """The way by which the program reaches the server."""
    with Relay(s3.port) as relay:
        for name, value in s3.environment(relay.port).items():
            monkeypatch.setenv(name, value)
        yield relay


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for 127.0.0.1 and its key, in one file."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make a certificate with")
    folder = tmp_path_factory.mktemp("tls")
    new = ["req", "-x509", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
    new += ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    # rustls takes no authority's certificate for a server's own.
    for extension in ("subjectAltName=IP:127.0.0.1", "basicConstraints=critical,CA:FALSE"):
        new += ["-addext", extension]
    files = ["-keyout", str(folder / "key"), "-out", str(folder / "cert")]
    subprocess.run(["openssl", *new, *files], check=True, capture_output=True)
    both = folder / "both.pem"
    both.write_text("".join((folder / part).read_text() for part in ("key", "cert")))
    return both


@pytest.fixture
def tls_server(certificate: Path) -> Iterator[tuple[str, Listener]]:
    """Address of a TLS server that answers `[]`, after a while at `/stall`; and the server."""

    def script(request: Request) -> Iterator[Step]:
        yield head("200 OK", "Content-Length: 2", "Connection: close") + b"["
        yield 2.0 if request.path == "/stall" else 0.0
        yield from (b"]", Close())

    with RawServer(script, certificate=certificate) as server:
        yield server.url("/"), server


@pytest.fixture
def trusted(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # It counts before the other variables.
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nowhere/ca.pem")
