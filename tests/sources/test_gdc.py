"""The GDC's answers, as they are and as they should not be, to slides."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from uuid import UUID

import pytest

from tcgamirror.model.errors import WrongContent
from tcgamirror.model.slide import Kind, Slide
from tcgamirror.sources import gdc

EXAMPLES = Path(__file__).resolve().parents[3] / "shared" / "data" / "gdc"
API = "https://api.example"
STATUS: object = {"data_release": "Data Release 45.0 - December 04, 2025", "status": "OK"}


@dataclass
class Scripted:
    """A client that answers by a script and keeps the requests."""

    pages: Callable[[int, int], object]
    status: object = field(default_factory=lambda: STATUS)
    requests: list[Mapping[str, object]] = field(default_factory=list)

    def json(self, url: str, *, payload: Mapping[str, object] | None = None, limit: int) -> object:
        assert limit > 0
        if url == f"{API}/status" and payload is None:
            return self.status
        assert payload is not None
        self.requests.append(payload)
        if url == f"{API}/files":
            start, size = payload["from"], payload["size"]
            assert isinstance(start, int) and isinstance(size, int)
            return self.pages(start, size)
        assert url == f"{API}/files/versions"
        ids = payload["ids"]
        assert isinstance(ids, list)
        return self.pages(len(self.requests), len(ids))


def hit(number: int, **more: object) -> dict[str, object]:
    file_id = str(UUID(int=number))
    name = f"TCGA-22-{number:04d}-01Z-00-DX1.{file_id}.svs"
    return {"file_id": file_id, "file_name": name, **more}


def page(hits: list[dict[str, object]], total: object) -> dict[str, object]:
    return {"data": {"hits": hits, "pagination": {"total": total}}, "warnings": {}}


def serving(*hits: dict[str, object], at_most: int = 10_000) -> Scripted:
    return Scripted(
        lambda start, size: page(list(hits[start : start + min(size, at_most)]), len(hits))
    )


def read_one(**more: object) -> Slide:
    """The slide of a hit with these fields."""
    (slide,) = gdc.read_listing(serving(hit(1, **more)), API).slides
    return slide


@pytest.mark.parametrize(("at_most", "starts"), [(10_000, [0, 3, 6]), (2, [0, 2, 4, 6])])
def test_all_pages_are_read_in_order(at_most: int, starts: list[int]) -> None:
    server = serving(*map(hit, range(1, 8)), at_most=at_most)
    progress: list[tuple[int, int]] = []
    listing = gdc.read_listing(server, API, 3, lambda done, total: progress.append((done, total)))
    assert listing.release == "Data Release 45.0 - December 04, 2025"
    assert [slide.file_id for slide in listing.slides] == [str(UUID(int=n)) for n in range(1, 8)]
    assert progress == [(count, 7) for count in (*starts[1:], 7)]
    assert sorted(str(request["from"]) for request in server.requests) == list(map(str, starts))
    assert {request["sort"] for request in server.requests} == {"file_id:asc"}
    filters = json.dumps(server.requests[0]["filters"])
    for word in ("TCGA", "Slide Image", "Diagnostic Slide", "Tissue Slide", "open"):
        assert f'"{word}"' in filters
    assert "md5sum" in str(server.requests[0]["fields"]).split(",")


def test_pages_are_requested_at_the_same_time_and_few_in_advance() -> None:
    hits = list(map(hit, range(1, 41)))
    together = threading.Barrier(gdc.PAGES_AT_ONCE)
    starts: list[int] = []

    def pages(start: int, size: int) -> object:
        starts.append(start)
        if start:
            together.wait(10)
        # The later of these pages arrive first.
        time.sleep(0.01 * (-start % 3))
        return page(hits[start : start + size], len(hits))

    slides = gdc.stream_slides(Scripted(pages), API, iter, page_size=1)
    assert next(slides).file_id == hits[0]["file_id"]
    assert next(slides).file_id == hits[1]["file_id"]
    assert len(starts) <= 1 + 3 * gdc.PAGES_AT_ONCE
    assert [slide.file_id for slide in slides] == [each["file_id"] for each in hits[2:]]


def test_a_short_first_page_sets_the_size_of_the_others() -> None:
    hits = list(map(hit, range(1, 8)))
    server = Scripted(lambda start, size: page(hits[start : start + (size if start else 2)], 7))
    slides = gdc.read_listing(server, API, page_size=3).slides
    assert [slide.file_id for slide in slides] == [each["file_id"] for each in hits]


def test_after_an_error_no_page_is_requested_and_no_thread_stays() -> None:
    """Though the error is kept, whose traceback holds what the listing was read with."""
    before = set(threading.enumerate())
    together = threading.Barrier(gdc.PAGES_AT_ONCE)

    def pages(start: int, _size: int) -> object:
        if start:
            together.wait(10)
            # The pages that come next in order are still under way.
            time.sleep(0.1 * (start != 1))
        return page([hit(start + 1)], 40) if not start else None

    server = Scripted(pages)
    with pytest.raises(WrongContent, match="list of hits") as error:
        gdc.read_listing(server, API, page_size=1)
    assert len(server.requests) == 1 + gdc.PAGES_AT_ONCE
    assert not set(threading.enumerate()) - before, error


def test_a_listing_that_changed_is_left_before_it_is_read_again() -> None:
    before = threading.active_count()
    threads: list[int] = []

    def pages(start: int, _size: int) -> object:
        if not start:
            threads.append(threading.active_count())
        changed = len(threads) == 1 and start
        return page([hit(start + 1)], 41 if changed else 40)

    assert len(gdc.read_listing(Scripted(pages), API, page_size=1).slides) == 40
    assert threads == [before, before]


def test_every_field_of_a_hit_becomes_the_slides() -> None:
    samples = [
        {"sample_type": "Solid Tissue Normal", "submitter_id": "TCGA-22-0001-11A"},
        {"sample_type": " Primary\x07 Tumor ", "submitter_id": "TCGA-22-0001-01Z"},
    ]
    case = {
        "submitter_id": "TCGA-22-0001",
        "primary_site": "Bronchus and lung",
        "disease_type": "d" * 600,
        "project": {"project_id": "TCGA-LUSC"},
        "samples": samples,
    }
    slide = read_one(
        md5sum="DE53882038934CF5103BF32A33EABFA1",
        file_size=5,
        state="released",
        experimental_strategy="Tissue Slide",
        updated_datetime="2024-01-01T00:00:00",
        version="2",
        data_release="32.0 - 45.0",
        cases=[{"submitter_id": "TCGA-99-0009"}, case],
    )
    assert (slide.md5, slide.size) == ("de53882038934cf5103bf32a33eabfa1", 5)
    assert slide.kind is Kind.TISSUE
    assert (slide.project_id, slide.primary_site) == ("TCGA-LUSC", "Bronchus and lung")
    assert slide.disease_type == "d" * 500
    assert (slide.sample_type, slide.case_barcode) == ("Primary Tumor", "TCGA-22-0001")
    assert slide.slide_barcode == "TCGA-22-0001-01Z-00-DX1"
    assert (slide.version, slide.data_release) == ("2", "32.0 - 45.0")


@pytest.mark.parametrize(
    "cases",
    [
        None,
        [],
        {},
        "x",
        [None],
        [{}],
        [{"samples": None}],
        [{"project": 7, "samples": [[]]}],
        [{"project": {"project_id": "../../etc"}}],
    ],
)
def test_any_nested_part_may_be_missing(cases: object) -> None:
    slide = read_one(cases=cases, md5sum=7, file_size=True, state=["x"], experimental_strategy=None)
    assert (slide.md5, slide.size, slide.state, slide.project_id) == (None, None, None, None)
    assert (slide.kind, slide.sample_type) == (Kind.DIAGNOSTIC, "Primary Tumor")
    assert slide.case_barcode == "TCGA-22-0001"


def test_a_slide_that_hangs_off_its_sample_is_found() -> None:
    sample = {"sample_type": "Metastatic", "slides": [{"submitter_id": "TCGA-22-0001-01Z-00-DX1"}]}
    slide = read_one(cases=[{"samples": [{"sample_type": "Primary Tumor"}, sample]}])
    assert slide.sample_type == "Metastatic"


def test_a_file_of_another_type_is_left_out() -> None:
    server = serving(hit(9, file_name="notes.txt"), hit(1))
    assert len(gdc.read_listing(server, API).slides) == 1


@pytest.mark.parametrize(
    "bad",
    [
        {"file_name": "a.svs"},
        {"file_id": "7", "file_name": "a.svs"},
        hit(1, file_name=None),
        hit(1, file_name="../a.svs"),
        hit(1, file_name="/etc/a.svs"),
        hit(1, file_name=".svs"),
        hit(1, file_name="a\n.svs"),
        hit(1, file_name="a" * 300 + ".svs"),
    ],
)
def test_an_unsafe_hit_is_refused(bad: dict[str, object]) -> None:
    with pytest.raises(WrongContent) as caught:
        gdc.read_listing(serving(hit(2), bad), API)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("pages", "words"),
    [
        (lambda _start, _size: page([], 0), "no TCGA slide at all"),
        (lambda _start, _size: page([hit(1)], 5), "twice"),
        (
            lambda start, _size: page([] if start else [hit(1)], 5),
            "lists 1 files, but has a total of 5",
        ),
        (lambda _start, _size: page([hit(1)], 0), "more files than its total of 0"),
        (lambda _start, _size: page([hit(1), hit(2)], 2), "more files than the 1 requested"),
        (lambda _start, _size: page([hit(1)], 10**9), "invalid total"),
        (lambda _start, _size: page([hit(1)], True), "invalid total"),
        (lambda _start, _size: page([hit(1)], None), "invalid total"),
        (lambda start, _size: page([hit(start + 1)], 5 + start), "changed twice"),
        (lambda _start, _size: {"data": {"hits": "x"}}, "expected a list of hits"),
        (lambda _start, _size: {"data": {"hits": [7]}}, "expected a list of hits"),
        (lambda _start, _size: ["x"], "expected a list of hits"),
        (lambda _start, _size: None, "expected a list of hits"),
    ],
)
def test_inconsistent_pages_are_refused(pages: Callable[[int, int], object], words: str) -> None:
    with pytest.raises(WrongContent, match=words):
        gdc.read_listing(Scripted(pages), API, page_size=1)


def test_an_old_server_without_a_release_is_named_by_its_tag() -> None:
    server = Scripted(lambda _start, _size: None, status={"status": "OK", "tag": "1.2.0"})
    assert gdc.read_release(server, API) == "API 1.2.0"


@pytest.mark.parametrize("status", [[], "OK", None, {"name": "another"}, {"status": "OK"}])
def test_another_sites_answer_is_no_release(status: object) -> None:
    with pytest.raises(WrongContent, match=rf"^api\.example/status .*{re.escape(repr(status))}$"):
        gdc.read_release(Scripted(lambda _start, _size: None, status=status), API)


def test_versions_are_asked_for_500_at_once() -> None:
    old, new = str(UUID(int=1)), str(UUID(int=2))
    rows = [{"id": old, "latest_id": new}, {"id": "x"}, None]
    server = Scripted(lambda _start, _size: rows)
    assert gdc.read_latest_versions(server, API, [old] * 1001) == {old: new}
    assert [str(each["ids"]).count(old) for each in server.requests] == [500, 500, 1]
    with pytest.raises(WrongContent, match="list of versions"):
        gdc.read_latest_versions(Scripted(lambda _start, _size: {}), API, [old])


def test_the_documented_examples_are_understood() -> None:
    if not EXAMPLES.exists():
        pytest.skip("../shared/data holds no examples of the GDC's answers")

    def example(name: str) -> object:
        return json.loads((EXAMPLES / name).read_text())

    status = Scripted(lambda _start, _size: None, status=example("gdc-docs-status.json"))
    assert gdc.read_release(status, API) == "API 1.2.0"
    versions = Scripted(lambda _start, _size: example("gdc-docs-array.json"))
    assert len(gdc.read_latest_versions(versions, API, ["x"])) == 2


def test_no_sentence_tells_the_credentials_of_an_address() -> None:
    class Other:
        def json(self, url: str, **_: object) -> object:
            assert url.startswith("https://me:secret@api.example/")
            return []

    api = "https://me:secret@api.example"
    for ask in (gdc.read_release, gdc.read_listing, partial(gdc.read_first_slides, count=1)):
        with pytest.raises(WrongContent) as refused:
            ask(Other(), api)
        assert "api.example/" in str(refused.value) and "secret" not in str(refused.value)
