"""Fetching of a mirror's due slides by several workers, and recording of their outcomes.

The main thread is the catalogue's only writer. A worker takes a slide and
returns its outcome; it touches neither the catalogue nor the terminal.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tcgamirror.catalogue.catalogue import Catalogue
from tcgamirror.imaging.store import IMAGES, Store
from tcgamirror.mirror.directory import WORK, Mirror, check_work
from tcgamirror.mirror.eventlog import EventLog
from tcgamirror.mirror.outage import SITE_DOWN_AFTER, OutcomeCounts, is_away
from tcgamirror.mirror.progress import Progress
from tcgamirror.mirror.settings import worker_count
from tcgamirror.model.errors import (
    Bug,
    DiskFull,
    Interrupted,
    TcgaMirrorError,
    Unreachable,
    UsageError,
    lack_of_memory,
)
from tcgamirror.model.slide import Attempt, Outcome, Slide
from tcgamirror.model.text import command_line
from tcgamirror.net.client import HttpClient
from tcgamirror.sources.origins import Origins
from tcgamirror.sources.workspace import Workspace
from tcgamirror.system.files import check_writable
from tcgamirror.system.interrupt import Deadline, Shutdown
from tcgamirror.system.parallel import start_pool

GRACE = 1.0
"""Seconds that slides in flight have to end when a run is told to stop immediately."""

BUGS_IN_A_ROW = 3
"""Slides in a row that meet a bug or lack memory before the run ends."""


@dataclass(frozen=True, slots=True)
class FetchOptions:
    """Options of one run's fetching.

    Attributes:
        retry_failed: Fetch failed slides although their next try is not due.
        limit: Slides to fetch, at most.
        deadline: No slide begins after it.
        max_bytes: Bytes after which no slide begins.
        only: File names of the slides that may be fetched; None for all that are due.
    """

    retry_failed: bool = False
    limit: int | None = None
    deadline: Deadline = field(default_factory=Deadline)
    max_bytes: float = math.inf
    only: frozenset[str] | None = None


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
    """Fetching of one run, which holds the mirror's lock."""

    def __init__(
        self,
        mirror: Mirror,
        catalogue: Catalogue,
        client: HttpClient,
        progress: Progress,
        shutdown: Shutdown,
        log: EventLog,
    ) -> None:
        self._mirror = mirror
        self._catalogue = catalogue
        self._client = client
        self._progress = progress
        self._shutdown = shutdown
        self._log = log
        self._counts = OutcomeCounts()

    def fetch(self, run: int, options: FetchOptions) -> FetchReport:
        """Fetch the due slides and record each as it ends. run: number in the catalogue.

        Raises:
            Interrupted: the run was stopped; the slides that ended are recorded.
            Unreachable: the site is down, from the start or since some slide.
            TcgaMirrorError: any other error that would end every slide, such as DiskFull.
        """
        settings, root = self._mirror.settings, self._mirror.root
        now = time.time()
        due = self._catalogue.queue.due(
            retry_failed=options.retry_failed, now=now, limit=options.limit, only=options.only
        )
        workers = worker_count(settings)
        self._progress.start_fetch(len(due), workers)
        if not due:
            if not self._catalogue.queue.status_counts(now).sampled:
                raise UsageError(f"no slide is sampled yet. Run {command_line('update', root)}")
            return FetchReport()
        # Imported late: most nights there is nothing to fetch.
        from tcgamirror.mirror.ladder import build_ladder

        check_work(root)
        for folder in (IMAGES, WORK):
            check_writable(root / folder)
        origins = Origins(settings.api, settings.bucket)
        work = Workspace(root / WORK, settings.work_limit, self._shutdown.stop)
        work.keep_only(self._catalogue.queue.unfinished(work.names()))
        ladder = build_ladder(settings, Store(root, settings.form), self._client, origins, work)
        beyond_limit = 0
        if options.limit is not None:
            all_due = self._catalogue.queue.count(retry_failed=options.retry_failed, now=now)
            beyond_limit = all_due - len(due)
        limits: dict[str, Callable[[], bool]] = {
            "--time-limit": lambda: options.deadline.is_reached,
            "--max-bytes": lambda: ladder.bytes_moved >= options.max_bytes,
        }
        self._client.pauses.end_when(
            lambda: self._shutdown.requested or any(reached() for reached in limits.values())
        )
        pool = WorkerPool(ladder.fetch, workers, self._shutdown, limits, ladder.source_of)
        with closing(pool.outcomes(due)) as batches:
            for outcomes in batches:
                for outcome in outcomes:
                    self._record(outcome, run, pool)
                self._progress.show_fetch(
                    ladder.bytes_moved,
                    self._shutdown.in_flight,
                    self._shutdown.draining,
                    ladder.making,
                )
                self._stop_if_away(pool)
        self._check_reached(pool)
        for name, words in origins.report().items():
            self._catalogue.set_fact(f"origin {name}", words)
        if pool.error is not None:
            raise pool.error
        counts = self._counts
        if self._shutdown.requested:
            raise Interrupted(f"stopped with {counts.done} slides done; the next run goes on")
        left = len(due) - counts.done - counts.failed + beyond_limit
        stopped_by = pool.reached_limit or ("--limit" if left else None)
        return FetchReport(
            counts.done, counts.failed, ladder.bytes_moved, left, stopped_by, counts.unknown_mpp
        )

    def _stop_if_away(self, pool: WorkerPool) -> None:
        """Stop the workers if several slides in a row were unreachable and the site is down."""
        if self._counts.unreached >= SITE_DOWN_AFTER and pool.error is None:
            self._counts.unreached = 0
            if is_away(self._client, self._mirror.settings.api):
                last = self._counts.last_message
                pool.stop(Unreachable(f"no slide can be reached any more; the last: {last}"))

    def _check_reached(self, pool: WorkerPool) -> None:
        """End with Unreachable if no slide at all could be reached, however few there were."""
        ended = pool.error is not None or self._shutdown.requested
        suspect = self._counts.none_reached and not ended
        if suspect and is_away(self._client, self._mirror.settings.api):
            pool.error = Unreachable(f"no slide can be reached: {self._counts.last_message}")

    def _record(self, outcome: Outcome, run: int, pool: WorkerPool) -> None:
        former = self._former_image(outcome)
        self._catalogue.queue.record(outcome, run, time.time())
        if former is not None:
            # Removed after its row has changed; what a failure leaves is an orphan.
            with suppress(OSError):
                former.unlink()
        self._counts.add(outcome)
        self._progress.add_outcome(outcome)
        try:
            self._log.add_slide(outcome)
        except DiskFull as error:
            pool.stop(error)

    def _former_image(self, outcome: Outcome) -> Path | None:
        """Return the slide's image from when it belonged to another project, if there is one."""
        path = self._catalogue.images.path_of(outcome.slide.file_name) if outcome.picture else None
        if outcome.picture is None or path is None:
            return None
        new, old = Path(outcome.picture.path), Path(path)
        images = new.parent.parent
        is_ours = old.parent.parent == images and old.name == new.name and ".." not in old.parts
        return self._mirror.root / old if is_ours and old != new else None


class WorkerPool:
    """Threads that fetch slides, a bounded number at a time.

    Attributes:
        error: The error that ended the work early.
        reached_limit: The option whose limit ended it.
    """

    def __init__(
        self,
        fetch: Callable[[Slide], Outcome],
        workers: int,
        shutdown: Shutdown,
        limits: Mapping[str, Callable[[], bool]],
        source_of: Callable[[Slide], str],
    ) -> None:
        """Start no thread yet.

        Args:
            limits: Return whether no further slide may begin, by the option's name.
            source_of: Returns the source that a slide was last fetched from.
        """
        self._fetch = fetch
        self._workers = workers
        self._shutdown = shutdown
        self._limits = limits
        self._source_of = source_of
        self._bugs = 0
        self.reached_limit: str | None = None
        self.error: TcgaMirrorError | None = None

    def stop(self, error: TcgaMirrorError) -> None:
        """Begin no further slide and abandon those in flight."""
        self.error = self.error or error
        self._shutdown.force()

    def _may_begin(self) -> bool:
        if self.reached_limit is None:
            reached = (name for name, is_reached in self._limits.items() if is_reached())
            self.reached_limit = next(reached, None)
        return self.reached_limit is None and not self._shutdown.requested

    def outcomes(self, due: Iterable[Slide]) -> Generator[list[Outcome], None, None]:
        """Yield the outcomes since the last list, a few times a second; some lists are empty.

        due: the next slide is taken when one may begin. Closing the generator
        early abandons the slides in flight.
        """
        waiting = iter(due)
        running: set[Future[Outcome]] = set()
        slides: dict[Future[Outcome], Slide] = {}

        def results(ended: set[Future[Outcome]]) -> list[Outcome]:
            found = [self._result(future, slides.pop(future)) for future in ended]
            return [outcome for outcome in found if outcome is not None]

        pool = start_pool(self._workers, "slide")
        try:
            while True:
                while len(running) < self._workers and self._may_begin():
                    slide = next(waiting, None)
                    if slide is None:
                        break
                    # Counted before it begins, so that an interrupt finds it in flight.
                    self._shutdown.in_flight += 1
                    future = pool.submit(self._fetch, slide)
                    slides[future] = slide
                    running.add(future)
                self._shutdown.in_flight = len(running)
                if not running:
                    return
                ended, running = wait(running, timeout=0.2, return_when=FIRST_COMPLETED)
                # Includes slides that ended while the caller recorded the last list.
                yield results(ended)
                if self._shutdown.seconds_since_stop > GRACE:
                    ended, running = wait(running, timeout=0)
                    yield results(ended)
                    return
        finally:
            self._abandon(running)
            pool.shutdown(wait=not self._shutdown.workers_abandoned)

    def _abandon(self, running: set[Future[Outcome]]) -> None:
        if running:
            self._shutdown.force()
            left = max(0.0, GRACE - self._shutdown.seconds_since_stop)
            self._shutdown.workers_abandoned = bool(wait(running, timeout=left).not_done)

    def _result(self, future: Future[Outcome], slide: Slide) -> Outcome | None:
        """Return the outcome of a slide; a bug or a lack of memory fails this slide alone.

        Several in a row end the run, because every slide may meet them.
        """
        error = future.exception()
        if error is None:
            self._bugs = 0
            return future.result()
        if isinstance(error, Interrupted):
            return None
        if isinstance(error, TcgaMirrorError):
            self.stop(error)
            return None
        if not isinstance(error, Exception):
            raise error
        lack = lack_of_memory(error)
        words = str(lack or f"a bug: {type(error).__name__}: {error}")
        # The run goes on, since others may need less memory, and raises this at its end.
        self.error = self.error or lack
        self._bugs += 1
        if self._bugs >= BUGS_IN_A_ROW:
            many = f"{self._bugs} slides in a row met {words}"
            self.stop(lack or Bug(f"{many}; nothing recorded is lost. Please report it"))
        attempt = Attempt(
            source=self._source_of(slide),
            started=time.time(),
            seconds=0.0,
            bytes_fetched=0,
            requests=0,
            fault=(lack or Bug()).fault,
            message=words,
        )
        return Outcome(slide, (attempt,), None)
