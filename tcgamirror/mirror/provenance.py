"""The plan of a mirror's sample: fixed at `init`, and how many slides it added.

Slides that came by sync or import are not counted. Then the count differs from
the sample's, and the sample is that of no plan.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace

from tcgamirror.catalogue.catalogue import Catalogue
from tcgamirror.mirror.settings import format_options, plan_values, read_plan, read_sample
from tcgamirror.model.errors import BadSettings
from tcgamirror.model.sampling import By, Plan

PLAN = "plan fixed at init"
"""Key of the fact that holds the plan; mirrors of older versions get it at their next run."""

DRAWN = "drawn by"
"""Key of the fact that holds the plan that first added slides, and the number of these."""

_FIXED = re.compile(
    r"(?:(?P<mpp>[0-9.e+-]+) µm/px|at most (?P<max_size>[0-9]+) px), "
    r"(?P<resample>[a-z]+), (?P<format>[a-z]+)"
)
"""Target and format in words."""

MOST_NAMED = 5
"""Projects named in one line."""


def plan_facts(plan: Plan) -> dict[str, str]:
    """Return the facts of a new mirror that fix its plan."""
    return {PLAN: json.dumps(plan_values(plan))}


def addition_facts(catalogue: Catalogue, plan: Plan, added: int) -> dict[str, str]:
    """Return the facts to write in one transaction with slides that the plan adds."""
    first, before = _parse_drawn(catalogue.fact(DRAWN)) or (plan, 0)
    # Of an older version, whose plan could change.
    return _drawn_facts(plan, before + added) if first == plan else {}


def sample_plan(catalogue: Catalogue, fixed: Plan) -> Plan | None:
    """Return the plan that chose the whole sample; None if it is not one plan's, or unknown.

    fixed: plan of the settings, which stands for an empty sample.
    """
    plan, added = _parse_drawn(catalogue.fact(DRAWN)) or (fixed, 0)
    return plan if added == catalogue.sample.count() else None


def imported_facts(text: str) -> dict[str, str]:
    """Return the facts to write where a whole sample is taken over. text: the other's fact."""
    drawn = _parse_drawn(text)
    return _drawn_facts(*drawn) if drawn else {}


def _drawn_facts(plan: Plan, slides: int) -> dict[str, str]:
    return {DRAWN: json.dumps({**plan_values(plan), "slides": slides})}


def _parse_drawn(text: str | None) -> tuple[Plan, int] | None:
    """Return the plan and the number of slides of the fact DRAWN; None for an invalid one."""
    plan = parse_plan(text)
    slides = dict(json.loads(text or "")).get("slides") if plan else None
    return (plan, slides) if plan and type(slides) is int else None


def parse_plan(text: str | None) -> Plan | None:
    """Return the plan of a fact; None for anything that this version would not have written."""
    try:
        return read_plan(dict(json.loads(text or "")))
    except (ValueError, TypeError, KeyError, RecursionError, BadSettings):
        return None


def init_options(fixed: str | None, plan: Plan | None, slides: int) -> str | None:
    """Return the options of `init` that write a mirror's lost settings again; None if unknown.

    fixed: as `Settings.fixed`. slides: number of them in the sample.

    >>> from tcgamirror.model.sampling import By
    >>> init_options("15 µm/px, exact, png", Plan(7, by=By.SITE, diseases=frozenset({"A b"})), 9)
    "--mpp 15 --slides 9 --seed 7 --by primary_site --kind all --disease 'A b'"
    """
    found = _FIXED.fullmatch(fixed or "")
    if found is None or plan is None:
        return None
    size = {"mpp": float(found["mpp"])} if found["mpp"] else {"max_size": int(found["max_size"])}
    settings = read_sample({**size, "resample": found["resample"], "format": found["format"]})
    return format_options(replace(settings, plan=plan, slides=slides or None))


def plan_words(plan: Plan) -> str:
    """Return the plan in one line, without defaults.

    >>> from tcgamirror.model.sampling import Order
    >>> from tcgamirror.model.slide import Kind
    >>> plan_words(Plan(0, kinds=frozenset({Kind.DIAGNOSTIC})))
    'by seed 0 (stable)'
    >>> plan_words(Plan(7, Order.SHUFFLE, By.SITE, projects=frozenset({"TCGA-OV", "TCGA-GBM"})))
    'by seed 7 (shuffle, by primary_site, kind all, projects TCGA-GBM TCGA-OV)'
    """
    values = plan_values(plan)
    words = [str(plan.order)]
    if plan.by is not By.NONE:
        words.append(f"by {plan.by}")
    if values["kind"] != "diagnostic":
        words.append(f"kind {values['kind']}")
    for name in ("projects", "sample_types", "diseases", "cases"):
        if names := values.get(name):
            more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
            between = " " if name == "projects" else "; "
            words.append(f"{name.replace('_', ' ')} {between.join(names[:MOST_NAMED])}{more}")
    if plan.one_per_case:
        words.append("one per case")
    return f"by seed {plan.seed} ({', '.join(words)})"
