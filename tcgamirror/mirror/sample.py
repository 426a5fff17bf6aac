"""The sample filled up: from the listing by the settings' plan, or from a lock file."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from tcgamirror.catalogue.catalogue import Catalogue
from tcgamirror.mirror.directory import Mirror
from tcgamirror.mirror.lockfile import read_lock
from tcgamirror.mirror.provenance import addition_facts
from tcgamirror.model.errors import UsageError
from tcgamirror.model.sampling import Plan
from tcgamirror.model.slide import Kind, Slide
from tcgamirror.model.text import command_line, is_or_are
from tcgamirror.system.files import file_digest

SAMPLED = "sampled"
"""Key of the fact that holds for which settings and listing the sample was filled."""

MOST_NAMED = 10
"""Projects named in one message."""

_FILTERS = (
    ("--project", "projects", "project_id"),
    ("--sample-type", "sample_types", "sample_type"),
    ("--disease", "diseases", "disease_type"),
)
"""Options that narrow the sample, with their attributes of a plan and of a slide."""


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
        for option, names, column in _FILTERS:
            if lacking := catalogue.sample.unlisted(column, getattr(plan, names)):
                warn(f"no slide of {option} {_named(lacking)} is listed")
    catalogue.set_fact(SAMPLED, request)
    return added


def _warn_of_cases(catalogue: Catalogue, plan: Plan, warn: Callable[[str], None]) -> None:
    """Tell names of `--cases` without a slide that the plan allows."""
    kind = ["--kind"] if len(plan.kinds) < len(Kind) else []
    used = (option for option, names, _ in _FILTERS if getattr(plan, names))
    others = " or ".join([*kind, *used])
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
        found = f"there {is_or_are(there)} only {there:,}{kind}"
        warn(f"{slides:,} slides are asked for, but {found}: all are taken")
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
    kind = f"{min(plan.kinds)} " if len(plan.kinds) == 1 else ""
    of_kind = list(filter(Plan(0, kinds=plan.kinds).allows, candidates))
    if not of_kind:
        return f"no {kind}slide is listed: make another mirror by init --kind"
    options, there = ["--cases"] if plan.cases else [], ""
    for option, names, column in _FILTERS:
        if values := getattr(plan, names):
            options.append(f"{option} {_named(sorted(values))}")
            known = sorted({value for slide in of_kind if (value := getattr(slide, column))})
            there += f". Listed {names.replace('_', ' ')}: {_named(known) or 'none'}"
    return (
        f"no listed {kind}slide matches {' and '.join(options)}: make another mirror by init{there}"
    )


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return f"{', '.join(names[:MOST_NAMED])}{more}"
