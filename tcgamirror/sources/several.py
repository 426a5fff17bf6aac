"""The same work on many things, a few of them at the same time."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from itertools import islice
from typing import TypeVar

Thing = TypeVar("Thing")


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
