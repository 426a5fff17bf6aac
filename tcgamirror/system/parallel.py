"""The same work on many items by several threads, with few items in memory at a time."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from itertools import islice
from typing import TypeVar

from tcgamirror.model.errors import Interrupted

_MOST_BYTES = 8 << 20

Item = TypeVar("Item")
Result = TypeVar("Result")


def usable_cores() -> int:
    """Return the number of cores that this process may use; a batch job often has few of many."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def thread_count(most: int) -> int:
    """Return a thread for each core: at least two, as one works while another waits."""
    return min(most, max(2, usable_cores()))


def in_batches(
    work: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    at_once: int,
    together: int = 16,
    size_of: Callable[[Item], int] = lambda _: 0,
    stopped: Callable[[], bool] = lambda: False,
) -> Iterator[list[tuple[Item, Result]]]:
    """Yield batches of items with their results, in order, made by `at_once` threads.

    Ends early, after a whole batch, once `stopped` returns True; `work` may raise
    Interrupted then. `items` are read as they are needed.

    Args:
        together: Items in a batch, fewer if they are large.
        size_of: The bytes of an item.
    """

    def all_of(batch: Sequence[Item]) -> list[tuple[Item, Result]]:
        return [(item, work(item)) for item in batch]

    with ThreadPoolExecutor(at_once, "batch") as pool:
        waiting: deque[Future[list[tuple[Item, Result]]]] = deque()
        batches = _batches(items, size_of, together)
        try:
            while not stopped():
                while len(waiting) < 2 * at_once and (batch := next(batches, None)):
                    waiting.append(pool.submit(all_of, batch))
                if not waiting:
                    return
                with suppress(Interrupted):
                    yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _batches(
    items: Iterable[Item], size_of: Callable[[Item], int], together: int
) -> Iterator[list[Item]]:
    """Yield batches large enough to cost little, and small enough to show progress."""
    batch: list[Item] = []
    size = 0
    for item in items:
        batch.append(item)
        size += size_of(item)
        if len(batch) == together or size >= _MOST_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def for_each(work: Callable[[Item], None], items: Iterable[Item], at_once: int, name: str) -> None:
    """Call `work` for every item, `at_once` of them at a time; raise the first failure.

    After a failure no further item is begun, and those under way are waited for: no
    thread outlives the call. Only the items under way are held in memory.

    Args:
        name: The threads' name.
    """
    left = iter(items)
    with ThreadPoolExecutor(at_once, name) as pool:
        running = {pool.submit(work, item) for item in islice(left, at_once)}
        while running:
            ended, running = wait(running, return_when=FIRST_COMPLETED)
            for one in ended:
                one.result()
            running |= {pool.submit(work, item) for item in islice(left, len(ended))}
