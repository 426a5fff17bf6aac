"""The plan of a mirror's sample: fixed at `init`, and how many slides it added.

Slides that came by sync or import are not counted. Then the count differs from
the sample's, and the sample is that of no plan.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from tcgamirror.catalogue.catalogue import Catalogue
from tcgamirror.mirror import settings as setting
from tcgamirror.model.errors import BadSettings
from tcgamirror.model.sampling import By, Order, Plan

PLAN = "plan fixed at init"
"""Key of the fact that holds the plan; mirrors of older versions get it at their next run."""

DRAWN = "drawn by"
"""Key of the fact that holds the plan that first added slides, and the number of these."""

_LISTS = ("projects", "sample_types", "diseases", "cases")
"""Attributes of a plan that hold names."""

MOST_NAMED = 5
"""Projects named in one line."""


def plan_facts(plan: Plan) -> dict[str, str]:
    """Return the facts of a new mirror that fix its plan."""
    return {PLAN: json.dumps(plan_values(plan))}


def addition_facts(catalogue: Catalogue, plan: Plan, added: int) -> dict[str, str]:
    """Return the facts to write in one transaction with slides that the plan adds."""
    first, before = _parse(catalogue.fact(DRAWN)) or (plan, 0)
    # Of an older version, whose plan could change.
    if first != plan:
        return {}
    return {DRAWN: json.dumps({**plan_values(plan), "slides": before + added})}


def sample_plan(catalogue: Catalogue, fixed: Plan) -> Plan | None:
    """Return the plan that chose the whole sample; None if it is not one plan's, or unknown.

    fixed: plan of the settings, which stands for an empty sample.
    """
    sampled = catalogue.sample.count()
    plan, added = _parse(catalogue.fact(DRAWN)) or (fixed, 0)
    return plan if added == sampled else None


def imported_facts(text: str) -> dict[str, str]:
    """Return the facts to write where a whole sample is taken over. text: the other's fact."""
    parsed = _parse(text)
    if parsed is None:
        return {}
    plan, slides = parsed
    return {DRAWN: json.dumps({**plan_values(plan), "slides": slides})}


def parse_plan(text: str | None) -> Plan | None:
    """Return the plan of a fact; None for anything that this version would not have written."""
    try:
        values = dict(json.loads(text or ""))
        return Plan(
            int(values["seed"]),
            Order(values["order"]),
            By(values["by"]),
            setting.kinds(values["kind"], "kind"),
            setting.names(values["projects"], "projects"),
            one_per_case=bool(values.get("one_per_case")),
            **{name: setting.names(values.get(name, ()), name) for name in _LISTS[1:]},
        )
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError, BadSettings):
        return None


def plan_values(plan: Plan) -> Mapping[str, object]:
    """Return the plan in the terms of the settings."""
    return {
        "seed": plan.seed,
        "order": plan.order,
        "by": plan.by,
        "kind": setting.kind_of(plan.kinds),
        "projects": sorted(plan.projects),
        # Left out where they are not given, as older versions know none of them.
        **{name: sorted(getattr(plan, name)) for name in _LISTS[1:] if getattr(plan, name)},
        **({"one_per_case": True} if plan.one_per_case else {}),
    }


def plan_words(plan: Plan) -> str:
    """Return the plan in one line, without defaults.

    >>> from tcgamirror.model.slide import Kind
    >>> plan_words(Plan(0, kinds=frozenset({Kind.DIAGNOSTIC})))
    'by seed 0 (stable)'
    >>> plan_words(Plan(7, Order.SHUFFLE, By.SITE, projects=frozenset({"TCGA-OV", "TCGA-GBM"})))
    'by seed 7 (shuffle, by primary_site, kind all, projects TCGA-GBM TCGA-OV)'
    """
    kind = setting.kind_of(plan.kinds)
    words: list[str] = [plan.order]
    if plan.by is not By.NONE:
        words.append(f"by {plan.by}")
    if kind != "diagnostic":
        words.append(f"kind {kind}")
    for name in _LISTS:
        if named := sorted(getattr(plan, name)):
            more = f" and {len(named) - MOST_NAMED} more" if len(named) > MOST_NAMED else ""
            between = " " if name == "projects" else "; "
            words.append(f"{name.replace('_', ' ')} {between.join(named[:MOST_NAMED])}{more}")
    if plan.one_per_case:
        words.append("one per case")
    return f"by seed {plan.seed} ({', '.join(words)})"


def _parse(text: str | None) -> tuple[Plan, int] | None:
    """Return the plan of a fact and its slides."""
    plan = parse_plan(text)
    if plan is None:
        return None
    try:
        return plan, int(json.loads(text or "")["slides"])
    except (ValueError, TypeError, KeyError, OverflowError):
        return None
