"""Slides at the workers of a Dask cluster: the run's side, which alone writes to `images/`.

A worker's image is renamed into its place, or copied in pieces if this side does not see it.
Dask gives a lost worker's slides to another worker.
"""

from __future__ import annotations

import logging
import math
import shutil
import socket
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any
from uuid import uuid4

import dask
from distributed import CancelledError, Client, Future, KilledWorker, LocalCluster
from distributed.client import ClosedClientError

from tcgamirror import __version__
from tcgamirror.mirror.dask_worker import (
    Orders,
    Reply,
    Station,
    fetch,
    obey,
    read_piece,
    remove_file,
    version_words,
)
from tcgamirror.mirror.directory import WORK, Mirror
from tcgamirror.mirror.executor import Ended
from tcgamirror.mirror.settings import worker_bounds
from tcgamirror.model.errors import (
    Interrupted,
    TcgaMirrorError,
    Unreachable,
    UsageError,
    WorkerLost,
)
from tcgamirror.model.slide import Attempt, Outcome, Picture, Slide
from tcgamirror.model.text import command_line
from tcgamirror.system.files import atomic_write, disk_errors, make_folder, sync_folder
from tcgamirror.system.interrupt import Shutdown
from tcgamirror.system.parallel import result_or_error, start_thread

LOCAL = "local:"

ANSWER_SECONDS = 10.0
"""Seconds that the scheduler, or all workers together, have to answer."""

BRIEF_SECONDS = 2.0
"""Seconds that orders or the disconnection may take: no hung worker is waited for."""

HUNG_SECONDS = 30.0
"""Seconds without a slide's end after which a run that drains looks for hung workers."""

WORKER_SECONDS = 60.0
"""Seconds without any worker after which the run ends."""

POLL_SECONDS = 1.0
"""Seconds between two requests for the list of workers."""

PIECE = 16 << 20
"""Bytes of an image that travel at once."""

LOST_AGAIN = 2
"""Retries of a slide whose image was lost, or whose worker was, with `local:N`.

A cluster has its own number of the latter.
"""

_VERSION = "__import__('tcgamirror').__version__"
"""Expression that any worker can evaluate; another version may lack this one's functions."""


class DaskWorkers:
    """An executor: the workers of a Dask cluster. Each of their threads fetches a slide.

    bytes_moved: bytes of the slides that ended. making: 0, as it is unknown. origins: what the
    workers learned of each origin, in words, by its name.
    """

    making = 0

    def __init__(self, address: str, mirror: Mirror, shutdown: Shutdown) -> None:
        """Connect to the scheduler and prepare its workers.

        Args:
            address: Of the scheduler, or `local:N` for N processes on this machine.

        Raises:
            Unreachable: No scheduler answers, or it has no workers.
            UsageError: The address is invalid, or a worker has another version.
        """
        self._address = address
        self._mirror = mirror
        self._shutdown = shutdown
        self._threads: dict[str, int] = {}
        self._polled = -math.inf
        self._seen = self._last_end = time.monotonic()
        self._orders = Orders()
        self._given: Orders | None = None
        self._in_flight: dict[Future[Reply], Slide] = {}
        self._ended: SimpleQueue[Future[Reply]] = SimpleQueue()
        self._lost_images: Counter[str] = Counter()
        self.bytes_moved = 0
        self.origins: dict[str, str] = {}
        root = mirror.root.absolute()
        # A killed run's station has the same name: replacing it stops the slides it still fetches.
        self._station = f"tcgamirror {socket.gethostname()}:{root}"
        self._staging = root / WORK / f"dask-{uuid4().hex}"
        for logger in ("distributed", "distributed.client"):
            logging.getLogger(logger).setLevel(logging.CRITICAL)
        with ExitStack() as opened, self._translate_errors():
            self._client = self._connect(opened)
            with disk_errors(self._staging):
                make_folder(self._staging)
            opened.callback(shutil.rmtree, self._staging, ignore_errors=True)
            self._await_workers()
            is_local = address.startswith(LOCAL)
            station = Station(mirror.settings, self._staging, self._orders, is_local=is_local)
            opened.callback(self._remove_station)
            self._client.register_plugin(station, self._station)
            self._opened = opened.pop_all()

    def _connect(self, opened: ExitStack) -> Client:
        """Return a client of the scheduler, which `opened` closes."""
        address: Any = self._address
        if self._address.startswith(LOCAL):
            address = self._start_processes(int(self._address.removeprefix(LOCAL)))
            opened.callback(address.close)
        connect = partial(Client, address, timeout=ANSWER_SECONDS, set_as_default=False)
        connected: SimpleQueue[Client | BaseException] = SimpleQueue()
        # In another thread, because connecting to a server that says nothing never ends.
        start_thread(lambda: connected.put(result_or_error(connect)), "dask")
        try:
            client = connected.get(timeout=2 * ANSWER_SECONDS)
        except Empty:
            client = OSError(f"no answer within {2 * ANSWER_SECONDS:.0f} s")
        if isinstance(client, BaseException):
            # A client that is half connected would keep the process from ending.
            self._shutdown.workers_abandoned = True
            if isinstance(client, ValueError):
                raise UsageError(f"--dask {self._address}: {client}. Give HOST:PORT or local:N")
            if isinstance(client, TypeError):
                # The cause keeps half a client alive: its end would wait 20 s and tell of it.
                raise UsageError(
                    f"--dask {self._address}: no certificates for TLS. Name them in Dask's "
                    "configuration, distributed.comm.tls"
                ) from client
            if isinstance(client, MemoryError):
                # The first bytes of another protocol are taken for a length.
                raise self._unreachable("another kind of server answers")
            raise client
        opened.callback(client.close, BRIEF_SECONDS)
        return client

    def _start_processes(self, processes: int) -> LocalCluster:
        try:
            with dask.config.set({"distributed.scheduler.allowed-failures": LOST_AGAIN}):
                return LocalCluster(
                    n_workers=processes,
                    threads_per_worker=-(-worker_bounds(self._mirror.settings).first // processes),
                    dashboard_address="127.0.0.1:0",
                    silence_logs=logging.CRITICAL,
                )
        except RuntimeError as error:
            if self._shutdown.requested:
                # Ctrl-C on a terminal reached them too.
                raise Interrupted("stopped while processes were started") from error
            raise self._unreachable(f"a process did not start ({error})") from error

    def _unreachable(self, why: object) -> Unreachable:
        again = command_line(f"fetch --dask {self._address}", self._mirror.root)
        return Unreachable(
            f"Dask scheduler {self._address}: {why}. Nothing recorded is lost. See that it runs "
            f"and has workers, then run: {again}"
        )

    @contextmanager
    def _translate_errors(self) -> Iterator[None]:
        """Raise Unreachable for an error of the connection to the scheduler."""
        try:
            yield
        except OSError as error:
            why = str(error) or f"no answer within {ANSWER_SECONDS:.0f} s"
            raise self._unreachable(f"it cannot be reached ({why})") from error

    @property
    def slots(self) -> int:
        return sum(self._threads.values())

    def submit(self, slide: Slide) -> None:
        # For a key that it knows, Dask would give the earlier result.
        key = f"tcgamirror-{uuid4().hex}"
        with self._translate_errors():
            future = self._call(partial(self._client.submit, fetch, self._station, slide, key=key))
        self._in_flight[future] = slide
        future.add_done_callback(self._ended.put)

    def drain(self) -> None:
        self._orders = replace(self._orders, begin=False)

    def ended(self, timeout: float) -> list[Ended]:
        with self._translate_errors():
            self._poll()
            futures = []
            with suppress(Empty):
                futures.append(self._ended.get(timeout=timeout))
                while True:
                    futures.append(self._ended.get_nowait())
            if futures or self._orders.begin:
                self._last_end = time.monotonic()
            elif not self._threads or time.monotonic() - self._last_end > HUNG_SECONDS:
                return self._let_go_of_hung()
        return [ended for future in futures if (ended := self._take(future)) is not None]

    def close(self, timeout: float) -> bool:
        """Stop what is in flight, and leave the cluster as it was.

        Returns True even if slides are left, because no thread of this process fetches them.
        """
        end = time.monotonic() + timeout
        with suppress(OSError, Empty):
            if self._in_flight:
                self._give(replace(self._orders, begin=False, stop=True))
            for _ in self._in_flight:
                self._ended.get(timeout=max(0.0, end - time.monotonic()))
        self._in_flight.clear()
        with suppress(OSError):
            self._opened.close()
        return True

    # Workers ---------------------------------------------------------------------

    def _ask(self, function: str, seconds: float = ANSWER_SECONDS, **options: object) -> Any:
        """Call a function of the scheduler and return its result."""

        async def ask() -> Any:
            return await getattr(self._client.scheduler, function)(**options)

        return self._call(partial(self._client.sync, ask, callback_timeout=seconds))

    def _call(self, call: Callable[[], Any]) -> Any:
        """Return the result of a client's call. Raises OSError if the scheduler is gone.

        The client then has closed itself, and fails by other errors.
        """
        try:
            return call()
        except (AttributeError, RuntimeError, ClosedClientError) as error:
            if self._client.status == "running":
                raise
            raise OSError("the connection was lost") from error

    def _run(
        self,
        function: Callable[..., Any],
        *args: object,
        workers: Collection[str] | None = None,
        seconds: float = ANSWER_SECONDS,
    ) -> dict[str, Any]:
        """Call a function at all workers or some. Return results and errors by address."""
        some = None if workers is None else list(workers)
        run = partial(self._client.run, function, *args, workers=some, on_error="return")
        answers: dict[str, Any] = self._call(partial(run, callback_timeout=seconds))
        return answers

    def _await_workers(self) -> None:
        while not self._threads:
            self._poll()
            if self._shutdown.stop.wait(0.0 if self._threads else 0.2):
                raise Interrupted("stopped while waiting for Dask workers")

    def _poll(self) -> None:
        """Update the list of workers, and give them the orders if either changed.

        Raises:
            Unreachable: There was no worker for WORKER_SECONDS.
            UsageError: A worker has another version.
        """
        now = time.monotonic()
        if now - self._polled >= POLL_SECONDS:
            self._polled = now
            threads: dict[str, int] = dict(self._ask("ncores"))
            if new := threads.keys() - self._threads.keys():
                self._check_versions(new)
                self._given = None
            if threads:
                self._seen = now
            elif now - self._seen > WORKER_SECONDS:
                raise self._unreachable(f"it has no worker for {WORKER_SECONDS:.0f} s")
            self._threads = threads
        orders = replace(
            self._orders, workers=max(1, len(self._threads)), stop=self._shutdown.stop.is_set()
        )
        if orders != self._given:
            self._give(orders)

    def _give(self, orders: Orders) -> None:
        self._orders = self._given = orders
        # A hung worker does not answer. Dask itself finds out that it is lost.
        with suppress(TimeoutError):
            self._run(obey, self._station, orders, seconds=BRIEF_SECONDS)

    def _check_versions(self, workers: Collection[str]) -> None:
        for worker, version in self._run(eval, _VERSION, workers=workers).items():
            # A worker that is gone again gives an OSError.
            if version != __version__ and not isinstance(version, OSError):
                theirs = "none" if isinstance(version, Exception) else version
                raise UsageError(version_words(worker, theirs, __version__))

    def _remove_station(self) -> None:
        with suppress(OSError):
            self._ask("unregister_worker_plugin", BRIEF_SECONDS, name=self._station)

    # Slides ----------------------------------------------------------------------

    def _let_go_of_hung(self) -> list[Ended]:
        """Give up the slides that no worker has, and those of a worker that does not answer."""
        busy = {
            key
            for worker, keys in self._ask("processing").items()
            if keys and self._answers(worker)
            for key in keys
        }
        hung = [
            each for each in self._in_flight if each.status == "pending" and each.key not in busy
        ]
        self._client.cancel(hung)
        self._last_end = time.monotonic()
        error, source = Interrupted("its worker hangs"), self._mirror.settings.via[0]
        return [Ended(self._in_flight.pop(each), source, error) for each in hung]

    def _answers(self, worker: str) -> bool:
        try:
            answers = self._run(
                *(obey, self._station, self._orders), workers=[worker], seconds=BRIEF_SECONDS
            )
        except OSError:
            return False
        return answers.get(worker) is None

    def _take(self, future: Future[Reply]) -> Ended | None:
        """Put a slide's image in place and return its end; None if the slide is fetched again."""
        if future not in self._in_flight:
            return None
        slide, source = self._in_flight[future], self._mirror.settings.via[0]
        result: Outcome | BaseException
        try:
            error = self._call(partial(future.exception, ANSWER_SECONDS))
            if error is None:
                reply: Reply = self._call(partial(future.result, ANSWER_SECONDS))
                source, result = reply.source, reply.result
                if isinstance(result, Outcome) and result.picture is not None:
                    self._place(reply, result.picture)
                if isinstance(result, Interrupted) and self._orders.begin:
                    # Its worker closes while the run goes on: another worker may fetch it.
                    self._submit_again(future)
                    return None
                self.origins.update(reply.origins)
            elif isinstance(error, KilledWorker):
                tries = error.allowed_failures + 1
                lost = WorkerLost(f"{tries} Dask workers were lost, one after another, with it")
                result = _failure(slide, source, lost)
            else:
                result = error
        except (WorkerLost, TimeoutError) as error:
            # The image was lost, with its worker or alone.
            self._lost_images[slide.file_name] += 1
            if self._orders.begin and self._lost_images[slide.file_name] <= LOST_AGAIN:
                self._submit_again(future)
                return None
            result = _failure(slide, source, WorkerLost(str(error)))
        except (CancelledError, OSError):
            result = self._unreachable("the connection to it was lost")
        except TcgaMirrorError as failure:
            result = failure
        del self._in_flight[future]
        if isinstance(result, Outcome):
            self.bytes_moved += sum(attempt.bytes_fetched for attempt in result.attempts)
        return Ended(slide, source, result)

    def _submit_again(self, future: Future[Reply]) -> None:
        self.submit(self._in_flight.pop(future))

    def _place(self, reply: Reply, picture: Picture) -> None:
        """Put an image in its place. Raises WorkerLost if its worker does not answer."""
        theirs, ours = reply.folder / picture.path, self._mirror.root / picture.path
        with disk_errors(ours):
            make_folder(ours.parent)
            is_placed = False
            # It fails if the image is on the worker's disk, or `work/` and `images/` on two disks.
            with suppress(OSError):
                # Written and forced to the disk by the worker.
                theirs.replace(ours)
                is_placed = True
            if is_placed:
                sync_folder(ours.parent)
                return
        with atomic_write(ours) as file:
            digest = sha256(usedforsecurity=False)
            for start in range(0, picture.bytes, PIECE):
                piece = self._read(reply.worker, theirs, start)
                digest.update(piece)
                file.write(piece)
            if digest.hexdigest() != picture.sha256:
                raise WorkerLost(f"{picture.path}: changed on its way from {reply.worker}")
        with suppress(OSError):
            self._run(remove_file, theirs, workers=[reply.worker])

    def _read(self, worker: str, path: Path, start: int) -> bytes:
        try:
            piece = self._run(read_piece, path, start, PIECE, workers=[worker]).get(worker)
        except OSError as error:
            raise WorkerLost(f"Dask worker {worker} does not answer") from error
        if isinstance(piece, bytes):
            return piece
        raise WorkerLost(f"Dask worker {worker}: {piece}")


def _failure(slide: Slide, source: str, error: WorkerLost) -> Outcome:
    attempt = Attempt(
        source, time.time(), 0.0, 0, 0, error.fault, str(error), retryable=error.retryable
    )
    return Outcome(slide, (attempt,), None)
