"""`init`: make a new mirror."""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tcgamirror.catalogue.catalogue import Catalogue
from tcgamirror.cli import output
from tcgamirror.cli.common import named_mirror, sources
from tcgamirror.cli.lock import difference_words, say_comparison, warn_if_altered
from tcgamirror.mirror.directory import CATALOGUE, Mirror, check_unused
from tcgamirror.mirror.lockfile import (
    LockFile,
    compare_listing,
    lock_lines,
    locked_exclusions,
    read_lock,
)
from tcgamirror.mirror.provenance import plan_words
from tcgamirror.mirror.settings import FILE_NAME, MOST_CASES, UNSIZED, Settings, with_options
from tcgamirror.model import text
from tcgamirror.model.errors import ExitCode, UsageError
from tcgamirror.model.sampling import By, Plan
from tcgamirror.model.slide import Target
from tcgamirror.sources.manifest import describe_other_files, read_slides
from tcgamirror.sources.namelist import read_names

_PLAN = (
    *("slides", "seed", "order", "by", "kind", "project"),
    *("sample_type", "disease", "cases", "one_per_case"),
)
"""Options that tell which slides to sample."""

FINEST, COARSEST = 0.2, 200.0
"""µm per pixel: just below the finest base of a slide, and where 2 cm have 100 pixels."""


def do_init(args: argparse.Namespace) -> ExitCode:
    lock = None if args.lock is None else read_lock(args.lock, accept_altered=True)
    settings = _settings(args, lock)
    root = _root(args)
    _warn_if_unusual(settings.target.mpp)
    # Read first: a manifest that cannot be read leaves no mirror behind.
    manifest = None if settings.manifest is None else _read_manifest(settings, lock)
    if lock is None:
        if manifest is not None:
            _check_choice(settings, manifest)
        mirror = Mirror.begin(root, settings)
        count = "all slides" if settings.slides is None else text.slides(settings.slides)
        words = f"{count} {plan_words(settings.plan)}"
    else:
        exclusions = locked_exclusions(lock, time.time())
        mirror = Mirror.begin(root, settings, lock_lines(lock), exclusions)
        warn_if_altered(lock, args.lock)
        say_comparison(lock, args.lock, settings)
        words = f"the {text.slides(len(lock.slides))} of {args.lock}"
    # Some are sampled if the mirror had lost its settings.
    with Catalogue.open(mirror.root / CATALOGUE, read_only=True) as catalogue:
        sampled = catalogue.sample.count()
    did = "restored the settings of the mirror" if sampled else "made a mirror"
    lines = [f"{did} in {mirror.root}: {words}, each {settings.fixed}"]
    if sampled:
        lines.append(
            f"{text.slides(sampled)} already sampled are kept. Check [sample] in {FILE_NAME} "
            "before the next update, which adds what is missing"
        )
    if manifest is not None:
        lines += _manifest_lines(settings, manifest)
        if lock is not None:
            lines += difference_words(compare_listing(lock, manifest.locked), str(args.lock))
    output.show([*lines, f"next: {text.command_line('update', mirror.root)}"])
    return ExitCode.DONE


def _warn_if_unusual(mpp: float | None) -> None:
    if mpp is None or FINEST <= mpp <= COARSEST:
        return
    problem = "images have fewer than 100 pixels across 2 cm"
    if mpp < FINEST:
        problem = "finer than the slides, which have 0.2 to 0.5 µm per pixel, so that they fail"
    output.say(f"--mpp {mpp:g}: {problem}. For another --mpp make another mirror")


def _root(args: argparse.Namespace) -> Path:
    """Return the new mirror's directory. Raises UsageError for a current one that is in use."""
    if args.dir is not None:
        if args.mirror not in (None, args.dir):
            raise UsageError(f"{args.dir}: --mirror names another directory. Leave one out")
        args.mirror = args.dir
    named = named_mirror(args)
    # Whoever means a directory with other things in it names it.
    if named is None and not any(Path(name).exists() for name in (FILE_NAME, CATALOGUE)):
        check_unused(Path(), "Name a directory: tcgamirror init DIR")
    return named or Path()


def _settings(args: argparse.Namespace, lock: LockFile | None) -> Settings:
    """Return the settings that the options ask for, with slides and images of the lock file."""
    options = vars(args) | sources(args)
    given = {
        name: value for name, value in options.items() if value is not None and value is not False
    }
    sized = given.keys() & {"mpp", "max_size"}
    settings = UNSIZED
    if lock is not None:
        settings = lock.settings
        if sized:
            settings = dataclasses.replace(settings, target=Target(None, None))
        for name in _PLAN:
            if name in given:
                raise UsageError(
                    f"--{name.replace('_', '-')} cannot be given with --lock, which names the "
                    "slides. Leave it out"
                )
        del given["lock"]
    elif not sized:
        mirror = Path(args.dir or args.mirror or "tcga")
        raise UsageError(
            "init: the size of the images is missing. Add --mpp 15 (exactly 15 µm per pixel) or "
            "--max-size 2048 (at most 2,048 pixels), as in: "
            f"{text.command_line('init --mpp 15', mirror)}"
        )
    elif "manifest" in given:
        # A manifest is a choice of slides: all of them are wanted.
        given = {"slides": "all", "kind": "all"} | given
    if "cases" in given:
        given["cases"] = _cases(args.cases)
    if "manifest" in given:
        given["manifest"] = str(args.manifest.absolute())
    return with_options(settings, given)


def _cases(paths: Sequence[Path]) -> list[str]:
    found = list(dict.fromkeys(name for path in paths for name in read_names(path)))
    if sum(map(len, found)) > MOST_CASES:
        raise UsageError(
            f"--cases: {', '.join(map(str, paths))} names more than the settings can hold. Name "
            "cases instead of slides, or list slides by --manifest"
        )
    return found


class _Manifest(NamedTuple):
    """Numbers of a manifest.

    others: rows that are not slides, by file type. allowed: slides that the plan may sample.
    unknown: slides whose name does not tell their kind. locked: md5 by file name of the
    slides that the lock file names.
    """

    slides: int
    others: Counter[str]
    allowed: int
    unknown: int
    locked: Mapping[str, str | None]


def _read_manifest(settings: Settings, lock: LockFile | None) -> _Manifest:
    """Read the settings' manifest row by row, because it may name a million slides."""
    wanted = frozenset[str]() if lock is None else frozenset(lock.names)
    slides = allowed = unknown = 0
    others = Counter[str]()
    locked: dict[str, str | None] = {}
    for slide in read_slides(Path(str(settings.manifest)), others):
        slides += 1
        unknown += slide.kind is None
        allowed += settings.plan.allows(slide)
        if slide.file_name in wanted:
            locked[slide.file_name] = slide.md5
    return _Manifest(slides, others, allowed, unknown, locked)


def _manifest_lines(settings: Settings, manifest: _Manifest) -> Iterator[str]:
    """Yield how many slides the manifest lists and how many are left out."""
    yield f"{settings.manifest} lists {text.slides(manifest.slides)}"
    if manifest.others:
        yield describe_other_files(manifest.others)
    beside = manifest.slides - manifest.allowed
    if beside and settings.lock is None:
        names = f" ({manifest.unknown:,} of unknown kind)" if manifest.unknown else ""
        only_kind = not settings.plan.cases and not settings.plan.sample_types
        remedy = ". Take them too by --kind all" if only_kind else ""
        yield f"{text.slides(beside)} not of {_narrowed(settings.plan)} left out{names}{remedy}"
    beyond = manifest.allowed - (settings.slides or manifest.allowed)
    if beyond > 0 and settings.lock is None:
        yield f"{text.slides(beyond)} beyond --slides {settings.slides:,} left out"


def _narrowed(plan: Plan) -> str:
    """Return the options that narrow the slides of a manifest."""
    words = [f"--kind {','.join(plan.kinds)}"] if len(plan.kinds) == 1 else []
    words += ["--cases"] if plan.cases else []
    words += ["--sample-type"] if plan.sample_types else []
    return ", ".join(words)


def _check_choice(settings: Settings, manifest: _Manifest) -> None:
    """Raise UsageError if the manifest has no slide that the plan allows; warn if it has fewer."""
    plan = settings.plan
    for option, given in (("project", plan.projects), ("disease", plan.diseases)):
        if given:
            raise UsageError(
                f"--{option}: a manifest tells no {option}s. Leave out --{option}, or --manifest"
            )
    if plan.by is not By.NONE:
        output.say(
            f"--by {plan.by}: a manifest tells no projects or sites. It has an effect only if "
            "the GDC answers at the first update"
        )
    there = manifest.allowed
    if not there:
        raise UsageError(
            f"{_narrowed(settings.plan)}: none of the {text.slides(manifest.slides)} in "
            f"{settings.manifest}. Choose another kind or other names"
        )
    if (settings.slides or 0) > there:
        output.say(
            f"--slides: {settings.slides:,} requested, but {settings.manifest} has only "
            f"{there:,} of the kind. All are taken"
        )
