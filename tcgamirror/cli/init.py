"""`init`: make a new mirror."""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from tcgamirror.cli import output
from tcgamirror.cli.argtypes import (
    byte_count,
    number,
    project,
    sample_type,
    seed,
    slides,
    whole_number,
    workers,
)
from tcgamirror.cli.common import (
    Commands,
    add_addresses,
    add_command,
    add_via,
    named_mirror,
    with_addresses,
)
from tcgamirror.model import text
from tcgamirror.model.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from tcgamirror.mirror.directory import Mirror
    from tcgamirror.mirror.lockfile import LockFile
    from tcgamirror.mirror.settings import Settings

_INIT = """\
make a mirror

The choices are kept in DIR/tcgamirror.toml, which you may edit. The sample's plan (which
slides) and the target (which images) are fixed; another plan or target needs another
mirror.

  tcgamirror init tcga --slides 100 --mpp 15
  tcgamirror init breast --slides all --project TCGA-BRCA --max-size 2048
  tcgamirror init paper --manifest gdc_manifest.txt --order shuffle --seed 42 --mpp 15
  tcgamirror init again --lock sample.lock"""


def init(args: argparse.Namespace) -> ExitCode:
    from tcgamirror.cli.lock import difference_words, warn_if_altered
    from tcgamirror.mirror.directory import Mirror
    from tcgamirror.mirror.lockfile import compare_listing, lock_lines, locked_exclusions, read_lock
    from tcgamirror.mirror.settings import FILE_NAME

    lock = None if args.lock is None else read_lock(args.lock, accept_altered=True)
    settings = _settings(args) if lock is None else _locked_settings(args, lock.settings)
    root = _root(args)
    # Read first: a manifest that cannot be taken leaves no mirror behind.
    manifest = None if settings.manifest is None else _read_manifest(settings, lock)
    if manifest is not None and lock is None:
        _check_choice(settings, manifest)
    if lock is None:
        mirror = Mirror.begin(root, settings)
    else:
        exclusions = locked_exclusions(lock, time.time())
        mirror = Mirror.begin(root, settings, lock_lines(lock), exclusions)
        warn_if_altered(lock, args.lock)
        if settings.fixed != lock.settings.fixed:
            output.say(f"images are not compared: {args.lock} has {lock.settings.fixed}")
    words = _describe_sample(settings)
    if lock is not None:
        words = f"the {text.slides(len(lock.slides))} of {args.lock}"
    sampled = _sampled_already(mirror)
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
    if lock is not None and manifest is not None:
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


def _sampled_already(mirror: Mirror) -> int:
    """Return the number of slides in the catalogue of a mirror whose settings were lost."""
    from tcgamirror.catalogue.catalogue import Catalogue
    from tcgamirror.mirror.directory import CATALOGUE

    with Catalogue.open(mirror.root / CATALOGUE, read_only=True) as catalogue:
        return catalogue.sample.count()


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
    from tcgamirror.model.sampling import Candidate
    from tcgamirror.sources.manifest import read_slides

    wanted = frozenset[str]() if lock is None else frozenset(lock.names)
    slides = allowed = unknown = 0
    others = Counter[str]()
    locked: dict[str, str | None] = {}
    for slide in read_slides(Path(str(settings.manifest)), others):
        slides += 1
        unknown += slide.kind is None
        allowed += settings.plan.allows(
            Candidate(
                *(slide.file_name, slide.kind, slide.project_id, slide.primary_site),
                *(slide.sample_type, slide.disease_type, slide.case_barcode, slide.slide_barcode),
                slide.file_id,
            )
        )
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
        only_kind = not settings.cases and not settings.sample_types
        remedy = ". Take them too by --kind all" if only_kind else ""
        yield f"{text.slides(beside)} not of {_narrowed(settings)} left out{names}{remedy}"
    beyond = manifest.allowed - (settings.slides or manifest.allowed)
    if beyond > 0 and settings.lock is None:
        yield f"{text.slides(beyond)} beyond --slides {settings.slides:,} left out"


def _narrowed(settings: Settings) -> str:
    """Return the options that narrow the slides of a manifest."""
    words = [f"--kind {','.join(sorted(settings.kinds))}"] if len(settings.kinds) == 1 else []
    words += ["--cases"] if settings.cases else []
    words += ["--sample-type"] if settings.sample_types else []
    return ", ".join(words)


def _check_choice(settings: Settings, manifest: _Manifest) -> None:
    """Raise UsageError if the manifest has no slide that the plan allows; warn if it has fewer."""
    from tcgamirror.model.sampling import By

    for option, given in (("project", settings.projects), ("disease", settings.diseases)):
        if given:
            raise UsageError(
                f"--{option}: a manifest tells no {option}s. Leave out --{option}, or --manifest"
            )
    if settings.by is not By.NONE:
        output.say(
            f"--by {settings.by}: a manifest tells no projects or sites. It has an effect only if "
            "the GDC answers at the first update"
        )
    there = manifest.allowed
    if not there:
        raise UsageError(
            f"{_narrowed(settings)}: none of the {text.slides(manifest.slides)} in "
            f"{settings.manifest}. Choose another kind or other names"
        )
    if (settings.slides or 0) > there:
        output.say(
            f"--slides: {settings.slides:,} requested, but {settings.manifest} has only "
            f"{there:,} of the kind. All are taken"
        )


_USUAL: Mapping[str, object] = MappingProxyType(
    {
        **{"resample": "exact", "format": "png", "slides": 100, "seed": 0, "order": "stable"},
        **{"by": "none", "kind": "diagnostic"},
    }
)
"""Values of options that are not given."""

_PLAN = (
    *("slides", "seed", "order", "by", "kind", "project"),
    *("sample_type", "disease", "cases", "one_per_case"),
)
"""Options that tell which slides to sample."""

_ABSENT: Mapping[str, object] = MappingProxyType(
    {"project": [], "sample_type": [], "disease": [], "cases": None, "one_per_case": False}
)
"""Values of those of them that are always there."""


def _cases(path: Path) -> tuple[str, ...]:
    from tcgamirror.mirror.settings import MOST_CASES, names
    from tcgamirror.sources.namelist import read_names

    found = read_names(path)
    if sum(map(len, found)) > MOST_CASES:
        raise UsageError(
            f"--cases: {path} names more than the settings can hold. Name cases instead of slides, "
            "or list slides by --manifest"
        )
    return names(found, "--cases")


def _settings(args: argparse.Namespace) -> Settings:
    from tcgamirror.mirror import settings as setting
    from tcgamirror.model.sampling import By, Order
    from tcgamirror.model.slide import SOURCES, ImageFormat

    # A manifest is a choice of slides: all of them are wanted.
    whole = {} if args.manifest is None or args.lock else {"slides": None, "kind": "all"}
    args = argparse.Namespace(**{**_USUAL, **whole, **vars(args)})
    via = SOURCES if args.via is None else args.via.split(",")
    settings = setting.Settings(
        target=setting.target(args.mpp, args.max_size, args.resample, ("--mpp", "--max-size")),
        form=ImageFormat(args.format),
        slides=None if args.slides is None else setting.count(args.slides, "--slides"),
        seed=args.seed,
        order=Order(args.order),
        by=By(args.by),
        kinds=setting.kinds(args.kind, "--kind"),
        projects=setting.names(args.project, "--project"),
        sample_types=setting.names(args.sample_type, "--sample-type"),
        diseases=setting.names(args.disease, "--disease"),
        cases=() if args.cases is None else _cases(args.cases),
        one_per_case=args.one_per_case,
        manifest=None
        if args.manifest is None
        else setting.file_path(str(args.manifest.absolute()), "--manifest"),
        via=setting.ladder(via, "--via"),
        workers=args.workers,
        rate=None if args.rate is None else setting.byte_rate(args.rate, "--rate"),
        work_limit=None
        if args.work_limit is None
        else setting.work_limit(args.work_limit, "--work-limit"),
    )
    return with_addresses(settings, args)


def _locked_settings(args: argparse.Namespace, locked: Settings) -> Settings:
    """Return settings of slides and images from the lock file, all others from the command line."""
    import dataclasses

    given = vars(args)
    for name in _PLAN:
        if name in given and (name not in _ABSENT or given[name] != _ABSENT[name]):
            raise UsageError(
                f"--{name.replace('_', '-')} cannot be given with --lock, which names the slides. "
                "Leave it out"
            )
    has_size = args.mpp is not None or args.max_size is not None
    image: dict[str, object] = {
        "mpp": args.mpp if has_size else locked.target.mpp,
        "max_size": args.max_size if has_size else locked.target.max_size,
        "resample": given.get("resample", "exact" if has_size else locked.target.resample),
        "format": given.get("format", locked.form),
    }
    return dataclasses.replace(
        _settings(argparse.Namespace(**{**given, **image})),
        slides=locked.slides,
        seed=locked.seed,
        order=locked.order,
        by=locked.by,
        kinds=locked.kinds,
        projects=locked.projects,
        sample_types=locked.sample_types,
        diseases=locked.diseases,
        cases=locked.cases,
        one_per_case=locked.one_per_case,
        lock=locked.lock,
    )


def _describe_sample(settings: Settings) -> str:
    from tcgamirror.mirror import provenance

    count = "all slides" if settings.slides is None else text.slides(settings.slides)
    return f"{count} {provenance.plan_words(settings.plan)}"


def add_commands(commands: Commands) -> None:
    """Add `init`."""
    command = add_command(commands, "init", init, _INIT)
    command.add_argument(
        "directory",
        nargs="?",
        metavar="DIR",
        help="the mirror's directory, made if it is missing (default: that of --mirror or "
        "TCGAMIRROR, or the current directory if it is empty)",
    )
    images = command.add_argument_group("images (give one of --mpp and --max-size)")
    images.add_argument(
        "--mpp", type=number, metavar="X", help="the whole slide at exactly X µm per pixel"
    )
    images.add_argument(
        "--max-size",
        type=whole_number,
        metavar="PX",
        help="the whole slide, halved until its longer side is at most PX pixels",
    )
    images.add_argument(
        "--resample",
        default=argparse.SUPPRESS,
        choices=["exact", "fast", "native"],
        help="exact (default): the best pixels; fast: less time, nearly the same pixels; native: "
        "the unchanged pixels of the nearest level that is fine enough",
    )
    images.add_argument(
        "--format",
        default=argparse.SUPPRESS,
        choices=["png", "jpeg", "tiff"],
        help="default: png",
    )
    sample = command.add_argument_group("slides")
    sample.add_argument(
        "--slides",
        type=slides,
        default=argparse.SUPPRESS,
        metavar="N",
        help="number of slides, or all (default: 100; of a manifest all)",
    )
    sample.add_argument(
        "--seed",
        type=seed,
        default=argparse.SUPPRESS,
        metavar="S",
        help="another seed samples other slides (default: 0)",
    )
    sample.add_argument(
        "--order",
        default=argparse.SUPPRESS,
        choices=["stable", "shuffle"],
        help="stable (default): a larger sample contains the smaller one, also in a new release; "
        "shuffle: Python's random.shuffle over the listing",
    )
    sample.add_argument(
        "--by",
        default=argparse.SUPPRESS,
        choices=["none", "project_id", "primary_site"],
        help="take from the projects or sites in turn (default: none)",
    )
    sample.add_argument(
        "--kind",
        default=argparse.SUPPRESS,
        choices=["diagnostic", "tissue", "all"],
        help="diagnostic (fixed), tissue (frozen), or all (default: diagnostic; of a manifest all)",
    )
    sample.add_argument(
        "--project",
        type=project,
        action="append",
        default=[],
        metavar="ID",
        help="only slides of this project, such as TCGA-BRCA or BRCA; repeat it for several "
        "(default: all projects)",
    )
    sample.add_argument(
        "--cases",
        type=Path,
        metavar="FILE",
        help="only these cases, slides or file_ids: one a line, or a table whose first column of "
        "such names counts; - is standard input",
    )
    sample.add_argument(
        "--sample-type",
        type=sample_type,
        action="append",
        default=[],
        metavar="TYPE",
        help="only slides of this type, such as 'Primary Tumor' or 01; repeat it for several",
    )
    sample.add_argument(
        "--disease",
        action="append",
        default=[],
        metavar="NAME",
        help="only slides of this disease_type, as the catalogue has it; repeat it for several",
    )
    sample.add_argument(
        "--one-per-case", action="store_true", help="only the first slide of each case in the order"
    )
    sample.add_argument(
        "--manifest",
        type=Path,
        metavar="FILE",
        help="list slides from a GDC manifest instead of the GDC",
    )
    sample.add_argument(
        "--lock",
        type=Path,
        metavar="FILE",
        help="exactly the slides of a lock file, and its images unless others are asked for (see "
        "tcgamirror lock --help)",
    )
    fetching = command.add_argument_group("fetching")
    fetching.add_argument(
        "--workers",
        type=workers,
        metavar="N",
        help="slides fetched at a time, at most 64 (default: chosen by cores and connections)",
    )
    fetching.add_argument(
        "--rate",
        type=byte_count,
        metavar="BYTES",
        help="limit of bytes per second, such as 5M (default: none)",
    )
    fetching.add_argument(
        "--work-limit",
        type=byte_count,
        metavar="BYTES",
        help="limit of disk space for partial downloads, such as 20G (default: none)",
    )
    add_via(fetching)
    add_addresses(fetching)
