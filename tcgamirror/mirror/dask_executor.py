"""The run's side of a fetch by the workers of a Dask cluster.

Only this side writes to the mirror: a reply carries its slide's image. Dask gives the slides
of a lost worker to another one.
"""

from __future__ import annotations

import asyncio
import logging
import math
import socket
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any
from uuid import uuid4

import dask
from distributed import CancelledError, Client, Future, KilledWorker, LocalCluster
from distributed.client import ClosedClientError

from tcgamirror import __version__
from tcgamirror.mirror.dask_worker import Orders, Reply, Station, fetch, obey
from tcgamirror.mirror.directory import Mirror
from tcgamirror.mirror.executor import Result
from tcgamirror.mirror.ladder import failure_of
from tcgamirror.mirror.settings import worker_bounds
from tcgamirror.model.errors import (
    Interrupted,
    TcgaMirrorError,
    Unreachable,
    UsageError,
    WorkerLost,
)
from tcgamirror.model.slide import Attempt, Outcome, Slide
from tcgamirror.model.text import command_line
from tcgamirror.system.files import atomic_write
from tcgamirror.system.interrupt import Shutdown
from tcgamirror.system.parallel import result_or_error, start_further_thread, start_thread

LOCAL = "local:"
"""Start of an address that asks for processes on this machine."""

ANSWER_SECONDS = 10.0
"""Seconds within which the scheduler must answer."""

BRIEF_SECONDS = 1.0
"""Seconds that a worker's answer or the disconnection may take."""

WORKER_SECONDS = 60.0
"""Seconds without any worker after which the run ends."""

HUNG_SECONDS = 30.0
"""Seconds without a heartbeat after which a worker is lost. Dask itself waits for five minutes."""

POLL_SECONDS = 1.0
"""Least seconds between two requests for the list of workers."""

PAUSE_SECONDS = 10.0
"""Seconds since the last of these requests that are not a pause of this process."""

KEYS = "tcgamirror-"
"""Prefix of the keys of our tasks."""

RETRIES = 2
"""Retries of a slide whose worker closed; with `local:N`, also of one whose worker was lost."""

_VERSION = "__import__('tcgamirror').__version__"
"""Expression that any worker can evaluate; another version may lack this one's functions."""


class DaskWorkers:
    """An executor: the workers of a Dask cluster. Each of their threads fetches a slide.

    bytes_moved: bytes fetched for the slides that ended. origins: what the workers learned of
    each origin, in words, by its name. current_renders: 0, because the workers do not tell.
    """

    current_renders = 0

    def __init__(self, address: str, mirror: Mirror, shutdown: Shutdown) -> None:
        """Connect to the scheduler and prepare its workers.

        Args:
            address: The scheduler's, or `local:N` for N processes on this machine.

        Raises:
            Unreachable: No scheduler answers, or it has no workers.
            UsageError: The address is invalid, or a worker has another version.
        """
        self._address = address
        self._mirror = mirror
        self._shutdown = shutdown
        self._threads: dict[str, int] = {}
        self._heartbeats: dict[str, tuple[float, float]] = {}
        self._polled_at = -math.inf
        self._workers_seen_at = time.monotonic()
        self._is_draining = False
        self._orders: Orders | None = None
        # With the futures, because Dask drops a task whose future is gone.
        self._in_flight: dict[Slide, Future[Reply] | BaseException] = {}
        self._ended: SimpleQueue[tuple[Slide, Reply | BaseException]] = SimpleQueue()
        self.bytes_moved = 0
        self.origins: dict[str, str] = {}
        # A killed run's station has the same name: replacing it stops the slides it still fetches.
        self._station = f"tcgamirror {socket.gethostname()}:{mirror.root.absolute()}"
        for logger in ("distributed", "distributed.client"):
            logging.getLogger(logger).setLevel(logging.CRITICAL)
        with ExitStack() as opened, self._translate_errors():
            self._client = self._connect(opened)
            self._await_workers()
            is_local = address.startswith(LOCAL)
            station = Station(mirror.settings, self._orders or Orders(), is_local=is_local)
            opened.callback(self._remove_station)
            self._register(station)
            # The wait for a hung worker is no pause.
            self._polled_at = time.monotonic()
            self._opened = opened.pop_all()

    def _register(self, station: Station) -> None:
        """Give all workers the station, also those that join later."""

        async def register() -> None:
            await self._client.register_plugin(station, self._station)

        # Dask waits until every worker has answered, and one may hang.
        with suppress(TimeoutError):
            self._call(partial(self._client.sync, register, callback_timeout=HUNG_SECONDS))

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
                # Chained, because the cause keeps half a client alive. Its end would wait 20 s
                # and print errors.
                raise UsageError(
                    f"--dask {self._address}: no certificates for TLS. Name them in Dask's "
                    "configuration, distributed.comm.tls"
                ) from client
            if isinstance(client, MemoryError):
                # Dask takes the first bytes of another protocol for a length.
                raise self._unreachable("another kind of server answers")
            raise client
        opened.callback(client.close, BRIEF_SECONDS)
        return client

    def _start_processes(self, processes: int) -> LocalCluster:
        config = {
            "distributed.scheduler.allowed-failures": RETRIES,
            # Dask takes Ctrl-Z of all processes for hung workers.
            "distributed.scheduler.worker-ttl": None,
        }
        try:
            with dask.config.set(config):
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
        """Raise Unreachable in place of an OSError, which is of the connection to the scheduler."""
        try:
            yield
        except OSError as error:
            why = str(error) or f"no answer within {ANSWER_SECONDS:.0f} s"
            raise self._unreachable(f"it cannot be reached ({why})") from error

    @property
    def threads(self) -> int:
        """The number of all workers' threads."""
        return sum(self._threads.values())

    def has_room(self) -> bool:
        return len(self._in_flight) < self.threads

    def submit(self, slide: Slide) -> None:
        # For a key that it knows, Dask would give the earlier result.
        key = f"{KEYS}{uuid4().hex}"
        begin = partial(self._client.submit, fetch, self._station, slide, key=key, retries=RETRIES)
        future = self._in_flight[slide] = result_or_error(partial(self._call, begin))
        if isinstance(future, BaseException):
            # Not raised, so that the slides that have ended are recorded first.
            self._ended.put((slide, future))
        else:
            future.add_done_callback(partial(self._gather, slide))

    def _gather(self, slide: Slide, future: Future[Reply]) -> None:
        def gather() -> None:
            self._ended.put((slide, result_or_error(partial(self._call, future.result))))

        # In a thread of its own, because a hung worker may take minutes to send an image.
        if start_further_thread(gather, "dask") is None:
            gather()

    def drain(self) -> None:
        self._is_draining = True

    def take_ended(self, timeout: float) -> list[Result]:
        try:
            with self._translate_errors():
                self._poll()
        except TcgaMirrorError:
            # The slides that have ended are recorded first.
            if self._ended.empty():
                raise
        ends = []
        with suppress(Empty):
            ends.append(self._ended.get(timeout=timeout))
            while True:
                ends.append(self._ended.get_nowait())
        for slide, _ in ends:
            del self._in_flight[slide]
        return [self._result(slide, reply) for slide, reply in ends]

    def close(self, timeout: float) -> bool:
        """Stop what is in flight, and leave the cluster as it was.

        Returns True even if slides are left, because no thread of this process fetches them.
        """
        end = time.monotonic() + timeout
        with suppress(OSError, Empty):
            if self._in_flight and not (self._orders and self._orders.stop):
                self._give(Orders(begin=False, stop=True))
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

        A client without a scheduler closes itself, and from then on raises other errors.
        """
        try:
            return call()
        except (AttributeError, RuntimeError, ClosedClientError) as error:
            if self._client.status == "running":
                raise
            raise OSError("the connection was lost") from error

    def _run(
        self, function: Callable[..., Any], *args: object, workers: Collection[str]
    ) -> dict[str, Any]:
        """Call a function at workers. Return the result or error of each, by its address.

        Each is asked on its own, because Dask waits for all. One that hangs has a TimeoutError.
        """

        async def ask(worker: str) -> Any:
            call = self._client.run(function, *args, workers=[worker], on_error="return")
            try:
                return (await asyncio.wait_for(call, BRIEF_SECONDS))[worker]
            except OSError as error:
                return error

        async def ask_all() -> list[Any]:
            return await asyncio.gather(*map(ask, workers))

        return dict(zip(workers, self._call(partial(self._client.sync, ask_all)), strict=True))

    def _await_workers(self) -> None:
        while not self._threads:
            self._poll()
            if self._shutdown.stop.wait(0.0 if self._threads else 0.2):
                raise Interrupted("stopped while waiting for Dask workers")

    def _poll(self) -> None:
        """Update the list of workers. If it or the orders changed, send the orders to all.

        Raises:
            Unreachable: There was no worker for WORKER_SECONDS.
            UsageError: A worker has another version.
        """
        now, stop = time.monotonic(), self._shutdown.stop.is_set()
        if now - self._polled_at >= POLL_SECONDS and not stop:
            workers = self._ask("identity")["workers"]
            self._restart_hung({name: each["last_seen"] for name, each in workers.items()}, now)
            threads: dict[str, int] = {name: each["nthreads"] for name, each in workers.items()}
            if new := threads.keys() - self._threads.keys():
                for worker in self._check_versions(new):
                    del threads[worker]
                self._orders = None
            if threads:
                self._workers_seen_at = now
            elif now - self._workers_seen_at > WORKER_SECONDS:
                raise self._unreachable(f"it has no worker for {WORKER_SECONDS:.0f} s")
            self._threads = threads
            self._polled_at = time.monotonic()
        orders = Orders(max(1, len(self._threads)), not self._is_draining, stop)
        if orders != self._orders:
            self._give(orders)

    def _restart_hung(self, last_seen: dict[str, float], now: float) -> None:
        """Have the scheduler give other workers the slides of those without heartbeats.

        A worker that has tasks or data of others is left to Dask.

        last_seen: times of the last heartbeats, by the scheduler's clock. `_heartbeats` has each
        with the time at which this process first saw it.
        """
        # Ctrl-Z may have paused the workers, too.
        paused = max(0.0, now - self._polled_at - PAUSE_SECONDS)
        former = {name: (seen, at + paused) for name, (seen, at) in self._heartbeats.items()}
        self._heartbeats = {
            name: former[name] if name in former and former[name][0] == seen else (seen, now)
            for name, seen in last_seen.items()
        }
        hung = [name for name, (_, at) in self._heartbeats.items() if now - at > HUNG_SECONDS]
        if hung:
            for name in hung:
                del self._heartbeats[name]
            shared = {
                name
                for held in (self._ask("processing"), self._ask("has_what"))
                for name, keys in held.items()
                if any(not str(key).startswith(KEYS) for key in keys)
            }
            with suppress(TimeoutError):
                self._ask(
                    "restart_workers",
                    workers=[name for name in hung if name not in shared],
                    stimulus_id=self._station,
                    timeout=BRIEF_SECONDS,
                    wait_for_workers=False,
                    on_error="return",
                )

    def _give(self, orders: Orders) -> None:
        self._orders = orders
        # The answers are ignored: a hung worker gives none, and is found by its heartbeats.
        self._run(obey, self._station, orders, workers=self._threads)

    def _check_versions(self, workers: Collection[str]) -> list[str]:
        """Return the new workers that hang or are gone again. Raises UsageError as `_poll`."""
        silent = []
        for worker, version in self._run(eval, _VERSION, workers=workers).items():
            if isinstance(version, OSError):
                silent.append(worker)
            elif version != __version__:
                theirs = "none" if isinstance(version, Exception) else version
                raise UsageError(
                    f"Dask worker {worker}: it has tcgamirror {theirs}, and this is "
                    f"{__version__}. Install the same version for every worker"
                )
        return silent

    def _remove_station(self) -> None:
        with suppress(OSError):
            self._ask("unregister_worker_plugin", BRIEF_SECONDS, name=self._station)

    # Slides ----------------------------------------------------------------------

    def _result(self, slide: Slide, reply: Reply | BaseException) -> Result:
        """Put a slide's image in its place. Return the slide's outcome, or its error."""
        match reply:
            case Reply():
                return result_or_error(partial(self._keep, reply))
            case TcgaMirrorError():
                return reply
            case KilledWorker():
                tries = reply.allowed_failures + 1
                lost = f"{tries} Dask workers were lost, one after another, with it"
                return self._failed(slide, WorkerLost(lost))
            case CancelledError() | OSError():
                return self._unreachable("the connection to it was lost")
        return self._failed(slide, failure_of(reply))

    def _keep(self, reply: Reply) -> Outcome:
        """Put a slide's image in its place. Raises as `disk_errors`."""
        outcome = reply.outcome
        if outcome.picture is not None:
            with atomic_write(self._mirror.root / outcome.picture.path) as file:
                file.write(reply.image)
        self.origins.update(reply.origins)
        self.bytes_moved += sum(attempt.bytes_fetched for attempt in outcome.attempts)
        return outcome

    def _failed(self, slide: Slide, error: TcgaMirrorError) -> Outcome:
        source, now = self._mirror.settings.via[0], time.time()
        attempt = Attempt(
            source, now, 0.0, 0, 0, error.fault, str(error), retryable=error.retryable
        )
        return Outcome(slide, (attempt,), None)
