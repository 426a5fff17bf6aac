"""Fetching of a mirror's due slides by several workers, and recording of their outcomes.

The main thread is the catalogue's only writer. A worker takes a slide and
returns its outcome; it touches neither the catalogue nor the terminal.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field

from tcgamirror.catalogue.catalogue import Catalogue
from tcgamirror.imaging.store import IMAGES, Store, former_path
from tcgamirror.mirror.directory import WORK, Mirror, check_work
from tcgamirror.mirror.eventlog import EventLog
from tcgamirror.mirror.executor import Dispatcher, Executor, Threads
from tcgamirror.mirror.outage import SITE_DOWN_AFTER, OutcomeCounts, is_away
from tcgamirror.mirror.progress import Progress
from tcgamirror.mirror.settings import worker_bounds
from tcgamirror.mirror.shards import Records
from tcgamirror.mirror.slots import Slots
from tcgamirror.model.errors import DiskFull, Interrupted, Unreachable, UsageError
from tcgamirror.model.shard import Shard
from tcgamirror.model.slide import Outcome
from tcgamirror.model.text import command_line
from tcgamirror.net.client import HttpClient
from tcgamirror.sources.origins import Origins
from tcgamirror.sources.workspace import Workspace
from tcgamirror.system.files import check_writable
from tcgamirror.system.interrupt import Deadline, Shutdown


@dataclass(frozen=True, slots=True)
class FetchOptions:
    """Options of one run's fetching.

    Attributes:
        retry_failed: Fetch failed slides although their next try is not due.
        limit: Slides to fetch, at most.
        deadline: No slide begins after it.
        max_bytes: Bytes after which no slide begins, those of slides in flight estimated.
        only: File names of the slides that may be fetched; None for all that are due.
        shard: The part of the sample to fetch; None for all of it.
        dask: Address of the Dask scheduler whose workers fetch; None for threads.
    """

    retry_failed: bool = False
    limit: int | None = None
    deadline: Deadline = field(default_factory=Deadline)
    max_bytes: float = math.inf
    only: frozenset[str] | None = None
    shard: Shard | None = None
    dask: str | None = None


@dataclass(frozen=True, slots=True)
class FetchReport:
    """Result of one run's fetching.

    bytes: from the network. left: due slides that did not begin. stopped_by: the
    option that kept them from it. unknown_mpp: new images of unknown resolution.
    """

    done: int = 0
    failed: int = 0
    bytes: int = 0
    left: int = 0
    stopped_by: str | None = None
    unknown_mpp: int = 0


class Fetcher:
    """Fetching of one run, which holds the mirror's lock, or that of a shard.

    records: takes the outcomes of a shard, whose catalogue is a copy.
    """

    def __init__(
        self,
        mirror: Mirror,
        catalogue: Catalogue,
        client: HttpClient,
        progress: Progress,
        shutdown: Shutdown,
        log: EventLog,
        records: Records | None = None,
    ) -> None:
        self._mirror = mirror
        self._catalogue = catalogue
        self._client = client
        self._progress = progress
        self._shutdown = shutdown
        self._log = log
        self._records = records
        self._counts = OutcomeCounts()

    def fetch(self, run: int, options: FetchOptions) -> FetchReport:
        """Fetch the due slides and record each as it ends. run: number in the catalogue.

        Raises:
            Interrupted: the run was stopped; the slides that ended are recorded.
            Unreachable: the site is down, from the start or since some slide.
            TcgaMirrorError: any other error that would end every slide, such as DiskFull.
        """
        settings, root = self._mirror.settings, self._mirror.root
        now, only = time.time(), options.only
        if options.shard is not None:
            only = frozenset(filter(options.shard.holds, self._catalogue.sample.names()))
        due = self._catalogue.queue.due(
            retry_failed=options.retry_failed, now=now, limit=options.limit, only=only
        )
        if not due:
            if not self._catalogue.queue.status_counts(now).sampled:
                raise UsageError(f"no slide is sampled yet. Run {command_line('update', root)}")
            return FetchReport()
        check_work(root)
        for folder in (IMAGES, WORK):
            check_writable(root / folder)
        # Another shard may be downloading what is not due here.
        own = None if options.shard is None else {slide.file_id for slide in due}
        work = Workspace(root / WORK, settings.work_limit, self._shutdown.stop, own=own)
        work.keep_only(self._catalogue.queue.unfinished(work.names()))
        beyond_limit = 0
        if options.limit is not None:
            all_due = self._catalogue.queue.due(
                retry_failed=options.retry_failed, now=now, only=only
            )
            beyond_limit = len(all_due) - len(due)
        executor, origins = self._open_executor(options.dask, work, len(due))

        def has_moved_enough() -> bool:
            expected = self._counts.expected_bytes(self._shutdown.in_flight)
            return max(executor.bytes_moved, expected) >= options.max_bytes

        limits = {
            "--time-limit": lambda: options.deadline.is_reached,
            "--max-bytes": has_moved_enough,
        }
        self._client.end_pauses_when(
            lambda: self._shutdown.requested or any(reached() for reached in limits.values())
        )
        dispatcher = Dispatcher(executor, self._shutdown, limits)
        with closing(dispatcher.outcomes(due)) as batches:
            for outcomes in batches:
                for outcome in outcomes:
                    self._record(outcome, run, dispatcher)
                self._progress.show_fetch(
                    executor.bytes_moved,
                    self._shutdown.in_flight,
                    self._shutdown.draining,
                    executor.making,
                )
                self._stop_if_away(dispatcher)
        self._check_reached(dispatcher)
        known = origins()
        if self._records is not None:
            self._records.origins = known
        for name, words in known.items():
            self._catalogue.set_fact(f"origin {name}", words)
        if dispatcher.error is not None:
            raise dispatcher.error
        counts = self._counts
        if self._shutdown.requested:
            raise Interrupted(f"stopped with {counts.done} slides done; the next run goes on")
        left = len(due) - counts.done - counts.failed + beyond_limit
        stopped_by = dispatcher.reached_limit or ("--limit" if left else None)
        return FetchReport(
            counts.done, counts.failed, executor.bytes_moved, left, stopped_by, counts.unknown_mpp
        )

    def _open_executor(
        self, dask: str | None, work: Workspace, slides: int
    ) -> tuple[Executor, Callable[[], Mapping[str, str]]]:
        """Return what fetches the slides, and what returns the facts it learned of the origins."""
        # Imported late: most nights there is nothing to fetch.
        if dask is not None:
            from tcgamirror.mirror.dask_executor import DaskWorkers

            workers = DaskWorkers(dask, self._mirror, self._shutdown)
            self._progress.start_fetch(slides, workers.slots)
            return workers, lambda: workers.origins
        from tcgamirror.mirror.ladder import build_ladder

        settings = self._mirror.settings
        origins = Origins(settings.api, settings.bucket)
        store = Store(self._mirror.root, settings.form)
        ladder = build_ladder(settings, store, self._client, origins, work)
        bounds = worker_bounds(settings)
        self._progress.start_fetch(slides, bounds.most)
        return Threads(ladder, Slots(*bounds)), origins.report

    def _stop_if_away(self, dispatcher: Dispatcher) -> None:
        """Stop the workers if several slides in a row were unreachable and the site is down."""
        if self._counts.unreached >= SITE_DOWN_AFTER and dispatcher.error is None:
            self._counts.unreached = 0
            if is_away(self._client, self._mirror.settings.api):
                last = self._counts.last_message
                dispatcher.stop(Unreachable(f"no slide can be reached any more; the last: {last}"))

    def _check_reached(self, dispatcher: Dispatcher) -> None:
        """End with Unreachable if no slide at all could be reached, however few there were."""
        ended = dispatcher.error is not None or self._shutdown.requested
        suspect = self._counts.none_reached and not ended
        if suspect and is_away(self._client, self._mirror.settings.api):
            dispatcher.error = Unreachable(f"no slide can be reached: {self._counts.last_message}")

    def _record(self, outcome: Outcome, run: int, dispatcher: Dispatcher) -> None:
        name, picture = outcome.slide.file_name, outcome.picture
        if self._records is not None:
            self._records.add(outcome)
        old = None if picture is None else self._catalogue.images.path_of(name)
        self._catalogue.queue.record(outcome, run, time.time())
        former = None if picture is None else former_path(old, picture.path)
        if former is not None and self._records is None:
            # Removed after its row has changed; what a failure leaves is an orphan.
            with suppress(OSError):
                (self._mirror.root / former).unlink()
        self._counts.add(outcome)
        self._progress.add_outcome(outcome)
        try:
            self._log.add_slide(outcome)
        except DiskFull as error:
            dispatcher.stop(error)
