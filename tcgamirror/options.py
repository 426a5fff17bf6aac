"""The command line: what may be said, with examples, and nothing of what it does."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from tcgamirror import __version__
from tcgamirror.errors import WrongUse

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

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*([smhd]?)")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kMGT]?)B?")


class _Parser(argparse.ArgumentParser):
    """One sentence for a mistake, instead of all that might have been said."""

    def error(self, message: str) -> NoReturn:
        raise WrongUse(f"{message} (see {self.prog} --help)")


def duration(text: str) -> float:
    """Seconds of `90`, `90s`, `30m`, `2h` or `1d`.

    >>> duration("2h")
    7200.0
    """
    match = _DURATION.fullmatch(text)
    if match is None or not float(match[1]):
        raise argparse.ArgumentTypeError(f"{text!r} is no duration such as 90s, 30m or 2h")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}[match[2]]


def byte_rate(text: str) -> float:
    """Bytes per second of `500k`, `5M` or `1.5M`, in powers of 1,000.

    >>> byte_rate("1.5M")
    1500000.0
    """
    match = _SIZE.fullmatch(text)
    if match is None or not float(match[1]):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of bytes such as 500k or 5M")
    return float(match[1]) * 1000.0 ** " kMGT".index(match[2] or " ")


def whole_number(text: str) -> int:
    """A number of slides or workers, at least one."""
    if not (text.isascii() and text.isdigit() and int(text)):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of 1 or more")
    return int(text)


def slides(text: str) -> int | None:
    """A number of slides, or None for `all`."""
    return None if text == "all" else whole_number(text)


def number(text: str) -> float:
    """Any number; what it may be is the setting's affair."""
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number") from None


def seed(text: str) -> int:
    """Any whole number."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number") from None


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line as said. Raises WrongUse; --help and --version raise SystemExit."""
    parser = _Parser(
        prog="tcgamirror",
        description=ABOUT,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"tcgamirror {__version__}")
    parser.add_argument(
        "--mirror",
        type=Path,
        metavar="DIR",
        help="the mirror (default: $TCGAMIRROR, or the current directory or the nearest above "
        "it that is one; for init: the current directory)",
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    _init(_command(commands, "init", "make a mirror", _INIT_EXAMPLES))
    update = _command(commands, "update", "refresh, sample and fetch: the main job", _UPDATE)
    _fetching(update)
    update.add_argument(
        "--dry-run", action="store_true", help="tell what would be fetched; change nothing"
    )
    _command(commands, "refresh", "take over the GDC's listing")
    _command(commands, "sample", "fill the sample up from the listing")
    _fetching(_command(commands, "fetch", "fetch what is sampled and pending"))
    status = _command(commands, "status", "counts, bytes, release, last runs")
    status.add_argument("--json", action="store_true", help="as one JSON object")
    show = _command(commands, "show", "all that is known of one slide")
    show.add_argument("slide", metavar="SLIDE", help="file_id, file name or barcode")
    show.add_argument("--json", action="store_true", help="as one JSON object")
    query = _command(commands, "query", "read-only SQL on the catalogue", _QUERY)
    query.add_argument("sql", metavar="SQL", help="one statement; see the view `mirror`")
    query.add_argument(
        "--format", choices=["table", "csv", "json"], default="table", help="default: table"
    )
    return parser.parse_args(arguments)


_INIT_EXAMPLES = """\
examples:
  tcgamirror --mirror tcga init --slides 100 --mpp 15
  tcgamirror --mirror breast init --slides all --project TCGA-BRCA --max-size 2048
  tcgamirror --mirror paper init --manifest gdc_manifest.txt --order shuffle --seed 42 --mpp 15"""
_UPDATE = """\
examples:
  tcgamirror --mirror tcga update
  tcgamirror --mirror tcga update --time-limit 2h --retry-failed
  tcgamirror --mirror tcga update --dry-run"""
_QUERY = """\
example:
  tcgamirror query "select project_id, count(*), avg(mpp_x) from mirror group by 1\""""


def _command(
    commands: argparse._SubParsersAction[_Parser], name: str, about: str, examples: str = ""
) -> argparse.ArgumentParser:
    return commands.add_parser(
        name,
        help=about,
        description=about[0].upper() + about[1:] + ".",
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def _init(init: argparse.ArgumentParser) -> None:
    size = init.add_argument_group("what images (one of the first two)")
    size.add_argument("--mpp", type=number, metavar="X", help="resolution in µm per pixel")
    size.add_argument(
        "--max-size", type=whole_number, metavar="PX", help="halved until the longer side fits"
    )
    size.add_argument(
        "--resample",
        default="exact",
        choices=["exact", "native"],
        help="exact (default), or the own pixels of the nearest level that is fine enough",
    )
    size.add_argument("--format", default="png", choices=["png", "jpeg", "tiff"])
    sample = init.add_argument_group("which slides")
    sample.add_argument(
        "--slides", type=slides, default=100, metavar="N", help="how many, or all (default: 100)"
    )
    sample.add_argument("--seed", type=seed, default=0, metavar="S", help="default: 0")
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
        help="go round these in turn",
    )
    sample.add_argument("--kind", default="diagnostic", choices=["diagnostic", "tissue", "all"])
    sample.add_argument(
        "--project", action="append", default=[], metavar="ID", help="such as TCGA-BRCA; repeatable"
    )
    sample.add_argument(
        "--manifest", type=Path, metavar="FILE", help="list from a GDC manifest, without network"
    )
    ways = init.add_argument_group("how")
    ways.add_argument("--via", metavar="SOURCES", help="in order (default: range,tiles,whole)")
    ways.add_argument("--workers", type=whole_number, default=4, metavar="N", help="default: 4")
    ways.add_argument("--rate", type=byte_rate, metavar="BYTES", help="most per second, such as 5M")
    ways.add_argument("--api", metavar="URL", help="another GDC")
    ways.add_argument("--tiles", metavar="URL", help="its tile server (default: under the GDC)")
    ways.add_argument("--bucket", metavar="URL", help="the open-data bucket, or none")


def _fetching(command: argparse.ArgumentParser) -> None:
    command.add_argument("--limit", type=whole_number, metavar="N", help="slides at most")
    command.add_argument(
        "--time-limit", type=duration, metavar="TIME", help="begin no slide after, such as 2h"
    )
    command.add_argument("--rate", type=byte_rate, metavar="BYTES", help="most per second")
    command.add_argument("--retry-failed", action="store_true", help="try failed slides again")
    command.add_argument("--json", action="store_true", help="the result as one JSON line")
