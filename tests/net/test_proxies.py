"""Proxies of the environment, real ones: they work, and their failures are told as theirs."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tcgamirror.model.errors import Interrupted, NetworkError, Timeout, Unreachable, UsageError
from tcgamirror.net.client import HttpClient
from tcgamirror.net.proxies import find_route
from tcgamirror.net.timeouts import Timeouts
from tests.gdc import StandIn
from tests.support.command import run, succeeded
from tests.support.mirrors import column, made
from tests.support.proxies import HttpProxy, Socks5
from tests.support.raw_server import (
    BOUND,
    CONTENT,
    PART,
    QUICK,
    SPAN,
    Listener,
    RawServer,
    head,
    ranged,
    refusing_port,
    within,
)

UseProxy = Callable[[str], None]
SECRET = "me:s3cret@"


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> UseProxy:
    """Names a proxy for everything in the environment."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "")
    return lambda address: monkeypatch.setenv("all_proxy", address)


def refused(url: str, error: type[NetworkError] = Unreachable) -> str:
    """What is told of a request that fails, without the proxy's credentials."""
    with HttpClient(timeouts=QUICK) as client, within(BOUND), pytest.raises(error) as caught:
        client.json(url)
    assert type(caught.value) is error
    assert "s3cret" not in str(caught.value)
    return str(caught.value)


# They work -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scheme", "host", "asked"),
    [("socks5h", "nowhere.invalid", "nowhere.invalid"), ("socks5", "localhost", "127.0.0.1")],
)
def test_a_socks_proxy_looks_names_up_or_gets_addresses_only(
    use: UseProxy, scheme: str, host: str, asked: str
) -> None:
    with RawServer(ranged(CONTENT)) as server, Socks5() as proxy:
        use(proxy.url().replace("socks5h", scheme))
        with HttpClient(timeouts=QUICK) as client:
            for _ in range(3):
                part = client.span(server.url(host=host), SPAN, total=len(CONTENT))
                assert part.data == PART
        assert proxy.requests == [(asked, server.port)]
        assert server.connections == 1


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize("kind", [Socks5, HttpProxy])
def test_a_proxy_may_want_a_password_and_carry_tls(
    use: UseProxy, tls_server: tuple[str, Listener], kind: type[Socks5] | type[HttpProxy]
) -> None:
    with RawServer(ranged(CONTENT)) as server, kind("me", "s3cret") as proxy:
        use(proxy.url(SECRET))
        with HttpClient(timeouts=QUICK) as client:
            client.span(server.url(), SPAN, total=len(CONTENT))
            assert client.json(tls_server[0]) == []
        assert proxy.requests[0] == ("127.0.0.1", server.port) and len(proxy.requests) == 2


class Late(Listener):
    """A server that reads nothing at first, then all of a JSON body."""

    def converse(self, client: socket.socket) -> None:
        time.sleep(0.5)
        while not client.recv(65536).endswith(b"}"):
            pass
        client.sendall(head("200 OK", "Content-Length: 2") + b"[]")


@pytest.mark.usefixtures("trusted")
def test_a_long_body_passes_by_tls_within_tls(use: UseProxy, certificate: Path) -> None:
    with Late(certificate) as server, HttpProxy(certificate=certificate) as proxy:
        use(proxy.url())
        with HttpClient(timeouts=Timeouts(tries=1)) as client:
            url = f"https://127.0.0.1:{server.port}/"
            assert client.json(url, payload={"x": "x" * (32 << 20)}) == []
        assert proxy.requests == [("127.0.0.1", server.port)]


# They fail -----------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("kind", ["http", "socks4", "socks4a", "socks5", "socks5h"])
def test_a_proxy_that_is_down_is_named(use: UseProxy, scheme: str, kind: str) -> None:
    with refusing_port() as port:
        use(f"{kind}://{SECRET}127.0.0.1:{port}")
        message = refused(f"{scheme}://127.0.0.1:9/status")
    assert message.startswith(
        f"proxy {kind}://127.0.0.1:{port}: no connection through it to 127.0.0"
    )
    assert "Connection refused" in message
    assert f"Correct {scheme}_proxy or all_proxy in the environment" in message


class Greeting(Listener):
    """A server that is not a SOCKS proxy."""

    def url(self, _: str) -> str:
        return f"socks5h://127.0.0.1:{self.port}"

    def converse(self, client: socket.socket) -> None:
        client.recv(1024)
        client.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")


@pytest.mark.parametrize(
    ("proxy", "scheme", "words"),
    [
        (partial(HttpProxy, "me", "other"), "http", "407"),
        (partial(HttpProxy, "me", "other"), "https", "407"),
        (partial(HttpProxy, refusal="403 Forbidden"), "https", "403"),
        (partial(Socks5, "me", "other"), "http", "authentication failed"),
        (Greeting, "http", "no connection through it"),
    ],
)
def test_a_proxy_that_refuses_is_named(
    use: UseProxy, proxy: Callable[[], HttpProxy | Socks5 | Greeting], scheme: str, words: str
) -> None:
    with proxy() as listener:
        use(listener.url(SECRET))
        message = refused(f"{scheme}://127.0.0.1:9/status")
        assert message.startswith(f"proxy {listener.url('')}: ")
        assert words in message


@pytest.mark.parametrize(
    ("scheme", "host", "words"),
    [
        ("socks5h", "127.0.0.1:9", "Connection refused"),
        # A name that only the proxy may know.
        ("socks5", "nowhere.invalid", "socks5h://"),
    ],
)
def test_what_a_socks_proxy_cannot_reach_is_told_of_both(
    use: UseProxy, scheme: str, host: str, words: str
) -> None:
    with Socks5(reply=5) as proxy:
        address = proxy.url().replace("socks5h", scheme)
        use(address)
        message = refused(f"http://{host}/status")
        assert message.startswith(f"{host}/status cannot be reached through proxy {address}")
        assert words in message


@pytest.mark.parametrize("kind", ["http", "socks5h"])
def test_a_silent_proxy_is_named(use: UseProxy, kind: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        use(f"{kind}://127.0.0.1:{silent.getsockname()[1]}")
        message = refused("https://127.0.0.1:9/status", Timeout)
        assert message.startswith(f"proxy {kind}://127.0.0.1:")
        assert "no connection within 0.5 s" in message
        stop = threading.Event()
        ending = threading.Timer(0.2, stop.set)
        ending.start()
        with (
            HttpClient(timeouts=Timeouts(), stop=stop) as client,
            within(BOUND),
            pytest.raises(Interrupted),
        ):
            client.json("https://127.0.0.1:9/status")
        ending.join()


@pytest.mark.parametrize(
    "address",
    [
        "socks9://me:s3cret@127.0.0.1:1",
        "ftp://127.0.0.1:1",
        "http://",
        "http://me:s3cret@127.0.0.1:port",
        "socks5h://[::1",
        "http://127.0.0.1:0",
    ],
)
def test_an_address_of_no_proxy_is_wrong_use(use: UseProxy, address: str) -> None:
    use(address)
    with HttpClient(timeouts=QUICK) as client, pytest.raises(UsageError) as caught:
        client.json("https://127.0.0.1:9/status")
    assert str(caught.value).startswith("proxy ")
    assert "not the address of a proxy" in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_untrusted_certificates_are_named(use: UseProxy, tls_server: tuple[str, Listener]) -> None:
    use(tls_server[0].rstrip("/"))
    message = refused("https://127.0.0.1:9/status")
    assert message.startswith(f"proxy {tls_server[0].rstrip('/')}: the server's certificate")
    with Socks5() as proxy:
        use(proxy.url())
        message = refused(tls_server[0])
        assert message.startswith("127.0.0.1:")
        assert "certificate verify failed" in message


def test_no_proxy_hosts_are_direct(use: UseProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    use("socks5h://127.0.0.1:1")
    assert find_route("https://api.gdc.cancer.gov/status").proxy == "socks5h://127.0.0.1:1"
    monkeypatch.setenv("no_proxy", "api.gdc.cancer.gov")
    assert find_route("https://api.gdc.cancer.gov/status").proxy is None


# By the command ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Socks5, HttpProxy])
def test_a_mirror_is_filled_through_a_proxy(
    tmp_path: Path, small_gdc: StandIn, kind: type[Socks5] | type[HttpProxy]
) -> None:
    root = made(tmp_path / "m", small_gdc)
    with kind("me", "s3cret") as proxy:
        env = {"all_proxy": proxy.url(SECRET), "no_proxy": ""}
        succeeded("--mirror", root, "update", env=env)
        count = len(proxy.requests)
    assert count > 0
    assert column(root, "select count(*) from mirror where status = 'done'") == [4]


def test_a_proxy_that_is_down_is_told_by_the_command(tmp_path: Path, small_gdc: StandIn) -> None:
    root = made(tmp_path / "m", small_gdc)
    with refusing_port() as port:
        env = {"all_proxy": f"socks5h://{SECRET}127.0.0.1:{port}", "no_proxy": ""}
        result = run("--mirror", root, "update", env=env)
    assert result.code == 4, result
    assert f"proxy socks5h://127.0.0.1:{port}: no connection" in result.err
    assert "s3cret" not in result.err
