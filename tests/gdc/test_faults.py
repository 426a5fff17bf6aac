"""Each fault does on the wire what it is called, and slowness is slow."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import get_args
from urllib.parse import urlsplit

import pytest
import requests

from tests.gdc import Fault, StandIn, listed, listed_without_data
from tests.gdc.faults import Kind

SIZE = 100_000
CONTENT = bytes(number % 251 for number in range(SIZE))
PART = CONTENT[5:15]
FLIPPED = bytes(byte ^ 255 * (place in (1, 3, 5, 6, 8)) for place, byte in enumerate(PART))
RANGE = f"Content-Range: bytes 5-14/{SIZE}"
ANSWERS: Mapping[Kind, tuple[str, str, bytes | None, str]] = {
    "403": ("403", "", None, "closed"),
    "404": ("404", "", None, "closed"),
    "429": ("429", "Retry-After: 7", None, "closed"),
    "500": ("500", "", None, "closed"),
    "503": ("503", "Retry-After: 7", None, "closed"),
    "504": ("504", "text/html", None, "closed"),
    "redirect": ("302", "Location: http://127.0.0.1:9/", b"", "closed"),
    "reset": ("", "", b"", "reset"),
    "reset-mid-body": ("206", RANGE, PART[:5], "reset"),
    "cut": ("206", "Content-Length: 10", PART[:5], "closed"),
    "stall": ("206", "Content-Length: 10", PART[:5], "open"),
    "drip": ("206", "Content-Length: 10", None, "open"),
    "slow-headers": ("", "", b"", "open"),
    "empty": ("206", "Content-Length: 0", b"", "closed"),
    "html": ("200", "text/html", None, "closed"),
    "foreign-json": ("200", "application/json", None, "closed"),
    "length-too-large": ("206", "Content-Length: 1010", PART, "closed"),
    "length-too-small": ("206", "Content-Length: 5", PART, "closed"),
    "flipped": ("206", RANGE, FLIPPED, "closed"),
    "range-ignored": ("200", f"Content-Length: {SIZE}", CONTENT, "closed"),
    "wrong-content-range": ("206", f"bytes 6-15/{SIZE}", PART, "closed"),
    "wrong-total": ("206", f"bytes 5-14/{SIZE + 1}", PART, "closed"),
    "endless-body": ("206", "Transfer-Encoding: chunked", None, "open"),
    "truncated-json": ("206", "Content-Length: 5", PART[:5], "closed"),
    "203": ("203", RANGE, PART, "closed"),
    "as-html": ("206", "text/html", PART, "closed"),
    "empty-200": ("200", "Content-Length: 0", b"", "closed"),
    "slice-200": ("200", "Content-Length: 10", PART, "closed"),
}
"""Status, a part of the headers, body and end of the connection; None: another body."""


@pytest.fixture
def gdc(tmp_path: Path) -> Iterator[StandIn]:
    (tmp_path / "plain.svs").write_bytes(CONTENT)
    with StandIn([listed(tmp_path / "plain.svs")]) as gdc:
        yield gdc


def address(gdc: StandIn) -> str:
    (file,) = gdc.files
    return f"{gdc.bucket}/{file.file_id}/{file.file_name}"


def received(url: str, seconds: float) -> tuple[bytes, bytes, str]:
    """Return head and body as they came in so many seconds, and how the connection ended."""
    parts = urlsplit(url)
    data, end = b"", "open"
    with socket.create_connection((parts.hostname, parts.port or 0)) as client:
        client.sendall(
            f"GET {parts.path} HTTP/1.1\r\nHost: x\r\n"
            "Range: bytes=5-14\r\nConnection: close\r\n\r\n".encode()
        )
        until = time.monotonic() + seconds
        while end == "open" and (left := until - time.monotonic()) > 0:
            client.settimeout(left)
            try:
                chunk = client.recv(65536)
                end, data = ("open" if chunk else "closed"), data + chunk
            except ConnectionResetError:
                end = "reset"
            except TimeoutError:
                break
    head, _, body = data.partition(b"\r\n\r\n")
    return head, body, end


@pytest.mark.parametrize("kind", [*ANSWERS])
def test_each_fault_is_what_it_is_called(gdc: StandIn, kind: Kind) -> None:
    status, header, expected, ended = ANSWERS[kind]
    gdc.faults.add(Fault("", kind, retry_after=7))
    head, body, end = received(address(gdc), 0.5 if ended == "open" else 10)
    assert end == ended
    assert head.startswith(f"HTTP/1.1 {status}".encode()) or not status
    assert header.encode() in head
    assert body == expected or (expected is None and body not in (PART, CONTENT))
    assert gdc.served[-1].fault == kind


def test_no_fault_is_forgotten_here() -> None:
    assert set(get_args(Kind)) - set(ANSWERS) == {"changed-etag", "endless-page"}


def test_an_etag_can_change(gdc: StandIn) -> None:
    before = requests.head(address(gdc), timeout=9).headers["ETag"]
    gdc.faults.add(Fault("", "changed-etag"))
    assert requests.head(address(gdc), timeout=9).headers["ETag"] != before
    assert requests.get(address(gdc), headers={"If-Match": before}, timeout=9).status_code == 412


def test_endless_pages_are_full_and_the_total_grows() -> None:
    with StandIn(listed_without_data(7)) as gdc:
        gdc.faults.add(Fault("/files", "endless-page"))
        pages = [
            requests.get(f"{gdc.api}/files", params={"from": start}, timeout=9).json()["data"]
            for start in range(0, 50, 10)
        ]
    assert len({hit["id"] for page in pages for hit in page["hits"]}) == 50
    assert [page["pagination"]["total"] for page in pages] == [21, 31, 41, 51, 61]


@pytest.mark.parametrize(
    ("faults", "statuses"),
    [
        ([Fault("", "500", when="once")], [500, 200, 200]),
        ([Fault("", "500", when="third")], [200, 200, 500, 200, 200, 500]),
        ([Fault("", "500", when=2)], [500, 500, 200]),
        ([Fault("", "500", method="POST"), Fault("", "500", host="bucket")], [200]),
        ([Fault("", "500", when="once"), Fault("stat", "404", when="once")], [500, 404, 200]),
    ],
)
def test_faults_strike_when_due(gdc: StandIn, faults: list[Fault], statuses: list[int]) -> None:
    gdc.faults.add(*faults)
    for status in statuses:
        assert requests.get(f"{gdc.api}/status", timeout=9).status_code == status


def test_every_hold_ends_when_the_server_stops(gdc: StandIn) -> None:
    gdc.faults.add(Fault("", "stall", "once"), Fault("", "slow-headers"))
    with ThreadPoolExecutor(2) as clients:
        ends = [clients.submit(received, address(gdc), 20) for _ in range(2)]
        while len(gdc.served) < 2:
            time.sleep(0.01)
        begun = time.monotonic()
        gdc.stop()
    assert time.monotonic() - begun < 15
    assert "open" not in [each.result()[2] for each in ends]


def test_what_is_not_released_yet_is_listed_and_cannot_be_had(gdc: StandIn) -> None:
    (file,) = gdc.files
    addresses = (f"{gdc.api}/data/{file.file_id}", address(gdc), f"{gdc.api}/files")
    for withheld, statuses in (([file.file_id], [403, 404, 200]), ([], [200, 200, 200])):
        gdc.withhold(*withheld)
        assert [requests.get(url, timeout=9).status_code for url in addresses] == statuses


@pytest.mark.parametrize(
    ("shaping", "least"),
    [
        ({}, 0.0),
        ({"delay": 0.4}, 0.4),
        ({"rate": SIZE / 0.4}, 0.35),
        ({"link_rate": 3 * SIZE / 0.4}, 0.35),
    ],
)
def test_slowness_is_as_slow_as_it_is_set(
    gdc: StandIn, shaping: dict[str, float], least: float
) -> None:
    for name, value in shaping.items():
        setattr(gdc, name, value)
    begun = time.monotonic()
    with ThreadPoolExecutor(3) as clients:
        answers = list(clients.map(lambda url: requests.get(url, timeout=30), [address(gdc)] * 3))
    assert least <= time.monotonic() - begun < least + 20
    assert {answer.content for answer in answers} == {CONTENT}
    assert gdc.bytes_sent() == 3 * SIZE
    # Without any slowness the first may be done before the last one comes.
    assert gdc.connections_open_peak["bucket"] == 3 or not least
    gdc.clear()
    assert gdc.served == []
