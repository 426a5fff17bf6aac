"""The command line: what may be said, with examples, and nothing of what it does."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from tcgamirror import __version__
from tcgamirror.cli.argtypes import (
    byte_count,
    duration,
    number,
    seed,
    slides,
    whole_number,
    workers,
)
from tcgamirror.cli.transfer import EXPORT, IMPORT, SYNC, say_export, say_import, say_sync
from tcgamirror.cli.web import SERVE, say_serve
from tcgamirror.model.errors import WrongUse

ABOUT = """\
An offline mirror of TCGA whole-slide images at a low, known resolution."""

EXAMPLES = """\
examples:
  tcgamirror --mirror tcga init --slides 100 --mpp 15
  tcgamirror --mirror tcga update
  tcgamirror --mirror tcga status
  tcgamirror --mirror tcga query "select project_id, count(*) from mirror group by 1"

exit codes:
  0 all done   1 a bug   2 wrong use   3 finished, some slides failed
  4 the GDC cannot be reached   5 another run holds the lock   6 no room
  7 catalogue or mirror damaged   130 interrupted"""


class _Parser(argparse.ArgumentParser):
    """One sentence for a mistake, instead of all that might have been said."""

    def error(self, message: str) -> NoReturn:
        raise WrongUse(f"{message} (see {self.prog} --help)")


def grammar() -> argparse.ArgumentParser:
    """All that may be said, also for the man page and the shells' completions."""
    parser = _Parser(
        prog="tcgamirror",
        description=ABOUT,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"tcgamirror {__version__}")
    parser.add_argument("--mirror", type=Path, metavar="DIR", help=_MIRROR)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    _init(_command(commands, "init", "make a mirror", _INIT))
    update = _command(commands, "update", "refresh, sample and fetch: the main job", _UPDATE)
    _fetching(update)
    update.add_argument(
        "--dry-run", action="store_true", help="tell what would be fetched; change nothing"
    )
    refresh = _command(commands, "refresh", "take over the GDC's listing", _REFRESH)
    for command in (update, refresh):
        command.add_argument(
            "--accept-shrink",
            action="store_true",
            help="take a listing though it lacks more than a tenth of the slides listed before",
        )
    refresh.add_argument(
        "--force", action="store_true", help="read the listing though its release is the same"
    )
    sample = _command(commands, "sample", "fill the sample up from the listing", _SAMPLE)
    for command in (refresh, sample):
        _logging(command)
    _fetching(_command(commands, "fetch", "fetch what is sampled and pending", _FETCH))
    status = _command(commands, "status", "counts, bytes, release, last runs", _STATUS)
    status.add_argument("--json", action="store_true", help="as one JSON object")
    changes = _command(commands, "changes", "what each data release did", _CHANGES)
    changes.add_argument("--since", metavar="RELEASE", help="only what came after it, such as 45")
    changes.add_argument("--json", action="store_true", help="as one JSON list, on one line")
    show = _command(commands, "show", "all that is known of one slide", _SHOW)
    show.add_argument("slide", metavar="SLIDE", help="file_id, file name or barcode")
    show.add_argument("--json", action="store_true", help="as one JSON object")
    query = _command(commands, "query", "read-only SQL on the catalogue", _QUERY)
    query.add_argument("sql", metavar="SQL", help="one statement, in general on the view mirror")
    query.add_argument(
        "--format", choices=["table", "csv", "json"], default="table", help="default: table"
    )
    _verify(_command(commands, "verify", "check every image against the catalogue", _VERIFY))
    rebuild = _command(commands, "rebuild", "make the catalogue anew from the images", _REBUILD)
    rebuild.add_argument(
        "--offline", action="store_true", help="from the images alone, without the GDC's listing"
    )
    rebuild.add_argument("--json", action="store_true", help="the result as one JSON line")
    _command(commands, "gallery", "make pages that show the slides", _GALLERY)
    lock = _command(commands, "lock", "a text file that names the sample, to be cited", _LOCK)
    lock.add_argument("file", nargs="?", type=Path, metavar="FILE", help="default: stdout")
    lock.add_argument("--check", action="store_true", help="tell what differs from FILE")
    say_export(_command(commands, "export", "copy the mirror to carry it elsewhere", EXPORT))
    say_import(_command(commands, "import", "take an export into a mirror", IMPORT))
    say_sync(_command(commands, "sync", "bring a mirror to what another one is", SYNC))
    say_serve(_command(commands, "serve", "publish the mirror by HTTP, read-only", SERVE))
    schedule = _command(commands, "schedule", "ready files for a nightly update", _SCHEDULE)
    schedule.add_argument("system", choices=["cron", "systemd", "slurm"])
    schedule.add_argument(
        "--time", default="02:15", metavar="HH:MM", help="local time of day (default: 02:15)"
    )
    _helping(commands)
    return parser


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line as said. Raises WrongUse; --help and --version raise SystemExit."""
    parser = grammar()
    given, unknown = parser.parse_known_args(arguments)
    if unknown:
        raise WrongUse(
            f"{given.command} does not take {' '.join(map(repr, unknown))} "
            f"(see tcgamirror {given.command} --help)"
        )
    given.parser = parser
    return given


_GALLERY = """\
Open DIR/gallery/index.html in a browser; run this again after an update.

example:
  tcgamirror --mirror tcga gallery"""
_LOCK = """\
examples:
  tcgamirror --mirror tcga lock sample.lock
  tcgamirror --mirror again init --lock sample.lock
  tcgamirror --mirror again lock --check sample.lock"""
_MIRROR = (
    "the mirror (default: $TCGAMIRROR, or the current directory or the nearest above it that is "
    "one; for init: $TCGAMIRROR or the current directory)"
)
_INIT = """\
What is chosen here is kept in DIR/tcgamirror.toml and may be changed there, but for
what images: those of another resolution belong in another mirror.

examples:
  tcgamirror --mirror tcga init --slides 100 --mpp 15
  tcgamirror --mirror breast init --slides all --project TCGA-BRCA --max-size 2048
  tcgamirror --mirror paper init --manifest gdc_manifest.txt --order shuffle --seed 42 --mpp 15"""
_UPDATE = """\
What is done is kept: run it again after any interruption, and nightly for new releases.
Ctrl-C finishes the slides in hand; pressed again, it lets go of them.

examples:
  tcgamirror --mirror tcga update
  tcgamirror --mirror tcga update --time-limit 2h --retry-failed
  tcgamirror --mirror tcga update --dry-run"""
_REFRESH = """\
example:
  tcgamirror --mirror tcga refresh"""
_VERIFY = """\
Reads every image that is done and compares digest, size and dimensions. A run that was
stopped is gone on with by the next one within a week. Takes no lock without --repair.

examples:
  tcgamirror --mirror tcga verify
  tcgamirror --mirror tcga verify --repair
  tcgamirror --mirror tcga verify --sample 500 --json"""
_REBUILD = """\
For a catalogue.db that is damaged or gone. The old one is kept beside the new one.

examples:
  tcgamirror --mirror tcga rebuild
  tcgamirror --mirror tcga rebuild --offline"""
_SAMPLE = """\
To have more slides, raise sample.slides in DIR/tcgamirror.toml first; what is sampled stays.

example:
  tcgamirror --mirror tcga sample"""
_FETCH = """\
examples:
  tcgamirror --mirror tcga fetch --limit 10
  tcgamirror --mirror tcga fetch --retry-failed"""
_STATUS = """\
examples:
  tcgamirror --mirror tcga status
  tcgamirror --mirror tcga status --json | jq .pending"""
_CHANGES = """\
The first listing is told in numbers only; --json names every slide.

examples:
  tcgamirror --mirror tcga changes
  tcgamirror --mirror tcga changes --since 45.0"""
_SCHEDULE = """\
Prints only: it changes nothing. What it prints says where it belongs.

examples:
  tcgamirror --mirror tcga schedule cron --time 03:30
  tcgamirror --mirror tcga schedule systemd
  tcgamirror --mirror tcga schedule slurm > tcga.sbatch"""
_SHOW = """\
example:
  tcgamirror --mirror tcga show TCGA-3C-AALI-01Z-00-DX1"""
_DOCTOR = """\
Reads a little of everything and changes nothing: in a mirror with its settings, elsewhere
with the GDC's addresses. The report holds no secrets; send it along when you ask for help.

examples:
  tcgamirror doctor
  tcgamirror --mirror tcga doctor --json
  tcgamirror doctor --report report.txt"""
_LICENSES = """\
example:
  tcgamirror licenses | less"""
_COMPLETION = """\
examples:
  tcgamirror completion bash > ~/.local/share/bash-completion/completions/tcgamirror
  tcgamirror completion zsh > ~/.zfunc/_tcgamirror
  tcgamirror completion fish > ~/.config/fish/completions/tcgamirror.fish"""
_QUERY = """\
examples:
  tcgamirror --mirror tcga query "select project_id, count(*), avg(mpp_x) from mirror group by 1"
  tcgamirror --mirror tcga query "select file_name, error from mirror where status = 'failed'"
  tcgamirror --mirror tcga query "select * from mirror" --format csv > mirror.csv"""


def _command(
    commands: argparse._SubParsersAction[_Parser], name: str, about: str, examples: str = ""
) -> argparse.ArgumentParser:
    command = commands.add_parser(
        name,
        help=about,
        description=about[0].upper() + about[1:] + ".",
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    # Either place is natural. Without a default, so that what stands before is not undone.
    command.add_argument(
        "--mirror", type=Path, metavar="DIR", default=argparse.SUPPRESS, help=argparse.SUPPRESS
    )
    return command


def _helping(commands: argparse._SubParsersAction[_Parser]) -> None:
    doctor = _command(commands, "doctor", "look at this machine, mirror and network", _DOCTOR)
    doctor.add_argument("--json", action="store_true", help="as one JSON object")
    doctor.add_argument(
        "--report",
        type=Path,
        metavar="FILE",
        help="write the report and the servers' raw answers to a new file, to be sent to the "
        "program's authors",
    )
    _addresses(doctor)
    _command(commands, "licenses", "the licences of all that is inside", _LICENSES)
    completion = _command(commands, "completion", "what a shell completes", _COMPLETION)
    completion.add_argument("shell", metavar="SHELL", choices=["bash", "zsh", "fish"])


def _init(init: argparse.ArgumentParser) -> None:
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
    _addresses(ways)


def _addresses(command: argparse._ActionsContainer) -> None:
    command.add_argument(
        "--api", metavar="URL", help="another GDC (default: https://api.gdc.cancer.gov)"
    )
    command.add_argument("--tiles", metavar="URL", help="its tile server (default: the GDC's own)")
    command.add_argument(
        "--bucket",
        metavar="URL",
        help="the open-data bucket, or none (default: that of TCGA; none with another GDC)",
    )


def _verify(verify: argparse.ArgumentParser) -> None:
    verify.add_argument("--quick", action="store_true", help="only that files are there, and size")
    verify.add_argument(
        "--decode", action="store_true", help="decode every pixel too, also where the digest fits"
    )
    verify.add_argument(
        "--sample", type=whole_number, metavar="N", help="N images, others every day (UTC)"
    )
    verify.add_argument(
        "--repair", action="store_true", help="fetch again what is damaged or missing"
    )
    verify.add_argument(
        "--time-limit", type=duration, metavar="TIME", help="stop after, such as 2h"
    )
    verify.add_argument("--json", action="store_true", help="the result as one JSON line")


def _fetching(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--limit", type=whole_number, metavar="N", help="fetch at most N slides (default: all due)"
    )
    command.add_argument(
        "--time-limit",
        type=duration,
        metavar="TIME",
        help="begin no slide after that time, such as 90s, 30m or 2h (default: none)",
    )
    command.add_argument(
        "--rate",
        type=byte_count,
        metavar="BYTES",
        help="most per second, such as 5M (default: as in the settings)",
    )
    command.add_argument(
        "--max-bytes",
        type=byte_count,
        metavar="BYTES",
        help="begin no slide after so many have moved, such as 20G (default: none)",
    )
    command.add_argument(
        "--retry-failed",
        action="store_true",
        help="try failed slides again now (default: after an hour, then days, up to 30)",
    )
    _logging(command)
    command.add_argument("--json", action="store_true", help="the result as one JSON line")


def _logging(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--log", type=Path, metavar="FILE", help="append what is done to FILE as JSON lines"
    )
