"""Slides fetched by the workers of a Dask cluster: real processes, some of which are killed."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import pytest
from distributed import Client

from tcgamirror.catalogue.catalogue import Catalogue
from tcgamirror.mirror import dask_executor
from tcgamirror.mirror.dask_executor import DaskWorkers
from tcgamirror.mirror.directory import CATALOGUE, Mirror
from tcgamirror.model.errors import Unreachable
from tcgamirror.model.slide import Outcome
from tcgamirror.system.interrupt import Shutdown
from tests.gdc import Listed, StandIn
from tests.support.command import (
    BINARY,
    ended,
    inside,
    run,
    started,
    succeeded,
    surroundings,
    went_well,
)
from tests.support.mirrors import (
    filled,
    finished_images,
    images,
    made,
    rewrite,
    rows,
    says,
    until,
    updated,
)

pytestmark = pytest.mark.skipif(BINARY in os.environ, reason="the executable has no Dask")

SLIDES = 8
DASK = str(Path(sys.executable).with_name("dask"))


class Cluster:
    """A scheduler and its workers, each a process, over loopback."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.own = folder / "own"
        self.own.mkdir()
        self._stack = stack
        self._file = folder / "scheduler.json"
        self.scheduler = self._start(DASK, "scheduler", "--host", "127.0.0.1", "--port", "0")
        until(self._file.exists)
        until(lambda: json.loads(self._file.read_text() or "{}"))
        self.address = str(json.loads(self._file.read_text())["address"])

    def worker(self, path: Path | None = None) -> subprocess.Popen[bytes]:
        options = ("--nthreads", "1", "--no-nanny", "--local-directory", self.own)
        return self._start(DASK, "worker", *options, path=path)

    def _start(self, *words: str | Path, path: Path | None = None) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [*map(str, words), "--no-dashboard", "--scheduler-file", str(self._file)],
            env=surroundings({} if path is None else {"PYTHONPATH": str(path)}),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._stack.callback(process.wait)
        self._stack.callback(process.kill)
        return process


@contextmanager
def cluster(folder: Path, workers: int = 3) -> Iterator[Cluster]:
    folder.mkdir()
    with ExitStack() as stack:
        made = Cluster(folder, stack)
        for _ in range(workers):
            made.worker()
        yield made


@pytest.fixture(scope="module")
def gdc(small_slides: tuple[Listed, ...]) -> Iterator[StandIn]:
    with StandIn(small_slides) as gdc:
        yield gdc


@pytest.fixture(scope="module")
def alone(gdc: StandIn, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mirror that one process filled."""
    return filled(tmp_path_factory.mktemp("alone") / "m", gdc, slides=SLIDES)


@pytest.fixture(scope="module")
def dask(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster(tmp_path_factory.mktemp("cluster") / "dask", workers=2) as dask:
        yield dask


NO_MORE_FILES = """
import resource
from tcgamirror.mirror.ladder import Ladder

def fetch(*given, whole=Ladder.fetch, log=open(__file__ + ".log", "a", buffering=1)):
    log.write("begun ")
    log.flush()
    outcome = whole(*given)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
    return outcome

Ladder.fetch = fetch
"""
"""Code that a worker runs at its start: it then has no room for the file of an image."""


@contextmanager
def slowly(gdc: StandIn) -> Iterator[None]:
    gdc.delay = 0.2
    yield
    gdc.delay = 0.0


ATTEMPTS = "select file_name, source, attempts, bytes_fetched, sha256, error from mirror order by 1"


def is_same(root: Path, alone: Path) -> bool:
    return (images(root), rows(root, ATTEMPTS)) == (images(alone), rows(alone, ATTEMPTS))


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_slides_of_a_lost_worker_are_fetched_by_the_others(
    gdc: StandIn, alone: Path, dask: Cluster, tmp_path: Path, end: signal.Signals
) -> None:
    root = made(tmp_path / "m", gdc, slides=SLIDES)
    victim = dask.worker()
    with slowly(gdc), started("--mirror", root, "update", "--dask", dask.address) as update:
        until(partial(finished_images, root))
        victim.send_signal(end)
        result = ended(update)
    assert (result.code, result.err) == (0, ""), result
    assert f"{SLIDES} slides fetched, 0 failed" in result.out
    assert is_same(root, alone)
    succeeded("--mirror", root, "verify")
    assert list((root / "work").iterdir()) == []
    assert not list(dask.own.rglob("*.png"))


def test_a_killed_scheduler_ends_the_run_and_the_next_one_goes_on(
    gdc: StandIn, alone: Path, tmp_path: Path
) -> None:
    root = made(tmp_path / "m", gdc, slides=SLIDES)
    with cluster(tmp_path / "dask", workers=1) as dask, slowly(gdc):
        with started("--mirror", root, "update", "--dask", dask.address) as update:
            until(partial(finished_images, root))
            dask.scheduler.kill()
            result = ended(update)
        says(result, 4, f"Dask scheduler {dask.address}: ", "Nothing recorded is lost")
    updated(root)
    assert is_same(root, alone)


def test_images_received_before_the_scheduler_is_lost_are_not_dropped(
    gdc: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dask_executor, "POLL_SECONDS", 0.0)
    root = made(tmp_path / "m", gdc, slides=4)
    for command in ("refresh", "sample"):
        went_well("--mirror", root, command)
    with Catalogue.open(root / CATALOGUE, read_only=True) as catalogue:
        *slides, last = catalogue.queue.due(retry_failed=False, now=time.time())
    with cluster(tmp_path / "dask", workers=2) as dask:
        workers = DaskWorkers(dask.address, Mirror.find(root, above=False), Shutdown())
        for slide in slides:
            workers.submit(slide)
        until(lambda: workers._replies.qsize() == len(slides), 60)
        dask.scheduler.kill()
        until(lambda: workers._client.status == "closed")
        workers.submit(last)
        results = workers.take_ended(1)
        assert {each.slide for each in results if isinstance(each, Outcome)} == {*slides}
        assert len(images(root)) == len(slides)
        assert [type(each) for each in results[3:]] == [Unreachable]
        with pytest.raises(Unreachable):
            workers.take_ended(1)
        workers.close(1)


def test_ctrl_c_ends_the_slides_in_flight_and_begins_no_other(
    gdc: StandIn, alone: Path, dask: Cluster, tmp_path: Path
) -> None:
    root = made(tmp_path / "m", gdc, slides=SLIDES)
    with slowly(gdc), started("--mirror", root, "update", "--dask", dask.address) as update:
        until(partial(finished_images, root))
        update.send_signal(signal.SIGINT)
        result = ended(update)
    assert (result.code, "stopped with" in result.err) == (130, True), result
    done = len(images(root))
    assert 0 < done < SLIDES
    assert rows(root, "select count(*) from mirror where attempts") == [(done,)]
    limited = succeeded("--mirror", root, "fetch", "--dask", dask.address, "--max-bytes", "1")
    assert "stopped by --max-bytes" in limited.out
    updated(root)
    assert is_same(root, alone)


@pytest.mark.parametrize(
    ("hung", "stops"), [("worker", [signal.SIGINT] * 2), ("scheduler", [signal.SIGTERM])]
)
def test_a_run_whose_worker_or_scheduler_hangs_stops_at_once(
    gdc: StandIn, alone: Path, tmp_path: Path, hung: str, stops: list[signal.Signals]
) -> None:
    root = made(tmp_path / "m", gdc, slides=SLIDES)
    with cluster(tmp_path / "dask", workers=2) as dask, slowly(gdc):
        victim = dask.worker() if hung == "worker" else dask.scheduler
        with started("--mirror", root, "update", "--dask", dask.address) as update:
            until(partial(finished_images, root))
            victim.send_signal(signal.SIGSTOP)
            for stop in stops:
                update.send_signal(stop)
                time.sleep(0.5)
            begun = time.monotonic()
            assert ended(update).code == 130
    assert time.monotonic() - begun < 15
    updated(root)
    assert is_same(root, alone)


def test_a_new_worker_is_used_while_another_hangs(
    gdc: StandIn, alone: Path, tmp_path: Path
) -> None:
    root = made(tmp_path / "m", gdc, slides=SLIDES)
    with cluster(tmp_path / "dask", workers=0) as dask:
        victim = dask.worker()
        with slowly(gdc), started("--mirror", root, "update", "--dask", dask.address) as update:
            until(partial(finished_images, root))
            victim.send_signal(signal.SIGSTOP)
            dask.worker()
            until(lambda: update.poll() is not None or len(finished_images(root)) == SLIDES - 1)
            victim.kill()
            assert ended(update).code == 0
    assert is_same(root, alone)


@pytest.mark.parametrize("code", [0, 130])
def test_a_worker_that_hangs_from_the_start_is_not_waited_for(
    gdc: StandIn, alone: Path, tmp_path: Path, code: int
) -> None:
    """Nor after Ctrl-C; Dask itself waits five minutes."""
    root = made(tmp_path / "m", gdc, slides=SLIDES)
    with cluster(tmp_path / "dask", workers=1) as dask:
        victim = dask.worker()
        with Client(dask.address, set_as_default=False) as client:
            client.wait_for_workers(2, timeout=60)
        victim.send_signal(signal.SIGSTOP)
        with slowly(gdc), started("--mirror", root, "update", "--dask", dask.address) as update:
            until(partial(finished_images, root), 60)
            if code:
                update.send_signal(signal.SIGINT)
            assert ended(update, 90).code == code
    updated(root)
    assert is_same(root, alone)


def test_a_hung_worker_is_removed_unless_it_has_tasks_of_others(
    gdc: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dask_executor, "HUNG_SECONDS", 3.0)
    monkeypatch.setattr(dask_executor, "POLL_SECONDS", 0.2)
    mirror = Mirror.find(made(tmp_path / "m", gdc, slides=1), above=False)
    with (
        cluster(tmp_path / "dask", workers=0) as dask,
        Client(dask.address, set_as_default=False) as others,
    ):
        victim = dask.worker()
        task = others.submit(time.sleep, 600)
        until(lambda: any(others.processing().values()), 60)
        workers = DaskWorkers(dask.address, mirror, Shutdown())
        victim.send_signal(signal.SIGSTOP)
        for _ in range(25):
            workers.take_ended(0.2)
        assert others.processing()
        task.cancel()
        until(lambda: workers.take_ended(0.2) == [] and not others.processing())
        workers.close(1)


def test_a_worker_that_paused_with_the_run_is_not_restarted(
    gdc: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, seconds in (("HUNG", 3.0), ("PAUSE", 1.0), ("POLL", 0.2)):
        monkeypatch.setattr(dask_executor, f"{name}_SECONDS", seconds)
    mirror = Mirror.find(made(tmp_path / "m", gdc, slides=1), above=False)
    with cluster(tmp_path / "dask", workers=0) as dask:
        only = dask.worker()
        workers = DaskWorkers(dask.address, mirror, Shutdown())
        workers.take_ended(0.5)
        only.send_signal(signal.SIGSTOP)
        time.sleep(4)
        # Asked before the worker's first heartbeat.
        workers.take_ended(0)
        only.send_signal(signal.SIGCONT)
        for _ in range(5):
            workers.take_ended(0.2)
        assert only.poll() is None and workers.threads == 1
        workers.close(1)


def test_ctrl_z_for_long_restarts_no_process_of_this_machine(
    gdc: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The least that Dask takes is five seconds.
    monkeypatch.setenv("DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL", "1s")
    root = made(tmp_path / "m", gdc, slides=SLIDES)
    rewrite(root, "^workers = .*", "workers = 2")
    with slowly(gdc), started("--mirror", root, "update", "--dask", "local:2") as update:

        def processes() -> bytes:
            return subprocess.check_output(["pgrep", "-P", str(update.pid)])

        until(partial(finished_images, root))
        os.killpg(update.pid, signal.SIGSTOP)
        before, done = processes(), len(finished_images(root))
        time.sleep(7)
        os.killpg(update.pid, signal.SIGCONT)
        until(lambda: len(finished_images(root)) > done + 1)
        assert processes() == before
        assert ended(update).code == 0


def test_workers_that_answer_are_used_while_one_that_joins_hangs(
    gdc: StandIn, alone: Path, tmp_path: Path
) -> None:
    root = made(tmp_path / "m", gdc, slides=SLIDES)
    with (
        cluster(tmp_path / "dask", workers=1) as dask,
        slowly(gdc),
        started("--mirror", root, "update", "--dask", dask.address) as update,
    ):
        until(partial(finished_images, root))
        # The run sees both at once, when one of them hangs already.
        update.send_signal(signal.SIGSTOP)
        victim, _ = dask.worker(), dask.worker()
        with Client(dask.address, set_as_default=False) as client:
            client.wait_for_workers(3, timeout=60)
        victim.send_signal(signal.SIGSTOP)
        update.send_signal(signal.SIGCONT)
        until(lambda: update.poll() is not None or len(finished_images(root)) >= SLIDES - 2)
        victim.kill()
        result = ended(update)
    assert result.code == 0, result
    assert is_same(root, alone)


def test_ctrl_c_on_a_terminal_reaches_the_processes_of_this_machine_too(
    gdc: StandIn, alone: Path, tmp_path: Path
) -> None:
    root = made(tmp_path / "m", gdc, slides=SLIDES)
    rewrite(root, "^workers = .*", "workers = 2")
    with slowly(gdc), started("--mirror", root, "update", "--dask", "local:2") as update:
        until(partial(finished_images, root))
        os.killpg(update.pid, signal.SIGINT)
        result = ended(update)
    assert (result.code, "stopped with" in result.err) == (130, True), result
    assert 0 < len(images(root)) < SLIDES
    updated(root)
    assert is_same(root, alone)


def test_a_worker_of_another_version_is_refused(gdc: StandIn, tmp_path: Path) -> None:
    (tmp_path / "other" / "tcgamirror").mkdir(parents=True)
    (tmp_path / "other" / "tcgamirror" / "__init__.py").write_text('__version__ = "9.9"')
    root = made(tmp_path / "m", gdc, slides=SLIDES)
    with cluster(tmp_path / "dask", workers=0) as dask:
        dask.worker(path=tmp_path / "other")
        result = run("--mirror", root, "update", "--dask", dask.address)
    says(result, 2, "Dask worker tcp://", "it has tcgamirror 9.9", "Install the same version")
    assert images(root) == {}


def test_the_open_files_limit_of_a_worker_is_named(gdc: StandIn, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "sitecustomize.py").write_text(NO_MORE_FILES)
    root = made(tmp_path / "m", gdc, slides=1)
    with cluster(tmp_path / "dask", workers=0) as dask:
        dask.worker(path=tmp_path / "other")
        result = run("--mirror", root, "update", "--dask", dask.address)
    says(result, 2, "Dask worker tcp://", "Too many open files", "ulimit -n")
    # Another try there, or at another worker, would only repeat the fetch.
    assert (tmp_path / "other" / "sitecustomize.py.log").read_text() == "begun "


def test_an_address_of_no_scheduler(gdc: StandIn, tmp_path: Path) -> None:
    root = made(tmp_path / "m", gdc)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                connection.shutdown(socket.SHUT_WR)
                # What is left unread would make the end a reset.
                while connection.recv(4096):
                    pass

        threading.Thread(target=answer, daemon=True).start()
        result = run("--mirror", root, "update", "--dask", address)
    says(result, 4, f"Dask scheduler {address}: another kind of server answers")
    says(run("--mirror", root, "fetch", "--dask", "host"), 2, "--dask host: missing port number")
    result = run("--mirror", root, "fetch", "--dask", "tls://127.0.0.1:1")
    says(result, 2, "no certificates for TLS")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_wait_for_a_scheduler_that_never_answers(
    gdc: StandIn, tmp_path: Path, number: signal.Signals
) -> None:
    root = made(tmp_path / "m", gdc)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with started("--mirror", root, "update", "--dask", address) as update:
            connection, _ = server.accept()
            update.send_signal(number)
            # Without a signal, it ends with 4.
            says(ended(update), 130, "stopped while connecting")
            connection.close()


def test_without_dask_or_with_a_shard(
    gdc: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = made(tmp_path / "m", gdc)
    says(
        inside("--mirror", root, "fetch", "--shard", "1/2", "--dask", "local:2"),
        *(2, "--dask: a shard is fetched by one process"),
    )
    monkeypatch.setitem(sys.modules, "distributed", None)
    result = inside("--mirror", root, "update", "--dask", "local:2")
    says(result, 2, "--dask: Dask is not installed", "pip install 'tcgamirror[dask]'")
