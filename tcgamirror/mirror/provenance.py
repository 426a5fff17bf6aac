"""How a sample was drawn: what the settings said when its slides were added, not what they say now.

The catalogue keeps the plan that added slides first, and how many it added. What
came in another way (by another plan, by sync or import) is not counted: then
the numbers differ, and no one plan is known to have drawn them all.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from tcgamirror.catalogue.catalogue import Catalogue
from tcgamirror.mirror import settings as setting
from tcgamirror.model.errors import BadSettings
from tcgamirror.model.sampling import By, Order, Plan

DRAWN = "drawn by"
"""The catalogue's fact that tells it."""

MOST_NAMED = 5
"""Projects named in one line."""


def noted(catalogue: Catalogue, plan: Plan, added: int) -> dict[str, str]:
    """The facts to keep in one transaction with slides that the plan adds."""
    first, before = _told(catalogue.fact(DRAWN)) or (plan, 0)
    if first != plan:
        return {}
    return {DRAWN: _written(plan, before + added)}


def plan_of(catalogue: Catalogue, now: Plan) -> Plan | None:
    """The plan that drew the whole sample; None if there is none, or none is known.

    now: that of the settings. Where it draws exactly this sample, it is the one,
    whatever was noted.
    """
    told = _told(catalogue.fact(DRAWN))
    if told is not None and told[1] == catalogue.sample.count():
        return told[0]
    sampled = catalogue.sample.names()
    if not sampled or catalogue.sample.order(now, len(sampled)) == sampled:
        return now
    return None


def carried(text: str) -> dict[str, str]:
    """The facts to keep where all of a sample was taken over, of which elsewhere this was told.

    None of what this version would not have written.
    """
    told = _told(text)
    return {} if told is None else {DRAWN: _written(*told)}


def facts_of(plan: Plan) -> Mapping[str, object]:
    """The plan in the terms of the settings."""
    return {
        "seed": plan.seed,
        "order": plan.order,
        "by": plan.by,
        "kind": setting.kind_of(plan.kinds),
        "projects": sorted(plan.projects),
    }


def words(plan: Plan) -> str:
    """The plan in one line, without what is usual.

    >>> from tcgamirror.model.slide import Kind
    >>> words(Plan(0, kinds=frozenset({Kind.DIAGNOSTIC})))
    'by seed 0 (stable)'
    >>> words(Plan(7, Order.SHUFFLE, By.SITE, projects=frozenset({"TCGA-OV", "TCGA-GBM"})))
    'by seed 7 (shuffle, by primary_site, kind all, projects TCGA-GBM TCGA-OV)'
    """
    kind, projects = setting.kind_of(plan.kinds), sorted(plan.projects)
    said: list[str] = [plan.order]
    if plan.by is not By.NONE:
        said.append(f"by {plan.by}")
    if kind != "diagnostic":
        said.append(f"kind {kind}")
    if projects:
        more = f" and {len(projects) - MOST_NAMED} more" if len(projects) > MOST_NAMED else ""
        said.append(f"projects {' '.join(projects[:MOST_NAMED])}{more}")
    return f"by seed {plan.seed} ({', '.join(said)})"


def _written(plan: Plan, slides: int) -> str:
    return json.dumps({**facts_of(plan), "slides": slides})


def _told(text: str | None) -> tuple[Plan, int] | None:
    """The plan and its slides; None for what this version would not have written."""
    try:
        told = json.loads(text or "")
        plan = Plan(
            int(told["seed"]),
            Order(told["order"]),
            By(told["by"]),
            setting.kinds(told["kind"], "kind"),
            frozenset(setting.names(told["projects"], "projects")),
        )
        return plan, int(told["slides"])
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError, BadSettings):
        return None
