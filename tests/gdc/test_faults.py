"""Each fault does on the wire what it is called, and slowness is slow."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests

from tests.gdc import Fault, Listed, StandIn, listed, listed_without_data
from tests.gdc.faults import Kind

SIZE = 100_000


@pytest.fixture
def file(tmp_path: Path) -> Listed:
    path = tmp_path / "plain.svs"
    path.write_bytes(bytes(number % 251 for number in range(SIZE)))
    return listed(path)


@pytest.fixture
def gdc(file: Listed) -> Iterator[StandIn]:
    with StandIn([file]) as gdc:
        yield gdc


@pytest.fixture
def http() -> Iterator[requests.Session]:
    with requests.Session() as session:
        yield session


def data(gdc: StandIn) -> str:
    return f"{gdc.api}/data/{gdc.files[0].file_id}"


def content(gdc: StandIn) -> bytes:
    path = gdc.files[0].path
    assert path is not None
    return path.read_bytes()


def received(url: str, seconds: float = 2.0) -> tuple[bytes, bytes, str]:
    """Head and body as they came over a socket of its own, and how it ended."""
    parts = urlsplit(url)
    got, ended = b"", "open"
    with socket.create_connection((parts.hostname, parts.port or 0), timeout=seconds) as client:
        client.sendall(f"GET {parts.path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        until = time.monotonic() + seconds
        while time.monotonic() < until and ended == "open":
            try:
                chunk = client.recv(65536)
            except ConnectionResetError:
                ended = "reset"
            except TimeoutError:
                break
            else:
                got += chunk
                ended = "open" if chunk else "closed"
    head, _, body = got.partition(b"\r\n\r\n")
    return head, body, ended


@pytest.mark.parametrize("kind", ["403", "404", "429", "500", "503", "504"])
def test_an_error_comes_with_its_status(gdc: StandIn, http: requests.Session, kind: Kind) -> None:
    gdc.faults.add(Fault("/data/", kind, retry_after=7))
    answer = http.get(data(gdc))
    assert answer.status_code == int(kind)
    assert answer.headers.get("Retry-After") == ("7" if kind in ("429", "503") else None)
    assert gdc.served[-1].fault == kind


def test_the_bucket_words_errors_in_xml(gdc: StandIn, http: requests.Session) -> None:
    gdc.faults.add(Fault("", "503", host="bucket", retry_after=None))
    answer = http.get(f"{gdc.bucket}/x/y")
    assert "<Code>SlowDown</Code>" in answer.text
    assert "Retry-After" not in answer.headers
    assert http.get(f"{gdc.api}/status").ok


def test_faults_strike_when_they_are_due(gdc: StandIn, http: requests.Session) -> None:
    def statuses(count: int) -> list[int]:
        return [http.get(f"{gdc.api}/status").status_code for _ in range(count)]

    gdc.faults.add(Fault("status", "500", when="once"))
    assert statuses(3) == [500, 200, 200]
    gdc.faults.clear()
    gdc.faults.add(Fault("status", "500", when="third"))
    assert statuses(6) == [200, 200, 500, 200, 200, 500]
    gdc.faults.clear()
    gdc.faults.add(Fault("status", "500", when=2))
    assert statuses(3) == [500, 500, 200]
    gdc.faults.clear()
    gdc.faults.add(Fault("status", "500", method="POST"))
    assert statuses(1) == [200]
    gdc.faults.clear()
    gdc.faults.add(Fault("status", "500", when="once"), Fault("stat", "404", when="once"))
    assert statuses(3) == [500, 404, 200]


def test_a_reset_comes_before_any_header(gdc: StandIn) -> None:
    gdc.faults.add(Fault("/data/", "reset"))
    assert received(data(gdc)) == (b"", b"", "reset")
    assert gdc.served[-1].status == 0


def test_a_reset_mid_body_comes_after_some_of_it(gdc: StandIn) -> None:
    gdc.faults.add(Fault("/data/", "reset-mid-body", after=1000))
    head, body, ended = received(data(gdc))
    assert head.startswith(b"HTTP/1.1 200 ")
    assert (body, ended) == (content(gdc)[:1000], "reset")


def test_a_cut_body_ends_in_an_orderly_close(gdc: StandIn) -> None:
    gdc.faults.add(Fault("/data/", "cut"))
    head, body, ended = received(data(gdc))
    assert f"Content-Length: {SIZE}".encode() in head
    assert (len(body), ended) == (SIZE // 2, "closed")
    assert gdc.bytes_sent("/data/") == SIZE // 2


def test_a_stall_lasts_until_the_client_goes(gdc: StandIn) -> None:
    gdc.faults.add(Fault("/data/", "stall", after=10))
    _, body, ended = received(data(gdc), seconds=0.5)
    assert (body, ended) == (content(gdc)[:10], "open")


def test_a_stall_ends_when_its_hold_is_over(gdc: StandIn) -> None:
    gdc.faults.add(Fault("/data/", "stall", after=10, hold=0.2))
    assert received(data(gdc))[2] == "closed"


def test_a_drip_comes_byte_by_byte(gdc: StandIn) -> None:
    gdc.faults.add(Fault("/data/", "drip"))
    _, body, ended = received(data(gdc), seconds=1.0)
    assert 2 <= len(body) <= 7
    assert ended == "open"


def test_slow_headers_come_byte_by_byte(gdc: StandIn) -> None:
    gdc.faults.add(Fault("status", "slow-headers"))
    head, _, ended = received(f"{gdc.api}/status", seconds=1.0)
    assert 2 <= len(head) <= 7
    assert ended == "open"


def test_slow_headers_get_through_in_the_end(gdc: StandIn, http: requests.Session) -> None:
    gdc.faults.add(Fault("status", "slow-headers", interval=0.001))
    assert http.get(f"{gdc.api}/status").json()["status"] == "OK"


def test_an_empty_body_has_the_right_status(gdc: StandIn, http: requests.Session) -> None:
    gdc.faults.add(Fault("/data/", "empty"))
    answer = http.get(data(gdc), headers={"Range": "bytes=0-9"})
    assert (answer.status_code, answer.content) == (206, b"")
    assert answer.headers["Content-Length"] == "0"


def test_html_and_foreign_json_come_under_200(gdc: StandIn, http: requests.Session) -> None:
    gdc.faults.add(Fault("/data/", "html"), Fault("status", "foreign-json"))
    page, json = http.get(data(gdc)), http.get(f"{gdc.api}/status")
    assert (page.status_code, json.status_code) == (200, 200)
    assert page.text.startswith("<!DOCTYPE html>")
    assert "data_release" not in json.json()


def test_the_length_can_be_too_large(gdc: StandIn) -> None:
    gdc.faults.add(Fault("/data/", "length-too-large"))
    head, body, ended = received(data(gdc))
    assert f"Content-Length: {SIZE + 1000}".encode() in head
    assert (len(body), ended) == (SIZE, "closed")


def test_the_length_can_be_too_small(gdc: StandIn) -> None:
    gdc.faults.add(Fault("/data/", "length-too-small"))
    head, body, ended = received(data(gdc), seconds=0.5)
    assert f"Content-Length: {SIZE - 1000}".encode() in head
    assert (len(body), ended) == (SIZE, "open")


def test_flipped_bytes_keep_the_length(gdc: StandIn, http: requests.Session) -> None:
    gdc.faults.add(Fault("/data/", "flipped"))
    body = http.get(data(gdc)).content
    pairs = list(zip(body, content(gdc), strict=True))
    assert sum(got != right for got, right in pairs) == 5


@pytest.mark.parametrize(
    ("kind", "status", "size", "told"),
    [
        ("203", 203, 10, True),
        ("as-html", 206, 10, True),
        ("empty-200", 200, 0, False),
        ("slice-200", 200, 10, False),
    ],
)
def test_a_part_can_come_in_other_clothes(
    gdc: StandIn, http: requests.Session, kind: Kind, status: int, size: int, told: bool
) -> None:
    gdc.faults.add(Fault("/data/", kind))
    answer = http.get(data(gdc), headers={"Range": "bytes=5-14"})
    assert (answer.status_code, answer.content) == (status, content(gdc)[5 : 5 + size])
    assert ("Content-Range" in answer.headers) == told
    is_page = answer.headers["Content-Type"].startswith("text/html")
    assert is_page == (kind == "as-html")


def test_a_releases_first_day_lists_what_cannot_be_had_yet(
    gdc: StandIn, http: requests.Session
) -> None:
    file = gdc.files[0]
    at_bucket = f"{gdc.bucket}/{file.file_id}/{file.file_name}"
    gdc.withhold(file.file_id)
    refused = http.get(data(gdc))
    assert (refused.status_code, http.get(at_bucket).status_code) == (403, 404)
    assert f"{file.file_name} does not allow read access" in refused.json()["message"]
    assert http.get(f"{gdc.api}/files").json()["data"]["pagination"]["total"] == 1
    gdc.withhold()
    assert http.get(data(gdc)).ok
    assert http.get(at_bucket).ok


def test_a_range_can_be_ignored(gdc: StandIn, http: requests.Session) -> None:
    gdc.faults.add(Fault("/data/", "range-ignored"))
    answer = http.get(data(gdc), headers={"Range": "bytes=0-9"})
    assert (answer.status_code, len(answer.content)) == (200, SIZE)


def test_the_content_range_can_be_wrong(gdc: StandIn, http: requests.Session) -> None:
    gdc.faults.add(
        Fault("/data/", "wrong-content-range", when="once"),
        Fault("/data/", "wrong-total", when="once"),
    )
    answers = [http.get(data(gdc), headers={"Range": "bytes=5-9"}) for _ in range(3)]
    assert [answer.headers["Content-Range"] for answer in answers] == [
        f"bytes 6-10/{SIZE}",
        f"bytes 5-9/{SIZE + 1}",
        f"bytes 5-9/{SIZE}",
    ]
    assert {answer.content for answer in answers} == {content(gdc)[5:10]}


def test_an_etag_can_change(gdc: StandIn, http: requests.Session) -> None:
    url = f"{gdc.bucket}/{gdc.files[0].file_id}/{gdc.files[0].file_name}"
    etag = http.head(url).headers["ETag"]
    gdc.faults.add(Fault("", "changed-etag", host="bucket"))
    assert http.get(url).headers["ETag"] not in (None, etag)
    assert http.get(url, headers={"If-Match": etag}).status_code == 412


def test_a_redirect_leads_elsewhere(gdc: StandIn, http: requests.Session) -> None:
    gdc.faults.add(Fault("/data/", "redirect", to="http://127.0.0.1:9/x"))
    answer = http.get(data(gdc), allow_redirects=False)
    assert (answer.status_code, answer.headers["Location"]) == (302, "http://127.0.0.1:9/x")


def test_an_endless_body_goes_on_until_the_client_leaves(
    gdc: StandIn, http: requests.Session
) -> None:
    gdc.faults.add(Fault("status", "endless-body"))
    with http.get(f"{gdc.api}/status", stream=True) as answer:
        assert answer.headers["Transfer-Encoding"] == "chunked"
        assert len(answer.raw.read(5_000_000)) == 5_000_000


def test_truncated_json_cannot_be_read(gdc: StandIn, http: requests.Session) -> None:
    gdc.faults.add(Fault("status", "truncated-json"))
    answer = http.get(f"{gdc.api}/status")
    assert answer.status_code == 200
    with pytest.raises(requests.JSONDecodeError):
        answer.json()


def test_endless_pages_are_full_and_the_total_grows(http: requests.Session) -> None:
    with StandIn(listed_without_data(7)) as gdc:
        gdc.faults.add(Fault("/files", "endless-page"))
        seen: set[str] = set()
        totals = []
        for start in range(0, 50, 10):
            page = http.get(f"{gdc.api}/files", params={"from": start}).json()["data"]
            assert len(page["hits"]) == 10
            seen |= {hit["id"] for hit in page["hits"]}
            totals.append(page["pagination"]["total"])
    assert len(seen) == 50
    assert totals == sorted(set(totals))
    assert totals[-1] > 50


def test_every_hold_ends_when_the_server_stops(file: Listed) -> None:
    gdc = StandIn([file])
    gdc.start()
    gdc.delay = 0.01
    gdc.faults.add(Fault("/data/", "stall"), Fault("status", "drip"))
    urls = [data(gdc), f"{gdc.api}/status"]
    ends: list[str] = []
    clients = [
        threading.Thread(target=lambda url=url: ends.append(received(url, 20)[2])) for url in urls
    ]
    for client in clients:
        client.start()
    while len(gdc.served) < 2:
        time.sleep(0.01)
    time.sleep(0.1)
    start = time.monotonic()
    gdc.stop()
    for client in clients:
        client.join()
    assert time.monotonic() - start < 10
    assert len(ends) == 2
    assert "open" not in ends


def test_a_delay_comes_before_each_answer(gdc: StandIn, http: requests.Session) -> None:
    gdc.delay, gdc.tile_delay = 0.1, 1.5
    start = time.monotonic()
    http.get(f"{gdc.api}/status")
    between = time.monotonic()
    http.get(f"{gdc.tiles}/metadata/{gdc.files[0].file_id}")
    assert 0.1 <= between - start < 1.5
    assert time.monotonic() - between >= 1.6


def seconds_for(gdc: StandIn, clients: int) -> float:
    def fetch() -> None:
        assert len(requests.get(data(gdc), timeout=30).content) == SIZE

    threads = [threading.Thread(target=fetch) for _ in range(clients)]
    start = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.monotonic() - start


def test_a_rate_holds_for_each_connection(gdc: StandIn) -> None:
    gdc.rate = SIZE
    assert 0.9 <= seconds_for(gdc, 3) < 2.8


def test_a_link_rate_holds_for_all_connections_together(gdc: StandIn) -> None:
    gdc.link_rate = SIZE / 0.5
    assert seconds_for(gdc, 3) >= 1.4


def test_connections_beyond_the_limit_are_reset(gdc: StandIn) -> None:
    gdc.connection_limit = 2
    sessions = [requests.Session() for _ in range(3)]
    for session in sessions[:2]:
        assert session.get(f"{gdc.api}/status").ok
    with pytest.raises(requests.ConnectionError):
        sessions[2].get(f"{gdc.api}/status")
    gdc.connection_limit = None
    assert sessions[2].get(f"{gdc.api}/status").ok
    assert gdc.connections_open_peak["api"] == 3
    for session in sessions:
        session.close()


def test_the_report_can_be_asked_and_cleared(gdc: StandIn, http: requests.Session) -> None:
    http.get(data(gdc), headers={"Range": "bytes=0-99"})
    (record,) = gdc.requests(r"/data/")
    assert (record.host, record.method, record.status) == ("api", "GET", 206)
    assert (record.range, record.bytes_sent, record.fault) == ("bytes=0-99", 100, None)
    assert gdc.bytes_sent() == 100
    gdc.clear()
    assert gdc.served == []
