"""Work by several threads comes out in order, is never far ahead, and ends when it is to."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial

import pytest

from tcgamirror.model.errors import Interrupted
from tcgamirror.system.cores import usable_cores
from tcgamirror.system.parallel import TaskQueue, for_each, in_batches, thread_count

ITEMS = range(1000)


def slower_at_first(item: int) -> int:
    """So that later items are done before earlier ones."""
    time.sleep(0.02 if item % 64 == 0 else 0)
    return item * item


def test_results_come_in_order_and_none_is_lost() -> None:
    batches = list(in_batches(slower_at_first, ITEMS, at_once=4))
    assert [pair for batch in batches for pair in batch] == [(item, item**2) for item in ITEMS]
    assert {len(batch) for batch in batches} == {16, 1000 % 16}
    assert list(in_batches(slower_at_first, (), at_once=2)) == []


def test_large_items_are_handed_over_alone() -> None:
    sizes = [1, 1, 100 << 20, 1, 8 << 20, 8 << 20, 1]
    batches = in_batches(str, sizes, at_once=2, size_of=lambda size: size)
    assert [[size for size, _ in batch] for batch in batches] == [
        [1, 1, 100 << 20],
        [1, 8 << 20],
        [8 << 20],
        [1],
    ]


def test_so_many_are_worked_on_at_once() -> None:
    together = threading.Barrier(3, timeout=10)
    assert len(list(in_batches(lambda _: together.wait(), range(3), at_once=3, batch_size=1))) == 3


def test_items_are_made_only_a_little_ahead() -> None:
    made = []

    def items() -> Iterator[int]:
        for item in ITEMS:
            made.append(item)
            yield item

    batches = in_batches(str, items(), at_once=2, batch_size=5)
    next(batches)
    assert len(made) == 2 * 2 * 5
    assert sum(map(len, batches)) == len(ITEMS) - 5


@pytest.mark.parametrize("error", [ValueError("500"), Interrupted("500, and no stop")])
def test_what_one_item_meets_is_raised_and_the_threads_end(error: Exception) -> None:
    before = set(threading.enumerate())

    def work(item: int) -> int:
        if item == 500:
            raise error
        return item

    with pytest.raises(type(error), match="500"):
        list(in_batches(work, ITEMS, at_once=3))
    assert not set(threading.enumerate()) - before


def test_an_error_has_the_others_end_early() -> None:
    ended = threading.Event()

    def work(item: int) -> bool:
        if item == 0:
            raise KeyError
        return ended.wait(10)

    start = time.monotonic()
    with pytest.raises(KeyError):
        list(in_batches(work, range(4), at_once=4, batch_size=1, ended=ended))
    assert time.monotonic() - start < 5


def test_no_batch_begins_after_an_error() -> None:
    together = threading.Barrier(2, timeout=10)
    begun = []

    def work(item: int) -> None:
        begun.append(item)
        together.wait()
        time.sleep(0.2 if item == 0 else 0)
        raise KeyError(item)

    with pytest.raises(KeyError, match="0"):
        list(in_batches(work, range(9), at_once=2, batch_size=1))
    assert sorted(begun) == [0, 1]


def test_an_earlier_batch_that_had_not_begun_hides_no_error() -> None:
    def work(item: int) -> None:
        if item:
            raise KeyError(item)

    interval = sys.getswitchinterval()
    # Threads are paused between any two steps.
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(1000):
            with pytest.raises(KeyError):
                list(in_batches(work, range(6), at_once=3, batch_size=1))
    finally:
        sys.setswitchinterval(interval)


def test_it_ends_after_a_whole_batch_once_it_is_to_stop() -> None:
    stop = threading.Event()

    def work(item: int) -> int:
        if item == 100:
            stop.set()
        if stop.is_set():
            raise Interrupted("stopped")
        return item

    batches = list(in_batches(work, ITEMS, at_once=2, batch_size=10, stopped=stop.is_set))
    items = [item for batch in batches for item, _ in batch]
    assert items == list(range(len(items))), "in order, and no batch of which a part is missing"
    assert len(items) % 10 == 0 and len(items) <= 100


def test_there_are_two_threads_at_least_and_no_more_than_wanted() -> None:
    assert thread_count(1000) == max(2, usable_cores())
    assert thread_count(2) == 2


def test_tasks_that_nobody_waits_for_are_done_meanwhile() -> None:
    together = threading.Barrier(3, timeout=10)

    def meet() -> None:
        together.wait()

    with TaskQueue(3, "queue") as queue:
        tasks = [queue.add(meet) for _ in range(3)]
        queue.finish(tasks[:1])
        queue.finish(tasks)
    assert not [thread for thread in threading.enumerate() if thread.name == "queue"]


def test_tasks_are_done_where_no_thread_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    done: list[int] = []
    for_each(done.append, range(9), at_once=4, name="queue")
    assert sorted(done) == list(range(9))


def test_a_failed_task_ends_the_others() -> None:
    begun: list[int] = []

    def work(number: int) -> None:
        begun.append(number)
        time.sleep(0.001)
        if number == 2:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        for_each(work, range(1000), at_once=2, name="queue")
    assert len(begun) < 1000


def test_no_task_begins_after_a_failure_or_once_it_is_dropped() -> None:
    begun: list[int] = []
    failed = threading.Event()

    def wait() -> None:
        failed.wait(10)

    def fail() -> None:
        failed.set()
        raise ZeroDivisionError

    with TaskQueue(2, "queue") as queue:
        first, _ = queue.add(wait), queue.add(fail)
        with suppress(ZeroDivisionError):
            queue.finish([first])
        later = queue.add(partial(begun.append, 1))
        with pytest.raises(ZeroDivisionError):
            queue.finish([later])
    with TaskQueue(2, "queue") as queue:
        queue.add(partial(begun.append, 2))
    assert not begun
