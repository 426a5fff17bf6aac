"""Slides at a few workers: what one of them meets is not the others' affair."""

from __future__ import annotations

from tcgamirror.brake import Brake
from tcgamirror.model import Outcome, Slide
from tcgamirror.pool import Pool


def test_a_bug_met_by_one_slide_is_its_failure_and_the_others_go_on() -> None:
    slides = [Slide(str(number), f"{number}.svs") for number in range(8)]

    def fetch(slide: Slide) -> Outcome:
        if slide.file_id == "3":
            raise ZeroDivisionError("division by zero")
        return Outcome(slide, (), None)

    pool = Pool(fetch, 2, Brake(), {})
    ended = [outcome for outcomes in pool.outcomes(slides) for outcome in outcomes]
    assert sorted(outcome.slide.file_id for outcome in ended) == sorted("01234567")
    (failed,) = [outcome for outcome in ended if outcome.attempts]
    assert failed.attempts[0].fault == "bug"
    assert failed.attempts[0].message == "a bug: ZeroDivisionError: division by zero"
