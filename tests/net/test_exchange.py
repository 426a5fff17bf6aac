"""Connections over a scripted server: reuse, limits, TLS, and that every wait ends."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tcgamirror.mirror.directory import Mirror
from tcgamirror.mirror.refresh import open_client
from tcgamirror.mirror.settings import Settings
from tcgamirror.model.errors import Interrupted, Refused, Timeout, Unreachable, UsageError
from tcgamirror.model.slide import Target
from tcgamirror.net.client import HttpClient
from tcgamirror.net.timeouts import Timeouts
from tcgamirror.system.interrupt import Shutdown
from tests.support.fetching import SHORT
from tests.support.mirrors import until
from tests.support.raw_server import (
    BOUND,
    CONTENT,
    PART,
    QUICK,
    RIGHT_HEAD,
    SPAN,
    Listener,
    RawServer,
    Request,
    Script,
    Step,
    asking,
    dripped,
    endless,
    head,
    plays,
    ranged,
    refusing_port,
    whole,
    within,
)


@pytest.mark.usefixtures("trusted")
def test_a_named_certificate_is_trusted(tls_server: tuple[str, Listener]) -> None:
    with HttpClient(timeouts=replace(QUICK, tries=1)) as client, within(BOUND):
        assert client.json(tls_server[0]) == []
        with pytest.raises(Timeout, match="bytes/s came"):
            client.json(tls_server[0] + "stall")


def test_a_handshake_that_is_never_answered_is_too_slow() -> None:
    with (
        asking(plays()) as (server, client),
        within(BOUND),
        pytest.raises(Timeout, match="no connection within"),
    ):
        client.json(server.url().replace("http:", "https:"))


def test_a_missing_bundle_is_wrong_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nowhere/ca.pem")
    words = r"/nowhere/ca\.pem\): correct REQUESTS_CA_BUNDLE"
    with HttpClient(timeouts=QUICK) as client, pytest.raises(UsageError, match=words):
        client.json("https://127.0.0.1:9/")


def test_a_certificate_of_nobody_is_refused_once(tls_server: tuple[str, Listener]) -> None:
    url, server = tls_server
    with (
        HttpClient(timeouts=QUICK) as client,
        within(BOUND),
        pytest.raises(Unreachable, match=r"certificate verify failed|self.signed"),
    ):
        client.json(url)
    assert server.connections == 1


@contextmanager
def deaf() -> Iterator[str]:
    """Address of a server whose queue of connections is full."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        address = full.getsockname()
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(address)
        yield f"http://127.0.0.1:{address[1]}/"
        for filler in fillers:
            filler.close()


def test_a_host_that_takes_no_connection_is_too_slow() -> None:
    with (
        deaf() as url,
        HttpClient(timeouts=QUICK) as client,
        within(BOUND),
        pytest.raises(Timeout, match=r"no connection within 0\.5 s"),
    ):
        client.json(url)


def test_a_dead_address_leaves_time_for_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    with deaf() as dead, RawServer(whole(b"[]")) as server, within(BOUND):
        ports = (urlsplit(dead).port, server.port)
        found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)) for port in ports]
        resolve: Callable[..., object] = socket.getaddrinfo

        def two_addresses(host: str, *words: object, **options: object) -> object:
            return found if host == "two.example" else resolve(host, *words, **options)

        monkeypatch.setattr("socket.getaddrinfo", two_addresses)
        with HttpClient(timeouts=replace(QUICK, connect=2)) as client:
            assert client.json(server.url(host="two.example")) == []


def test_a_name_that_nobody_resolves_is_too_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    answered = threading.Event()
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: [answered.wait(30)][:0])
    with HttpClient(timeouts=QUICK) as client, within(BOUND), pytest.raises(Timeout):
        client.json("http://slow.example/")
    answered.set()


def test_where_nobody_listens_and_what_has_no_address_is_unreachable() -> None:
    with (
        refusing_port() as port,
        HttpClient(timeouts=QUICK) as client,
        within(2 * BOUND),
    ):
        with pytest.raises(Unreachable, match="refused"):
            client.json(f"http://127.0.0.1:{port}/")
        with pytest.raises((Unreachable, Timeout), match=r"nowhere\.invalid"):
            client.json("http://nowhere.invalid/")


def test_a_connection_is_used_again() -> None:
    with asking(ranged(CONTENT)) as (server, client):
        for _ in range(20):
            client.span(server.url(), SPAN, total=None)
        assert (server.connections, len(server.requests)) == (1, 20)


class Crowded(RawServer):
    """A server that answers slowly, and nobody before `crowd` requests are under way at once."""

    def __init__(self, crowd: int = 1) -> None:
        self.crowd = crowd
        super().__init__(self._answer)

    def _answer(self, request: Request) -> Iterable[Step]:
        until(lambda: self.peak >= self.crowd)
        yield 0.03
        yield from ranged(CONTENT)(request)


@pytest.mark.parametrize(("limits", "most"), [({}, 4), ({"127.0.0.1:{}": 2}, 2)])
def test_a_host_has_no_more_connections_than_its_limit(limits: dict[str, int], most: int) -> None:
    with Crowded(most) as server, ThreadPoolExecutor(12) as pool:
        known = {name.format(server.port): limit for name, limit in limits.items()}
        with HttpClient(timeouts=SHORT, limits=known) as client:
            asks = [pool.submit(client.span, server.url(), SPAN, total=None) for _ in range(24)]
            assert all(ask.result().data == PART for ask in asks)
        assert server.peak == server.connections == most


def test_a_limit_of_the_settings_holds_for_an_address_with_credentials(tmp_path: Path) -> None:
    with Crowded(2) as server:
        api = f"http://me:secret@127.0.0.1:{server.port}"
        settings = Settings(Target(None, 100), api=api, tiles=api, bucket=None, api_connections=2)
        mirror = Mirror(tmp_path, settings)
        with open_client(mirror.settings, Shutdown()) as client, ThreadPoolExecutor(8) as pool:
            asks = [pool.submit(client.span, f"{api}/x", SPAN, total=None) for _ in range(16)]
            assert all(ask.result().data == PART for ask in asks)
        assert server.peak == 2


def test_limits_that_others_share_follow_their_number() -> None:
    with (
        Crowded() as server,
        ThreadPoolExecutor(12) as pool,
        HttpClient(timeouts=SHORT, limits={f"127.0.0.1:{server.port}": 6}, rate=9e6) as client,
    ):
        for sharers, connections in ((3, 2), (100, 1), (1, 6)):
            client.share(sharers)
            server.peak, server.crowd = 0, connections
            asks = [pool.submit(client.span, server.url(), SPAN, total=None) for _ in range(18)]
            assert all(ask.result().data == PART for ask in asks)
            assert server.peak == connections


def test_all_connections_together_keep_the_rate() -> None:
    """And the time that it takes is not the server's fault."""
    with (
        RawServer(ranged(CONTENT)) as server,
        HttpClient(timeouts=QUICK, rate=20_000) as client,
        ThreadPoolExecutor(2) as pool,
    ):
        began = time.monotonic()
        parts = list(pool.map(lambda _: client.span(server.url(), SPAN, total=None), range(2)))
        assert time.monotonic() - began > 0.7
    assert all(part.data == PART for part in parts)


Ask = Callable[[HttpClient, RawServer], object]


def ask_span(client: HttpClient, server: RawServer) -> object:
    return client.span(server.url(), SPAN, total=None)


def ask_much(client: HttpClient, server: RawServer) -> None:
    with Path(os.devnull).open("r+b") as nowhere:
        client.download(server.url(), nowhere, size=1 << 40)


def ask_by_tls(client: HttpClient, server: RawServer) -> object:
    return client.json(server.url().replace("http:", "https:"))


def ask_the_deaf(client: HttpClient, _: RawServer) -> None:
    with deaf() as url:
        client.json(url)


def ask_all_at_once(client: HttpClient, server: RawServer) -> None:
    with ThreadPoolExecutor(8) as pool:
        asks = [pool.submit(ask_span, client, server) for _ in range(8)]
    for ask in asks:
        assert isinstance(ask.exception(), Interrupted)
    raise Interrupted("all of them")


@pytest.mark.parametrize(
    ("script", "ask", "rate"),
    [
        (plays(30.0), ask_span, None),
        (dripped(RIGHT_HEAD * 9), ask_span, None),
        (plays(RIGHT_HEAD + PART[:5000], 30.0), ask_span, None),
        (whole(b"", "503 Unavailable", "Retry-After: 60"), ask_span, None),
        (endless(head("200 OK"), bytes(65536)), ask_much, None),
        (plays(), ask_by_tls, None),
        (plays(), ask_the_deaf, None),
        (plays(30.0), ask_all_at_once, None),
        (ranged(CONTENT), ask_all_at_once, 100),
    ],
)
def test_a_stop_is_seen_soon(script: Script, ask: Ask, rate: float | None) -> None:
    stop = threading.Event()
    with (
        RawServer(script) as server,
        HttpClient(timeouts=Timeouts(), stop=stop, rate=rate) as client,
        ThreadPoolExecutor(1) as pool,
    ):
        asking = pool.submit(ask, client, server)
        time.sleep(0.25)
        assert not asking.done()
        stop.set()
        with within(BOUND):
            assert isinstance(asking.exception(), Interrupted)


class ReadsNothing(Listener):
    """A server that answers so many requests, and reads no more than a byte of the next one."""

    def __init__(self, certificate: Path | None, answers: int) -> None:
        self._answers = answers
        self.has_byte = threading.Event()
        super().__init__(certificate)

    def converse(self, client: socket.socket) -> None:
        for _ in range(self._answers):
            client.recv(65536)
            client.sendall(head("200 OK", "Content-Length: 2") + b"[]")
        client.recv(1)
        self.has_byte.set()
        time.sleep(2 * BOUND)


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize(("scheme", "answers"), [("http", 0), ("http", 1), ("https", 1)])
def test_a_stop_is_seen_while_a_body_is_written(
    certificate: Path, scheme: str, answers: int
) -> None:
    stop = threading.Event()
    with (
        ReadsNothing(certificate if scheme == "https" else None, answers) as server,
        HttpClient(timeouts=Timeouts(), stop=stop) as client,
        ThreadPoolExecutor(1) as pool,
    ):
        url = f"{scheme}://127.0.0.1:{server.port}/"
        for _ in range(answers):
            assert client.json(url) == []
        asking = pool.submit(client.json, url, payload={"x": "x" * (64 << 20)})
        assert server.has_byte.wait(BOUND)
        time.sleep(0.25)
        stop.set()
        with within(BOUND), pytest.raises(Interrupted, match="while asking"):
            asking.result()
        assert server.connections == 1


class Refuses(Listener):
    """A server that refuses a request, and closes the connection, before it has read it all."""

    def converse(self, client: socket.socket) -> None:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.recv(1000)
        client.sendall(head("413 Too Large", "Content-Length: 2", "Connection: close") + b"{}")


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_refusal_is_read_though_not_all_was_sent(certificate: Path, scheme: str) -> None:
    with (
        Refuses(certificate if scheme == "https" else None) as server,
        HttpClient(timeouts=replace(QUICK, tries=1)) as client,
        pytest.raises(Refused, match="413"),
    ):
        client.json(f"{scheme}://127.0.0.1:{server.port}/", payload={"x": "x" * (8 << 20)})


def test_after_a_stop_nothing_more_is_asked() -> None:
    stop = threading.Event()
    stop.set()
    with RawServer(whole(b"[]")) as server, HttpClient(stop=stop) as client:
        with pytest.raises(Interrupted):
            client.json(server.url())
        assert server.connections == 0
