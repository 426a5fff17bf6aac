"""Rules of a run with workers of any kind: which slides begin, and which errors end it."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from tcgamirror.mirror.executor import Executor, Result
from tcgamirror.mirror.outage import SITE_DOWN_AFTER, Unreached
from tcgamirror.mirror.progress import Progress
from tcgamirror.model.errors import Bug, Interrupted, NoMemory, TcgaMirrorError, Unreachable
from tcgamirror.model.slide import Attempt, Outcome, Slide
from tcgamirror.system.interrupt import Shutdown
from tcgamirror.system.parallel import Background

GRACE = 1.0
"""Seconds that a run told to stop at once leaves to the slides in flight."""

BUGS_IN_A_ROW = 3
"""Slides in a row that meet a bug or lack memory, after which the run ends."""


@dataclass(slots=True)
class FetchReport:
    """Counts of one run's slides.

    bytes: from the network. left: due slides that did not end. stopped_by: the option
    whose limit was reached. unknown_mpp: new images of unknown resolution.
    """

    done: int = 0
    failed: int = 0
    bytes: int = 0
    left: int = 0
    stopped_by: str | None = None
    unknown_mpp: int = 0


class Dispatcher:
    """The hand-over of one run's slides to an executor.

    report: counts of the slides that ended. Until `finish`, `bytes` are those of their attempts.
    """

    def __init__(
        self,
        executor: Executor,
        progress: Progress,
        shutdown: Shutdown,
        is_away: Callable[[], bool],
        limits: Mapping[str, Callable[[], bool]] = MappingProxyType({}),
    ) -> None:
        """Begin with nothing in flight.

        Args:
            is_away: Returns whether the site is down. Called from any thread.
            limits: Functions that return whether a limit is reached, by the option's name.
        """
        self.report = FetchReport()
        self._executor = executor
        self._progress = progress
        self._shutdown = shutdown
        self._is_away = is_away
        # While slides in flight end, another thread asks the site. No slide begins meanwhile.
        self._asking: Background[bool] | None = None
        self._limits = limits
        self._unreached = Unreached()
        self._last_message: str | None = None
        self._bugs = 0
        self._is_cut_short = False
        self._error: TcgaMirrorError | None = None
        self._lack: NoMemory | None = None

    def stop(self, error: TcgaMirrorError) -> None:
        """End the run: leave slides in flight GRACE seconds, and have `finish` raise the error."""
        self._error = self._error or error
        self._shutdown.force()

    def outcomes(self, due: Iterable[Slide]) -> Generator[Outcome, None, None]:
        """Yield the outcome of each slide as it ends, until all have or the run has to end.

        The executor is closed at the end. Closing the generator early drops the slides in
        flight, after GRACE seconds at most.

        Args:
            due: Slides to fetch, read as they are needed.
        """
        waiting = iter(due)
        slide = next(waiting, None)
        executor, shutdown = self._executor, self._shutdown
        try:
            while True:
                while (
                    (may_begin := self._may_begin())
                    and slide
                    and self._asking is None
                    and executor.has_room()
                ):
                    # Counted before it begins, so that an interrupt finds it in flight.
                    shutdown.in_flight += 1
                    executor.submit(slide)
                    slide = next(waiting, None)
                # Even with none in flight, a slide that may begin waits for a worker.
                is_asking = self._asking is not None and not shutdown.requested
                if not (shutdown.in_flight or is_asking or (slide and may_begin)):
                    break
                if not may_begin:
                    executor.drain()
                # A last look finds what ended while the caller recorded other outcomes.
                is_last = shutdown.seconds_since_stop > GRACE
                for result in executor.take_ended(0 if is_last else 0.2):
                    shutdown.in_flight -= 1
                    outcome = self._count(result)
                    if outcome is not None:
                        yield outcome
                self._progress.show_fetch(
                    executor.bytes_moved,
                    shutdown.in_flight,
                    shutdown.draining,
                    executor.current_renders,
                )
                self._stop_if_away()
                if is_last:
                    break
            self._is_cut_short |= bool(slide or shutdown.in_flight)
        finally:
            if shutdown.in_flight:
                shutdown.force()
            left = max(0.0, GRACE - shutdown.seconds_since_stop)
            executor.close(left)

    def finish(self) -> FetchReport:
        """Return the report, with all bytes of the run, or raise the error that ended it.

        Raises:
            Interrupted: The run, or the workers of some slides, stopped before all slides ended.
            Unreachable: The site is down, from the start or since some slide.
            NoMemory: A slide failed by a lack of memory.
            TcgaMirrorError: Any other error that would end every slide, such as DiskFull.
        """
        report = self.report
        if error := self._error or self._lack:
            raise error
        if self._is_cut_short and (self._shutdown.requested or report.stopped_by is None):
            cause = "" if self._shutdown.requested else ", as workers closed"
            raise Interrupted(
                f"stopped with {report.done} slides done{cause}; the next run goes on"
            )
        all_unreached = 0 < report.failed == self._unreached.count and not report.done
        if all_unreached and self._is_away():
            raise Unreachable(f"no slide can be reached: {self._last_message}")
        report.bytes = self._executor.bytes_moved
        return report

    def _may_begin(self) -> bool:
        if self.report.stopped_by is None:
            reached = (name for name, is_reached in self._limits.items() if is_reached())
            self.report.stopped_by = next(reached, None)
        return self.report.stopped_by is None and not self._shutdown.requested

    def _count(self, result: Result) -> Outcome | None:
        """Count a slide's result and return its outcome; None if an error stands in its place."""
        if isinstance(result, Interrupted):
            self._is_cut_short = True
            return None
        if isinstance(result, TcgaMirrorError):
            self.stop(result)
            return None
        if isinstance(result, BaseException):
            raise result
        report, picture, last = self.report, result.picture, result.attempts[-1]
        report.bytes += sum(attempt.bytes_fetched for attempt in result.attempts)
        if picture is None:
            report.failed += 1
            self._last_message = last.message
        else:
            report.done += 1
            report.unknown_mpp += picture.mpp_x is None
        self._unreached.add(attempt.fault for attempt in result.attempts)
        self._count_bug(last)
        self._progress.add_outcome(result)
        return result

    def _count_bug(self, last: Attempt) -> None:
        """Stop if several slides in a row met a bug or lacked memory, as every slide may."""
        if last.fault not in (Bug.fault, NoMemory.fault):
            self._bugs = 0
            return
        lack = NoMemory(last.message) if last.fault == NoMemory.fault else None
        # Raised by `finish`: until then the run goes on, since others may need less memory.
        self._lack = self._lack or lack
        self._bugs += 1
        if self._bugs >= BUGS_IN_A_ROW:
            many = f"{self._bugs} slides in a row met {last.message}"
            self.stop(lack or Bug(f"{many}; nothing recorded is lost. Please report it"))

    def _stop_if_away(self) -> None:
        """Stop if several slides in a row were unreachable and the site is down."""
        if self._asking is None:
            if self._unreached.count >= SITE_DOWN_AFTER and self._error is None:
                self._unreached.count = 0
                self._asking = Background(self._is_away, "site")
        elif self._asking.has_ended():
            if self._asking.result():
                last = self._last_message
                self.stop(Unreachable(f"no slide can be reached any more; the last: {last}"))
            self._asking = None
