"""A mirror on disk, and one update of it: refresh the listing, sample, fetch, record."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from tcgamirror import gdc
from tcgamirror.brake import Brake
from tcgamirror.catalogue import Catalogue
from tcgamirror.errors import (
    ExitCode,
    Interrupted,
    TcgaMirrorError,
    Unreachable,
    WrongUse,
)
from tcgamirror.files import Lock
from tcgamirror.forecast import Forecast, forecast
from tcgamirror.home import CATALOGUE, Home
from tcgamirror.manifest import read_manifest
from tcgamirror.merging import Merged
from tcgamirror.model import Outcome, Slide
from tcgamirror.origins import Origins
from tcgamirror.sampling import ordered
from tcgamirror.settings import Settings
from tcgamirror.transport import Transport

SITE_DOWN_AFTER = 6
"""Slides in a row that no source could reach; then the site is down, not the slides bad."""

LOCK = "lock"


class Watcher(Protocol):
    """Who is told how a run goes. Called from the thread that runs it."""

    def listing(self, got: int, total: int) -> None:
        """So many of the slides have been listed."""
        ...

    def begins(self, slides: int) -> None:
        """So many slides are about to be fetched."""
        ...

    def finished(self, outcome: Outcome) -> None: ...

    def tick(self, bytes_fetched: int, in_hand: int, stopping: bool) -> None:
        """Now and then: bytes moved so far, slides in hand."""
        ...


@dataclass(frozen=True, slots=True)
class Fetched:
    """What one run fetched. bytes: from the network. left: due, but not begun."""

    done: int = 0
    failed: int = 0
    bytes: int = 0
    left: int = 0


@dataclass(frozen=True, slots=True)
class Report:
    """What one command did. merged: None if there was no new listing. added: to the sample."""

    release: str | None
    merged: Merged | None
    added: int
    fetched: Fetched

    @property
    def exit_code(self) -> ExitCode:
        return ExitCode.SOME_FAILED if self.fetched.failed else ExitCode.DONE


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the command line asks of one run. limit: slides. time_limit: seconds."""

    refresh: bool = True
    sample: bool = True
    fetch: bool = True
    retry_failed: bool = False
    limit: int | None = None
    time_limit: float | None = None


class Run:
    """One command's work on a mirror that it holds the lock of."""

    def __init__(
        self, home: Home, catalogue: Catalogue, transport: Transport, watcher: Watcher, brake: Brake
    ) -> None:
        self.settings: Settings = home.settings
        self._home = home
        self._catalogue = catalogue
        self._transport = transport
        self._watcher = watcher
        self._brake = brake

    def refresh(self) -> Merged | None:
        """Takes over the listing of the GDC, or of the manifest; None if nothing is new there.

        Raises NetworkError, BadManifest.
        """
        manifest = self.settings.manifest
        if manifest is not None:
            return self._refresh_from(Path(manifest))
        release = gdc.release(self._transport, self.settings.api)
        if release == self._catalogue.release():
            return None
        listing = gdc.listing(self._transport, self.settings.api, on_page=self._watcher.listing)
        return self._catalogue.merge(listing, time.time())

    def _refresh_from(self, manifest: Path) -> Merged | None:
        if not manifest.exists() and self._catalogue.release() is not None:
            return None
        merged = self._catalogue.merge(read_manifest(manifest), time.time())
        return merged if merged != Merged(unchanged=merged.unchanged) else None

    def sample(self) -> int:
        """Fills the sample up to what the settings ask for; how many slides were added.

        What is sampled stays, whatever the settings say now. Raises WrongUse if
        more is asked for than there is.
        """
        sampled = set(self._catalogue.sampled())
        if self.settings.slides is not None and len(sampled) >= self.settings.slides:
            return 0
        order = ordered(self._catalogue.candidates(), self.settings.plan)
        wanted = len(order) if self.settings.slides is None else self.settings.slides
        if wanted > len(order):
            raise WrongUse(
                f"{wanted} slides are asked for, but only {len(order)} of the listing fit: "
                "lower sample.slides, or widen kind and projects, in the settings"
            )
        fresh = [name for name in order if name not in sampled][: max(0, wanted - len(sampled))]
        if fresh:
            self._catalogue.add_to_sample(fresh, time.time())
        return len(fresh)

    def fetch(self, run: int, wishes: Wishes) -> Fetched:
        """Fetches what is pending, several slides at a time, and records each as it ends.

        Raises Interrupted after the slides in hand are recorded, Unreachable if
        no slide can be had of anyone, and what would end every slide (NoRoom).
        """
        due = self._catalogue.due(retry_failed=wishes.retry_failed, limit=wishes.limit)
        self._watcher.begins(len(due))
        if not due:
            return Fetched()
        # Only now: a night without work is over before these would be imported.
        from tcgamirror.ways import ladder_of

        origins = Origins(self.settings.api, self.settings.bucket)
        ladder = ladder_of(self._home, self._transport, origins)
        pool = _Pool(ladder.fetch, self.settings.workers, self._brake, wishes.time_limit)
        tally = _Tally()
        for outcomes in pool.outcomes(due):
            for outcome in outcomes:
                self._catalogue.record(outcome, run, time.time())
                tally.add(outcome)
                self._watcher.finished(outcome)
            self._watcher.tick(ladder.bytes_moved, self._brake.in_hand, self._brake.pressed)
            if tally.unreached >= SITE_DOWN_AFTER and pool.reason is None:
                pool.end(Unreachable(f"no slide can be reached any more; the last: {tally.last}"))
        for name, words in origins.report().items():
            self._catalogue.set_fact(f"origin {name}", words)
        if pool.reason is not None:
            raise pool.reason
        if self._brake.pressed:
            raise Interrupted(f"stopped with {tally.done} slides done; the next run goes on")
        left = len(due) - tally.done - tally.failed
        return Fetched(tally.done, tally.failed, ladder.bytes_moved, left)


class _Pool:
    """Slides at a few workers, so many at a time, and the outcomes as they come.

    time_limit: seconds after which no further slide begins. reason: what ended
    the work before its end, if anything did.
    """

    def __init__(
        self,
        fetch: Callable[[Slide], Outcome],
        workers: int,
        brake: Brake,
        time_limit: float | None,
    ) -> None:
        self._fetch = fetch
        self._workers = workers
        self._brake = brake
        self._end = None if time_limit is None else time.monotonic() + time_limit
        self.reason: TcgaMirrorError | None = None

    def end(self, reason: TcgaMirrorError) -> None:
        """Begins no further slide and lets go of those in hand."""
        self.reason = self.reason or reason
        self._brake.press_hard()

    def _may_begin(self) -> bool:
        in_time = self._end is None or time.monotonic() < self._end
        return in_time and not self._brake.pressed

    def outcomes(self, due: Sequence[Slide]) -> Iterator[list[Outcome]]:
        """Lists of what ended since the last one, some of them empty: a few times a second."""
        waiting = iter(due)
        running: set[Future[Outcome]] = set()
        with ThreadPoolExecutor(self._workers, "slide") as pool:
            while True:
                while len(running) < self._workers and self._may_begin():
                    slide = next(waiting, None)
                    if slide is None:
                        break
                    running.add(pool.submit(self._fetch, slide))
                self._brake.in_hand = len(running)
                if not running:
                    return
                ended, running = wait(running, timeout=0.2, return_when=FIRST_COMPLETED)
                yield [outcome for future in ended if (outcome := self._result(future))]

    def _result(self, future: Future[Outcome]) -> Outcome | None:
        try:
            return future.result()
        except Interrupted:
            return None
        except TcgaMirrorError as error:
            self.end(error)
            return None


class _Tally:
    """What has come of a run's slides. unreached: how many in a row nobody could give."""

    def __init__(self) -> None:
        self.done = self.failed = self.unreached = 0
        self.last = ""

    def add(self, outcome: Outcome) -> None:
        if outcome.picture is not None:
            self.done += 1
            self.unreached = 0
            return
        self.failed += 1
        alike = all(attempt.passing for attempt in outcome.attempts)
        self.unreached = self.unreached + 1 if alike else 0
        self.last = outcome.attempts[-1].message or ""


def rehearse(home: Home, wishes: Wishes, watcher: Watcher, brake: Brake) -> Forecast:
    """What `perform` would fetch now: asks for the listing, but changes nothing on disk."""
    with (
        Catalogue.rehearsal(home.root / CATALOGUE) as catalogue,
        _network(home, brake) as transport,
    ):
        home.check_target(catalogue)
        steps = Run(home, catalogue, transport, watcher, brake)
        if wishes.refresh:
            steps.refresh()
        if wishes.sample:
            steps.sample()
        due = tuple(catalogue.due(retry_failed=wishes.retry_failed, limit=wishes.limit))
        past = {row.source: row for row in catalogue.counts().by_source}
    settings = home.settings
    return forecast(due, settings.via[0], settings.target, settings.workers, past)


def _network(home: Home, brake: Brake) -> Transport:
    """The mirror's connections, as many for each host as its settings allow."""
    settings = home.settings
    limits = {
        urlsplit(settings.api).netloc: settings.api_connections,
        urlsplit(settings.tiles).netloc: settings.api_connections,
    }
    if settings.bucket is not None:
        limits[urlsplit(settings.bucket).netloc] = settings.bucket_connections
    return Transport(patience=settings.patience, limits=limits, rate=settings.rate, stop=brake.stop)


def perform(home: Home, command: str, wishes: Wishes, watcher: Watcher, brake: Brake) -> Report:
    """Does on one mirror what is wished, holding its lock, and notes the run in the catalogue.

    Raises Locked at once if another run holds it; else see the steps of Run.
    """
    with (
        Lock(home.root / LOCK, command),
        Catalogue.open(home.root / CATALOGUE) as catalogue,
        _network(home, brake) as transport,
    ):
        home.check_target(catalogue)
        steps = Run(home, catalogue, transport, watcher, brake)
        run = catalogue.begin_run(command, time.time())
        exit_code = ExitCode.BUG
        try:
            merged = steps.refresh() if wishes.refresh else None
            added = steps.sample() if wishes.sample else 0
            fetched = steps.fetch(run, wishes) if wishes.fetch else Fetched()
            report = Report(catalogue.release(), merged, added, fetched)
            exit_code = report.exit_code
        except TcgaMirrorError as error:
            exit_code = error.exit_code
            raise
        finally:
            catalogue.end_run(run, exit_code=exit_code, now=time.time())
        return report
