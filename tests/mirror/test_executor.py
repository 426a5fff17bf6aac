"""Slides at a few workers: what one of them meets is not the others' affair."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from tcgamirror.mirror.dispatcher import BUGS_IN_A_ROW, GRACE
from tcgamirror.mirror.executor import Threads
from tcgamirror.mirror.outage import SITE_DOWN_AFTER
from tcgamirror.mirror.slots import Slots
from tcgamirror.model.errors import Bug, DiskFull, Interrupted, NoMemory, Unreachable
from tcgamirror.model.slide import Slide
from tcgamirror.system.interrupt import Shutdown
from tests.support.executors import dispatch, dispatcher, file_ids, ladder_of, slides


def divide_by_zero(_: Slide) -> None:
    raise ZeroDivisionError("division by zero")


def use_all_memory(_: Slide) -> None:
    bytearray(1 << 62)


@pytest.mark.parametrize(
    ("act", "fault", "message"),
    [
        (divide_by_zero, "bug", "a bug: ZeroDivisionError: division by zero"),
        (use_all_memory, "no memory", "not enough memory. Allow more"),
    ],
)
def test_an_error_of_one_slide_is_its_failure(
    act: Callable[[Slide], None], fault: str, message: str
) -> None:
    run = dispatcher(lambda slide: act(slide) if slide.file_id == "3" else None, 2)
    outcomes = list(run.outcomes(slides(8)))
    assert sorted(outcome.slide.file_id for outcome in outcomes) == sorted("01234567")
    (failed,) = [outcome.attempts[0] for outcome in outcomes if outcome.picture is None]
    assert (failed.source, failed.fault) == ("stub", fault)
    assert str(failed.message).startswith(message)
    assert (run.report.done, run.report.failed, run.report.bytes) == (7, 1, 8000)
    if fault == "bug":
        assert run.finish() is run.report
    else:
        with pytest.raises(NoMemory, match=message):
            run.finish()


def test_bugs_in_a_row_end_the_run() -> None:
    run = dispatcher(divide_by_zero, 1)
    assert len(file_ids(run, 8)) == BUGS_IN_A_ROW
    with pytest.raises(Bug, match=r"3 slides in a row met a bug: .*division by zero"):
        run.finish()


def test_slides_that_are_interrupted_without_a_shutdown_do_not_count_as_all_done() -> None:
    """The worker that fetches them closes."""

    def act(slide: Slide) -> None:
        if slide.file_id == "0":
            raise Interrupted("stopped while asking")

    run = dispatcher(act, 1)
    assert file_ids(run, 2) == ["1"]
    with pytest.raises(Interrupted, match="stopped with 1 slides done, as workers closed"):
        run.finish()


def test_slides_that_end_while_others_are_recorded_are_not_lost() -> None:
    shutdown, may_end = Shutdown(), threading.Event()
    run = dispatcher(lambda slide: slide.file_id == "0" or may_end.wait(10), 2, shutdown)
    ended = []
    for outcome in run.outcomes(slides(2)):
        ended.append(outcome.slide.file_id)
        if not shutdown.requested:
            # Recording the first one takes longer than the grace of the other.
            shutdown.force()
            may_end.set()
            time.sleep(GRACE + 0.1)
    assert ended == ["0", "1"]
    # Nothing is left to do, although the run was stopped.
    assert run.finish().done == 2


def test_slides_wait_while_an_executor_has_no_room() -> None:
    """Lost workers of a cluster are replaced after a while."""

    class Lost(Threads):
        looks = 0

        def has_room(self) -> bool:
            self.looks += 1
            return not 1 < self.looks < 5 and super().has_room()

    run = dispatch(Lost(ladder_of(lambda _: None), Slots(1, 1)))
    assert file_ids(run, 3) == ["0", "1", "2"]


@pytest.mark.parametrize("is_down", [True, False])
def test_slides_in_flight_are_recorded_while_the_site_is_asked(is_down: bool) -> None:
    asked, recorded = threading.Event(), threading.Event()

    def act(slide: Slide) -> None:
        if slide.file_id != "0":
            raise Unreachable("refused")
        assert asked.wait(20)

    def is_away() -> bool:
        asked.set()
        assert recorded.wait(20)
        return is_down

    run = dispatch(Threads(ladder_of(act), Slots(2, 2)), is_away=is_away)
    ended = []
    for outcome in run.outcomes(slides(SITE_DOWN_AFTER + 3)):
        ended.append(outcome.slide.file_id)
        if outcome.picture is not None:
            # Meanwhile no further slide fails.
            assert len(ended) == SITE_DOWN_AFTER + 1
            recorded.set()
    assert len(ended) == SITE_DOWN_AFTER + (1 if is_down else 3)
    if is_down:
        with pytest.raises(Unreachable, match="no slide can be reached any more"):
            run.finish()
    else:
        assert run.finish().done == 1


def test_a_full_disk_is_reported_although_a_slide_lacked_memory_before() -> None:
    def act(slide: Slide) -> None:
        raise MemoryError if slide.file_id == "0" else DiskFull("no room")

    run = dispatcher(act, 1)
    assert file_ids(run, 2) == ["0"]
    with pytest.raises(DiskFull):
        run.finish()


@pytest.mark.parametrize("threads", [1, 3])
def test_where_the_system_gives_few_threads_all_slides_are_fetched(
    monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    most = 0
    at_once: set[str] = set()
    lock, together = threading.Lock(), threading.Barrier(threads, timeout=20)

    def act(slide: Slide) -> None:
        nonlocal most
        with lock:
            at_once.add(slide.file_id)
            most = max(most, len(at_once))
        together.wait()
        time.sleep(0.01)
        with lock:
            at_once.remove(slide.file_id)

    start = threading.Thread.start
    begun: list[threading.Thread] = []

    def refuse(thread: threading.Thread) -> None:
        if len(begun) == threads:
            raise RuntimeError("can't start new thread")
        begun.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    run = dispatcher(act, 8)
    assert sorted(file_ids(run, 12)) == sorted(slide.file_id for slide in slides(12))
    assert most == threads
    run.finish()


def test_no_thread_stays() -> None:
    run = dispatcher(lambda _: None, 4)
    before = threading.active_count()
    file_ids(run, 20)
    deadline = time.monotonic() + 10
    while threading.active_count() >= before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() < before


def test_cores_that_idle_until_slides_come_together_are_not_busy() -> None:
    ladder = ladder_of(lambda _: time.sleep(0.4), renders=1, render_seconds=0.01)
    slots = Slots(8, 64)
    assert len(file_ids(dispatch(Threads(ladder, slots)), 8)) == 8
    assert slots.count == 16
