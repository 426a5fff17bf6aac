"""Which slides are taken, and in what order: pure, so that anyone can have the same picks.

A sample of N is the first N of an order over everything that may be taken, so
a larger sample contains the smaller one.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from hashlib import sha256
from itertools import chain
from typing import TypeVar

from tcgamirror.model.slide import Kind

Stratum = str | None
"""A project or site, None for the unknown one; of all slides where none are gone round."""

Each = TypeVar("Each")

Allowed = tuple[str, Stratum, int]
"""Of a slide that may be taken: file name, stratum, place in the listing."""


class Order(StrEnum):
    """`stable`: by a hash of seed and name. `shuffle`: as `random.shuffle` over the listing."""

    STABLE = "stable"
    SHUFFLE = "shuffle"


class By(StrEnum):
    """The strata that are gone round in turn."""

    NONE = "none"
    PROJECT = "project_id"
    SITE = "primary_site"


@dataclass(frozen=True, slots=True)
class Candidate:
    """What sampling needs to know of a listed slide."""

    file_name: str
    kind: Kind | None
    project_id: str | None
    primary_site: str | None


@dataclass(frozen=True, slots=True)
class Plan:
    """How to sample.

    kinds: what may be taken; a slide of unknown kind only where both may.
    projects: only these; empty for any.
    """

    seed: int
    order: Order = Order.STABLE
    by: By = By.NONE
    kinds: frozenset[Kind] = frozenset(Kind)
    projects: frozenset[str] = frozenset()

    def allows(self, candidate: Candidate) -> bool:
        """Whether the slide may be taken at all."""
        if candidate.kind is None:
            if len(self.kinds) < len(Kind):
                return False
        elif candidate.kind not in self.kinds:
            return False
        return not self.projects or candidate.project_id in self.projects

    def stratum(self, candidate: Candidate) -> Stratum:
        """The stratum the slide belongs to; None for the unknown one."""
        if self.by is By.PROJECT:
            return candidate.project_id
        return candidate.primary_site if self.by is By.SITE else None


def ordered(candidates: Iterable[Candidate], plan: Plan) -> list[str]:
    """File names of what may be taken, the first to be taken first.

    candidates: in listing order, which is what `shuffle` goes by.

    >>> slides = [Candidate(name, None, name[0], None) for name in ("A1", "A2", "A3", "B1")]
    >>> ordered(slides, Plan(seed=42, order=Order.SHUFFLE))
    ['A3', 'A2', 'B1', 'A1']
    >>> ordered(slides, Plan(seed=42, order=Order.SHUFFLE, by=By.PROJECT))
    ['A3', 'B1', 'A2', 'A1']
    """
    allowed = (
        (each.file_name, plan.stratum(each), place)
        for place, each in enumerate(candidates)
        if plan.allows(each)
    )
    return list(arranged(allowed, plan))


def arranged(allowed: Iterable[Allowed], plan: Plan) -> Iterator[str]:
    """The same of slides that may all be taken, in any order; each as it is asked for."""
    arrange = _stable if plan.order is Order.STABLE else _shuffled
    return arrange(allowed, plan.seed)


def _stable(allowed: Iterable[Allowed], seed: int) -> Iterator[str]:
    strata: dict[Stratum, list[str]] = defaultdict(list)
    for name, stratum, _ in allowed:
        strata[stratum].append(name)
    for names in strata.values():
        # No pairs of key and name: of a million slides they take half the time.
        names.sort(key=partial(stable_key, seed))
    return _in_turn(strata)


def _shuffled(allowed: Iterable[Allowed], seed: int) -> Iterator[str]:
    names: list[str] = []
    stratum_of: list[Stratum] = []
    places: list[int] = []
    known: dict[Stratum, Stratum] = {}
    for name, stratum, place in allowed:
        names.append(name)
        # The same object for all slides of a stratum, whose hash is known then.
        stratum_of.append(known.setdefault(stratum, stratum))
        places.append(place)
    # Of numbers, and not of names: a million of those lie all over the memory.
    numbers = sorted(range(len(names)), key=places.__getitem__)
    random.Random(seed).shuffle(numbers)
    strata: dict[Stratum, list[int]] = defaultdict(list)
    for number in numbers:
        strata[stratum_of[number]].append(number)
    return map(names.__getitem__, _in_turn(strata))


def stable_key(seed: int, file_name: str) -> str:
    r"""What `stable` sorts by: SHA-256, in hexadecimal, of the seed, a newline and the name.

    `printf '42\nA.svs' | sha256sum` shows the same.

    >>> stable_key(42, "A.svs")[:16]
    'd8d3ab479f621ce2'
    """
    return sha256(f"{seed}\n{file_name}".encode()).hexdigest()


def _in_turn(strata: Mapping[Stratum, list[Each]]) -> Iterator[Each]:
    """The first of each stratum, then the second of each, and so on until all are through.

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
