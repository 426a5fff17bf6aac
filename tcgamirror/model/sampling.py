"""The order in which slides are sampled, reproducible on every machine.

A sample of N slides is the first N of an order over all allowed slides, so a larger sample
contains the smaller one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property, partial
from hashlib import sha256
from itertools import chain
from typing import TypeVar

from tcgamirror.model.names import slide_names, without_suffix
from tcgamirror.model.slide import Kind, Slide

Stratum = str | None
"""A project or site; None if it is unknown, or if the sample is not stratified."""

Each = TypeVar("Each")

Allowed = tuple[str, Stratum, int]
"""File name, stratum and position in the listing of an allowed slide."""


class Order(StrEnum):
    """`stable` orders by a hash of seed and name, `shuffle` by `random.shuffle` of the listing."""

    STABLE = "stable"
    SHUFFLE = "shuffle"


class By(StrEnum):
    """The column whose values take turns in the order."""

    NONE = "none"
    PROJECT = "project_id"
    SITE = "primary_site"


@dataclass(frozen=True)
class Plan:
    """The rules of a sample.

    projects, sample_types, diseases: allowed ones; empty for all. cases: names of allowed slides
    or of their cases; empty for all. one_per_case: only the first slide of each case in the order
    is sampled. A slide of unknown kind is allowed only where both kinds are.
    """

    seed: int
    order: Order = Order.STABLE
    by: By = By.NONE
    kinds: frozenset[Kind] = frozenset(Kind)
    projects: frozenset[str] = frozenset()
    sample_types: frozenset[str] = frozenset()
    diseases: frozenset[str] = frozenset()
    cases: frozenset[str] = frozenset()
    one_per_case: bool = False

    def allows(self, slide: Slide) -> bool:
        """Return whether the slide may be sampled."""
        known = slide.kind is not None
        return (
            (slide.kind in self.kinds if known else len(self.kinds) == len(Kind))
            and (not self.projects or slide.project_id in self.projects)
            and (not self.sample_types or slide.sample_type in self.sample_types)
            and (not self.diseases or slide.disease_type in self.diseases)
            and (not self.cases or not slide_names(slide).isdisjoint(self._case_names))
        )

    @cached_property
    def _case_names(self) -> frozenset[str]:
        return frozenset(without_suffix(name).lower() for name in self.cases)


def arranged(allowed: Iterable[Allowed], plan: Plan) -> Iterator[str]:
    """Yield the file names of allowed slides in sampling order.

    >>> allowed = [(name, name[0], place) for place, name in enumerate(("A1", "A2", "A3", "B1"))]
    >>> list(arranged(allowed, Plan(seed=42, order=Order.SHUFFLE)))
    ['A3', 'B1', 'A2', 'A1']
    """
    return (_stable if plan.order is Order.STABLE else _shuffled)(allowed, plan.seed)


def _stable(allowed: Iterable[Allowed], seed: int) -> Iterator[str]:
    strata: dict[Stratum, list[str]] = defaultdict(list)
    for name, stratum, _ in allowed:
        strata[stratum].append(name)
    for names in strata.values():
        # Without pairs of key and name, which would double the time for a million slides.
        names.sort(key=partial(stable_key, seed))
    return _in_turn(strata)


def _shuffled(allowed: Iterable[Allowed], seed: int) -> Iterator[str]:
    names: list[str] = []
    stratum_of: list[Stratum] = []
    places: list[int] = []
    known: dict[Stratum, Stratum] = {}
    for name, stratum, place in allowed:
        names.append(name)
        # One object for all slides of a stratum, so that its hash is computed once.
        stratum_of.append(known.setdefault(stratum, stratum))
        places.append(place)
    # Imported late, as only drawing a sample needs it.
    import random

    # Numbers are sorted and shuffled faster than a million names spread over the memory.
    numbers = sorted(range(len(names)), key=places.__getitem__)
    random.Random(seed).shuffle(numbers)
    strata: dict[Stratum, list[int]] = defaultdict(list)
    for number in numbers:
        strata[stratum_of[number]].append(number)
    return map(names.__getitem__, _in_turn(strata))


def stable_key(seed: int, file_name: str) -> str:
    r"""Return the sort key of `stable`: SHA-256, in hex, of the seed, a newline and the name.

    `printf '42\nA.svs' | sha256sum` shows the same.

    >>> stable_key(42, "A.svs")[:16]
    'd8d3ab479f621ce2'
    """
    return sha256(f"{seed}\n{file_name}".encode()).hexdigest()


def _in_turn(strata: Mapping[Stratum, list[Each]]) -> Iterator[Each]:
    """Yield the first of each stratum, then the second of each, and so on.

    >>> list(_in_turn({"B": ["x"], "A": ["a", "b", "c"]}))
    ['a', 'x', 'b', 'c']
    """
    known = sorted(strata, key=lambda stratum: (stratum is None, stratum or ""))
    left = [strata[stratum] for stratum in known]
    start = 0
    while len(left) > 1:
        end = min(map(len, left))
        yield from chain.from_iterable(zip(*(each[start:end] for each in left), strict=True))
        left = [each for each in left if len(each) > end]
        start = end
    for each in left:
        yield from each[start:]
