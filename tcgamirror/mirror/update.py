"""A mirror on disk, and one update of it: refresh the listing, sample, fetch, record."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tcgamirror.catalogue.catalogue import Catalogue
from tcgamirror.catalogue.listing import MergeCounts
from tcgamirror.catalogue.queue import StatusCounts
from tcgamirror.imaging.store import IMAGES, Store
from tcgamirror.mirror import refresh, sample
from tcgamirror.mirror.directory import CATALOGUE, LOCK, WORK, Mirror, check_work
from tcgamirror.mirror.eventlog import EventLog
from tcgamirror.mirror.fetch import FetchReport, Pool, Wishes, stop_conditions
from tcgamirror.mirror.forecast import Forecast, forecast
from tcgamirror.mirror.lockfile import Differences, compare, read_lock
from tcgamirror.mirror.outage import SITE_DOWN_AFTER, OutcomeCounts, is_away
from tcgamirror.mirror.progress import Progress
from tcgamirror.mirror.refresh import network
from tcgamirror.mirror.settings import Settings, worker_count
from tcgamirror.model.errors import (
    DiskFull,
    ExitCode,
    Interrupted,
    ListingShrunk,
    NetworkError,
    TcgaMirrorError,
    Unreachable,
    UsageError,
)
from tcgamirror.model.slide import Outcome
from tcgamirror.net.client import HttpClient
from tcgamirror.sources.origins import Origins
from tcgamirror.sources.workspace import Workspace
from tcgamirror.system.files import check_writable
from tcgamirror.system.interrupt import Shutdown
from tcgamirror.system.lock import Lock

if TYPE_CHECKING:
    from tcgamirror.mirror.recovery import LeftOver


@dataclass(frozen=True, slots=True)
class Report:
    """What one command did.

    merged: None if there was no new listing. added: to the sample. standing: of
    the sample afterwards. locked: how the mirror differs from its lock file, if
    it was made of one. error: why the listing could not be taken over, though
    what was sampled was fetched all the same.
    """

    release: str | None
    merged: MergeCounts | None
    added: int
    fetched: FetchReport
    standing: StatusCounts
    locked: Differences | None = None
    error: TcgaMirrorError | None = None

    @property
    def exit_code(self) -> ExitCode:
        if self.error is not None:
            return self.error.exit_code
        return ExitCode.SOME_FAILED if self.fetched.failed else ExitCode.DONE


class Run:
    """One command's work on a mirror that it holds the lock of."""

    def __init__(
        self,
        mirror: Mirror,
        catalogue: Catalogue,
        client: HttpClient,
        progress: Progress,
        shutdown: Shutdown,
        log: EventLog | None = None,
    ) -> None:
        self.settings: Settings = mirror.settings
        self._mirror = mirror
        self._catalogue = catalogue
        self._client = client
        self._progress = progress
        self._shutdown = shutdown
        self._log = log

    def refresh(self, wishes: Wishes) -> MergeCounts | None:
        """Take over the listing of the GDC, or of the manifest; None if nothing is new there.

        Raises NetworkError, BadManifest or ListingShrunk.
        """
        manifest = self.settings.manifest
        if manifest is not None:
            merged = refresh.from_manifest(
                self._catalogue,
                Path(manifest),
                accept_shrink=wishes.accept_shrink,
                say=self._progress.note,
            )
        else:
            self._progress.listing(0, 0)
            merged = refresh.from_gdc(
                self._catalogue,
                self._client,
                self.settings.api,
                accept_shrink=wishes.accept_shrink,
                force=wishes.force_refresh,
                on_page=self._progress.listing,
            )
        if merged is not None and self._log is not None:
            self._log.listing(self._catalogue.listing.release(), merged)
        return merged

    def refresh_or_keep(self, wishes: Wishes) -> tuple[MergeCounts | None, TcgaMirrorError | None]:
        """Do as `refresh`; keep the listing there is if none can be taken over, and return why.

        What is sampled can be fetched all the same: the bucket is another server.
        Raises what `refresh` does where nothing is to be fetched, or no listing is there.
        """
        try:
            return self.refresh(wishes), None
        except (NetworkError, ListingShrunk) as error:
            if not wishes.fetch or self._catalogue.listing.release() is None:
                raise
            self._progress.note(
                f"the listing stays as it was: {error}. What is sampled is fetched all the same"
            )
            return None, error

    def sample(self) -> int:
        """Fill the sample and return the number of slides added. Raises UsageError: see `fill`."""
        return sample.fill(self._mirror, self._catalogue, self._progress.note)

    def fetch(self, run: int, wishes: Wishes) -> FetchReport:
        """Fetches what is pending, several slides at a time, and records each as it ends.

        Raises Interrupted after the slides in hand are recorded, Unreachable if
        no slide can be had of anyone, and what would end every slide (DiskFull).
        """
        now = time.time()
        due = self._catalogue.queue.due(
            retry_failed=wishes.retry_failed, now=now, limit=wishes.limit, only=wishes.only
        )
        workers = worker_count(self.settings)
        self._progress.start_fetch(len(due), workers)
        if not due:
            if not self._catalogue.queue.status_counts(now).sampled:
                raise UsageError("nothing is sampled yet: run tcgamirror update")
            return FetchReport()
        # Only now: a night without work is over before these would be imported.
        from tcgamirror.mirror.ladder import build_ladder

        check_work(self._mirror.root)
        for folder in (IMAGES, WORK):
            check_writable(self._mirror.root / folder)
        tally = OutcomeCounts()
        origins = Origins(self.settings.api, self.settings.bucket)
        work = Workspace(self._mirror.root / WORK, self.settings.work_limit, self._shutdown.stop)
        work.remove_finished(self._catalogue.queue.unfinished(work.names()))
        ladder = build_ladder(self._mirror, self._client, origins, work)
        beyond = 0
        if wishes.limit is not None:
            all_due = self._catalogue.queue.count(retry_failed=wishes.retry_failed, now=now)
            beyond = all_due - len(due)
        limits = stop_conditions(wishes.time_limit, wishes.max_bytes, lambda: ladder.bytes_moved)
        self._client.pauses.end_when(
            lambda: self._shutdown.requested or any(met() for met in limits.values())
        )
        left_over = self._left_over(work)
        pool = Pool(
            lambda slide: left_over.outcome(slide) or ladder.fetch(slide),
            workers,
            self._shutdown,
            limits,
            ladder.source_of,
        )
        with closing(pool.outcomes(left_over.seen(due, self._catalogue.images.path_of))) as ended:
            for outcomes in ended:
                for outcome in outcomes:
                    self._record(outcome, run, tally)
                    self._note(outcome, pool)
                self._progress.show_fetch(
                    ladder.bytes_moved, self._shutdown.in_flight, self._shutdown.draining
                )
                self._end_if_away(tally, pool)
        self._check_reached(tally, pool)
        for name, words in origins.report().items():
            self._catalogue.set_fact(f"origin {name}", words)
        if pool.reason is not None:
            raise pool.reason
        if self._shutdown.requested:
            raise Interrupted(f"stopped with {tally.done} slides done; the next run goes on")
        left = len(due) - tally.done - tally.failed + beyond
        stopped_by = pool.limit or ("--limit" if left else None)
        return FetchReport(
            tally.done, tally.failed, ladder.bytes_moved, left, stopped_by, tally.unknown_mpp
        )

    def _end_if_away(self, tally: OutcomeCounts, pool: Pool) -> None:
        """After several slides in a row that nobody could give, the site itself is asked."""
        if tally.unreached >= SITE_DOWN_AFTER and pool.reason is None:
            tally.unreached = 0
            if is_away(self._client, self.settings.api):
                words = f"no slide can be reached any more; the last: {tally.last}"
                pool.end(Unreachable(words))

    def _check_reached(self, tally: OutcomeCounts, pool: Pool) -> None:
        """However few the slides were: if none of them could be reached, the run says so."""
        may_be_away = tally.none_reached and pool.reason is None and not self._shutdown.requested
        if may_be_away and is_away(self._client, self.settings.api):
            pool.reason = Unreachable(f"no slide can be reached: {tally.last}")

    def _record(self, outcome: Outcome, run: int, tally: OutcomeCounts) -> None:
        older = self._older(outcome)
        self._catalogue.queue.record(outcome, run, time.time())
        if older is not None:
            # Only now that no row knows it; what stays in spite of it is a stray, which harms none.
            with suppress(OSError):
                older.unlink()
        tally.add(outcome)
        self._progress.add_outcome(outcome)

    def _older(self, outcome: Outcome) -> Path | None:
        """Where an older image of the slide lies, of when it belonged to another project."""
        path = self._catalogue.images.path_of(outcome.slide.file_name) if outcome.picture else None
        if outcome.picture is None or path is None:
            return None
        place, older = Path(outcome.picture.path), Path(path)
        images, name = place.parent.parent, place.name
        beside = older.parent.parent == images and older.name == name and ".." not in older.parts
        return self._mirror.root / older if beside and older != place else None

    def _left_over(self, work: Workspace) -> LeftOver:
        from tcgamirror.mirror.recovery import Images, LeftOver

        settings, root = self.settings, self._mirror.root
        images = Images(root, settings.form, settings.target, self._check_stop)
        return LeftOver(root, images, Store(root, settings.form), work)

    def _check_stop(self) -> None:
        if self._shutdown.stop.is_set():
            raise Interrupted("stopped while a finished image was read; the next run goes on")

    def _note(self, outcome: Outcome, pool: Pool) -> None:
        """Logs it; a log that is full ends the run, after the slides in hand are recorded."""
        try:
            if self._log is not None:
                self._log.slide(outcome)
        except DiskFull as error:
            pool.end(error)


@contextmanager
def dry_run(
    mirror: Mirror, wishes: Wishes, progress: Progress, shutdown: Shutdown
) -> Iterator[Forecast]:
    """What `run_update` would fetch now: asks for the listing, but changes nothing on disk."""
    with (
        Catalogue.open_temporary(mirror.root / CATALOGUE) as catalogue,
        network(mirror, shutdown, progress.pause) as client,
    ):
        mirror.check_target(catalogue)
        steps = Run(mirror, catalogue, client, progress, shutdown)
        _, error = steps.refresh_or_keep(wishes) if wishes.refresh else (None, None)
        if wishes.sample:
            steps.sample()
        due = catalogue.queue.due(
            retry_failed=wishes.retry_failed, now=time.time(), limit=wishes.limit
        )
        past = {row.source: row for row in catalogue.reports.counts().by_source}
        settings = mirror.settings
        seen = forecast(due, settings.via[0], settings.target, worker_count(settings), past)
        yield replace(seen, error=error)


def _locked(mirror: Mirror, catalogue: Catalogue) -> Differences | None:
    if mirror.settings.lock is None:
        return None
    return compare(read_lock(mirror.root / mirror.settings.lock), catalogue)


def run_update(
    mirror: Mirror,
    command: str,
    wishes: Wishes,
    progress: Progress,
    shutdown: Shutdown,
    log: EventLog | None = None,
    survey: Callable[[Catalogue], Wishes] | None = None,
) -> Report:
    """Does on one mirror what is wished, holding its lock, and notes the run in the catalogue.

    survey: looks at the mirror first, with the lock held, and tells what is wished instead.
    Raises Locked at once if another run holds it; else see the steps of Run.
    """
    with (
        Lock(mirror.root / LOCK, command),
        Catalogue.open(mirror.root / CATALOGUE) as catalogue,
        network(mirror, shutdown, progress.pause) as client,
    ):
        mirror.check_target(catalogue)
        mirror.remove_obsolete()
        steps = Run(mirror, catalogue, client, progress, shutdown, log)
        run = catalogue.begin_run(command, time.time())
        exit_code = ExitCode.BUG
        try:
            if log is not None:
                log.begins(
                    mirror.settings.fixed,
                    worker_count(mirror.settings),
                    catalogue.listing.release(),
                )
            if survey is not None:
                wishes = survey(catalogue)
            merged, error = steps.refresh_or_keep(wishes) if wishes.refresh else (None, None)
            added = steps.sample() if wishes.sample else 0
            fetched = steps.fetch(run, wishes) if wishes.fetch else FetchReport()
            if log is not None:
                log.ends(fetched.left, error)
            # Now, with the lock held: another run may write a moment later.
            standing, locked = (
                catalogue.queue.status_counts(time.time()),
                _locked(mirror, catalogue),
            )
            report = Report(
                catalogue.listing.release(), merged, added, fetched, standing, locked, error
            )
            exit_code = report.exit_code
        except TcgaMirrorError as ending:
            exit_code = ending.exit_code
            raise
        finally:
            catalogue.end_run(run, exit_code=exit_code, now=time.time())
        return report
