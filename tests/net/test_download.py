"""Downloads that break, resume, change and lie, over a scripted server."""

from __future__ import annotations

import io
from collections.abc import Iterable

import pytest

from tcgamirror.model.errors import (
    ChangedFile,
    NetworkError,
    NotFound,
    SizeMismatch,
    Timeout,
    TooLong,
    Truncated,
    WrongContent,
)
from tests.support.raw_server import (
    BOUND,
    CONTENT,
    HTML,
    Close,
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


def first(count: int, end: Step, *lines: str) -> Script:
    """The right headers, `count` bytes from where was asked, and then an end."""

    def script(request: Request) -> Iterable[Step]:
        answer = next(iter(ranged(CONTENT, *lines)(request)))
        assert isinstance(answer, bytes)
        size = answer.index(b"\r\n\r\n") + 4
        return [answer[: size + count], end]

    return script


def downloaded(*scripts: Script, had: bytes = b"", size: int | None = len(CONTENT)) -> bytes:
    file = io.BytesIO(had)
    with asking(*scripts) as (server, client), within(BOUND):
        client.download(server.url(), file, size=size)
    return file.getvalue()


@pytest.mark.parametrize("size", [len(CONTENT), None])
@pytest.mark.parametrize("had", [0, 1, 77_777, len(CONTENT) - 1, len(CONTENT)])
def test_a_download_goes_on_where_it_ended(had: int, size: int | None) -> None:
    assert downloaded(ranged(CONTENT), had=CONTENT[:had], size=size) == CONTENT


@pytest.mark.parametrize("end", [Reset(), Close()])
def test_a_download_outlasts_any_number_of_breaks_while_it_advances(end: Step) -> None:
    breaks = [first(20_000, end) for _ in range(9)]
    assert downloaded(*breaks, ranged(CONTENT)) == CONTENT


@pytest.mark.parametrize(
    "script",
    [
        first(500, Reset()),
        first(0, Close()),
        first(500, 2.0),
        plays(Reset()),
        HTML,
        whole(b"", "502 Bad Gateway"),
        whole(b""),
        whole(b"", "203 Non-Authoritative"),
        whole(b"", "206 P", "Content-Range: bytes 5-9/200000"),
    ],
)
def test_a_download_outlasts_a_fault_that_passes(script: Script) -> None:
    assert downloaded(script, ranged(CONTENT)) == CONTENT
    assert downloaded(first(30_000, Close()), script, ranged(CONTENT)) == CONTENT


@pytest.mark.parametrize(
    ("script", "error"),
    [
        (first(0, Close()), Truncated),
        (first(10, 2.0), Timeout),
        (HTML, WrongContent),
        (whole(CONTENT + b"x"), SizeMismatch),
        (whole(CONTENT[:-1]), SizeMismatch),
        (plays(head("200 OK") + CONTENT + b"x", Close()), TooLong),
        (plays(head("200 OK") + CONTENT[:-1], Close()), Truncated),
        (whole(b"", "404 Not Found"), NotFound),
        (whole(b"", "206 Partial Content", "Content-Range: bytes 9-199999/200000"), WrongContent),
        (dripped(CONTENT, before=head("200 OK", "Content-Length: 200000"), every=0.02), Timeout),
        (whole(CONTENT, "200 OK", "Content-Encoding: gzip"), WrongContent),
    ],
)
def test_a_wrong_download_is_named(script: Script, error: type[NetworkError]) -> None:
    with pytest.raises(error) as caught:
        downloaded(script)
    assert type(caught.value) is error


def test_a_server_without_range_starts_the_file_again() -> None:
    assert downloaded(first(20_000, Close()), whole(CONTENT)) == CONTENT
    assert downloaded(whole(CONTENT), had=b"other" * 500) == CONTENT


@pytest.mark.parametrize("kind", ["text/html", "application/xml"])
@pytest.mark.parametrize("status", ["200 OK", "203 Non-Authoritative Information"])
def test_a_file_of_the_listed_size_is_taken_whatever_its_type(kind: str, status: str) -> None:
    script = whole(CONTENT, status, f"Content-Type: {kind}")
    assert downloaded(script) == CONTENT
    assert downloaded(first(20_000, Close()), script) == CONTENT


@pytest.mark.parametrize(
    "wrong",
    [
        whole(CONTENT[50_000:60_000], "200 OK", 'ETag: "other"'),
        whole(b"", "200 OK", 'ETag: "other"'),
        plays(head("200 OK", "Content-Type: text/html") + b"<html>", Close()),
    ],
)
def test_a_wrong_200_costs_nothing_that_was_had(wrong: Script) -> None:
    file = io.BytesIO()
    scripts = [first(100_000, Close(), 'ETag: "a"'), wrong, ranged(CONTENT, 'ETag: "a"')]
    with asking(*scripts) as (server, client):
        client.download(server.url(), file, size=len(CONTENT))
        assert file.getvalue() == CONTENT
        assert len(server.requests) == 3
        assert server.requests[1].headers["range"] == "bytes=100000-"


@pytest.mark.parametrize("size", [len(CONTENT), None])
def test_a_server_without_range_and_length_starts_the_file_again(size: int | None) -> None:
    lines = () if size else (f"Content-Length: {len(CONTENT)}",)
    everything = plays(head("200 OK", *lines) + CONTENT, Close())
    assert downloaded(everything, had=CONTENT[:70_000], size=size) == CONTENT


def test_a_server_without_range_that_always_breaks_is_given_up() -> None:
    cut = plays(head("200 OK", "Content-Length: 200000") + CONTENT[:150_000], Close())
    with pytest.raises(Truncated):
        downloaded(cut)


def test_two_versions_of_a_file_are_never_mixed() -> None:
    old = bytes(len(CONTENT))
    cut = plays(head("200 OK", "Content-Length: 200000", 'ETag: "old"') + old[:90_000], Close())
    assert downloaded(cut, ranged(CONTENT, 'ETag: "new"')) == CONTENT


def test_a_version_other_than_the_one_named_is_refused() -> None:
    file = io.BytesIO(b"old")
    with asking(ranged(CONTENT, 'ETag: "new"')) as (server, client), pytest.raises(ChangedFile):
        client.download(server.url(), file, size=len(CONTENT), etag='"old"')
    assert file.getvalue() == b""


def test_a_longer_file_of_unknown_size_is_begun_anew() -> None:
    assert downloaded(ranged(CONTENT), had=CONTENT + b"x", size=None) == CONTENT


def test_a_file_without_any_length_is_not_written() -> None:
    with pytest.raises(WrongContent, match="no length"):
        downloaded(endless(head("200 OK"), bytes(65536)), size=None)
