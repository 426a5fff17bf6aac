"""The sample filled up: from the listing by the settings' plan, or from a lock file."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence

from tcgamirror.catalogue.catalogue import Catalogue
from tcgamirror.mirror.directory import Mirror
from tcgamirror.mirror.lockfile import read_lock
from tcgamirror.mirror.provenance import addition_facts
from tcgamirror.model.errors import UsageError
from tcgamirror.model.sampling import Plan
from tcgamirror.model.slide import Kind, Slide
from tcgamirror.model.text import command_line
from tcgamirror.system.files import file_digest

SAMPLED = "sampled"
"""Key of the fact that holds for which settings and listing the sample was filled."""

MOST_NAMED = 10
"""Projects named in one message."""


def fill(mirror: Mirror, catalogue: Catalogue, warn: Callable[[str], None]) -> int:
    """Fill the sample up to the number in the settings; return how many slides were added.

    Sampled slides stay. If fewer slides are listed than requested, all are sampled.

    Args:
        warn: called with too high a number, and with requested names, projects, sample types
            and diseases that have no listed slides.

    Raises:
        UsageError: nothing is listed, or nothing that the plan allows.
    """
    if catalogue.listing.release() is None:
        raise UsageError(f"no listing yet. Run {command_line('refresh', mirror.root)} first")
    settings, plan = mirror.settings, mirror.settings.plan
    # The plan is fixed, so that it is no part of this.
    request = f"{settings.slides} of listing {catalogue.listing.count_merges()}"
    if settings.lock is not None:
        request = f"{request}, {settings.lock} {_digest(mirror)}"
    if catalogue.fact(SAMPLED) == request:
        return 0
    if settings.lock is not None:
        added = _fill_locked(mirror, catalogue)
    else:
        if plan.cases:
            # Told first, as they may be why there is nothing to sample.
            _warn_of_cases(catalogue, plan, warn)
        added = _fill_planned(settings.slides, plan, catalogue, warn)
        for column, values, what in (
            ("project_id", plan.projects, ""),
            ("sample_type", plan.sample_types, "--sample-type "),
            ("disease_type", plan.diseases, "--disease "),
        ):
            if lacking := catalogue.sample.unlisted(column, values):
                warn(f"no slide of {what}{_named(lacking)} is listed")
    catalogue.set_fact(SAMPLED, request)
    return added


def _warn_of_cases(catalogue: Catalogue, plan: Plan, warn: Callable[[str], None]) -> None:
    """Tell names of `--cases` without a slide that the plan allows."""
    filters = (
        ("--kind", len(plan.kinds) < len(Kind)),
        ("--project", plan.projects),
        ("--sample-type", plan.sample_types),
        ("--disease", plan.diseases),
    )
    others = " or ".join(option for option, used in filters if used)
    unlisted, disallowed = catalogue.sample.unmatched_cases(plan)
    for names, what in ((unlisted, "without a listed slide"), (disallowed, f"of another {others}")):
        if names:
            count = f"{len(names):,} name{'' if len(names) == 1 else 's'}"
            warn(f"{count} of --cases {what}: {', '.join(names)}")


def _fill_planned(
    slides: int | None, plan: Plan, catalogue: Catalogue, warn: Callable[[str], None]
) -> int:
    sampled = catalogue.sample.count()
    if slides is not None and sampled >= slides:
        return 0
    fresh = catalogue.sample.unsampled(plan, None if slides is None else slides - sampled)
    # Sampled slides count even if they were withdrawn since.
    there = sampled + len(fresh)
    if not there:
        raise UsageError(_why_none(catalogue.sample.candidates(), plan))
    if slides is not None and slides > there:
        # The kind is a default, which a user who sees more slides listed may not know.
        kind = f" of kind {min(plan.kinds)}" if len(plan.kinds) == 1 else ""
        warn(f"{slides:,} slides are asked for, but there are only {there:,}{kind}: all are taken")
    _add(catalogue, fresh, plan)
    return len(fresh)


def fill_places(mirror: Mirror, catalogue: Catalogue, places: int) -> int:
    """Sample the next slides of the plan in place of excluded ones; return how many can be had.

    Excluded slides among them are sampled too, so that the sample stays nested, and count
    for no place.
    """
    plan = mirror.settings.plan
    excluded = {exclusion.file_name for exclusion in catalogue.exclusions.all()}
    following = catalogue.sample.unsampled(plan, places + len(excluded))
    usable = [place for place, name in enumerate(following) if name not in excluded][:places]
    if usable:
        _add(catalogue, following[: usable[-1] + 1], plan)
    return len(usable)


def _digest(mirror: Mirror) -> str:
    """Return the SHA-256 of the lock file, empty if it cannot be read."""
    try:
        return file_digest(mirror.root / str(mirror.settings.lock), "sha256")
    except OSError:
        return ""


def _fill_locked(mirror: Mirror, catalogue: Catalogue) -> int:
    """Add the listed slides of the lock file; the report names the others."""
    sampled = set(catalogue.sample.names())
    lock = read_lock(mirror.root / str(mirror.settings.lock))
    fresh = [name for name in lock.among(catalogue.sample.candidates()) if name not in sampled]
    _add(catalogue, fresh, lock.plan)
    return len(fresh)


def _add(catalogue: Catalogue, names: Sequence[str], plan: Plan | None) -> None:
    if names:
        facts = {} if plan is None else addition_facts(catalogue, plan, len(names))
        catalogue.sample.add(names, time.time(), facts)


def _why_none(candidates: Sequence[Slide], plan: Plan) -> str:
    """Return why the plan allows no listed slide, and what is listed instead."""
    if not candidates:
        return "no slide is listed, so that none can be sampled"
    wide = dataclasses.replace(
        plan, sample_types=frozenset(), diseases=frozenset(), cases=frozenset()
    )
    if wide != plan and (wider := list(filter(wide.allows, candidates))):
        types = ("--sample-type", plan.sample_types, "sample_type", "sample types")
        diseases = ("--disease", plan.diseases, "disease_type", "diseases")
        used, there = ["--cases"] if plan.cases else [], list[str]()
        for option, wanted, column, what in (types, diseases):
            if wanted:
                used.append(option)
                values = sorted({str(getattr(slide, column)) for slide in wider})
                there.append(f"{what} {_named(values)}")
        kind = f"{min(plan.kinds)} " if len(plan.kinds) == 1 else ""
        hint = f". There are {', '.join(there)}" if there else ""
        return (
            f"no listed {kind}slide is of these {' and '.join(used)}: make another mirror by "
            f"init{hint}"
        )
    plan = wide
    of_kind = list(filter(dataclasses.replace(plan, projects=frozenset()).allows, candidates))
    if not of_kind:
        (kind,) = plan.kinds
        return f"no {kind} slide is listed: make another mirror by init --kind"
    there = sorted({slide.project_id for slide in of_kind if slide.project_id})
    if not there:
        return (
            "what is listed tells no projects, as is so of a manifest: "
            "make another mirror by init without --project"
        )
    of_any_kind = dataclasses.replace(plan, kinds=frozenset(Kind)).allows
    what = f"{min(plan.kinds)} slide" if any(map(of_any_kind, candidates)) else "slide"
    return (
        f"no {what} of project {', '.join(sorted(plan.projects))} is listed; there are "
        f"{_named(there)}: make another mirror by init --project"
    )


def _named(projects: Sequence[str]) -> str:
    more = f" and {len(projects) - MOST_NAMED} more" if len(projects) > MOST_NAMED else ""
    return f"{', '.join(projects[:MOST_NAMED])}{more}"
