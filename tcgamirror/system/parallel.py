"""Work on many things by several threads: in batches, only a few ahead, and told in order.

The same work on many things, a few of them at the same time.
"""

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

Thing = TypeVar("Thing")


def cores() -> int:
    """Of the processor, those that this process may use; a cluster's job has few of many."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def threads(most: int) -> int:
    """As many as keep the cores at work, two at least: one works while another waits."""
    return min(most, max(2, cores()))


def never() -> bool:
    """For `in_batches`: nothing stops it."""
    return False


def weightless(_: object) -> int:
    """For `in_batches`: no item is large."""
    return 0


def in_batches(
    work: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    at_once: int,
    together: int = 16,
    size_of: Callable[[Item], int] = weightless,
    stopped: Callable[[], bool] = never,
) -> Iterator[list[tuple[Item, Result]]]:
    """Each item with what `work` gives for it, in order, by `at_once` threads.

    together: items of a batch, fewer if they are large. size_of: bytes of an
    item. Ends early, after a whole batch, once `stopped` says so: `work` may
    raise Interrupted then. `items` may be made while others are worked on.
    """

    def all_of(batch: Sequence[Item]) -> list[tuple[Item, Result]]:
        return [(item, work(item)) for item in batch]

    with ThreadPoolExecutor(at_once, "abreast") as pool:
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
    """So many that handing them over costs little, so few that progress is seen."""
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


def each(work: Callable[[Thing], None], things: Iterable[Thing], at_once: int, name: str) -> None:
    """Does `work` on every thing, `at_once` of them at a time; the first failure ends it.

    Nothing further is begun then, and what is under way is waited for: no
    thread outlives the call. Only the things in hand are held in memory.
    name: of the threads.
    """
    left = iter(things)
    with ThreadPoolExecutor(at_once, name) as pool:
        running = {pool.submit(work, thing) for thing in islice(left, at_once)}
        while running:
            ended, running = wait(running, return_when=FIRST_COMPLETED)
            for one in ended:
                one.result()
            running |= {pool.submit(work, thing) for thing in islice(left, len(ended))}
