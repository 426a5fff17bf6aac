"""Work in threads: by itself, for each of many items, or as a queue of tasks."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Generic, Self, TypeVar

from tcgamirror.model.errors import Interrupted
from tcgamirror.system.cores import usable_cores
from tcgamirror.system.memory import check_memory

_MOST_BYTES = 8 << 20
"""Bytes at which a batch is full; its last item may exceed them."""

_THREAD_BYTES = 12 << 20
"""Address space of a thread: its stack, and what Python takes before a thread can report errors."""

_SPARE_BYTES = 64 << 20
"""Free address space for a further thread: more than it needs, as others may take some."""

_START_SECONDS = 10.0
"""Seconds after which a pool works without the threads that have not begun."""

POLL = 0.1
"""Seconds of a brief wait, after which the clock and the run's stop are checked."""

Item = TypeVar("Item")
Result = TypeVar("Result")


def thread_count(most: int) -> int:
    """Return how many threads to use: one a core, at least two, and no more than `most`.

    Of two threads, one works while the other waits.
    """
    return min(most, max(2, usable_cores()))


def start_thread(work: Callable[[], object], name: str) -> threading.Thread:
    """Start and return a thread that does not keep the process alive.

    Memory is checked first, because `Thread.start` waits for ever for a thread that dies of
    MemoryError before it begins.

    Raises MemoryError, or RuntimeError if the system allows no further thread.
    """
    check_memory(_THREAD_BYTES)
    thread = threading.Thread(target=work, name=name, daemon=True)
    thread.start()
    return thread


def start_further_thread(work: Callable[[], object], name: str) -> threading.Thread | None:
    """Start and return a thread; None if there is no room for it."""
    try:
        check_memory(_SPARE_BYTES)
        return start_thread(work, name)
    except (MemoryError, RuntimeError):
        return None


def start_pool(threads: int, name: str) -> ThreadPoolExecutor:
    """Return a pool whose threads all run already. Raises as `start_thread`.

    A thread started by a later task, while others take memory, might die unnoticed.
    """
    pool = ThreadPoolExecutor(threads, name)
    barrier = threading.Barrier(threads, timeout=_START_SECONDS)
    try:
        for _ in range(threads):
            check_memory(_THREAD_BYTES)
            pool.submit(barrier.wait)
    except BaseException:
        barrier.abort()
        pool.shutdown()
        raise
    return pool


def in_batches(
    work: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    at_once: int,
    batch_size: int = 16,
    size_of: Callable[[Item], int] = lambda _: 0,
    stopped: Callable[[], bool] = lambda: False,
    ended: threading.Event | None = None,
) -> Generator[list[tuple[Item, Result]], None, None]:
    """Yield batches of items with their results, in order, made by `at_once` threads.

    `items` are read as they are needed. Once `stopped` returns True, the iterator drops the
    submitted batches and ends. `work` may raise Interrupted from then on. The iterator raises
    any other exception of `work`, after which no batch begins.

    Args:
        batch_size: Items in a batch, fewer if they are large.
        size_of: The bytes that `work` reads for an item.
        ended: Set when the iterator ends, so that `work` can end early after an error.
    """

    failures: list[int] = []

    def all_of(number: int, batch: Sequence[Item]) -> list[tuple[Item, Result]]:
        if any(earlier < number for earlier in failures):
            # The caller gets the error of the earlier batch instead.
            raise Interrupted("an earlier batch failed")
        try:
            return [(item, work(item)) for item in batch]
        except BaseException:
            failures.append(number)
            raise

    with start_pool(at_once, "batch") as pool:
        waiting: deque[Future[list[tuple[Item, Result]]]] = deque()
        batches = enumerate(_batches(items, size_of, batch_size))
        try:
            while not stopped():
                while len(waiting) < 2 * at_once and (batch := next(batches, None)):
                    waiting.append(pool.submit(all_of, *batch))
                if not waiting:
                    return
                try:
                    results = waiting.popleft().result()
                except Interrupted:
                    if stopped():
                        return
                    raise
                yield results
        finally:
            if ended is not None:
                ended.set()
            for future in waiting:
                future.cancel()


def _batches(
    items: Iterable[Item], size_of: Callable[[Item], int], batch_size: int
) -> Iterator[list[Item]]:
    """Yield batches large enough to cost little, and small enough to show progress."""
    batch: list[Item] = []
    size = 0
    for item in items:
        batch.append(item)
        size += size_of(item)
        if len(batch) == batch_size or size >= _MOST_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


class _ErrorTrap:
    """A context that keeps the error of its block instead of raising it."""

    error: BaseException

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: object
    ) -> bool:
        if error is not None:
            self.error = error
        return True


def result_or_error(work: Callable[[], Result]) -> Result | BaseException:
    """Return the result of the work, or its error of any kind, which another thread may raise."""
    with _ErrorTrap() as trap:
        return work()
    return trap.error


class Background(Generic[Result]):
    """Work that another thread does, and that nothing can cut short."""

    def __init__(self, work: Callable[[], Result], name: str) -> None:
        """Start the thread. Raises as `start_thread`."""
        self._results: list[Result | BaseException] = []
        self._thread = start_thread(lambda: self._results.append(result_or_error(work)), name)

    def has_ended(self, timeout: float = 0) -> bool:
        """Wait at most `timeout` seconds for the work, and return whether it has ended."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def result(self, check: Callable[[], None] = lambda: None, grace: float = 0) -> Result:
        """Wait for the work and return its result, or raise its error.

        Args:
            check: Called every POLL seconds. If it raises, the thread is left behind.
            grace: Seconds for the work to end by itself before it is left behind.
        """
        try:
            while self._thread.is_alive():
                check()
                self._thread.join(POLL)
        except BaseException:
            self._thread.join(grace)
            raise
        result = self._results[0]
        if isinstance(result, BaseException):
            raise result
        return result


def in_thread(
    work: Callable[[], Result], name: str, check: Callable[[], None], grace: float = 0
) -> Result:
    """Return the result of work that another thread does. See `Background.result`."""
    return Background(work, name).result(check, grace)


@dataclass(eq=False, slots=True)
class Task:
    """Work that a TaskQueue does once."""

    work: Callable[[], None]
    is_done: bool = False


class TaskQueue:
    """Tasks done by the thread that waits for them, and by helpers started as they are needed.

    Where the system gives no further thread, work goes on with fewer. After the first failure
    no further task begins, and `finish` raises the error. Only one thread may add tasks and
    wait for them. No helper outlives `close`, or the queue as a context.
    """

    def __init__(self, at_once: int, name: str) -> None:
        """Start no helper yet. at_once: tasks at a time. name: prefix of the helpers' names."""
        self._helpers = at_once - 1
        self._name = name
        self._changed = threading.Condition()
        self._waiting: OrderedDict[Task, None] = OrderedDict()
        self._threads: list[threading.Thread] = []
        self._error: BaseException | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Drop the tasks that have not begun, and wait for the others."""
        with self._changed:
            self._waiting.clear()
        for thread in self._threads:
            thread.join()

    def add(self, work: Callable[[], None]) -> Task:
        """Add a task. It may begin once any task is waited for, but not after a failure."""
        task = Task(work)
        with self._changed:
            if self._error is None:
                self._waiting[task] = None
        return task

    def finish(self, tasks: Iterable[Task]) -> None:
        """Wait for tasks, and do those that no other thread has begun. Raise any failure."""
        for task in tasks:
            with self._changed:
                is_mine = task in self._waiting
                self._waiting.pop(task, None)
            self._start_helpers()
            if is_mine:
                self._do(task)
            with self._changed:
                while not (task.is_done or self._error):
                    self._changed.wait()
            if self._error is not None:
                raise self._error

    def _start_helpers(self) -> None:
        """Start a helper for each waiting task, as far as the limit and the system allow."""
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        for _ in range(min(self._helpers - len(self._threads), len(self._waiting))):
            thread = start_further_thread(self._help, self._name)
            if thread is None:
                return
            self._threads.append(thread)

    def _help(self) -> None:
        while True:
            with self._changed:
                if not self._waiting:
                    return
                task, _ = self._waiting.popitem(last=False)
            self._do(task)

    def _do(self, task: Task) -> None:
        result = result_or_error(task.work)
        with self._changed:
            task.is_done = True
            if result is not None:
                self._error = self._error or result
                self._waiting.clear()
            self._changed.notify_all()


def for_each(work: Callable[[Item], None], items: Iterable[Item], at_once: int, name: str) -> None:
    """Call `work` for every item, `at_once` of them at a time. Raise its first failure.

    After a failure no further item begins, and the call waits for those under way. No
    thread outlives it.

    Args:
        name: Prefix of the threads' names.
    """
    with TaskQueue(at_once, name) as queue:
        queue.finish([queue.add(partial(work, item)) for item in items])
