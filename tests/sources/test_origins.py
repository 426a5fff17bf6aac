"""Which origin is asked first, and what is held against one."""

from __future__ import annotations

from dataclasses import replace
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
    WrongContent,
)
from tcgamirror.model.slide import Slide, Target
from tcgamirror.net.client import HttpClient
from tcgamirror.sources.origins import FAILURE_SECONDS, Origins
from tests.gdc import Fault, Listed, StandIn, listed
from tests.gdc.faults import Kind
from tests.support.fetching import SHORT, At, by_range, made, slide_of
from tests.support.slides import SlideSpec, make_slide

SMALL = SlideSpec(width=300, height=200, downsamples=(1,), thumbnail=False)
WHOLE = Target(mpp=None, max_size=300)
DOWN = Unreachable("down")
IGNORED = RangeUnsupported("200")
IDS = [f"{number:08x}-0000-4000-8000-000000000000" for number in range(4)]
OF_THE_ORIGIN = (
    *(Unreachable, Timeout, ServerError, Truncated),
    *(WrongContent, RangeMismatch, TooLong, Redirected),
)
OF_ONE_SLIDE = (NotFound, Refused, SizeMismatch, ChangedFile)
FIRST, LAST, ALONE = ["bucket", "gdc"], ["gdc", "bucket"], ["gdc"]


def names(origins: Origins, *, ranged: bool = True) -> list[str]:
    return [origin.name for origin in origins.candidates(ranged=ranged)]


def test_each_origin_has_its_own_form_of_address_and_no_name_leads_out_of_it() -> None:
    slide = Slide("0443c67f-0000-45d1-b61d-959d455e3a99", "TCGA ü?#.svs")
    bucket, gdc = Origins("https://gdc.example", "https://bucket.example").candidates(ranged=True)
    assert gdc.url(slide) == "https://gdc.example/data/0443c67f-0000-45d1-b61d-959d455e3a99"
    assert bucket.url(slide) == (
        "https://bucket.example/0443c67f-0000-45d1-b61d-959d455e3a99/TCGA%20%C3%BC%3F%23.svs"
    )
    assert names(Origins("https://gdc.example", None)) == ALONE


@pytest.mark.parametrize(
    ("events", "order", "later", "report"),
    [
        ([], FIRST, FIRST, None),
        *(([error("why")], LAST, FIRST, "failed: why") for error in OF_THE_ORIGIN),
        *(([error("why")], FIRST, FIRST, None) for error in OF_ONE_SLIDE),
        (["part"], FIRST, FIRST, "honours Range"),
        (["whole"], FIRST, FIRST, "answers"),
        ([DOWN, "part"], FIRST, FIRST, "honours Range"),
        ([IGNORED], ALONE, ALONE, "ignores Range"),
        (["part", IGNORED], LAST, FIRST, "failed: 200"),
    ],
)
def test_the_order_follows_from_the_answers(
    events: list[NetworkError | str], order: list[str], later: list[str], report: str | None
) -> None:
    now = 1000.0
    origins = Origins("https://gdc.example", "https://bucket.example", lambda: now)
    bucket, gdc = origins.candidates(ranged=False)
    for event in events:
        if isinstance(event, str):
            origins.record_success(bucket, ranged=event == "part")
        else:
            origins.record_failure(bucket, event)
    assert origins.report() == ({} if report is None else {"bucket": report})
    now += FAILURE_SECONDS - 1
    assert names(origins) == order
    assert len(names(origins, ranged=False)) == 2
    now += 1
    assert names(origins) == later
    origins.record_failure(bucket, DOWN)
    origins.record_failure(gdc, DOWN)
    assert names(origins, ranged=False) == FIRST


# With real servers ---------------------------------------------------------------


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Listed]:
    path = make_slide(tmp_path_factory.mktemp("origins") / "slide.svs", SMALL)
    return [listed(path, file_id=file_id) for file_id in IDS]


def fetched(gdc: StandIn, files: list[Listed], origins: Origins, work: Path) -> None:
    with HttpClient(timeouts=SHORT) as client:
        for file in files:
            made(by_range(gdc, client, work, origins), slide_of(file), WHOLE)


def test_an_ignored_range_is_learned_once(files: list[Listed], tmp_path: Path) -> None:
    with StandIn(files, bucket_ranges=False) as gdc:
        fetched(gdc, files, Origins(gdc.api, gdc.bucket), tmp_path)
        assert len(gdc.requests(host="bucket")) == 1
        assert gdc.requests(host="api")


@pytest.mark.parametrize("kind", ["empty-200", "slice-200", "html"])
def test_no_other_200_tells_that_range_is_ignored(tmp_path: Path, kind: Kind) -> None:
    path = make_slide(tmp_path / "slide.svs", replace(SMALL, width=900, height=600))
    files = [listed(path, file_id=file_id) for file_id in IDS]
    now = 0.0
    with StandIn(files) as gdc:
        gdc.faults.add(Fault("", kind, host="bucket"))
        origins = Origins(gdc.api, gdc.bucket, lambda: now)
        fetched(gdc, files[:1], origins, tmp_path)
        assert origins.report()["bucket"].startswith("failed: ")
        gdc.faults.clear()
        gdc.clear()
        now = FAILURE_SECONDS
        fetched(gdc, files[1:], origins, tmp_path)
        assert gdc.requests(host="api") == []
        assert {record.status for record in gdc.requests(host="bucket")} == {206}
    assert origins.report()["bucket"] == "honours Range"


def test_one_whole_answer_beside_a_part_does_not_turn_range_off_for_the_run(tmp_path: Path) -> None:
    """A slide's begin and its end are asked for at the same time, before any slide is done."""
    path = make_slide(tmp_path / "slide.svs", replace(SMALL, width=900, height=600))
    files = [listed(path, file_id=file_id) for file_id in IDS]
    with StandIn(files) as gdc:
        gdc.faults.add(At(files[0].file_id, "range-ignored", nth=2))
        origins = Origins(gdc.api, None)
        with pytest.raises(RangeUnsupported, match="whole files only"):
            fetched(gdc, files[:1], origins, tmp_path)
        assert sorted(record.status for record in gdc.served) == [200, 206]
        fetched(gdc, files[1:], origins, tmp_path)
        assert origins.report() == {"gdc": "honours Range"}


def test_a_failing_bucket_rests(files: list[Listed], tmp_path: Path) -> None:
    now = 0.0
    with StandIn(files) as gdc:
        gdc.switch("bucket", "503")
        origins = Origins(gdc.api, gdc.bucket, lambda: now)
        gdc.faults.add(Fault("", "500", host="bucket"))
        fetched(gdc, files, origins, tmp_path)
        assert len(gdc.requests(host="bucket")) == SHORT.tries
        assert "in trouble (500)" in origins.report()["bucket"]
        assert origins.report()["gdc"] == "honours Range"
        gdc.faults.clear()
        gdc.switch("bucket", "up")
        gdc.clear()
        now = FAILURE_SECONDS
        fetched(gdc, files, origins, tmp_path)
        assert gdc.requests(host="api") == []


def test_a_slide_missing_from_the_bucket(files: list[Listed], tmp_path: Path) -> None:
    with StandIn(files) as gdc:
        gdc.faults.add(Fault(files[0].file_id, "404", host="bucket"))
        fetched(gdc, files, Origins(gdc.api, gdc.bucket), tmp_path)
        assert {record.path for record in gdc.requests(host="api")} == {f"/data/{files[0].file_id}"}


@pytest.mark.parametrize(
    ("at_bucket", "at_gdc", "error"),
    [
        ("500", "404", ServerError),
        ("404", "500", ServerError),
        ("404", "403", Refused),
        ("500", "range-ignored", ServerError),
        ("range-ignored", "range-ignored", RangeUnsupported),
    ],
)
def test_of_two_failures_the_one_that_may_pass_is_raised(
    files: list[Listed], tmp_path: Path, at_bucket: str, at_gdc: str, error: type[NetworkError]
) -> None:
    with StandIn(files) as gdc:
        gdc.faults.add(Fault("", at_bucket, host="bucket"))  # type: ignore[arg-type]
        gdc.faults.add(Fault("", at_gdc, host="api"))  # type: ignore[arg-type]
        with pytest.raises(error):
            fetched(gdc, files[:1], Origins(gdc.api, gdc.bucket), tmp_path)
