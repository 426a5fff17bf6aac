"""Slides at a few workers: what one of them meets is not the others' affair."""

from __future__ import annotations

import threading
import time

from tcgamirror.mirror.executor import BUGS_IN_A_ROW, GRACE
from tcgamirror.model.errors import Bug
from tcgamirror.model.slide import Outcome, Slide
from tcgamirror.system.interrupt import Shutdown
from tests.support.executors import dispatcher


def test_a_bug_met_by_one_slide_is_its_failure_and_the_others_go_on() -> None:
    slides = [Slide(str(number), f"{number}.svs") for number in range(8)]

    def fetch(slide: Slide) -> Outcome:
        if slide.file_id == "3":
            raise ZeroDivisionError("division by zero")
        return Outcome(slide, (), None)

    run = dispatcher(fetch, 2)
    ended = [outcome for outcomes in run.outcomes(slides) for outcome in outcomes]
    assert sorted(outcome.slide.file_id for outcome in ended) == sorted("01234567")
    (failed,) = [outcome for outcome in ended if outcome.attempts]
    assert (failed.attempts[0].source, failed.attempts[0].fault) == ("source of 3", "bug")
    assert failed.attempts[0].message == "a bug: ZeroDivisionError: division by zero"


def test_bugs_in_a_row_end_the_run() -> None:
    begun = []

    def fetch(slide: Slide) -> Outcome:
        begun.append(slide)
        raise ZeroDivisionError("division by zero")

    run = dispatcher(fetch, 1)
    due = [Slide(str(number), f"{number}.svs") for number in range(8)]
    ended = [outcome for outcomes in run.outcomes(due) for outcome in outcomes]
    assert len(ended) == len(begun) == BUGS_IN_A_ROW
    assert isinstance(run.error, Bug) and run.error.exit_code == 1
    assert "division by zero" in str(run.error)


def test_what_ends_while_others_are_recorded_is_not_lost() -> None:
    shutdown, may_end = Shutdown(), threading.Event()

    def fetch(slide: Slide) -> Outcome:
        if slide.file_id != "0":
            assert may_end.wait(10)
        return Outcome(slide, (), None)

    run = dispatcher(fetch, 2, shutdown)
    ended = []
    for outcomes in run.outcomes([Slide("0", "0.svs"), Slide("1", "1.svs")]):
        ended += [outcome.slide.file_id for outcome in outcomes]
        if ended and not shutdown.requested:
            # Recording the first one takes longer than the grace of those that are let go of.
            shutdown.force()
            may_end.set()
            time.sleep(GRACE + 0.1)
    assert ended == ["0", "1"]
