"""The client against a real server on loopback whose every byte and pause is scripted."""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import Iterable
from pathlib import Path

import pytest

from tcgamirror.model.errors import (
    ChangedFile,
    NetworkError,
    NotFound,
    RangeMismatch,
    RangeUnsupported,
    Redirected,
    Refused,
    ServerError,
    SizeMismatch,
    Timeout,
    TooLong,
    Truncated,
    Unreachable,
    UsageError,
    WrongContent,
)
from tcgamirror.net.client import HttpClient, Part
from tcgamirror.net.throttle import Meter
from tcgamirror.net.timeouts import Timeouts
from tests.support.raw_server import (
    BOUND,
    CHUNKED,
    CONTENT,
    HTML,
    PART,
    QUICK,
    RIGHT_HEAD,
    RIGHT_RANGE,
    SPAN,
    Close,
    RawServer,
    Request,
    Reset,
    Script,
    Step,
    asking,
    dripped,
    endless,
    head,
    plays,
    ranged,
    whole,
    within,
)


def part(*lines: str, body: bytes = PART, length: int | None = None) -> Script:
    size = len(body) if length is None else length
    return plays(head("206 Partial Content", f"Content-Length: {size}", *lines) + body, Close())


SPAN_FAULTS: dict[str, tuple[Script, type[NetworkError]]] = {
    "reset before the headers": (plays(Reset()), Unreachable),
    "closed before the headers": (plays(Close()), Unreachable),
    "reset within the headers": (plays(RIGHT_HEAD[:40], Reset()), Unreachable),
    "reset after the headers": (plays(RIGHT_HEAD, Reset()), Truncated),
    "cut body": (plays(RIGHT_HEAD + PART[:5000], Close()), Truncated),
    "cut body, no length": (plays(head("206 P", RIGHT_RANGE) + PART[:5000], Close()), Truncated),
    "empty body": (plays(RIGHT_HEAD, Close()), Truncated),
    "empty body, said so": (part(RIGHT_RANGE, body=b""), Truncated),
    "no answer": (plays(2.0), Timeout),
    "stalled body": (plays(RIGHT_HEAD + PART[:5000], 2.0, PART[5000:]), Timeout),
    "dripped body": (dripped(PART, before=RIGHT_HEAD), Timeout),
    "dripped headers": (dripped(RIGHT_HEAD + PART), Timeout),
    "dripped interim answers": (dripped(head("100 Continue") * 20, every=0.02), Timeout),
    "garbage": (plays(b"\x00\xff\x17\r\n\r\n", Close()), Unreachable),
    "closed within the headers": (plays(RIGHT_HEAD[:70], Close()), Truncated),
    "no range": (part(), RangeMismatch),
    "unclear range": (part("Content-Range: bytes 1000-8999/*"), RangeMismatch),
    "other range": (part("Content-Range: bytes 1001-9000/200000"), RangeMismatch),
    "shorter range": (part("Content-Range: bytes 1000-8998/200000", body=PART[:-1]), RangeMismatch),
    "huge range": (part(f"Content-Range: bytes 1000-8999/{'9' * 5000}"), RangeMismatch),
    "other total": (part("Content-Range: bytes 1000-8999/200001"), SizeMismatch),
    "416": (whole(b"", "416 Range Not Satisfiable"), SizeMismatch),
    "too long, said so": (part(RIGHT_RANGE, body=PART + b"x"), TooLong),
    "too long, no length": (plays(head("206 P", RIGHT_RANGE) + PART + b"x" * 9, Close()), TooLong),
    "too short, said so": (part(RIGHT_RANGE, body=PART[:-1]), Truncated),
    "other ETag": (part(RIGHT_RANGE, 'ETag: "b"'), ChangedFile),
    "many parts": (part("Content-Type: multipart/byteranges; boundary=x"), RangeMismatch),
    "packed part": (part(RIGHT_RANGE, "Content-Encoding: gzip"), WrongContent),
    "HTML under 200": (HTML, WrongContent),
    "HTML under 203": (whole(b"<html>", "203 N", "Content-Type: text/html"), WrongContent),
    "nothing under 200": (whole(b""), WrongContent),
    "a slice under 200": (whole(PART), WrongContent),
    "a slice under 200 that names its range": (whole(PART, "200 OK", RIGHT_RANGE), WrongContent),
    "one byte less under 200": (whole(CONTENT[:-1]), WrongContent),
    "200 without a length": (plays(head("200 OK") + CONTENT, Close()), WrongContent),
    "another range under 203": (
        whole(PART, "203 N", "Content-Range: bytes 1001-9000/200000"),
        RangeMismatch,
    ),
    "whole file": (whole(CONTENT), RangeUnsupported),
    "whole file under 203": (whole(CONTENT, "203 Non-Authoritative"), RangeUnsupported),
    "whole file as HTML": (whole(CONTENT, "200 OK", "Content-Type: text/html"), RangeUnsupported),
    "404": (whole(b"{}", "404 Not Found"), NotFound),
    "410": (whole(b"", "410 Gone"), NotFound),
    "403": (whole(b'{"message": "no"}', "403 Forbidden"), Refused),
    "204": (plays(head("204 No Content")), WrongContent),
    "304": (plays(head("304 Not Modified")), WrongContent),
    "429": (whole(b"slow down", "429 Too Many Requests"), ServerError),
    "500": (whole(b"oh", "500 Internal Server Error"), ServerError),
    "503 at once": (whole(b"", "503 Unavailable", "Retry-After: 0"), ServerError),
    "520": (whole(b"", "520 Odd"), ServerError),
}


@pytest.mark.parametrize("name", SPAN_FAULTS)
def test_a_fault_that_lasts_is_named_within_bounded_time(name: str) -> None:
    script, error = SPAN_FAULTS[name]
    with asking(script) as (server, client), within(BOUND):
        with pytest.raises(error) as caught:
            client.span(server.url(), SPAN, total=len(CONTENT), etag='"a"')
        assert type(caught.value) is error
        assert f"127.0.0.1:{server.port}/data/1" in str(caught.value)
        assert len(server.requests) == (QUICK.tries if error.retryable else 1)


@pytest.mark.parametrize(
    "name", [name for name, fault in SPAN_FAULTS.items() if fault[1].retryable]
)
def test_a_fault_that_passes_leaves_the_right_bytes(name: str) -> None:
    script, _ = SPAN_FAULTS[name]
    with asking(script, ranged(CONTENT, 'ETag: "a"')) as (server, client), within(BOUND):
        got = client.span(server.url(), SPAN, total=len(CONTENT), etag='"a"')
        assert got == Part(bytearray(PART), '"a"', len(CONTENT))
        assert len(server.requests) == 2


@pytest.mark.parametrize("status", ["206 Partial Content", "203 Non-Authoritative Information"])
@pytest.mark.parametrize("kind", ["text/html; charset=utf-8", "application/xml", ""])
def test_a_part_is_known_by_its_range_whatever_its_type(status: str, kind: str) -> None:
    script = whole(PART, status, RIGHT_RANGE, f"Content-Type: {kind}")
    with asking(script) as (server, client):
        assert client.span(server.url(), SPAN, total=len(CONTENT)).data == PART


def test_without_a_listed_size_no_200_tells_that_range_is_ignored() -> None:
    with asking(whole(CONTENT)) as (server, client), pytest.raises(WrongContent):
        client.span(server.url(), SPAN, total=None)


def test_a_span_request_has_no_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    script = ranged(CONTENT, "Set-Cookie: a=b; Path=/")
    with asking(script) as (server, client):
        for _ in range(2):
            assert client.span(server.url(), SPAN, total=None).data == PART
        for request in server.requests:
            assert request.headers["range"] == "bytes=1000-8999"
            assert request.headers["accept-encoding"] == "identity"
            assert request.headers["user-agent"].startswith("tcgamirror/")
            assert not {"cookie", "authorization"} & set(request.headers)


def test_of_a_file_sent_whole_no_more_is_taken_than_the_sockets_hold() -> None:
    meter = Meter()
    size = 256 << 20
    script = endless(head("200 OK", f"Content-Length: {size}"), bytes(65536))
    with asking(script) as (server, client), within(BOUND):
        with pytest.raises(RangeUnsupported):
            client.span(server.url(), SPAN, total=size, meter=meter)
        time.sleep(0.2)
        assert server.sent < 32 << 20
    assert (meter.bytes, meter.requests) == (0, 1)


def test_bytes_of_failed_tries_count_too() -> None:
    meter = Meter()
    cut = plays(RIGHT_HEAD + PART[:5000], Close())
    with asking(cut, ranged(CONTENT)) as (server, client):
        client.span(server.url(), SPAN, total=None, meter=meter)
    assert (meter.bytes, meter.requests) == (13_000, 2)


# Small answers ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "error", "words"),
    [
        (HTML, WrongContent, "an HTML page"),
        (whole(b"  <!DOCTYPE html><p>"), WrongContent, "an HTML page"),
        (whole(b""), WrongContent, "an empty body"),
        (whole(b"[1, 2"), WrongContent, "instead of JSON"),
        (whole(b"[NaN]"), WrongContent, "instead of JSON"),
        (whole(b"[" * 40_000), WrongContent, "instead of JSON"),
        (whole(b'"\xff"'), WrongContent, "instead of JSON"),
        (whole(b"[]", "200 OK", "Content-Encoding: gzip"), WrongContent, "invalid gzip"),
        (whole(b"[]", "200 OK", "Content-Encoding: br"), WrongContent, "packed as br"),
        (whole(gzip.compress(b"[1]")[:-9], "200 OK", "Content-Encoding: gzip"), Truncated, "early"),
        (whole(b" " * 50_001), TooLong, "50,000"),
        (plays(head("200 OK") + b" " * 50_001, Close()), TooLong, "50,000"),
        (
            whole(gzip.compress(bytes(50_000_000)), "200 OK", "Content-Encoding: gzip"),
            TooLong,
            "50,000",
        ),
        (endless(CHUNKED, b"1000\r\n" + b" " * 4096 + b"\r\n"), TooLong, "50,000"),
        (dripped(b"5\r\nabcde\r\n" * 50, before=CHUNKED), Timeout, "bytes/s"),
        (plays(CHUNKED + b"5\r\n[1, 2", Close()), Truncated, "broke"),
        (plays(CHUNKED + b"zz\r\n[", Close()), Truncated, "broke"),
        (plays(head("200 OK", "Content-Length: 9") + b"[1]", Close()), Truncated, "broke"),
        (
            whole(b'{"message": "a\\u001b[2Jb\\n' + b"x" * 999 + b'"}', "403 F"),
            Refused,
            "403: a [2Jb xx",
        ),
        (whole(b"[1]", "401 U"), Refused, "refused (401)"),
        (plays(head("400 B", "Content-Length: 50") + b"{", Close()), Refused, "refused (400)"),
    ],
)
def test_an_invalid_listing_is_named(script: Script, error: type[NetworkError], words: str) -> None:
    with asking(script) as (server, client), within(BOUND):
        with pytest.raises(error) as caught:
            client.json(server.url("/files?token=secret"), limit=50_000)
        message = str(caught.value)
        assert words in message
        assert f"127.0.0.1:{server.port}/files" in message
        assert "secret" not in message
        assert message.isprintable()
        assert len(message) < 500


def test_the_endless_drip_of_a_whole_answer_ends() -> None:
    fast_enough = endless(head("200 OK"), b" " * 2_000)

    def script(request: Request) -> Iterable[Step]:
        for step in fast_enough(request):
            yield step
            yield 0.05

    timeouts = Timeouts(stall=0.4, whole=1, least_rate=10_000, tries=1)
    with (
        RawServer(script) as server,
        HttpClient(timeouts=timeouts) as client,
        within(BOUND),
        pytest.raises(Timeout, match="not whole after 1 s"),
    ):
        client.json(server.url())


def test_json_comes_packed_or_chunked_and_goes_out_as_a_post() -> None:
    value = {"hits": [1, "two", None]}
    text = json.dumps(value).encode()
    chunked = CHUNKED
    with (
        RawServer(
            whole(gzip.compress(text), "200 OK", "Content-Encoding: gzip"),
            plays(chunked + b"%x\r\n%s\r\n0\r\n\r\n" % (len(text), text)),
            whole(text, "203 Non-Authoritative Information"),
        ) as server,
        HttpClient(timeouts=QUICK) as client,
    ):
        for _ in range(3):
            assert client.json(server.url(), payload={"ids": ["a"]}) == value
        assert [request.method for request in server.requests] == ["POST"] * 3
        assert json.loads(server.requests[0].body) == {"ids": ["a"]}
        assert server.connections == 1
        client.json(server.url())
        assert server.requests[-1].method == "GET"


# When to ask again -------------------------------------------------------------


@pytest.mark.parametrize("status", ["429 Too Many Requests", "503 Service Unavailable"])
def test_the_time_that_a_server_asks_for_is_waited(status: str) -> None:
    busy = whole(b"", status, "Retry-After: 1")
    with asking(busy, whole(b"[]")) as (server, client):
        began = time.monotonic()
        assert client.json(server.url()) == []
        assert 1 <= time.monotonic() - began < BOUND


@pytest.mark.parametrize("wait", ["301", "Fri, 01 Jan 2100 00:00:00 GMT"])
def test_a_server_that_asks_for_too_long_a_wait_is_left_at_once(wait: str) -> None:
    busy = whole(b"", "503 Service Unavailable", f"Retry-After: {wait}")
    with asking(busy) as (server, client), within(BOUND):
        with pytest.raises(ServerError, match="503"):
            client.json(server.url())
        assert len(server.requests) == 1


@pytest.mark.parametrize("url", ["ftp://host/x", "nonsense", "http://[::1/", "http://host:port/"])
def test_what_is_no_url_is_wrong_use(url: str) -> None:
    with HttpClient(timeouts=QUICK) as client, pytest.raises(UsageError):
        client.json(url)


# Redirects ---------------------------------------------------------------------


def to(location: str) -> Script:
    return whole(b"moved", "302 Found", f"Location: {location}")


def test_a_redirect_on_the_same_host_is_followed() -> None:
    with asking(to("/there"), ranged(CONTENT)) as (server, client):
        assert client.span(server.url(), SPAN, total=None).data == PART
        assert [request.path for request in server.requests] == ["/data/1", "/there"]
        assert server.requests[1].headers["range"] == "bytes=1000-8999"


@pytest.mark.parametrize(
    "location",
    ["http://elsewhere.example/x", "//elsewhere.example/", "file:///etc/passwd", "http://[/"],
)
def test_a_redirect_to_another_host_is_named_and_not_followed(location: str) -> None:
    with asking(to(location)) as (server, client):
        with pytest.raises(Redirected, match=r"redirect to|points to"):
            client.json(server.url())
        assert len(server.requests) == 1


def test_redirects_in_a_ring_end() -> None:
    with asking(to("/data/1")) as (server, client):
        with pytest.raises(Redirected, match="more than 5"):
            client.json(server.url())
        assert len(server.requests) == 6


def test_the_body_of_a_redirect_is_not_read() -> None:
    script = endless(head("302 Found", "Location: http://elsewhere.example/"), bytes(65536))
    with asking(script) as (server, client), within(BOUND):
        with pytest.raises(Redirected):
            client.json(server.url())
        assert server.sent < 32 << 20
