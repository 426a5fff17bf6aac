"""Which slides are taken, and in what order: pure, so that anyone can have the same picks.

A sample of N is the first N of an order over everything that may be taken, so
a larger sample contains the smaller one.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256

from tcgamirror.model import Kind


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

    def stratum(self, candidate: Candidate) -> str | None:
        """The stratum the slide belongs to; None for the unknown one."""
        if self.by is By.PROJECT:
            return candidate.project_id
        return candidate.primary_site if self.by is By.SITE else None


def ordered(candidates: Sequence[Candidate], plan: Plan) -> list[str]:
    """File names of what may be taken, the first to be taken first.

    candidates: in listing order, which is what `shuffle` goes by.

    >>> slides = [Candidate(name, None, name[0], None) for name in ("A1", "A2", "A3", "B1")]
    >>> ordered(slides, Plan(seed=42, order=Order.SHUFFLE))
    ['A3', 'A2', 'B1', 'A1']
    >>> ordered(slides, Plan(seed=42, order=Order.SHUFFLE, by=By.PROJECT))
    ['A3', 'B1', 'A2', 'A1']
    """
    allowed = [candidate for candidate in candidates if plan.allows(candidate)]
    if plan.order is Order.SHUFFLE:
        rows = _shuffled(allowed, plan.seed)
    else:
        rows = sorted(allowed, key=lambda candidate: stable_key(plan.seed, candidate.file_name))
    if plan.by is not By.NONE:
        rows = _in_turn(rows, plan)
    return [candidate.file_name for candidate in rows]


def stable_key(seed: int, file_name: str) -> bytes:
    r"""What `stable` sorts by: SHA-256 of the seed, a newline and the name.

    `printf '42\nA.svs' | sha256sum` shows the same.

    >>> stable_key(42, "A.svs").hex()[:16]
    'd8d3ab479f621ce2'
    """
    return sha256(f"{seed}\n{file_name}".encode()).digest()


def _shuffled(candidates: Sequence[Candidate], seed: int) -> list[Candidate]:
    rows = list(range(len(candidates)))
    random.Random(seed).shuffle(rows)
    return [candidates[row] for row in rows]


def _in_turn(candidates: Sequence[Candidate], plan: Plan) -> list[Candidate]:
    strata = [plan.stratum(candidate) for candidate in candidates]
    names = sorted(set(strata), key=lambda name: (name is None, name or ""))
    turn = {name: place for place, name in enumerate(names)}
    turns = []
    for name in strata:
        turns.append(turn[name])
        turn[name] += len(names)
    return [candidates[index] for index in sorted(range(len(turns)), key=turns.__getitem__)]
