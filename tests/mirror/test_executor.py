"""Slides at a few workers: what one of them meets is not the others' affair."""

from __future__ import annotations

import threading
import time

import pytest

from tcgamirror.mirror.executor import BUGS_IN_A_ROW, GRACE, Dispatcher, Threads
from tcgamirror.mirror.slots import Slots
from tcgamirror.model.errors import Bug, DiskFull, Interrupted
from tcgamirror.model.slide import Outcome, Slide
from tcgamirror.system.interrupt import Shutdown
from tests.support.executors import Work, dispatcher


def test_a_bug_met_by_one_slide_is_its_failure_and_the_others_go_on() -> None:
    slides = [Slide(str(number), f"{number}.svs") for number in range(8)]

    def fetch(slide: Slide) -> Outcome:
        if slide.file_id == "3":
            raise ZeroDivisionError("division by zero")
        return Outcome(slide, (), None)

    run = dispatcher(fetch, 2)
    ended = [outcome for outcomes in run.outcomes(slides) for outcome in outcomes]
    assert sorted(outcome.slide.file_id for outcome in ended) == sorted("01234567")
    (failed,) = [outcome for outcome in ended if outcome.attempts]
    assert (failed.attempts[0].source, failed.attempts[0].fault) == ("source of 3", "bug")
    assert failed.attempts[0].message == "a bug: ZeroDivisionError: division by zero"


def test_bugs_in_a_row_end_the_run() -> None:
    begun = []

    def fetch(slide: Slide) -> Outcome:
        begun.append(slide)
        raise ZeroDivisionError("division by zero")

    run = dispatcher(fetch, 1)
    due = [Slide(str(number), f"{number}.svs") for number in range(8)]
    ended = [outcome for outcomes in run.outcomes(due) for outcome in outcomes]
    assert len(ended) == len(begun) == BUGS_IN_A_ROW
    assert isinstance(run.error, Bug) and run.error.exit_code == 1
    assert "division by zero" in str(run.error)


def test_what_ends_while_others_are_recorded_is_not_lost() -> None:
    shutdown, may_end = Shutdown(), threading.Event()

    def fetch(slide: Slide) -> Outcome:
        if slide.file_id != "0":
            assert may_end.wait(10)
        return Outcome(slide, (), None)

    run = dispatcher(fetch, 2, shutdown)
    ended = []
    for outcomes in run.outcomes([Slide("0", "0.svs"), Slide("1", "1.svs")]):
        ended += [outcome.slide.file_id for outcome in outcomes]
        if ended and not shutdown.requested:
            # Recording the first one takes longer than the grace of those that are let go of.
            shutdown.force()
            may_end.set()
            time.sleep(GRACE + 0.1)
    assert ended == ["0", "1"]


def test_slides_wait_while_an_executor_has_no_slot() -> None:
    """Lost workers of a cluster are replaced after a while."""

    class Lost(Threads):
        looks = 0

        @property
        def slots(self) -> int:
            self.looks += 1
            return 0 if 1 < self.looks < 5 else 1

    def fetch(slide: Slide) -> Outcome:
        return Outcome(slide, (), None)

    run = Dispatcher(Lost(Work(fetch), Slots(1, 1)), Shutdown())
    slides = [Slide(str(number), f"{number}.svs") for number in range(3)]
    ended = [outcome.slide for outcomes in run.outcomes(slides) for outcome in outcomes]
    assert ended == slides


def test_a_full_disk_is_told_although_a_slide_lacked_memory_before() -> None:
    def fetch(slide: Slide) -> Outcome:
        raise MemoryError if slide.file_id == "0" else DiskFull("no room")

    run = dispatcher(fetch, 1)
    list(run.outcomes([Slide("0", "0.svs"), Slide("1", "1.svs")]))
    assert str(run.error) == "no room"


def give_threads(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """Have the system refuse every thread after these."""
    start = threading.Thread.start
    begun: list[threading.Thread] = []

    def refuse(thread: threading.Thread) -> None:
        if len(begun) == most:
            raise RuntimeError("can't start new thread")
        begun.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)


@pytest.mark.parametrize("threads", [1, 3])
def test_where_the_system_gives_few_threads_all_slides_come(
    monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    most = 0
    at_once: set[str] = set()
    lock = threading.Lock()

    def fetch(slide: Slide) -> Outcome:
        nonlocal most
        with lock:
            at_once.add(slide.file_id)
            most = max(most, len(at_once))
        time.sleep(0.01)
        with lock:
            at_once.remove(slide.file_id)
        return Outcome(slide, (), None)

    give_threads(monkeypatch, threads)
    run = dispatcher(fetch, 8)
    slides = [Slide(str(number), f"{number}.svs") for number in range(12)]
    ended = [outcome.slide for outcomes in run.outcomes(slides) for outcome in outcomes]
    assert sorted(slide.file_id for slide in ended) == sorted(slide.file_id for slide in slides)
    assert most <= threads
    assert run.error is None


def test_a_slide_without_a_thread_is_not_begun_after_a_stop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun, may_end = threading.Event(), threading.Event()

    def fetch(slide: Slide) -> Outcome:
        begun.set()
        assert may_end.wait(10)
        return Outcome(slide, (), None)

    give_threads(monkeypatch, 1)
    threads = Threads(Work(fetch), Slots(8, 8))
    for number in range(2):
        threads.submit(Slide(str(number), f"{number}.svs"))
    assert begun.wait(10)
    threads.drain()
    (dropped,) = threads.ended(10)
    may_end.set()
    (done,) = threads.ended(10)
    assert isinstance(dropped.result, Interrupted) and isinstance(done.result, Outcome)
    assert threads.slots == 1 and threads.close(10)


def test_no_thread_stays() -> None:
    run = dispatcher(lambda slide: Outcome(slide, (), None), 4)
    before = threading.active_count()
    list(run.outcomes([Slide(str(number), f"{number}.svs") for number in range(20)]))
    deadline = time.monotonic() + 10
    while threading.active_count() >= before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() < before
