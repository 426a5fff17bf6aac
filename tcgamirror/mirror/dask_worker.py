"""The side of a Dask worker: a run's sources, built once in it, and the slides they fetch.

A worker never writes to the mirror: it may outlive the run, and with it the mirror's lock. Its
images lie on its own disk until they travel with the reply.
"""

from __future__ import annotations

import shutil
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from distributed import Worker, WorkerPlugin, get_worker

from tcgamirror.imaging.store import Store
from tcgamirror.mirror.ladder import build_ladder
from tcgamirror.mirror.refresh import open_client
from tcgamirror.mirror.settings import Settings
from tcgamirror.model.errors import Interrupted, TcgaMirrorError, UsageError
from tcgamirror.model.slide import Outcome, Slide
from tcgamirror.sources.origins import Origins
from tcgamirror.sources.workspace import Workspace
from tcgamirror.system.files import disk_errors
from tcgamirror.system.interrupt import Shutdown


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
    """The end of a slide at a worker. image: the file's bytes, if there is one.

    origins: what the worker learned of them, in words, by name.
    """

    outcome: Outcome
    image: bytes
    origins: Mapping[str, str]


class Station(WorkerPlugin):
    """The sources of one run in one worker. Dask makes it there from the arguments."""

    def __init__(self, settings: Settings, orders: Orders, *, is_local: bool) -> None:
        """Build nothing yet. is_local: the run's terminal sends its Ctrl-C to the worker too."""
        self._is_local = is_local
        self._settings = settings
        self._orders = orders

    def setup(self, worker: Worker) -> None:
        """Build the sources."""
        if self._is_local:
            # The run itself says what Ctrl-C ends.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        settings = self._settings
        self._folder = Path(worker.local_directory) / f"tcgamirror-{uuid4().hex}"
        self._shutdown = Shutdown()
        # So that a first request lets the slides in flight end.
        self._shutdown.in_flight = 1
        self._client = open_client(settings, self._shutdown)
        self._client.end_pauses_when(lambda: self._shutdown.requested)
        self._origins = Origins(settings.api, settings.bucket)
        work = Workspace(self._folder / "work", settings.work_limit, self._shutdown.stop)
        store = Store(self._folder, settings.form)
        self._ladder = build_ladder(settings, store, self._client, self._origins, work)
        self.obey(self._orders)

    def teardown(self, worker: Worker) -> None:
        """Stop what is in flight and remove what is on the disk."""
        del worker
        self._shutdown.force()
        self._client.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def obey(self, orders: Orders) -> None:
        self._client.share(orders.workers)
        if orders.stop:
            self._shutdown.force()
        elif not (orders.begin or self._shutdown.requested):
            self._shutdown.request()

    def fetch(self, slide: Slide) -> Reply:
        """Fetch a slide. Raises as `Ladder.fetch`."""
        if self._shutdown.requested:
            raise Interrupted("the run stopped before the slide began")
        outcome, image = self._ladder.fetch(slide), b""
        if outcome.picture is not None:
            path = self._folder / outcome.picture.path
            with disk_errors(path):
                image = path.read_bytes()
                path.unlink()
        return Reply(outcome, image, self._origins.report())


def fetch(station: str, slide: Slide) -> Reply | TcgaMirrorError:
    """Fetch a slide by the worker's station of that name. Dask calls it in a worker.

    An error that ends the run is returned: Dask would have other workers repeat a raised one.
    """
    worker = get_worker()
    plugin = worker.plugins.get(station)
    if not isinstance(plugin, Station):
        raise UsageError(f"Dask worker {worker.address}: it lost this run's settings. Run again")
    try:
        return plugin.fetch(slide)
    except Interrupted:
        raise
    except TcgaMirrorError as error:
        # Its paths and limits are those of the worker's machine.
        return type(error)(f"Dask worker {worker.address}: {error}")


def obey(station: str, orders: Orders, dask_worker: Worker) -> None:
    """Pass orders on to the worker's station of that name. Dask calls it in a worker."""
    plugin = dask_worker.plugins.get(station)
    if isinstance(plugin, Station):
        plugin.obey(orders)
