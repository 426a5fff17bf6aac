"""A host that is asked too much is left alone, by all requests, and no longer than the run."""

from __future__ import annotations

import io
import signal
import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import pytest

from tcgamirror.cli.progress import ProgressDisplay
from tcgamirror.model.byteranges import Span
from tcgamirror.model.errors import Interrupted, NetworkError, NotFound, ServerError
from tcgamirror.net.client import HttpClient, host_key
from tcgamirror.net.hosts import LEAST_CONNECTIONS, LONGEST_PAUSE, RESETS, Host
from tcgamirror.net.proxies import Route
from tests.gdc import Fault, Listed, StandIn, listed
from tests.gdc.listing import manifest
from tests.support.command import ended, run, started, went_well
from tests.support.mirrors import column, made, rewrite, until
from tests.support.raw_server import (
    CONTENT,
    QUICK,
    RawServer,
    Request,
    Reset,
    Script,
    Step,
    head,
    plays,
    ranged,
    refusing_port,
    whole,
)

BUSY = whole(b"", "429 Too Many Requests")
OK = whole(b"[]")
ONCE = replace(QUICK, tries=1)
"""Each request is sent once, so that what it meets is one answer."""
LONG = 300.0
"""Seconds no test waits."""


class Heard:
    def __init__(self) -> None:
        self.pauses: list[tuple[str, float, str]] = []

    def __call__(self, host: str, seconds: float, reason: str) -> None:
        self.pauses.append((host, seconds, reason))

    @property
    def lengths(self) -> list[float]:
        return [seconds for _, seconds, _ in self.pauses]


def asks(client: HttpClient, server: RawServer, count: int = 1) -> None:
    for _ in range(count):
        with suppress(NetworkError):
            client.json(server.url())


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        ("429 Too Many Requests", "too many requests (429)"),
        ("503 Slow Down", "the server is busy (503)"),
    ],
)
@pytest.mark.parametrize("header", [(), ("Retry-After: soon",)])
def test_a_busy_host_pauses_all_requests(status: str, reason: str, header: tuple[str, ...]) -> None:
    heard = Heard()
    timeouts = replace(ONCE, pause=0.4)
    busy = whole(b"", status, *header)
    with RawServer(busy, OK) as server, HttpClient(timeouts=timeouts, on_pause=heard) as client:
        began = time.monotonic()
        with pytest.raises(ServerError):
            client.json(server.url("/files"))
        client.json(server.url("/status"))
        assert time.monotonic() - began >= 0.4
        assert heard.pauses == [(f"127.0.0.1:{server.port}", 0.4, reason)]


NONE_THERE = whole(b"", "404 Not Found")
MID_BODY = plays(head("200 OK", "Content-Length: 9"), Reset())


@pytest.mark.parametrize(
    ("scripts", "pauses"),
    [
        ([whole(b"", "503 Slow Down", "Retry-After: 0")] * 4, []),
        (
            [BUSY] * 6 + [OK, BUSY, NONE_THERE, BUSY],
            [1, 2, 4, 8, LONGEST_PAUSE, LONGEST_PAUSE, 1, 1],
        ),
        ([plays(Reset())] * (RESETS - 1), []),
        ([plays(Reset())] * (RESETS + 1), [1, 2]),
        ([MID_BODY] * (RESETS + 1), [1, 2]),
        *(([*[plays(Reset())] * (RESETS - 1), right] * 3, []) for right in (OK, NONE_THERE)),
    ],
)
def test_each_further_pause_is_twice_as_long_up_to_a_limit_until_an_answer_comes(
    scripts: list[Script], pauses: list[float]
) -> None:
    heard = Heard()
    with RawServer(*scripts) as server, HttpClient(timeouts=ONCE, on_pause=heard) as client:
        asks(client, server, len(scripts))
    assert heard.lengths == pytest.approx([pause * ONCE.pause for pause in pauses])


def test_one_thing_that_is_asked_for_again_waits_for_the_pauses() -> None:
    heard = Heard()
    with (
        RawServer(BUSY, BUSY, OK) as server,
        HttpClient(timeouts=replace(QUICK, tries=3), on_pause=heard) as client,
    ):
        assert client.json(server.url()) == []
    assert heard.lengths == pytest.approx([0.01, 0.02])


def test_answers_to_requests_under_way_make_one_pause() -> None:
    heard = Heard()
    together = threading.Barrier(4)

    def busy(request: Request) -> Iterable[Step]:
        together.wait(timeout=10)
        return BUSY(request)

    timeouts = replace(ONCE, first_byte=20, pause=0.05)
    with (
        RawServer(busy) as server,
        HttpClient(timeouts=timeouts, on_pause=heard) as client,
        ThreadPoolExecutor(4) as pool,
    ):
        list(pool.map(lambda _: asks(client, server), range(4)))
    assert heard.lengths == [0.05]


def test_a_download_that_advances_between_its_resets_goes_on_at_once() -> None:
    heard = Heard()

    def broken(request: Request) -> Iterable[Step]:
        (answer,) = ranged(CONTENT)(request)
        assert isinstance(answer, bytes)
        return [answer[: answer.index(b"\r\n\r\n") + 20_000], Reset()]

    file = io.BytesIO()
    with RawServer(broken) as server, HttpClient(timeouts=QUICK, on_pause=heard) as client:
        client.download(server.url(), file, size=len(CONTENT))
    assert file.getvalue() == CONTENT
    assert heard.pauses == []


def test_a_host_that_takes_no_connection_is_no_reason_to_pause() -> None:
    heard = Heard()
    with refusing_port() as port, HttpClient(timeouts=ONCE, on_pause=heard) as client:
        for _ in range(RESETS + 1):
            with pytest.raises(NetworkError):
                client.json(f"http://127.0.0.1:{port}/")
    assert heard.pauses == []


def test_other_hosts_are_asked_meanwhile() -> None:
    with (
        RawServer(BUSY) as busy,
        RawServer(whole(b"", "404 Not Found")) as other,
        HttpClient(timeouts=replace(ONCE, pause=LONG)) as client,
    ):
        asks(client, busy)
        with pytest.raises(NotFound):
            client.json(other.url())


@pytest.mark.parametrize("how", ["stop", "end of the run"])
def test_a_pause_ends_at_once_with_the_run(how: str) -> None:
    stop, over = threading.Event(), threading.Event()
    with (
        RawServer(BUSY) as server,
        HttpClient(timeouts=replace(ONCE, pause=LONG), stop=stop) as client,
        ThreadPoolExecutor(6) as pool,
    ):
        client.end_pauses_when(over.is_set)
        asks(client, server)
        # More than the host's connections: some wait for one, and some for the pause.
        waiting = [pool.submit(client.json, server.url()) for _ in range(6)]
        (stop if how == "stop" else over).set()
        for each in waiting:
            with pytest.raises(Interrupted):
                each.result(timeout=20)
        assert len(server.requests) == 1


def test_optional_requests_share_pauses_and_their_end() -> None:
    with RawServer(BUSY) as server, HttpClient(timeouts=replace(ONCE, pause=LONG)) as client:
        other = client.for_optional(QUICK)
        asks(client, server)
        client.end_pauses_when(lambda: True)
        with pytest.raises(Interrupted, match="pause"):
            other.json(server.url())


# By the command ------------------------------------------------------------------------


def paused(root: Path, gdc: StandIn) -> Path:
    """A mirror of a GDC that is asked too much for slides, and that pauses for long."""
    made(root, gdc)
    # Of a run with a time limit, all of it is left for the pause.
    for command in ("refresh", "sample"):
        went_well("--mirror", root, command)
    rewrite(root, "^pause = .*", f"pause = {LONG}")
    gdc.faults.add(Fault(r"/data/|/tile/|\.svs", "429", retry_after=None))
    return root


def pending(root: Path) -> list[object]:
    return column(root, "select count(*) from mirror where status = 'pending'")


def test_a_time_limit_ends_the_pause(tmp_path: Path, small_gdc: StandIn) -> None:
    root = paused(tmp_path / "m", small_gdc)
    result = run("--mirror", root, "update", "--time-limit", "2s")
    assert result.code == 0, result
    assert "stopped by --time-limit; 4 slides left for the next run" in result.out
    assert "too many requests (429). All requests to it pause for 5 min 0 s" in result.err
    assert pending(root) == [4]
    # The listing's, too.
    small_gdc.switch("api", "503")
    result = run("--mirror", root, "update", "--time-limit", "2s")
    assert result.code == 4, result
    assert "listing: not read within --time-limit" in result.err
    assert "stopped by --time-limit; 4 slides left for the next run" in result.out


@pytest.mark.parametrize("asked", ["listing", "labels", "slides"])
@pytest.mark.parametrize("kind", ["stall", "503"])
def test_a_time_limit_ends_what_a_server_makes_wait(
    tmp_path: Path, small_gdc: StandIn, asked: str, kind: Literal["stall", "503"]
) -> None:
    root = made(tmp_path / "m", small_gdc, "--via", "whole")
    rewrite(root, "^labels = .*", "labels = false")
    went_well("--mirror", root, "refresh")
    rewrite(root, "^labels = .*", "labels = true")
    # A slide in flight is left at its own limit, and not asked for again.
    seconds = 3.0 if asked == "slides" else LONG
    rewrite(
        root, "^(first_byte|stall) = .*\n(.*\n)?", f"first_byte = {seconds}\nstall = {seconds}\n"
    )
    rewrite(root, "^backoff = .*", f"backoff = {LONG}")
    path = {"listing": "/status", "labels": "/files", "slides": r"/data/|\.svs"}[asked]
    small_gdc.faults.add(Fault(path, kind, after=0, retry_after=200))
    result = run("--mirror", root, "update", "--time-limit", "4s", timeout=30)
    assert result.code == (4 if asked == "listing" else 0), result
    assert ("labels: not read (stopped" in result.err) == (asked == "labels")
    assert ("listing: not read within --time-limit" in result.err) == (asked == "listing")
    assert pending(root) == [0 if asked == "labels" else 4]


@pytest.mark.parametrize("asked", ["projects", "labels"])
def test_a_time_limit_ends_what_a_manifests_mirror_can_do_without(
    tmp_path: Path, small_gdc: StandIn, small_slides: tuple[Listed, ...], asked: str
) -> None:
    path = tmp_path / "manifest.txt"
    path.write_text(manifest(small_slides[:4]))
    root = made(tmp_path / "m", small_gdc, "--manifest", str(path))
    if asked == "labels":
        rewrite(root, "^labels = .*", "labels = false")
        went_well("--mirror", root, "update")
        rewrite(root, "^labels = .*", "labels = true")
    rewrite(root, "^(first_byte|stall) = .*\n(.*\n)?", f"first_byte = {LONG}\nstall = {LONG}\n")
    small_gdc.faults.add(Fault("/files", "stall", after=0))
    result = run("--mirror", root, "update", "--time-limit", "4s", timeout=20)
    assert result.code == 0, result
    assert ("are looked up another time (stopped" in result.err) == (asked == "projects")
    assert pending(root) == [4 if asked == "projects" else 0]


@pytest.mark.parametrize(("slides", "slow"), [(4, r"\.svs"), (12, "/status")])
def test_after_the_time_limit_a_site_that_is_down_is_named(
    tmp_path: Path, small_gdc: StandIn, slides: int, slow: str
) -> None:
    root = made(tmp_path / "m", small_gdc, "--via", "whole", slides=slides)
    for command in ("refresh", "sample"):
        went_well("--mirror", root, command)
    rewrite(root, "^tries = .*", "tries = 1")
    rewrite(root, "^stall = .*", "stall = 60.0")
    small_gdc.faults.add(Fault(slow, "stall", after=0, hold=6.0), Fault("/", "500"))
    result = run("--mirror", root, "fetch", "--time-limit", "4s")
    assert result.code == 4 and "no slide can be reached" in result.err, result


def test_one_ctrl_c_ends_the_pause(tmp_path: Path, small_gdc: StandIn) -> None:
    root = paused(tmp_path / "m", small_gdc)
    with started("--mirror", root, "update") as process:
        until(lambda: any(record.fault for record in small_gdc.served))
        process.send_signal(signal.SIGINT)
        result = ended(process)
    assert result.code == 130, result
    assert pending(root) == [4]


def test_the_progress_line_tells_the_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr("tcgamirror.cli.output.say", said.append)
    monkeypatch.setattr("tcgamirror.cli.progress.QUIET_SECONDS", 0.0)
    progress = ProgressDisplay()
    progress.start_fetch(3, 1)
    progress.pause("api.gdc.cancer.gov", 90.0, "too many requests (429)")
    progress.show_fetch(0, 1, False)
    progress.pause("api.gdc.cancer.gov", 0.0, "too many requests (429)")
    progress.show_fetch(0, 1, False)
    first, line, _, later = said
    assert first.startswith("api.gdc.cancer.gov: too many requests (429). All requests to it")
    assert "api.gdc.cancer.gov pauses for 1 min 30 s" in line
    assert "pauses" not in later


@pytest.mark.parametrize("header", [(), ("Retry-After: 0",)])
def test_a_busy_host_gets_half_the_connections(header: tuple[str, ...]) -> None:
    """Each time: one that bears 16 gives everything to a client that may use 64."""
    held = threading.Semaphore(16)

    def limited(request: Request) -> Iterable[Step]:
        if not held.acquire(blocking=False):
            return whole(b"", "503 Slow Down", *header)(request)
        return answer(request)

    def answer(request: Request) -> Iterable[Step]:
        yield 0.05
        held.release()
        yield from OK(request)

    timeouts = replace(QUICK, first_byte=5.0, connect=5.0, tries=5, pause=0.1, backoff=0.1)
    with RawServer(limited) as server:
        limits = {f"127.0.0.1:{server.port}": 64}
        with HttpClient(timeouts=timeouts, limits=limits) as client, ThreadPoolExecutor(96) as pool:
            found = list(pool.map(lambda _: client.json(server.url()), range(400)))
    assert found == [[]] * 400


def test_a_host_that_bears_one_request_at_a_time_gets_one() -> None:
    held = threading.Semaphore(1)

    def limited(request: Request) -> Iterable[Step]:
        if not held.acquire(blocking=False):
            return whole(b"", "429 Too Many Requests")(request)
        return answer(request)

    def answer(request: Request) -> Iterable[Step]:
        yield 0.05
        held.release()
        yield from OK(request)

    timeouts = replace(QUICK, first_byte=5.0, connect=5.0, tries=4, pause=0.1, backoff=0.1)
    with (
        RawServer(limited) as server,
        HttpClient(timeouts=timeouts) as client,
        ThreadPoolExecutor(3) as pool,
    ):
        assert list(pool.map(lambda _: client.json(server.url()), range(40))) == [[]] * 40


def test_a_slow_link_is_shared_by_fewer_connections(tmp_path: Path) -> None:
    """16 would get too little each, for every try."""
    path = tmp_path / "slide.svs"
    path.write_bytes(bytes(320_000))
    file = listed(path)
    timeouts = replace(QUICK, connect=5.0, first_byte=5.0, stall=0.5, least_rate=20_000, tries=5)
    with StandIn([file]) as gdc:
        gdc.link_rate = 200_000
        url, limits = f"{gdc.api}/data/{file.file_id}", {host_key(gdc.api): 16}
        with HttpClient(timeouts=timeouts, limits=limits) as client, ThreadPoolExecutor(16) as pool:
            spans = [Span(start, start + 10_000) for start in range(0, file.size, 10_000)]
            list(pool.map(partial(client.span, url, total=file.size), spans))
            assert connections(client._host(url)) < 16


def connections(host: Host) -> int:
    """Return how many connections a host without any in use gives."""
    count = sum(iter(host.acquire, False))
    for _ in range(count):
        host.release()
    return count


def test_connections_double_again_after_a_while_without_trouble(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    host = Host("host:443", Route({}, None), 16, LONG, Heard())
    assert connections(host) == 16
    for _ in range(3):
        host.record_busy(time.monotonic(), 429, pause=False)
    host.record_success(time.monotonic())
    assert connections(host) == LEAST_CONNECTIONS == 4
    monkeypatch.setattr("tcgamirror.net.hosts.CALM_SECONDS", 0.0)
    before = time.monotonic()
    for limit in (8, 16, 16):
        host.record_success(time.monotonic())
        assert connections(host) == limit
    # A request that was sent before the connections doubled shows that they are too many.
    host.record_busy(before, 429, pause=False)
    assert connections(host) == 8


def test_a_success_of_a_request_sent_before_trouble_shortens_no_pause() -> None:
    heard = Heard()
    host = Host("host:443", Route({}, None), 16, 1.0, heard)
    with ThreadPoolExecutor(1) as pool:
        # The success comes first, and waits for the lock until the trouble is counted.
        with host._changed:
            success = pool.submit(host.record_success, time.monotonic())
            time.sleep(0.1)
            host.record_busy(time.monotonic(), 429, pause=True)
        success.result(timeout=20)
    host.record_busy(time.monotonic(), 429, pause=True)
    assert heard.lengths == [1.0, 2.0]


def test_a_new_limit_gives_no_halved_connections_back() -> None:
    host = Host("host:443", Route({}, None), 16, LONG, Heard())
    for limit in (8, 32):
        host.set_limit(limit)
        assert connections(host) == limit
    host.record_busy(time.monotonic(), 503, pause=False)
    for limit, most in ((32, 16), (8, 8), (2, 2), (32, 16)):
        host.set_limit(limit)
        assert connections(host) == most
