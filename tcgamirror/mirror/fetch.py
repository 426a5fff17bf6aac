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
from functools import partial
from itertools import islice

from tcgamirror.catalogue.catalogue import Catalogue
from tcgamirror.imaging.store import IMAGES, Store
from tcgamirror.mirror.directory import WORK, Mirror, check_work
from tcgamirror.mirror.dispatcher import Dispatcher, FetchReport
from tcgamirror.mirror.eventlog import EventLog
from tcgamirror.mirror.executor import Executor, Threads
from tcgamirror.mirror.outage import is_away
from tcgamirror.mirror.progress import Progress
from tcgamirror.mirror.settings import worker_bounds
from tcgamirror.mirror.shards import Records, record, set_origins
from tcgamirror.mirror.slots import Slots
from tcgamirror.model.errors import DiskFull, Interrupted, UsageError
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
class Run:
    """One run, which holds the mirror's lock or that of a shard, and what its steps share.

    records: takes the outcomes of a shard, whose catalogue is a copy.
    """

    mirror: Mirror
    catalogue: Catalogue
    client: HttpClient
    progress: Progress
    shutdown: Shutdown
    log: EventLog
    records: Records | None = None


def fetch_due(
    run: Run,
    number: int,
    options: FetchOptions,
    after_slide: Callable[[], None] = lambda: None,
) -> FetchReport:
    """Fetch the due slides and record each as it ends. number: of the run in the catalogue.

    Raises as `Dispatcher.finish` and `after_slide`; the slides that ended are recorded.
    Raises Interrupted before the first slide if the run was stopped already.
    """
    settings, root, queue = run.mirror.settings, run.mirror.root, run.catalogue.queue
    now, only = time.time(), options.only
    if options.shard is not None:
        only = frozenset(filter(options.shard.holds, run.catalogue.sample.names()))
    due = queue.due(retry_failed=options.retry_failed, now=now, only=only)
    if not due:
        if not queue.status_counts(now).sampled:
            raise UsageError(f"no slide is sampled yet. Run {command_line('update', root)}")
        return FetchReport()
    if run.shutdown.requested:
        # While the listing was merged, no wait ended by it.
        raise Interrupted("stopped before any slide was fetched; the next run goes on")
    check_work(root)
    for folder in (IMAGES, WORK):
        check_writable(root / folder)
    # Another shard may be downloading what is not due here.
    own = None if options.shard is None else {slide.file_id for slide in due}
    work = Workspace(root / WORK, settings.work_limit, run.shutdown.stop, own=own)
    work.keep_only(queue.unfinished(work.names()))
    most = len(due) if options.limit is None else min(options.limit, len(due))
    executor, origins = _open_executor(run, options, work, most)

    def has_moved_enough() -> bool:
        ended, in_flight = report.done + report.failed, run.shutdown.in_flight
        # As many bytes for each slide in flight as for those that ended.
        expected = report.bytes * (1 + in_flight / ended) if ended else 0
        return max(executor.bytes_moved, expected) >= options.max_bytes

    limits = {
        "--time-limit": lambda: options.deadline.is_reached,
        "--max-bytes": has_moved_enough,
    }
    run.client.end_pauses_when(
        lambda: run.shutdown.requested or any(reached() for reached in limits.values())
    )
    asked = partial(is_away, run.client, settings.api)
    dispatcher = Dispatcher(executor, run.progress, run.shutdown, asked, limits)
    report = dispatcher.report
    with closing(dispatcher.outcomes(islice(due, most))) as outcomes:
        for outcome in outcomes:
            _record(run, number, outcome)
            try:
                run.log.add_slide(outcome)
            except DiskFull as error:
                dispatcher.stop(error)
            after_slide()
    known = origins()
    set_origins(run.catalogue, known)
    if run.records is not None:
        run.records.origins = known
    dispatcher.finish()
    # Only now: `finish` may have to ask whether the site is down.
    run.client.end_pauses_when(limits["--time-limit"], requests=True)
    report.left = len(due) - report.done - report.failed
    report.stopped_by = report.stopped_by or ("--limit" if report.left else None)
    return report


def _open_executor(
    run: Run, options: FetchOptions, work: Workspace, slides: int
) -> tuple[Executor, Callable[[], Mapping[str, str]]]:
    """Return what fetches the slides, and what returns the facts it learned of the origins."""
    # Imported late: most nights there is nothing to fetch.
    if options.dask is not None:
        from tcgamirror.mirror.dask_executor import DaskWorkers

        workers = DaskWorkers(options.dask, run.mirror, run.shutdown)
        run.progress.start_fetch(slides, workers.threads)
        return workers, lambda: workers.origins
    from tcgamirror.mirror.ladder import build_ladder

    settings = run.mirror.settings
    origins = Origins(settings.api, settings.bucket)
    store = Store(run.mirror.root, settings.form)
    ladder = build_ladder(settings, store, run.client, origins, work)
    bounds = worker_bounds(settings)
    run.progress.start_fetch(slides, bounds.most)
    # A first slide tells what others are expected to move, before many of them begin.
    slots = Slots(*bounds, alone=options.max_bytes < math.inf)
    return Threads(ladder, slots), origins.report


def _record(run: Run, number: int, outcome: Outcome) -> None:
    if run.records is not None:
        run.records.add(outcome)
    former = record(run.catalogue, outcome, number, time.time())
    for path in former if run.records is None else ():
        with suppress(OSError):
            (run.mirror.root / path).unlink()
