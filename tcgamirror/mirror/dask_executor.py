"""The run's side of a fetch by the workers of a Dask cluster.

Only this side writes to the mirror: a worker's reply carries the slide's image. Dask gives the
slides of a lost worker to another one. The other side is `dask_worker`.
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
from tcgamirror.system.interrupt import Deadline, Shutdown
from tcgamirror.system.parallel import Background, result_or_error, start_further_thread

LOCAL_PREFIX = "local:"
"""Prefix of an address that asks for processes on this machine."""

ANSWER_SECONDS = 10.0
"""Seconds within which the scheduler must answer."""

BRIEF_SECONDS = 1.0
"""Seconds for an answer of a worker, and for the end of the connection."""

WORKER_SECONDS = 60.0
"""Seconds without any worker after which the run ends."""

HUNG_SECONDS = 30.0
"""Seconds without a heartbeat after which a worker counts as hung. Dask waits for five minutes."""

POLL_SECONDS = 1.0
"""Least seconds between two requests for the list of workers."""

PAUSE_SECONDS = 10.0
"""Most seconds that count between two of these requests.

The rest is taken for a pause of this process, as by Ctrl-Z.
"""

KEY_PREFIX = "tcgamirror-"
"""Prefix of the keys of our tasks."""

RETRIES = 2
"""Retries of a slide whose task raises an error at a worker, as when the worker closes.

With `local:N`, also retries of a slide whose worker was lost.
"""

_VERSION = "__import__('tcgamirror').__version__"
"""An expression, which any worker can evaluate.

A worker with another version may lack the functions of this one.
"""


class DaskWorkers:
    """An executor: the workers of a Dask cluster. Each of their threads fetches a slide at a time.

    bytes_moved: Bytes fetched for the slides that ended. origins: What the workers learned of
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
            Interrupted: The run was stopped meanwhile.
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
        # The futures are kept because Dask drops a task that has none.
        self._in_flight: dict[Slide, Future[Reply | TcgaMirrorError] | BaseException] = {}
        self._replies: SimpleQueue[tuple[Slide, Reply | BaseException]] = SimpleQueue()
        self.bytes_moved = 0
        self.origins: dict[str, str] = {}
        # The same name as in a run of this mirror that was killed. Workers then replace that run's
        # station, which stops the slides that it still fetches.
        self._station = f"tcgamirror {socket.gethostname()}:{mirror.root.absolute()}"
        for logger in ("distributed", "distributed.client"):
            logging.getLogger(logger).setLevel(logging.CRITICAL)
        with ExitStack() as resources, self._translate_errors():
            self._client = self._connect(resources)
            self._await_workers()
            is_local = address.startswith(LOCAL_PREFIX)
            station = Station(mirror.settings, self._orders or Orders(), is_local=is_local)
            resources.callback(self._remove_station)
            self._register(station)
            # So that the wait for a hung worker, in `_register`, does not count as a pause.
            self._polled_at = time.monotonic()
            self._resources = resources.pop_all()

    def _register(self, station: Station) -> None:
        """Give the station to all workers, including those that join later."""

        async def register() -> None:
            await self._client.register_plugin(station, self._station)

        # Dask waits until every worker has answered, and one may hang.
        with suppress(TimeoutError):
            self._call(partial(self._client.sync, register, callback_timeout=HUNG_SECONDS))

    def _connect(self, resources: ExitStack) -> Client:
        """Return a client of the scheduler, which `resources` closes."""
        address: Any = self._address
        if self._address.startswith(LOCAL_PREFIX):
            address = self._start_processes(int(self._address.removeprefix(LOCAL_PREFIX)))
            resources.callback(address.close)
        connect = partial(Client, address, timeout=ANSWER_SECONDS, set_as_default=False)
        deadline = Deadline.after(2 * ANSWER_SECONDS)

        def check() -> None:
            if self._shutdown.requested:
                raise Interrupted("stopped while connecting to the scheduler")
            if deadline.is_reached:
                raise OSError(f"no answer within {2 * ANSWER_SECONDS:.0f} s")

        # In another thread, because connecting to a server that never answers does not end.
        connecting = Background(connect, "dask")
        try:
            client = connecting.result(check)
        except ValueError as error:
            raise UsageError(
                f"--dask {self._address}: {error}. Give HOST:PORT or local:N"
            ) from None
        except TypeError as error:
            # Chained, so that the half-made client lives as long as this error. To delete the
            # client would take 20 s and print errors.
            raise UsageError(
                f"--dask {self._address}: no certificates for TLS. Name them in Dask's "
                "configuration, distributed.comm.tls"
            ) from error
        except MemoryError:
            # Dask reads a length from the first bytes, and another protocol has none there.
            raise self._build_unreachable("another kind of server answers") from None
        resources.callback(client.close, BRIEF_SECONDS)
        return client

    def _start_processes(self, processes: int) -> LocalCluster:
        config = {
            "distributed.scheduler.allowed-failures": RETRIES,
            # Without this, Dask would take workers paused by Ctrl-Z for hung ones.
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
                # On a terminal, Ctrl-C reaches the new processes too.
                raise Interrupted("stopped while processes were started") from error
            raise self._build_unreachable(f"a process did not start ({error})") from error

    def _build_unreachable(self, why: object) -> Unreachable:
        again = command_line(f"fetch --dask {self._address}", self._mirror.root)
        return Unreachable(
            f"Dask scheduler {self._address}: {why}. Nothing recorded is lost. See that it runs "
            f"and has workers, then run: {again}"
        )

    @contextmanager
    def _translate_errors(self) -> Iterator[None]:
        """Raise Unreachable for an OSError, which the connection to the scheduler may cause."""
        try:
            yield
        except OSError as error:
            why = str(error) or f"no answer within {ANSWER_SECONDS:.0f} s"
            raise self._build_unreachable(f"it cannot be reached ({why})") from error

    @property
    def threads(self) -> int:
        """The number of threads of all workers."""
        return sum(self._threads.values())

    def has_room(self) -> bool:
        return len(self._in_flight) < self.threads

    def submit(self, slide: Slide) -> None:
        # A new key, because for a known one Dask would return the earlier result.
        key = f"{KEY_PREFIX}{uuid4().hex}"
        begin = partial(self._client.submit, fetch, self._station, slide, key=key, retries=RETRIES)
        future = self._in_flight[slide] = result_or_error(partial(self._call, begin))
        if isinstance(future, BaseException):
            # Not raised here, so that the slides that have ended are recorded first.
            self._replies.put((slide, future))
        else:
            future.add_done_callback(partial(self._gather, slide))

    def _gather(self, slide: Slide, future: Future[Reply | TcgaMirrorError]) -> None:
        def gather() -> None:
            self._replies.put((slide, result_or_error(partial(self._call, future.result))))

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
            # Raised by a later call, so that the slides that have ended are recorded first.
            if self._replies.empty():
                raise
        replies = []
        with suppress(Empty):
            replies.append(self._replies.get(timeout=timeout))
            while True:
                replies.append(self._replies.get_nowait())
        for slide, _ in replies:
            del self._in_flight[slide]
        return [self._build_result(slide, reply) for slide, reply in replies]

    def close(self, timeout: float) -> None:
        """Stop the slides in flight, remove the station and disconnect."""
        end = time.monotonic() + timeout
        with suppress(OSError, Empty):
            if self._in_flight and not (self._orders and self._orders.stop):
                self._send(Orders(begin=False, stop=True))
            for _ in self._in_flight:
                self._replies.get(timeout=max(0.0, end - time.monotonic()))
        self._in_flight.clear()
        with suppress(OSError):
            self._resources.close()

    # Workers ---------------------------------------------------------------------

    def _ask(self, function: str, seconds: float = ANSWER_SECONDS, **options: object) -> Any:
        """Call a function of the scheduler and return its result."""

        async def ask() -> Any:
            return await getattr(self._client.scheduler, function)(**options)

        return self._call(partial(self._client.sync, ask, callback_timeout=seconds))

    def _call(self, call: Callable[[], Any]) -> Any:
        """Return the result of a call of the client. Raises OSError if the scheduler is gone.

        A client that loses its scheduler closes itself. After that it raises other errors.
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
        """Call a function at workers. Return each one's result or error, by its address.

        There is a request for each, because a request to several waits for all of them. The error
        of a worker that hangs is TimeoutError.
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
        """Update the list of workers, if POLL_SECONDS have passed and the run is not stopped.

        If the workers or the orders changed, send the orders to all workers.

        Raises:
            OSError: The scheduler is gone.
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
                raise self._build_unreachable(f"it has had no worker for {WORKER_SECONDS:.0f} s")
            self._threads = threads
            self._polled_at = time.monotonic()
        orders = Orders(max(1, len(self._threads)), not self._is_draining, stop)
        if orders != self._orders:
            self._send(orders)

    def _restart_hung(self, last_seen: dict[str, float], now: float) -> None:
        """Restart workers that hang, so that the scheduler gives their slides to others.

        A worker with tasks or data of another client is left to Dask.

        Args:
            last_seen: Time of each worker's last heartbeat, by the scheduler's clock.
            now: The time by this process's clock.
        """
        # `_heartbeats` has the last heartbeat of each worker, and when this process first saw it.
        # Ctrl-Z may have paused the workers too, so the time of a pause does not count.
        paused = max(0.0, now - self._polled_at - PAUSE_SECONDS)
        former = {name: (seen, at + paused) for name, (seen, at) in self._heartbeats.items()}
        self._heartbeats = {
            name: former[name] if name in former and former[name][0] == seen else (seen, now)
            for name, seen in last_seen.items()
        }
        hung = [name for name, (_, at) in self._heartbeats.items() if now - at > HUNG_SECONDS]
        if hung:
            # So that each is restarted at most once in HUNG_SECONDS.
            for name in hung:
                del self._heartbeats[name]
            shared_workers = {
                name
                for held in (self._ask("processing"), self._ask("has_what"))
                for name, keys in held.items()
                if any(not str(key).startswith(KEY_PREFIX) for key in keys)
            }
            with suppress(TimeoutError):
                self._ask(
                    "restart_workers",
                    workers=[name for name in hung if name not in shared_workers],
                    stimulus_id=self._station,
                    timeout=BRIEF_SECONDS,
                    wait_for_workers=False,
                    on_error="return",
                )

    def _send(self, orders: Orders) -> None:
        self._orders = orders
        # The answers are ignored: a hung worker gives none, and is found by its heartbeats.
        self._run(obey, self._station, orders, workers=self._threads)

    def _check_versions(self, workers: Collection[str]) -> list[str]:
        """Return those of the workers that do not answer.

        Raises UsageError if one has another version.
        """
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

    def _build_result(self, slide: Slide, reply: Reply | BaseException) -> Result:
        """Return the outcome or error of a slide. Write its image, if it has one."""
        match reply:
            case Reply():
                return result_or_error(partial(self._keep, reply))
            case TcgaMirrorError():
                return reply
            case KilledWorker():
                tries = reply.allowed_failures + 1
                lost = f"{tries} Dask workers were lost, one after another, while they fetched it"
                return self._build_failure(slide, WorkerLost(lost))
            case CancelledError() | OSError():
                return self._build_unreachable("the connection to it was lost")
        return self._build_failure(slide, failure_of(reply))

    def _keep(self, reply: Reply) -> Outcome:
        """Write a slide's image to the mirror, and count its bytes. Raises as `disk_errors`."""
        outcome = reply.outcome
        if outcome.picture is not None:
            with atomic_write(self._mirror.root / outcome.picture.path) as file:
                file.write(reply.image)
        self.origins.update(reply.origins)
        self.bytes_moved += sum(attempt.bytes_fetched for attempt in outcome.attempts)
        return outcome

    def _build_failure(self, slide: Slide, error: TcgaMirrorError) -> Outcome:
        source, now = self._mirror.settings.via[0], time.time()
        attempt = Attempt(
            source, now, 0.0, 0, 0, error.fault, str(error), retryable=error.retryable
        )
        return Outcome(slide, (attempt,), None)
