"""`init`: a new mirror."""

from __future__ import annotations

import argparse
import dataclasses
import os
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tcgamirror.catalogue.catalogue import Catalogue
from tcgamirror.cli import output
from tcgamirror.cli.argtypes import byte_count, number, seed, slides, whole_number, workers
from tcgamirror.cli.common import say_addresses
from tcgamirror.cli.lock import difference_words
from tcgamirror.mirror import provenance
from tcgamirror.mirror import settings as setting
from tcgamirror.mirror.directory import CATALOGUE, Mirror
from tcgamirror.mirror.lockfile import LockFile, compare_listing, lock_lines, read_lock
from tcgamirror.mirror.settings import FILE_NAME, Settings
from tcgamirror.model import text
from tcgamirror.model.errors import ExitCode, UsageError
from tcgamirror.model.sampling import By, Candidate, Order
from tcgamirror.model.slide import SOURCES, ImageFormat
from tcgamirror.sources.manifest import describe_other_files, read_slides

INIT = """\
What is chosen here is kept in DIR/tcgamirror.toml and may be changed there, but for
what images: those of another resolution belong in another mirror.

examples:
  tcgamirror --mirror tcga init --slides 100 --mpp 15
  tcgamirror --mirror breast init --slides all --project TCGA-BRCA --max-size 2048
  tcgamirror --mirror paper init --manifest gdc_manifest.txt --order shuffle --seed 42 --mpp 15"""


def init(given: argparse.Namespace) -> ExitCode:
    lock = None if given.lock is None else read_lock(given.lock)
    settings = _settings(given) if lock is None else _locked_settings(given, lock.settings)
    root = Path(given.mirror or os.environ.get("TCGAMIRROR") or ".")
    # Read first: a manifest that cannot be taken leaves no mirror behind.
    manifest = None if settings.manifest is None else _looked_through(settings, lock)
    if manifest is not None and lock is None:
        _check_choice(settings, manifest)
    mirror = Mirror.begin(root, settings, () if lock is None else lock_lines(lock))
    words = _sample_words(settings)
    if lock is not None:
        words = f"the {text.slides(len(lock.slides))} of {given.lock}"
    sampled = _sampled_already(mirror)
    did = "wrote the settings again of the mirror" if sampled else "made a mirror"
    print(f"{did} in {mirror.root}: {words}, each {settings.fixed}")
    if sampled:
        print(
            f"{text.slides(sampled)} {text.is_or_are(sampled)} sampled there, and stay; what these "
            f"settings ask for besides is added by update: correct [sample] in {FILE_NAME} first"
        )
    if manifest is not None:
        for line in _manifest_words(settings, manifest):
            print(line)
    if lock is not None and manifest is not None:
        for line in difference_words(compare_listing(lock, manifest.locked), str(given.lock)):
            print(line)
    print(f"next: {_next(mirror.root)}")
    return ExitCode.DONE


def _sampled_already(mirror: Mirror) -> int:
    """How many slides the catalogue holds of a mirror whose settings were lost."""
    with Catalogue.open(mirror.root / CATALOGUE, read_only=True) as catalogue:
        return catalogue.sample.count()


@dataclass(frozen=True, slots=True)
class _Manifest:
    """A manifest in numbers.

    others: rows of other files, by type. allowed: slides that may be sampled.
    unknown: slides whose names do not tell their kind. locked: the md5 of each
    slide in the lock file, by file name.
    """

    slides: int
    others: Counter[str]
    allowed: int
    unknown: int
    locked: Mapping[str, str | None]


def _looked_through(settings: Settings, lock: LockFile | None) -> _Manifest:
    """The settings' manifest, row by row: it may name a million. Raises BadManifest."""
    wanted = frozenset[str]() if lock is None else frozenset(lock.names)
    slides = allowed = unknown = 0
    others = Counter[str]()
    locked: dict[str, str | None] = {}
    for slide in read_slides(Path(str(settings.manifest)), others):
        slides += 1
        unknown += slide.kind is None
        allowed += settings.plan.allows(
            Candidate(slide.file_name, slide.kind, slide.project_id, slide.primary_site)
        )
        if slide.file_name in wanted:
            locked[slide.file_name] = slide.md5
    return _Manifest(slides, others, allowed, unknown, locked)


def _manifest_words(settings: Settings, manifest: _Manifest) -> Iterator[str]:
    """Yield what a manifest lists, and what of it is left out."""
    yield f"{settings.manifest} lists {text.slides(manifest.slides)}"
    if manifest.others:
        yield describe_other_files(manifest.others)
    beside = manifest.slides - manifest.allowed
    if beside and settings.lock is None:
        names = f" ({manifest.unknown:,} of unknown kind)" if manifest.unknown else ""
        yield (
            f"{text.slides(beside)} not of --kind {','.join(sorted(settings.kinds))} left out"
            f"{names}: --kind all takes them too"
        )


def _check_choice(settings: Settings, manifest: _Manifest) -> None:
    """Raise UsageError if the manifest has none of the slides asked for; tell if it has fewer."""
    if settings.projects:
        raise UsageError(
            "a manifest tells no projects, so that --project would match none of its slides: "
            "leave out --project, or --manifest"
        )
    if settings.by is not By.NONE:
        output.say(f"--by {settings.by} makes no difference: a manifest tells no projects or sites")
    there = manifest.allowed
    if not there:
        raise UsageError(
            f"none of the {text.slides(manifest.slides)} in {settings.manifest} is of the "
            "--kind asked for: ask for another"
        )
    if (settings.slides or 0) > there:
        output.say(
            f"--slides asks for {settings.slides:,}, but there are only {there:,} of the --kind "
            f"asked for in {settings.manifest}: all are taken"
        )


def _next(root: Path) -> str:
    """The command to go on with, as a shell takes it."""
    here = root.absolute() == Path().absolute()
    name = text.plain(root)
    # Other bytes than UTF-8 stand escaped in what bash and zsh call ANSI-C quotes.
    quoted = f"$'{name}'" if name != str(root) and "'" not in name else shlex.quote(str(root))
    return "tcgamirror update" if here else f"tcgamirror --mirror {quoted} update"


def _settings(given: argparse.Namespace) -> Settings:
    api = setting.address(given.api or setting.GDC, "--api")
    elsewhere = api != setting.GDC
    tiles = given.tiles or (f"{api}/tile" if elsewhere else setting.GDC_TILES)
    bucket = given.bucket or ("none" if elsewhere else setting.BUCKET)
    via = SOURCES if given.via is None else given.via.split(",")
    return setting.Settings(
        target=setting.target(given.mpp, given.max_size, given.resample, ("--mpp", "--max-size")),
        form=ImageFormat(given.format),
        slides=None if given.slides is None else setting.count(given.slides, "--slides"),
        seed=given.seed,
        order=Order(given.order),
        by=By(given.by),
        kinds=setting.kinds(given.kind, "--kind"),
        projects=setting.names(given.project, "--project"),
        manifest=_manifest(given.manifest),
        via=setting.ladder(via, "--via"),
        workers=given.workers,
        rate=None if given.rate is None else setting.byte_rate(given.rate, "--rate"),
        work_limit=None
        if given.work_limit is None
        else setting.work_limit(given.work_limit, "--work-limit"),
        api=api,
        tiles=setting.address(tiles, "--tiles"),
        bucket=None if bucket == "none" else setting.address(bucket, "--bucket"),
    )


def _locked_settings(given: argparse.Namespace, locked: Settings) -> Settings:
    """What the lock file says of slides and images, and the command line of all else."""
    usual: dict[str, object] = {"mpp": None, "max_size": None, "resample": "exact", "format": "png"}
    usual |= {"slides": 100, "seed": 0, "order": "stable", "by": "none", "kind": "diagnostic"}
    usual |= {"project": []}
    for name, value in usual.items():
        if getattr(given, name) != value:
            raise UsageError(
                f"--{name.replace('_', '-')} cannot be given with --lock, which says what slides "
                "and images there are"
            )
    given = argparse.Namespace(**{**vars(given), "max_size": 1})
    return dataclasses.replace(
        _settings(given),
        target=locked.target,
        form=locked.form,
        slides=locked.slides,
        seed=locked.seed,
        order=locked.order,
        by=locked.by,
        kinds=locked.kinds,
        projects=locked.projects,
        lock=locked.lock,
    )


def _manifest(given: Path | None) -> str | None:
    return None if given is None else setting.file_path(str(given.absolute()), "--manifest")


def _sample_words(settings: Settings) -> str:
    count = "all slides" if settings.slides is None else text.slides(settings.slides)
    return f"{count} {provenance.words(settings.plan)}"


def say_init(init: argparse.ArgumentParser) -> None:
    size = init.add_argument_group("what images (one of --mpp and --max-size)")
    size.add_argument(
        "--mpp", type=number, metavar="X", help="the whole slide at exactly X µm per pixel"
    )
    size.add_argument(
        "--max-size",
        type=whole_number,
        metavar="PX",
        help="the whole slide, halved until its longer side has at most PX pixels",
    )
    size.add_argument(
        "--resample",
        default="exact",
        choices=["exact", "fast", "native"],
        help="exact (default); fast: where a JPEG level is reduced at least fourfold, in less "
        "time, to nearly the same pixels; native: the own pixels of the nearest level that is "
        "fine enough",
    )
    size.add_argument(
        "--format", default="png", choices=["png", "jpeg", "tiff"], help="default: png"
    )
    sample = init.add_argument_group("which slides")
    sample.add_argument(
        "--slides", type=slides, default=100, metavar="N", help="how many, or all (default: 100)"
    )
    sample.add_argument(
        "--seed", type=seed, default=0, metavar="S", help="another gives other slides (default: 0)"
    )
    sample.add_argument(
        "--order",
        default="stable",
        choices=["stable", "shuffle"],
        help="stable (default): a larger sample contains the smaller one, and a new release "
        "shifts nothing; shuffle: random.shuffle over the listing",
    )
    sample.add_argument(
        "--by",
        default="none",
        choices=["none", "project_id", "primary_site"],
        help="go round the projects or sites in turn (default: none)",
    )
    sample.add_argument(
        "--kind",
        default="diagnostic",
        choices=["diagnostic", "tissue", "all"],
        help="fixed slides, frozen ones, or both (default: diagnostic)",
    )
    sample.add_argument(
        "--project",
        action="append",
        default=[],
        metavar="ID",
        help="only of this one, such as TCGA-BRCA; may be given again (default: any)",
    )
    sample.add_argument(
        "--manifest", type=Path, metavar="FILE", help="list from a GDC manifest, without network"
    )
    sample.add_argument(
        "--lock", type=Path, metavar="FILE", help="the slides and images of a lock file, no others"
    )
    ways = init.add_argument_group("how")
    ways.add_argument(
        "--via",
        metavar="SOURCES",
        help="ways to get a slide, in the order to try them (default: range,tiles,whole)",
    )
    ways.add_argument(
        "--workers",
        type=workers,
        metavar="N",
        help="slides at the same time, up to 64 (default: as many as the cores and connections "
        "serve)",
    )
    ways.add_argument(
        "--rate",
        type=byte_count,
        metavar="BYTES",
        help="most per second, such as 5M (default: unlimited)",
    )
    ways.add_argument(
        "--work-limit",
        type=byte_count,
        metavar="BYTES",
        help="room for partial downloads, such as 20G (default: what the disk has)",
    )
    say_addresses(ways)
