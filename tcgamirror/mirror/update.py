"""One update of a mirror: refresh the listing, fill the sample, fetch, record."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

from tcgamirror.catalogue.catalogue import Catalogue
from tcgamirror.catalogue.listing import MergeCounts
from tcgamirror.catalogue.queue import StatusCounts
from tcgamirror.imaging.store import begin_imports
from tcgamirror.mirror import refresh, sample
from tcgamirror.mirror.directory import Mirror, hold, hold_shard
from tcgamirror.mirror.dispatcher import FetchReport
from tcgamirror.mirror.eventlog import EventLog
from tcgamirror.mirror.fetch import FetchOptions, Run, fetch_due
from tcgamirror.mirror.forecast import Forecast, forecast
from tcgamirror.mirror.lockfile import Differences, compare, read_lock
from tcgamirror.mirror.progress import Progress
from tcgamirror.mirror.provenance import PLAN
from tcgamirror.mirror.refresh import open_client
from tcgamirror.mirror.settings import FILE_NAME, divided, more_slides, raise_slides, worker_bounds
from tcgamirror.mirror.shards import Records, path_of
from tcgamirror.model.errors import (
    ExitCode,
    Interrupted,
    ListingShrunk,
    NetworkError,
    NoMemory,
    TcgaMirrorError,
    Timeout,
    lack_of_memory,
)
from tcgamirror.model.text import command_line
from tcgamirror.system.files import exit_code_of
from tcgamirror.system.interrupt import Shutdown
from tcgamirror.system.parallel import result_or_error


@dataclass(frozen=True, slots=True)
class UpdateOptions:
    """Steps of one run and their options.

    force_refresh: read the listing although its release is the same.
    accept_shrink: take a listing that lacks many slides. slides: new, higher number for the
    settings; "all" for all, None to leave it. fetch: None to fetch nothing.
    """

    refresh: bool = False
    force_refresh: bool = False
    accept_shrink: bool = False
    sample: bool = False
    slides: int | Literal["all"] | None = None
    fetch: FetchOptions | None = None


@dataclass(frozen=True, slots=True)
class UpdateReport:
    """Result of one run.

    merged: None without a new listing. added: slides added to the sample. standing:
    counts of the sample afterwards. locked: differences from the lock file, if the mirror
    was made from one. error: why the listing was not taken although the run went on.
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


def run_update(
    mirror: Mirror,
    command: str,
    options: UpdateOptions,
    progress: Progress,
    shutdown: Shutdown,
    log: EventLog | None = None,
    prepare: Callable[[Catalogue], UpdateOptions] | None = None,
) -> UpdateReport:
    """Run the steps under the mirror's lock and record the run in the catalogue.

    A shard's run shares the lock, works on a copy of the catalogue, and leaves records.

    Args:
        prepare: called before the steps, with the lock held; returns the options of the steps.

    Raises:
        Locked: another run holds the lock.
        TcgaMirrorError: any error of the steps.
    """
    log = log or EventLog(None, command)
    shard = None if options.fetch is None else options.fetch.shard
    with ExitStack() as stack:
        records = None
        if shard is None:
            stack.enter_context(hold(mirror.root, command))
            catalogue = stack.enter_context(mirror.open_to_write(progress.note))
        else:
            command = f"{command} --shard {shard}"
            mirror = replace(mirror, settings=divided(mirror.settings, shard.count))
            stack.enter_context(hold_shard(mirror.root, shard, command))
            catalogue = stack.enter_context(mirror.open_copy())
            records = Records(path_of(mirror.root, shard, ".jsonl"), command)
            stack.callback(records.close)
        client = stack.enter_context(open_client(mirror.settings, shutdown, progress.pause))
        if catalogue.fact(PLAN) is None:
            # An older version made this catalogue. From now on the settings' plan is fixed.
            catalogue.set_fact(PLAN, mirror.fixed_facts[PLAN])
        if options.slides is not None:
            settings = raise_slides(mirror.root, _number(options.slides))
            # Only the number is taken: options of this run, such as --rate, stay.
            mirror = replace(mirror, settings=replace(mirror.settings, slides=settings.slides))
        number = catalogue.begin_run(command, time.time())
        try:
            settings = mirror.settings
            log.begin(settings.fixed, worker_bounds(settings).most, catalogue.listing.release())
            if prepare is not None:
                options = prepare(catalogue)
            run = Run(mirror, catalogue, client, progress, shutdown, log, records)
            report = _take_steps(run, number, options)
            exit_code = report.exit_code
        except BaseException as ending:
            exit_code = exit_code_of(ending)
            if exit_code == ExitCode.UNREACHABLE:
                # An outage is no fault of the slides, so it delays none of them.
                catalogue.queue.requeue_unreached(number)
            raise
        finally:
            catalogue.end_run(number, exit_code=exit_code, now=time.time())
            if records is not None:
                records.end(exit_code)
        return report


def _take_steps(run: Run, number: int, options: UpdateOptions) -> UpdateReport:
    catalogue = run.catalogue
    merged = error = None
    if options.fetch is not None and catalogue.listing.release() is None:
        # The first listing makes slides due. Large libraries load while it is read.
        begin_imports()
    if options.refresh:
        merged, error = _refresh_or_keep(run, options)
    if merged is not None:
        run.log.add_listing(catalogue.listing.release(), merged)
    with ExitStack() as stack:
        labels = None
        if options.refresh and error is None and run.mirror.settings.labels:
            labels = stack.enter_context(_reading_labels(run, options))
        added = sample.fill(run.mirror, catalogue, run.progress.note) if options.sample else 0
        put_if_read = partial(_put_labels, run, labels, wait=False)
        fetched = FetchReport()
        if options.fetch is not None:
            fetched = fetch_due(run, number, options.fetch, put_if_read)
        _put_labels(run, labels, wait=True)
    run.log.finish(fetched.left, error)
    return UpdateReport(
        catalogue.listing.release(),
        merged,
        added,
        fetched,
        # Read with the lock held: another run may write a moment later.
        catalogue.queue.status_counts(time.time()),
        None if run.records else _compare_lock(run.mirror, catalogue),
        error,
    )


@contextmanager
def dry_run(
    mirror: Mirror, options: UpdateOptions, progress: Progress, shutdown: Shutdown
) -> Iterator[Forecast]:
    """Yield what `run_update` would fetch now. The listing is read, but nothing on disk changes."""
    with (
        mirror.open_copy() as catalogue,
        open_client(mirror.settings, shutdown, progress.pause) as client,
    ):
        if options.slides is not None:
            settings = more_slides(mirror.root, mirror.settings, _number(options.slides))
            mirror = replace(mirror, settings=settings)
        error = None
        if options.refresh:
            run = Run(mirror, catalogue, client, progress, shutdown, EventLog(None, ""))
            _, error = _refresh_or_keep(run, options)
        if options.sample:
            sample.fill(mirror, catalogue, progress.note)
        fetch = options.fetch or FetchOptions()
        due = catalogue.queue.due(
            retry_failed=fetch.retry_failed, now=time.time(), limit=fetch.limit
        )
        source = mirror.settings.via[0]
        past = catalogue.reports.costs(source)
        yield replace(forecast(due, source, past), error=error)


def _number(slides: int | Literal["all"]) -> int | None:
    return None if slides == "all" else slides


def _refresh(run: Run, options: UpdateOptions) -> MergeCounts | None:
    """Merge the listing of the GDC or of the manifest; return None if it has nothing new.

    Raises NetworkError, BadManifest or ListingShrunk.
    """
    settings, progress, accept = run.mirror.settings, run.progress, options.accept_shrink
    if settings.manifest is not None:
        merged = refresh.from_manifest(
            run.catalogue, Path(settings.manifest), accept_shrink=accept, warn=progress.note
        )
        refresh.look_up(run.catalogue, run.client, settings, run.shutdown, progress.note)
        return merged
    progress.listing(0, 0)
    return refresh.from_gdc(
        run.catalogue,
        run.client,
        settings.api,
        accept_shrink=accept,
        force=options.force_refresh,
        on_page=progress.listing,
    )


def _refresh_or_keep(
    run: Run, options: UpdateOptions
) -> tuple[MergeCounts | None, TcgaMirrorError | None]:
    """Refresh the listing; return the error if it fails and the run can go on.

    Sampled slides can be fetched while the API is away: the bucket is another server.
    """
    deadline = (options.fetch or FetchOptions()).deadline
    run.client.end_pauses_when(lambda: deadline.is_reached, requests=True)
    try:
        try:
            return _refresh(run, options), None
        except Interrupted as interrupt:
            if run.shutdown.requested:
                raise
            raise Timeout(f"listing: not read within --time-limit ({interrupt})") from interrupt
    except (NetworkError, ListingShrunk) as error:
        if options.fetch is None or run.catalogue.listing.release() is None:
            raise
        run.progress.note(
            f"the listing stays as it was: {error}. Sampled slides are fetched all the same. "
            f"Find the cause by {command_line('doctor', run.mirror.root)}"
        )
        return None, error


@contextmanager
def _reading_labels(run: Run, options: UpdateOptions) -> Iterator[refresh.LabelReader | None]:
    """Begin to read the slides' labels if they are due. An error in the block stops the run."""
    settings = run.mirror.settings
    of_manifest = settings.manifest is not None
    client = refresh.with_one_brief_try(run.client, settings) if of_manifest else run.client
    reader = refresh.begin_labels(
        run.catalogue,
        client,
        settings.api,
        of_manifest=of_manifest,
        force=options.force_refresh,
    )
    try:
        yield reader
    except BaseException:
        run.shutdown.force()
        raise


def _put_labels(run: Run, reader: refresh.LabelReader | None, *, wait: bool) -> None:
    """Put the labels into the catalogue, once they are read. An error leaves it to the next run.

    wait: wait for labels that are still being read.
    """
    if reader is None or reader.is_taken:
        return
    # A request to stop may have cut the labels short. Their error must not end slides in flight.
    if not wait and (run.shutdown.requested or not reader.has_ended(0)):
        return

    def check() -> None:
        if run.shutdown.requested:
            raise Interrupted("labels: stopped while they were read. The next run reads them")
        run.progress.listing(reader.seen, reader.total, "labels")

    error = result_or_error(partial(refresh.put_labels, run.catalogue, reader, check))
    if error is None:
        return
    # Without a request to stop, --time-limit interrupted them.
    is_late = isinstance(error, Interrupted) and not run.shutdown.requested
    reason = error if is_late or isinstance(error, NetworkError) else lack_of_memory(error)
    if reason is None:
        raise error
    # A mirror of a manifest may never reach the GDC.
    if run.mirror.settings.manifest is None or isinstance(reason, NoMemory):
        run.progress.note(
            f"labels: not read ({reason}). The next run tries again. "
            f"To read none, set labels = false in {run.mirror.root / FILE_NAME}"
        )


def _compare_lock(mirror: Mirror, catalogue: Catalogue) -> Differences | None:
    if mirror.settings.lock is None:
        return None
    return compare(read_lock(mirror.root / mirror.settings.lock), mirror.settings, catalogue)
