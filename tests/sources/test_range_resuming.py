"""The source `range` cut off within a slide: what was had is kept, never mixed, never refetched."""

from __future__ import annotations

import os
import random
import re
import tempfile
import threading
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tcgamirror.imaging.decode import Pixels
from tcgamirror.model.byteranges import Span, SpanSet
from tcgamirror.model.errors import (
    BadSlide,
    ChangedFile,
    DiskFull,
    Interrupted,
    NetworkError,
    Truncated,
)
from tcgamirror.model.slide import Slide, Target
from tcgamirror.net.client import HttpClient
from tcgamirror.net.throttle import Meter
from tcgamirror.sources.origins import Origin
from tcgamirror.sources.range import MAX_PART_BYTES, PARALLEL_REQUESTS, RemoteFile
from tcgamirror.sources.sparse_file import SparseFile
from tests.gdc import Listed, StandIn, listed
from tests.gdc.faults import Kind
from tests.support.fetching import SHORT, At, by_range, made, origins_of, overlaps, ranges, slide_of
from tests.support.mirrors import until
from tests.support.raw_server import CONTENT, RawServer, Script, ranged
from tests.support.slides import SlideSpec, make_slide

# Large enough for its base to come in four parts at once.
SPEC = SlideSpec(width=4803, height=3609, downsamples=(1, 4), offsets="shuffled")
BASE = Target(mpp=None, max_size=4803)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Listed:
    return listed(make_slide(tmp_path_factory.mktemp("range") / "slide.svs", SPEC))


@pytest.fixture(scope="module")
def right(file: Listed, tmp_path_factory: pytest.TempPathFactory) -> Pixels:
    with StandIn([file]) as gdc, HttpClient(timeouts=SHORT) as client:
        source = by_range(gdc, client, tmp_path_factory.mktemp("right"))
        return made(source, slide_of(file), BASE).pixels


def part_of(work: Path, file: Listed) -> Path:
    return work / file.file_id / "range" / "slide.part"


def available(work: Path, file: Listed) -> SpanSet:
    identity = f"{file.file_id} {file.md5}"
    with SparseFile.open(part_of(work, file), identity=identity, size=file.size) as partial:
        return partial.available


def no_threads_of(name: str) -> bool:
    return not [thread for thread in threading.enumerate() if thread.name.startswith(name)]


@pytest.mark.parametrize("kind", ["cut", "stall", "503", "403"])
@pytest.mark.parametrize("nth", [1, 2, 6])
def test_a_fetch_that_failed_is_resumed_where_it_stopped(
    tmp_path: Path, client: HttpClient, file: Listed, right: Pixels, kind: Kind, nth: int
) -> None:
    with StandIn([file]) as gdc:
        gdc.faults.add(At("/data/", kind, nth=nth, alone=False))
        source = by_range(gdc, client, tmp_path, origins_of(gdc, bucket=False))
        with pytest.raises(NetworkError):
            made(source, slide_of(file), BASE)
        assert no_threads_of("range")
        kept = available(tmp_path, file)
        gdc.faults.clear()
        gdc.clear()
        assert np.array_equal(made(source, slide_of(file), BASE).pixels, right)
        spans = ranges(gdc.served)
    assert kept.total > 0 or nth == 1
    assert overlaps([*kept, *spans]) == []


def test_an_interrupted_fetch_is_resumed_and_ends_soon(
    tmp_path: Path, client: HttpClient, file: Listed, right: Pixels
) -> None:
    stop = threading.Event()
    with (
        StandIn([file]) as gdc,
        HttpClient(timeouts=SHORT, stop=stop) as stopping,
        ThreadPoolExecutor(1) as pool,
    ):
        gdc.rate = 100_000
        fetching = pool.submit(made, by_range(gdc, stopping, tmp_path), slide_of(file), BASE)
        until(lambda: gdc.bytes_sent() >= 150_000)
        stop.set()
        assert isinstance(fetching.exception(timeout=20), Interrupted)
        assert no_threads_of("range")
        gdc.rate = None
        kept = available(tmp_path, file)
        gdc.clear()
        image = made(by_range(gdc, client, tmp_path), slide_of(file), BASE)
        assert overlaps([*kept, *ranges(gdc.served)]) == []
    assert np.array_equal(image.pixels, right)


@pytest.mark.parametrize("md5", ["the same", "0" * 32])
def test_the_rest_of_another_file_is_fetched_anew(
    tmp_path: Path, client: HttpClient, file: Listed, right: Pixels, md5: str
) -> None:
    slide = slide_of(file)
    with StandIn([file]) as gdc:
        source = by_range(gdc, client, tmp_path)
        earlier = slide if md5 == "the same" else replace(slide, md5=md5)
        with pytest.raises(DiskFull), source.open(earlier, BASE, Meter()):
            raise DiskFull("the disk is full")
        if earlier == slide:
            part_of(tmp_path, file).write_bytes(random.Random(1).randbytes(file.size))
        gdc.clear()
        assert np.array_equal(made(source, slide, BASE).pixels, right)
        assert gdc.bytes_sent() > 300_000


# Versions and origins -----------------------------------------------------------


def left_of(etag: bytes, tmp_path: Path, client: HttpClient, gdc: StandIn) -> None:
    """Leave what a run that failed does, of a file with that ETag in its record."""
    gdc.faults.add(At("", "503", nth=4, alone=False))
    with pytest.raises(NetworkError):
        made(by_range(gdc, client, tmp_path), slide_of(gdc.files[0]), BASE)
    gdc.faults.clear()
    record = part_of(tmp_path, gdc.files[0]).with_suffix(".part.spans")
    text, count = re.subn(rb"etag bucket .*", lambda _: b"etag bucket " + etag, record.read_bytes())
    assert count == 1
    record.write_bytes(text)


@pytest.mark.parametrize("etag", [b'"another"', b'""', b"\xff\xfe\x00", b'"' + b"x" * 100_000])
def test_a_file_replaced_since_the_last_run_is_fetched_anew(
    tmp_path: Path, client: HttpClient, file: Listed, right: Pixels, etag: bytes
) -> None:
    with StandIn([file]) as gdc:
        left_of(etag, tmp_path, client, gdc)
        gdc.clear()
        image = made(by_range(gdc, client, tmp_path), slide_of(file), BASE)
        assert ranges(gdc.requests(host="bucket"))[-1].length > 4096
        assert Span(0, 4096) in ranges(gdc.served)
    assert np.array_equal(image.pixels, right)


def test_a_kill_while_a_replaced_files_bytes_are_removed_leaves_none_to_resume_from(
    tmp_path: Path, client: HttpClient, file: Listed, monkeypatch: pytest.MonkeyPatch
) -> None:
    truncate = os.ftruncate

    def killed(handle: int, size: int) -> None:
        truncate(handle, size)
        if not size:
            raise KeyboardInterrupt

    with StandIn([file]) as gdc:
        left_of(b'"another"', tmp_path, client, gdc)
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr("tcgamirror.sources.sparse_file.os.ftruncate", killed)
            made(by_range(gdc, client, tmp_path), slide_of(file), BASE)
        assert part_of(tmp_path, file).stat().st_size == file.size
        assert available(tmp_path, file).total == 0


def test_a_file_that_changes_again_and_again_is_not_mixed_with_another_origins(
    tmp_path: Path, client: HttpClient, file: Listed, right: Pixels
) -> None:
    with StandIn([file]) as gdc:
        # The first answer has one ETag and all later ones another, then the same once more.
        gdc.faults.add(At("", "changed-etag", host="bucket", nth=1))
        gdc.faults.add(At("", "changed-etag", host="bucket", nth=5, alone=False))
        image = made(by_range(gdc, client, tmp_path), slide_of(file), BASE)
        from_gdc = ranges(gdc.requests(host="api"))
    assert np.array_equal(image.pixels, right)
    assert Span(0, 4096) in from_gdc


def late(*lines: str) -> Script:
    """A right answer, so late that all of its neighbours are asked for by then."""
    return lambda request: [0.1, *ranged(CONTENT, *lines)(request)]


@pytest.mark.parametrize("etags", [("1", "1", "1"), ("1", "2", "2"), ("1", "1", "2")], ids=str)
def test_simultaneous_etags_agree(
    tmp_path: Path, client: HttpClient, etags: tuple[str, ...]
) -> None:
    scripts = [ranged(CONTENT), *(late(f'ETag: "{etag}"') for etag in etags)]
    path = tmp_path / "slide.part"
    with (
        RawServer(*scripts) as server,
        SparseFile.open(path, identity="x", size=len(CONTENT)) as partial,
    ):
        origin = Origin("gdc", server.url(""))
        remote = RemoteFile(client, Slide("id", "name"), partial, Meter(), lambda: True, origin)
        spans = [Span(start, start + 8) for start in range(0, 200_000, 50_000)]
        if len(set(etags)) == 1:
            remote.fetch(spans)
            assert partial.etag("gdc") == '"1"'
        else:
            with pytest.raises(ChangedFile):
                remote.fetch(spans)
            assert partial.etag("gdc") in ('"1"', '"2"')


def opened_partial(folder: Path, file: Listed) -> SparseFile:
    return SparseFile.open(folder / "slide.part", identity=file.md5, size=file.size)


def remote_file(
    gdc: StandIn, client: HttpClient, partial: SparseFile, host: str = "gdc"
) -> RemoteFile:
    origin = Origin(host, gdc.bucket if host == "bucket" else gdc.api)
    return RemoteFile(client, slide_of(gdc.files[0]), partial, Meter(), lambda: True, origin)


def test_when_the_bucket_dies_amid_a_slide_the_gdc_goes_on(
    tmp_path: Path, client: HttpClient, file: Listed, right: Pixels
) -> None:
    with StandIn([file]) as gdc:
        gdc.faults.add(At("", "reset", host="bucket", nth=5, alone=False))
        image = made(by_range(gdc, client, tmp_path), slide_of(file), BASE)
        whole = [record for record in gdc.served if record.status == 206]
        assert {record.host for record in whole} == {"api", "bucket"}
        assert overlaps(ranges(whole)) == []
    assert np.array_equal(image.pixels, right)


# The remote file -------------------------------------------------------------------


def test_spans_beyond_the_end_are_refused(tmp_path: Path, client: HttpClient, file: Listed) -> None:
    with StandIn([file]) as gdc, opened_partial(tmp_path, file) as partial:
        remote = remote_file(gdc, client, partial)
        for beyond in (Span(file.size - 4, file.size + 1), Span(1 << 40, (1 << 40) + 9)):
            with pytest.raises(BadSlide, match="outside"):
                remote.fetch([Span(0, 9), beyond])
        assert gdc.served == []


@settings(max_examples=40)
@given(data=st.data())
def test_any_spans_in_any_order_fetch_each_byte_at_most_once_and_read_it_back(
    data: st.DataObject, loopback: tuple[StandIn, HttpClient, bytes]
) -> None:
    gdc, client, content = loopback
    size = len(content)
    places = st.one_of(st.integers(0, size - 1), st.sampled_from([0, 4096, 100_000, size - 1]))
    spans = st.tuples(places, st.sampled_from([1, 16, 4096, 5000, 70_000, 600_000])).map(
        lambda pair: Span(pair[0], min(size, pair[0] + pair[1]))
    )
    gdc.clear()
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(data.draw(st.integers(1, 2), "runs")):
            with opened_partial(Path(folder), gdc.files[0]) as partial:
                remote = remote_file(gdc, client, partial, data.draw(ORIGINS, "origin"))
                for _ in range(data.draw(st.integers(1, 4), "steps")):
                    wanted = data.draw(st.lists(spans, min_size=1, max_size=6), "fetched")
                    remote.fetch(wanted)
                    for span in wanted:
                        assert partial.read(span) == content[span.start : span.stop]
                    span = data.draw(spans, "read")
                    assert remote.read(span) == content[span.start : span.stop]
    assert overlaps(ranges(gdc.served)) == []


ORIGINS = st.sampled_from(["bucket", "gdc"])


@pytest.fixture(scope="module")
def loopback(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[StandIn, HttpClient, bytes]]:
    path = tmp_path_factory.mktemp("loopback") / "content.svs"
    path.write_bytes(random.Random(5).randbytes(1_500_000))
    with StandIn([listed(path)]) as gdc, HttpClient(timeouts=SHORT) as client:
        yield gdc, client, path.read_bytes()


@pytest.mark.parametrize("nth", [1, 3])
def test_a_failed_part_ends_the_others(tmp_path: Path, client: HttpClient, nth: int) -> None:
    content = tmp_path / "content.svs"
    content.write_bytes(bytes(40 << 20))
    with StandIn([listed(content)]) as gdc, opened_partial(tmp_path, gdc.files[0]) as partial:
        gdc.faults.add(At("/data/", "cut", nth=nth, alone=False))
        with (
            pytest.raises(Truncated),
            remote_file(gdc, client, partial) as remote,
        ):
            remote.fetch([Span(0, 40 << 20)])
        # Only requests in flight were tried, twice each.
        assert len(gdc.served) <= nth - 1 + 2 * PARALLEL_REQUESTS
        assert no_threads_of("range")
        assert partial.available.total == (nth - 1) * MAX_PART_BYTES


def test_a_large_level_is_not_held_in_memory(tmp_path: Path, client: HttpClient) -> None:
    size = 300 << 20
    content = tmp_path / "content.svs"
    with content.open("wb") as out:
        out.truncate(size)
    file = replace(listed(tmp_path / "content.svs"), size=size)
    with StandIn([file]) as gdc, opened_partial(tmp_path, file) as partial:
        remote = remote_file(gdc, client, partial)
        tracemalloc.start()
        try:
            remote.fetch([Span(0, size)])
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert not partial.missing(Span(0, size))
    # Seven parts of 2 MB at a time, each once as pieces and once joined.
    assert peak < 48e6
