"""serve: what is there and what is not, conditions and ranges, crowds, slow clients and its end."""

from __future__ import annotations

import hashlib
import http.client
import os
import random
import re
import signal
import socket
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tcgamirror.web import server as serving
from tcgamirror.web.app import Site
from tcgamirror.web.snapshot import Snapshots
from tests.support.command import ended, run, started, succeeded
from tests.support.mirrors import until
from tests.support.publishing import made_up, paths, replace_image

IMAGES = 40
CLIENTS, SLOW = 64, 300
REQUESTS = 10_000 if os.environ.get("TCGAMIRROR_SOAK") else 1_000
MOST_GROWN = 12_000
"""Kilobytes by which memory may differ after a crowd; a leak of a request each is more."""
SECRET = b"secret"


@dataclass
class Served:
    """A mirror at a port of this machine, and the process that serves it."""

    root: Path
    port: int
    pid: int

    def ask(
        self, path: str, headers: Mapping[str, str] | None = None, method: str = "GET"
    ) -> tuple[int, Mapping[str, str], bytes]:
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)) as connection:
            connection.putrequest(method, path, skip_accept_encoding=True)
            for name, value in (headers or {}).items():
                connection.putheader(name, value)
            connection.endheaders()
            answer = connection.getresponse()
            received = {name.lower(): value for name, value in answer.getheaders()}
            return answer.status, received, answer.read()


@contextmanager
def served(root: Path) -> Iterator[Served]:
    with started("--mirror", root, "serve", "--port", "0") as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        match = re.search(r"http://127\.0\.0\.1:(\d+)/", line)
        assert match is not None, line
        yield Served(root, int(match[1]), process.pid)
        assert process.poll() is None, "it ended by itself"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A mirror with a gallery, links that lead out of it, and files that are nobody's business."""
    folder = tmp_path_factory.mktemp("serve")
    root = made_up(folder / "m", IMAGES)
    (folder / "outside.png").write_bytes(SECRET)
    (folder / "m2").mkdir()
    (folder / "m2/x.png").write_bytes(SECRET)
    (root / "gallery").mkdir()
    (root / "gallery/index.html").write_text("<p>hello")
    (root / "gallery/notes.txt").write_bytes(SECRET)
    (root / "gallery/.hidden.html").write_bytes(SECRET)
    (root / "gallery/link.png").symlink_to(folder / "outside.png")
    (root / "gallery/away").symlink_to(folder / "m2")
    (root / "images/stray.png").write_bytes(SECRET)
    (root / "work").mkdir()
    (root / "work/x.png").write_bytes(SECRET)
    linked = root / str(paths(root)[-1])
    linked.unlink()
    linked.symlink_to(folder / "outside.png")
    with served(root) as site:
        yield site


# What is there ---------------------------------------------------------------------


def test_an_image_comes_with_its_digest_as_its_tag(site: Served) -> None:
    path = paths(site.root)[0]
    data = (site.root / path).read_bytes()
    status, headers, body = site.ask(f"/{path}")
    assert (status, body) == (200, data)
    assert headers["etag"] == f'"sha256-{hashlib.sha256(data).hexdigest()}"'
    assert headers["content-type"] == "image/png"
    assert headers["content-length"] == str(len(data))
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-cache"
    assert site.ask(f"/{path}", method="HEAD")[1:] == (
        {**headers, "date": site.ask(f"/{path}", method="HEAD")[1]["date"]},
        b"",
    )


def test_the_catalogue_is_a_whole_copy(site: Served, tmp_path: Path) -> None:
    status, headers, body = site.ask("/catalogue.db")
    assert status == 200
    assert headers["etag"] == f'"sha256-{hashlib.sha256(body).hexdigest()}"'
    (tmp_path / "c.db").write_bytes(body)
    with closing(sqlite3.connect(tmp_path / "c.db")) as copy:
        assert copy.execute("pragma journal_mode").fetchone() == ("delete",)
        assert copy.execute("select count(*) from mirror").fetchone() == (IMAGES,)
    assert site.ask("/catalogue.db", {"If-None-Match": headers["etag"]})[0] == 304


def test_the_front_leads_to_the_gallery_or_says_what_is_there(site: Served, tmp_path: Path) -> None:
    status, headers, _ = site.ask("/")
    assert (status, headers["location"]) == (302, "/gallery/index.html")
    status, headers, body = site.ask(headers["location"])
    assert (status, body, headers["content-type"]) == (200, b"<p>hello", "text/html; charset=utf-8")
    assert "default-src 'none'" in headers["content-security-policy"]
    with served(made_up(tmp_path / "m", 3)) as plain:
        status, _, body = plain.ask("/")
    assert status == 200 and b"3 of 3 slides" in body and b"15 \xc2\xb5m/px" in body


@pytest.mark.parametrize(
    ("requested", "status", "place"),
    [
        ("bytes=0-4", 206, "bytes 0-4/77"),
        ("bytes=70-", 206, "bytes 70-76/77"),
        ("bytes=-4", 206, "bytes 73-76/77"),
        ("bytes=0-999", 206, "bytes 0-76/77"),
        ("bytes=-999", 206, "bytes 0-76/77"),
        ("bytes=77-", 416, "bytes */77"),
        ("bytes=-0", 416, "bytes */77"),
        ("bytes=5-1", 200, None),
        ("bytes=0-1,4-5", 200, None),
        ("bytes=a-b", 200, None),
        ("bytes=" + "9" * 400 + "-", 200, None),
        ("lines=1-2", 200, None),
    ],
)
def test_ranges(site: Served, requested: str, status: int, place: str | None) -> None:
    path = paths(site.root)[1]
    data = (site.root / path).read_bytes()
    answered, headers, body = site.ask(f"/{path}", {"Range": requested})
    assert (answered, headers.get("content-range")) == (status, place)
    if place is not None and status == 206:
        first, last = map(int, place.split(" ")[1].split("/")[0].split("-"))
        assert body == data[first : last + 1]
    elif status == 200:
        assert body == data


def test_conditions(site: Served) -> None:
    path = f"/{paths(site.root)[1]}"
    _, headers, _ = site.ask(path)
    tag, changed = headers["etag"], headers["last-modified"]
    assert site.ask(path, {"If-None-Match": f'"x", W/{tag}'})[0] == 304
    assert site.ask(path, {"If-None-Match": '"x"', "If-Modified-Since": changed})[0] == 200
    assert site.ask(path, {"If-Modified-Since": changed})[0] == 304
    assert site.ask(path, {"If-Modified-Since": "some day"})[0] == 200
    assert site.ask(path, {"If-Range": tag, "Range": "bytes=0-1"})[0] == 206
    assert site.ask(path, {"If-Range": '"x"', "Range": "bytes=0-1"})[0] == 200


# What is not -----------------------------------------------------------------------

_NOTHING = (
    *("/tcgamirror.toml", "/.lock", "/work/x.png", "/catalogue.db-wal", "/catalogue.db-journal"),
    *("/.sync.json", "/images", "/images/", "/images/stray.png", "/gallery", "/gallery/"),
    *("/gallery/notes.txt", "/gallery/.hidden.html", "/gallery/link.png", "/gallery/away/x.png"),
    *("/gallery/../tcgamirror.toml", "/gallery/%2e%2e/tcgamirror.toml", "/../outside.png"),
    *("/gallery/..%2ftcgamirror.toml", "/images/%2e%2e/catalogue.db", "//etc/passwd"),
    *("/gallery/index.html%00.png", "/%00", "/%ff%fe", "/gallery//index.html", "/etc/passwd"),
    *("/gallery/%2e%2e%5ctcgamirror.toml", "/" + "a/" * 2000, "/gallery/" + "a" * 5000 + ".png"),
    "/catalogue.db/",
)


def test_nothing_else_is_there_and_no_link_leads_out_of_the_mirror(site: Served) -> None:
    for path in (*_NOTHING, f"/{paths(site.root)[-1]}"):
        status, _, body = site.ask(path)
        assert status == 404 and SECRET not in body, path


def test_only_reading_is_done(site: Served) -> None:
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "TRACE"):
        status, headers, _ = site.ask("/", method=method)
        assert (status, headers["allow"]) == (405, "GET, HEAD")


# Left on ---------------------------------------------------------------------------


def test_what_is_new_is_there_without_a_restart(tmp_path: Path) -> None:
    root = made_up(tmp_path / "m", 3)
    path = paths(root)[0]
    with served(root) as site:
        before = site.ask(f"/{path}")
        catalogue = site.ask("/catalogue.db")[1]["etag"]
        replace_image(root, path)
        until(lambda: site.ask("/catalogue.db")[1]["etag"] != catalogue)
        after = site.ask(f"/{path}", {"If-None-Match": before[1]["etag"]})
        assert (after[0], after[2]) == (200, (root / path).read_bytes())
        (root / "catalogue.db").rename(root / "away")
        time.sleep(1.1)
        assert site.ask(f"/{path}")[0] == site.ask("/catalogue.db")[0] == 200


def test_a_crowd_of_the_hostile_is_borne(site: Served) -> None:
    rng = random.Random(3)
    known = paths(site.root)[:-1]
    kinds = [*_NOTHING, "/" + "x" * 100_000, "/gallery/" + "%2e%2e/" * 300 + "etc/passwd"]
    site.ask("/")
    _many(site, rng, known, kinds, 200)
    before = _kilobytes(site.pid), _handles(site.pid)
    counts = _many(site, rng, known, kinds, REQUESTS)
    until(lambda: _handles(site.pid) <= before[1] + 2)
    grown = _kilobytes(site.pid) - before[0]
    print(f"{REQUESTS:,} requests: {dict(sorted(counts.items()))}, {grown:+,} kB")
    assert set(counts) <= {200, 206, 302, 304, 400, 404, 405, 416, 431}
    assert grown < MOST_GROWN


def _many(
    site: Served, rng: random.Random, known: list[str], kinds: list[str], count: int
) -> Counter[int]:
    ranges = ("bytes=0-3", "bytes=99-", "bytes=-1", "bytes=9-1", "bytes=" + "1" * 99, "x" * 500)
    requests = []
    for _ in range(count):
        path = rng.choice(kinds) if rng.random() < 0.6 else f"/{rng.choice(known)}"
        headers = {"Range": rng.choice(ranges)} if rng.random() < 0.4 else {}
        requests.append((path, headers, rng.choice(("GET", "GET", "HEAD", "POST"))))
    with ThreadPoolExecutor(CLIENTS) as clients:
        answers = list(clients.map(lambda each: _answer(site, *each), requests))
    assert not [body for _, body in answers if SECRET in body]
    return Counter(status for status, _ in answers)


def _answer(site: Served, path: str, headers: Mapping[str, str], method: str) -> tuple[int, bytes]:
    for _ in range(3):
        try:
            status, _, body = site.ask(path, headers, method)
        except (ConnectionError, http.client.BadStatusLine):
            # What is far too long is cut before it has been sent, which may swallow the answer.
            if len(path) < 50_000:
                raise
        else:
            return status, body
    return 431, b""


def _kilobytes(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.findall(r"VmRSS:\s+(\d+)", status)[0])


def _handles(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


@pytest.mark.parametrize(
    "sent",
    [b"", b"GET /images", b"GET /catalogue.db HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", None],
    ids=["silent", "half a request", "slow readers", "kept alive", "all of these"],
)
def test_the_slow_keep_nobody_waiting(site: Served, sent: bytes | None) -> None:
    path = f"/{paths(site.root)[0]}"
    kinds = (b"", b"GET /images", b"GET /catalogue.db HTTP/1.1\r\n\r\n")
    slow: list[socket.socket] = []
    try:
        for number in range(SLOW):
            client = socket.create_connection(("127.0.0.1", site.port))
            slow.append(client)
            with suppress(ConnectionError):
                client.sendall(kinds[number % len(kinds)] if sent is None else sent)
        for _ in range(3):
            start = time.monotonic()
            assert site.ask(path)[0] == 200
            assert time.monotonic() - start < serving.CHECK_SECONDS / 2
        assert _handles(site.pid) < 3 * serving.CONNECTIONS_EACH
    finally:
        for client in slow:
            client.close()


def test_who_reads_is_not_cut_by_others_who_are_idle(site: Served) -> None:
    with socket.create_connection(("127.0.0.1", site.port)) as reader:
        reader.sendall(b"GET / HTTP/1.1\r\n\r\n" * 2)
        idle = []
        for _ in range(2 * serving.CONNECTIONS_EACH):
            reader.sendall(b"GET / HTTP/1.1\r\n\r\n")
            assert reader.recv(1 << 16)
            idle.append(socket.create_connection(("127.0.0.1", site.port)))
        for client in idle:
            client.close()


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_a_length_and_an_encoding_together_end_the_connection(site: Served, version: str) -> None:
    smuggled = b"0\r\n\r\nGET /catalogue.db HTTP/1.1\r\n\r\n"
    head = (
        f"GET / HTTP/{version}\r\nConnection: keep-alive\r\n"
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", site.port), timeout=10) as client:
        client.sendall(head.encode() + smuggled)
        answer = b""
        with suppress(ConnectionError):
            while piece := client.recv(1 << 16):
                answer += piece
    assert answer.startswith(f"HTTP/{version} 400 ".encode()) and answer.count(b"HTTP/1.") == 1


def test_a_request_that_drips_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "CHECK_SECONDS", 1)
    root = made_up(tmp_path / "m", 1)
    (tmp_path / "copies").mkdir()
    server = serving.Server(Site(root, Snapshots(root, tmp_path / "copies")), "127.0.0.1", 0)
    assert server.socket is not None
    address = server.socket.getsockname()
    threading.Thread(target=server.run, daemon=True).start()
    start = time.monotonic()
    with socket.create_connection(address) as client, suppress(ConnectionError):
        client.settimeout(0.1)
        client.sendall(b"GET / HTTP/1.1\r\nX-Slow: ")
        while time.monotonic() - start < 15:
            client.sendall(b"a")
            with suppress(TimeoutError):
                if not client.recv(100):
                    break
    assert time.monotonic() - start < 12
    server.close()


# Begun and ended -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130), (signal.SIGHUP, 130)]
)
def test_a_signal_ends_it_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, code: int
) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    with started("--mirror", made_up(tmp_path / "m", 1), "serve", "--port", "0") as process:
        assert process.stdout is not None
        assert "until Ctrl-C" in process.stdout.readline()
        assert list((tmp_path / "tmp").iterdir())
        process.send_signal(number)
        result = ended(process)
    assert (result.code, result.err) == (code, "")
    assert not list((tmp_path / "tmp").iterdir())


def test_a_terminal_closed_during_the_start_leaves_no_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    with started("--mirror", made_up(tmp_path / "m", 1), "serve", "--port", "0") as process:
        until(lambda: any((tmp_path / "tmp").glob("tcgamirror-*/*")), pause=0)
        process.send_signal(signal.SIGHUP)
        assert ended(process).code == 130
    assert not list((tmp_path / "tmp").iterdir())


def test_a_port_in_use_and_a_host_for_everyone(tmp_path: Path) -> None:
    root = made_up(tmp_path / "m", 1)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
        result = run("--mirror", root, "serve", "--port", port)
    assert result.code == 2 and port in result.sentence and "--port" in result.sentence
    assert run("--mirror", root, "serve", "--port", "70000").code == 2
    assert run("--mirror", root, "serve", "--host", "no such host").code == 2
    with started("--mirror", root, "serve", "--host", "0.0.0.0", "--port", "0") as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.readline()
        assert "--host 0.0.0.0: everyone who can reach it" in process.stderr.readline()
    assert run("--mirror", tmp_path, "serve").code == 2
    assert succeeded("serve", "--help").out
