"""The side of a Dask worker: a run's sources, built once in it, and the slides they fetch.

A worker never writes to `images/`: it may outlive the run, and with it the mirror's lock. Its
images lie in the run's staging folder, if it sees that folder, or else on its own disk.
"""

from __future__ import annotations

import shutil
import signal
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from uuid import uuid4

from distributed import Worker, WorkerPlugin, get_worker

from tcgamirror import __version__
from tcgamirror.imaging.store import Store
from tcgamirror.mirror.ladder import build_ladder
from tcgamirror.mirror.refresh import open_client
from tcgamirror.mirror.settings import Settings
from tcgamirror.model.errors import Interrupted, UsageError
from tcgamirror.model.slide import Outcome, Slide
from tcgamirror.sources.origins import Origins
from tcgamirror.sources.workspace import Workspace
from tcgamirror.system.interrupt import Shutdown
from tcgamirror.system.parallel import result_or_error


@dataclass(frozen=True, slots=True)
class Orders:
    """Orders to all workers of a run, which may change.

    workers: that share the connections and the rate. begin: slides may begin. stop: slides
    in flight have to end at once.
    """

    workers: int = 1
    begin: bool = True
    stop: bool = False


@dataclass(frozen=True, slots=True)
class Reply:
    """The end of a slide at a worker. folder: that has the image, at its path in the mirror.

    worker: its address. origins: what it learned of them, in words, by name.
    """

    source: str
    result: Outcome | BaseException
    folder: Path
    worker: str
    origins: Mapping[str, str]


class Station(WorkerPlugin):
    """The sources of one run in one worker. Dask makes it there from the arguments."""

    def __init__(
        self, settings: Settings, staging: Path, orders: Orders, *, is_local: bool
    ) -> None:
        """Build nothing yet.

        Args:
            staging: Folder of the mirror that exists while the run lasts, and has a unique name.
            is_local: The run started the worker, which gets its terminal's Ctrl-C too.
        """
        self._is_local = is_local
        self._settings = settings
        self._staging = staging
        self._orders = orders
        self._version = __version__

    def setup(self, worker: Worker) -> None:
        """Build the sources."""
        if self._version != __version__:
            raise UsageError(version_words(worker.address, __version__, self._version))
        if self._is_local:
            # The run itself says what Ctrl-C ends.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        settings = self._settings
        self._address = worker.address
        self._own = Path(worker.local_directory) / self._staging.name
        self._folder = self._staging / uuid4().hex
        try:
            self._folder.mkdir()
        except OSError:
            self._folder = self._own / "images"
        self._shutdown = Shutdown()
        # So that a first request lets the slides in flight end.
        self._shutdown.in_flight = 1
        self._client = open_client(settings, self._shutdown)
        self._client.end_pauses_when(lambda: self._shutdown.requested)
        self._origins = Origins(settings.api, settings.bucket)
        work = Workspace(self._own / "work", settings.work_limit, self._shutdown.stop)
        store = Store(self._folder, settings.form)
        self._ladder = build_ladder(settings, store, self._client, self._origins, work)
        self.obey(self._orders)

    def teardown(self, worker: Worker) -> None:
        """Stop what is in flight and remove what is on the disk."""
        del worker
        self._shutdown.force()
        self._client.close()
        for folder in (self._own, self._folder):
            shutil.rmtree(folder, ignore_errors=True)

    def obey(self, orders: Orders) -> None:
        self._client.share(orders.workers)
        if orders.stop:
            self._shutdown.force()
        elif not (orders.begin or self._shutdown.requested):
            self._shutdown.request()

    def fetch(self, slide: Slide) -> Reply:
        """Fetch a slide. An error is returned, as the source is told with it."""
        result: Outcome | BaseException = Interrupted("the run stopped before the slide began")
        if not self._shutdown.requested:
            result = result_or_error(partial(self._ladder.fetch, slide))
        source = self._ladder.source_of(slide)
        return Reply(source, result, self._folder, self._address, self._origins.report())


def version_words(worker: str, theirs: str, ours: str) -> str:
    """Return the sentence for a worker of another version."""
    return (
        f"Dask worker {worker}: it has tcgamirror {theirs}, and this is {ours}. "
        "Install the same version for every worker"
    )


def fetch(station: str, slide: Slide) -> Reply:
    """Fetch a slide by the worker's station of that name. Dask calls it in a worker."""
    worker = get_worker()
    plugin = worker.plugins.get(station)
    if not isinstance(plugin, Station):
        raise UsageError(f"Dask worker {worker.address}: it lost this run's settings. Run again")
    return plugin.fetch(slide)


def obey(station: str, orders: Orders, dask_worker: Worker) -> None:
    """Pass orders on to the worker's station of that name. Dask calls it in a worker."""
    plugin = dask_worker.plugins.get(station)
    if isinstance(plugin, Station):
        plugin.obey(orders)


def read_piece(path: Path, start: int, size: int) -> bytes:
    """Return bytes of a file on the worker's disk, none if it is gone. Dask calls it there."""
    with suppress(FileNotFoundError), path.open("rb") as file:
        file.seek(start)
        return file.read(size)
    return b""


def remove_file(path: Path) -> None:
    """Remove a file on the worker's disk. Dask calls it in a worker."""
    path.unlink(missing_ok=True)
