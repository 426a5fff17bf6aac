"""From one source to the next, with real servers, and what is told of those that failed."""

from __future__ import annotations

import errno
import gc
import os
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tcgamirror.imaging.store import Store
from tcgamirror.mirror.ladder import Ladder, Turns
from tcgamirror.model.errors import Damaged, DiskFull, Interrupted, NotFound
from tcgamirror.model.slide import Attempt, ImageFormat, Outcome, Picture, Slide, Target
from tcgamirror.net.client import HttpClient
from tcgamirror.sources.base import Source
from tcgamirror.sources.tiles import Tiles
from tests.gdc import Fault, Listed, StandIn, listed, made_up_name
from tests.gdc.faults import Kind
from tests.gdc.listing import made_up_id
from tests.support.executors import ladder_of
from tests.support.fetching import SHORT, by_range, by_whole, origins_of, slide_of, workspace
from tests.support.slides import SlideSpec, make_slide

SPEC = SlideSpec(width=2203, height=1409, downsamples=(1, 4))
COARSE = Target(mpp=8.0, max_size=None)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Listed:
    return listed(make_slide(tmp_path_factory.mktemp("ladder") / "slide.svs", SPEC))


@pytest.fixture
def gdc(file: Listed) -> Iterator[StandIn]:
    with StandIn([file]) as gdc:
        yield gdc


def sources(gdc: StandIn, client: HttpClient, work: Path, *, bucket: bool = True) -> list[Source]:
    """All three, sharing what they learn of the origins, as in a run."""
    ranged = by_range(gdc, client, work, origins_of(gdc, bucket=bucket))
    tiles = Tiles(client, gdc.tiles, workspace(work), ranged.read_header)
    return [ranged, tiles, by_whole(gdc, client, work)]


def outcome(
    gdc: StandIn,
    client: HttpClient,
    folder: Path,
    target: Target = COARSE,
    *,
    bucket: bool = True,
    ranged: bool = True,
) -> Outcome:
    """What comes of the stand-in's first slide. ranged: whether `range` is tried first."""
    rungs = sources(gdc, client, folder / "work", bucket=bucket)[0 if ranged else 1 :]
    ladder = Ladder(rungs, target, Store(folder, ImageFormat.PNG), Turns(2))
    result = ladder.fetch(slide_of(gdc.files[0]))
    assert ladder.traffic.bytes == sum(attempt.bytes_fetched for attempt in result.attempts)
    return result


def faults_of(attempts: Sequence[Attempt]) -> list[tuple[str, str | None]]:
    return [(attempt.source, attempt.fault) for attempt in attempts]


def pixels(folder: Path, result: Outcome) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    assert result.picture is not None
    with Image.open(folder / result.picture.path) as image:
        return np.asarray(image.convert("RGB"))


def test_the_first_success_ends_it(gdc: StandIn, client: HttpClient, tmp_path: Path) -> None:
    result = outcome(gdc, client, tmp_path)
    assert faults_of(result.attempts) == [("range", None)]
    assert result.picture is not None
    assert result.picture.source == "range"
    (attempt,) = result.attempts
    assert attempt.bytes_fetched == gdc.bytes_sent()
    assert attempt.requests == len(gdc.served)
    assert (attempt.message, attempt.retryable) == (None, False)
    assert {record.host for record in gdc.served} == {"bucket"}


def test_the_gdc_stands_in_for_the_bucket(gdc: StandIn, client: HttpClient, tmp_path: Path) -> None:
    right = pixels(tmp_path / "right", outcome(gdc, client, tmp_path / "right"))
    gdc.switch("bucket", "refused")
    gdc.clear()
    result = outcome(gdc, client, tmp_path)
    assert faults_of(result.attempts) == [("range", None)]
    assert {record.path for record in gdc.served} == {f"/data/{gdc.files[0].file_id}"}
    assert np.array_equal(pixels(tmp_path, result), right)


class Busy(Store):
    """Tells how many images were made at the same time, at most."""

    most = now = 0

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.two = threading.Event()

    def write(self, *given: Any) -> Picture:
        slide, source, reader, turn = given
        return super().write(slide, source, reader, self._counted(turn))

    @contextmanager
    def _counted(self, turn: AbstractContextManager[None]) -> Iterator[None]:
        with turn:
            self.now += 1
            self.most = max(self.most, self.now)
            if self.now == 2:
                self.two.set()
            self.two.wait(20)
            time.sleep(0.1)
            yield
            self.now -= 1


def test_few_slides_are_rendered_at_once(file: Listed, client: HttpClient, tmp_path: Path) -> None:
    names = [made_up_name(f"slide {number}") for number in range(6)]
    files = [replace(file, file_name=name, file_id=made_up_id(name)) for name in names]
    store = Busy(tmp_path, ImageFormat.PNG)
    with StandIn(files) as gdc, ThreadPoolExecutor(6) as workers:
        rungs = sources(gdc, client, tmp_path / "work")
        ladder = Ladder(rungs, COARSE, store, Turns(2))
        result = list(workers.map(ladder.fetch, map(slide_of, files)))
    assert [faults_of(outcome.attempts) for outcome in result] == [[("range", None)]] * 6
    assert store.most == 2


def test_a_whole_file_is_the_last_way(gdc: StandIn, client: HttpClient, tmp_path: Path) -> None:
    gdc.routes.data_ranges = False
    result = outcome(gdc, client, tmp_path, bucket=False)
    ignored = "range ignored"
    assert faults_of(result.attempts) == [("range", ignored), ("tiles", ignored), ("whole", None)]
    assert "whole files only" in (result.attempts[0].message or "")
    assert "header cannot be read" in (result.attempts[1].message or "")
    assert result.picture is not None
    assert result.picture.source == "whole"
    assert result.picture.mpp_x == pytest.approx(8.0, rel=0.02)
    # The whole file came uncalled for, and nothing of it was read.
    assert result.attempts[0].bytes_fetched == 0
    assert len(gdc.requests("/data/")) == 2, "for its begin and its end"
    assert not gdc.requests("level=")


@pytest.mark.parametrize(
    ("kind", "fault"),
    [
        ("404", "bad tile"),
        ("empty", "wrong content"),
        ("flipped", "bad tile"),
        ("cut", "cut short"),
        ("html", "wrong content"),
        ("503", "server error"),
    ],
)
def test_where_tiles_are_broken_the_whole_file_is_next(
    gdc: StandIn, client: HttpClient, tmp_path: Path, kind: Kind, fault: str
) -> None:
    right = pixels(tmp_path / "right", outcome(gdc, client, tmp_path / "right"))
    gdc.faults.add(Fault("level=.*x=0&y=0", kind))
    result = outcome(gdc, client, tmp_path, Target(8.0, None), ranged=False)
    assert result.picture is not None
    assert result.picture.source == "whole"
    assert faults_of(result.attempts) == [("tiles", fault), ("whole", None)]
    assert "tile at column 0, row 0" in (result.attempts[0].message or "")
    assert np.array_equal(pixels(tmp_path, result), right)


def test_a_slide_without_tiles_is_skipped(gdc: StandIn, client: HttpClient, tmp_path: Path) -> None:
    gdc.routes.data_ranges = False
    gdc.faults.add(Fault("/tile/", "404"))
    result = outcome(gdc, client, tmp_path, bucket=False)
    assert faults_of(result.attempts) == [
        ("range", "range ignored"),
        ("tiles", "not there"),
        ("whole", None),
    ]


def test_failures_tell_if_they_pass(gdc: StandIn, client: HttpClient, tmp_path: Path) -> None:
    gdc.faults.add(Fault("/tile/metadata", "404"), Fault("", "500"))
    result = outcome(gdc, client, tmp_path)
    assert result.picture is None
    assert [
        (*pair, attempt.retryable)
        for pair, attempt in zip(faults_of(result.attempts), result.attempts, strict=True)
    ] == [
        ("range", "server error", True),
        ("tiles", "not there", False),
        ("whole", "server error", True),
    ]
    assert all(attempt.seconds >= 0 and attempt.started > 1e9 for attempt in result.attempts)
    assert not (tmp_path / "images").exists()


def test_too_fine_a_target_is_final(gdc: StandIn, client: HttpClient, tmp_path: Path) -> None:
    result = outcome(gdc, client, tmp_path, Target(0.1, None))
    assert faults_of(result.attempts) == [("range", "too fine")]
    assert result.picture is None
    assert not gdc.requests("/tile/")
    assert not list((tmp_path / "work").iterdir())


def test_an_interruption_ends_the_slide(gdc: StandIn, tmp_path: Path) -> None:
    stop = threading.Event()
    stop.set()
    with HttpClient(timeouts=SHORT, stop=stop) as client, pytest.raises(Interrupted):
        outcome(gdc, client, tmp_path)
    assert gdc.served == []


def test_no_room_ends_the_slide_and_not_one_source_alone(
    gdc: StandIn, client: HttpClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.pwrite", full)
    with pytest.raises(DiskFull):
        outcome(gdc, client, tmp_path)
    assert not gdc.requests("/tile/")


def after_the_begin(_: Path) -> Callable[..., bytes]:
    """As `os.pread`, on a disk that reads the first bytes of a file and no others."""
    pread = os.pread

    def read(handle: int, count: int, place: int) -> bytes:
        return fails() if place else pread(handle, count, place)

    return read


def fails(*_: object, **__: object) -> bytes:
    raise OSError(errno.EIO, "Input/output error")


def fails_within(name: str, suffix: str) -> Callable[[Path], Callable[..., Any]]:
    """As the method of Path of that name, on a disk that fails for such files of the folder."""

    def within(folder: Path) -> Callable[..., Any]:
        method = getattr(Path, name)

        def failing(path: Path, *args: Any, **options: Any) -> Any:
            result = method(path, *args, **options)  # unless there is no such file
            # With options it is an lstat, by which a folder's bytes are counted.
            struck = folder in path.parents and path.suffix == suffix and not options
            return fails() if struck else result

        return failing

    return within


@pytest.mark.parametrize(
    ("rung", "call", "failing"),
    [
        (0, "os.pread", after_the_begin),
        (0, "pathlib.Path.read_bytes", fails_within("read_bytes", ".spans")),
        (1, "pathlib.Path.read_bytes", fails_within("read_bytes", "")),
        (2, "os.pread", after_the_begin),
        (2, "pathlib.Path.stat", fails_within("stat", ".svs")),
        (2, "tcgamirror.sources.whole.file_digest", lambda _: fails),
    ],
    ids=["range", "range's record", "tiles", "whole", "whole's begin", "whole's md5"],
)
def test_a_disk_that_fails_where_it_is_read_is_told_as_one_and_not_as_a_bug(
    gdc: StandIn,
    client: HttpClient,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    rung: int,
    call: str,
    failing: Callable[[Path], Callable[..., Any]],
) -> None:
    work = tmp_path / "work"
    left = work / gdc.files[0].file_id / "whole" / f"{gdc.files[0].md5}.svs"
    left.parent.mkdir(parents=True)
    left.write_text("an earlier run's")
    rungs = sources(gdc, client, work)[rung : rung + 1]
    ladder = Ladder(rungs, COARSE, Store(tmp_path, ImageFormat.PNG), Turns(2))
    monkeypatch.setattr(call, failing(work))
    with pytest.raises(Damaged, match=r"the disk fails at .*/work/"):
        ladder.fetch(slide_of(gdc.files[0]))


# What a long run keeps --------------------------------------------------------------------


def missing(_: Slide) -> None:
    raise NotFound("no such slide")


def test_memory_does_not_grow_with_the_slides() -> None:
    ladder = ladder_of(missing, missing)
    held = []
    tracemalloc.start()
    try:
        for numbers in (range(1000), range(1000, 3000)):
            for number in numbers:
                ladder.fetch(Slide(str(number), f"{number}.svs"))
            gc.collect()
            held.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert held[1] - held[0] < 2000 * 10
    assert ladder.traffic.bytes == 2 * 3000 * 1000


def test_a_bug_ends_the_slide_and_is_counted() -> None:
    seen = []

    def bug(_: Slide) -> None:
        seen.append(ladder.traffic.bytes)
        raise ZeroDivisionError("division by zero")

    ladder = ladder_of(missing, bug, missing)
    failed = ladder.fetch(Slide("1", "1.svs"))
    assert faults_of(failed.attempts) == [("stub", "not there"), ("stub", "bug")]
    assert failed.picture is None
    assert (seen, ladder.traffic.bytes) == ([2000], 2000)
