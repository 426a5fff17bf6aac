"""Work on many things by several threads: in batches, only a few ahead, and told in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

from tcgamirror.cores import cores
from tcgamirror.model.errors import Interrupted

_MOST_BYTES = 8 << 20

Item = TypeVar("Item")
Result = TypeVar("Result")


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
