"""`init`: make a new mirror."""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tcgamirror.cli import output
from tcgamirror.cli.argtypes import slides, workers
from tcgamirror.cli.common import ADDRESSES, VIA, Commands, add_command, named_mirror, sources
from tcgamirror.model import text
from tcgamirror.model.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from tcgamirror.mirror.lockfile import LockFile
    from tcgamirror.mirror.settings import Settings
    from tcgamirror.model.sampling import Plan

_INIT = f"""\
make a mirror

The choices are kept in DIR/tcgamirror.toml, which you may edit. The sample's plan (which
slides) and the target (which images) are fixed; another plan or target needs another
mirror.

images (give one of --mpp and --max-size):
--mpp X        the whole slide at exactly X µm per pixel (20× is 0.5, 40× is 0.25)
--max-size PX  the whole slide, halved until its longer side is at most PX pixels
--resample exact|fast|native
    exact (default): the best pixels; fast: less time, nearly the same pixels; native: the
    unchanged pixels of the nearest level that is fine enough
--format png|jpeg|tiff
    default: png

slides:
--slides N          number of slides, or all (default: 100; of a manifest all)
--seed S            another seed samples other slides (default: 0)
--order stable|shuffle
    stable (default): a larger sample contains the smaller one, also in a new release; shuffle:
    Python's random.shuffle over the listing
--by none|project_id|primary_site
    take from the projects or sites in turn (default: none)
--kind diagnostic|tissue|all
    diagnostic (fixed), tissue (frozen), or all (default: diagnostic; of a manifest all)
--project ID        only slides of this project, such as TCGA-BRCA or BRCA; repeat it for several
                    (default: all projects)
--cases FILE        only these cases, slides or file_ids: one a line, or a table whose first column
                    of such names counts; - is standard input; repeat it for several
--sample-type TYPE  only slides of this type, such as 'Primary Tumor' or 01; repeat it for several
--disease NAME      only slides of this disease_type, as the catalogue has it; repeat it for several
--one-per-case      only the first slide of each case in the order
--manifest FILE     list slides from a GDC manifest instead of the GDC
--lock FILE         exactly the slides of a lock file, and its images unless others are asked for
                    (see tcgamirror lock --help)

fetching:
--workers N         slides in flight, at most 64 (default: as many as keep the cores busy)
--rate BYTES        limit of bytes per second, such as 5M (default: none)
--work-limit BYTES  limit of disk space for partial downloads, such as 20G (default: none)
{VIA}
{ADDRESSES}

  tcgamirror init tcga --slides 100 --mpp 15
  tcgamirror init breast --slides all --project TCGA-BRCA --max-size 2048
  tcgamirror init paper --manifest gdc_manifest.txt --order shuffle --seed 42 --mpp 15
  tcgamirror init again --lock sample.lock"""


def init(args: argparse.Namespace) -> ExitCode:
    from tcgamirror.catalogue.catalogue import Catalogue
    from tcgamirror.cli.lock import difference_words, say_comparison, warn_if_altered
    from tcgamirror.mirror.directory import CATALOGUE, Mirror
    from tcgamirror.mirror.lockfile import compare_listing, lock_lines, locked_exclusions, read_lock
    from tcgamirror.mirror.provenance import plan_words
    from tcgamirror.mirror.settings import FILE_NAME

    lock = None if args.lock is None else read_lock(args.lock, accept_altered=True)
    settings = _settings(args, lock)
    root = _root(args)
    # Read first: a manifest that cannot be taken leaves no mirror behind.
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
    print(f"{did} in {mirror.root}: {words}, each {settings.fixed}")
    if sampled:
        print(
            f"{text.slides(sampled)} already sampled are kept. Check [sample] in {FILE_NAME} "
            "before the next update, which adds what is missing"
        )
    if manifest is not None:
        for line in _manifest_lines(settings, manifest):
            print(line)
        if lock is not None:
            for line in difference_words(compare_listing(lock, manifest.locked), str(args.lock)):
                print(line)
    print(f"next: {text.command_line('update', mirror.root)}")
    return ExitCode.DONE


def _root(args: argparse.Namespace) -> Path:
    """Return the new mirror's directory. Raises UsageError for a current one that is in use."""
    from tcgamirror.mirror.directory import CATALOGUE, check_unused
    from tcgamirror.mirror.settings import FILE_NAME

    if args.directory is not None:
        if args.mirror not in (None, args.directory):
            raise UsageError(f"{args.directory}: --mirror names another directory. Leave one out")
        args.mirror = args.directory
    named = named_mirror(args)
    # Whoever means a directory with other things in it names it.
    if named is None and not any(Path(name).exists() for name in (FILE_NAME, CATALOGUE)):
        check_unused(Path(), "Name a directory: tcgamirror init DIR")
    return named or Path()


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
    from tcgamirror.sources.manifest import read_slides

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
    """Yield lines that tell how many slides the manifest lists and how many are left out."""
    from tcgamirror.sources.manifest import describe_other_files

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
    from tcgamirror.model.sampling import By

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


_PLAN = (
    *("slides", "seed", "order", "by", "kind", "project"),
    *("sample_type", "disease", "cases", "one_per_case"),
)
"""Options that tell which slides to sample."""


def _settings(args: argparse.Namespace, lock: LockFile | None) -> Settings:
    """Return the settings that the options ask for, with slides and images of the lock file."""
    import dataclasses

    from tcgamirror.mirror.settings import UNSIZED, with_options
    from tcgamirror.model.slide import Target

    options = vars(args) | sources(args)
    given = {name: value for name, value in options.items() if value is not None}
    if lock is None:
        settings = UNSIZED
        # A manifest is a choice of slides: all of them are wanted.
        if "manifest" in given:
            given = {"slides": "all", "kind": "all"} | given
    else:
        settings = lock.settings
        for name in _PLAN:
            if name in given:
                raise UsageError(
                    f"--{name.replace('_', '-')} cannot be given with --lock, which names the "
                    "slides. Leave it out"
                )
        del given["lock"]
        if given.keys() & {"mpp", "max_size"}:
            settings = dataclasses.replace(settings, target=Target(None, None))
    if "cases" in given:
        given["cases"] = _cases(args.cases)
    if "manifest" in given:
        given["manifest"] = str(args.manifest.absolute())
    if lock is None and not given.keys() & {"mpp", "max_size"}:
        mirror = Path(args.directory or args.mirror or "tcga")
        raise UsageError(
            "init: the size of the images is missing. Add --mpp 15 (exactly 15 µm per pixel) or "
            "--max-size 2048 (at most 2,048 pixels), as in: "
            f"{text.command_line('init --mpp 15', mirror)}"
        )
    return with_options(settings, given)


def _cases(paths: Sequence[Path]) -> list[str]:
    from tcgamirror.mirror.settings import MOST_CASES
    from tcgamirror.sources.namelist import read_names

    found = list(dict.fromkeys(name for path in paths for name in read_names(path)))
    if sum(map(len, found)) > MOST_CASES:
        raise UsageError(
            f"--cases: {', '.join(map(str, paths))} names more than the settings can hold. Name "
            "cases instead of slides, or list slides by --manifest"
        )
    return found


def add_commands(commands: Commands) -> None:
    """Add `init`."""
    several = {"action": "append"}
    command = add_command(
        *(commands, "init", init, _INIT),
        slides={"type": slides},
        workers={"type": workers},
        project=several,
        cases=several,
        sample_type=several,
        disease=several,
        one_per_case={"default": None},
    )
    command.add_argument(
        "directory",
        nargs="?",
        metavar="DIR",
        help="the mirror's directory, made if it is missing (default: that of --mirror or "
        "TCGAMIRROR, or the current directory if it is empty)",
    )
