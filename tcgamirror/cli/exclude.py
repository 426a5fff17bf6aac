"""`exclude` and `include`: leave slides out, and take them back."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from tcgamirror.cli import output
from tcgamirror.cli.common import JSON, Commands, add_command, open_mirror
from tcgamirror.model import text
from tcgamirror.model.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from tcgamirror.mirror.exclude import ExclusionReport

_FROM = """\
--from FILE  names, one a line, or a table whose first column of such names counts; - is standard
             input; repeat it for several"""

_EXCLUDE = f"""\
leave slides out, now and later

SLIDE is the barcode of a case or sample (all of its slides) or of a slide, a file name or a
file_id; also of slides that are not sampled. Their images are removed, and no command brings
them back. An excluded slide keeps its place in the sample: the next slide takes it only by
--replace. Names without a slide are listed on stderr; without any slide the exit code is 2.

{_FROM}
--reason TEXT  kept in the catalogue (default: no reason given)
--keep         leave the images in their places
--replace      raise slides in the settings, and sample as many of the next slides
{JSON}

  tcgamirror --mirror tcga exclude TCGA-3C-AALI-01Z-00-DX1 --reason "pen marks"
  tcgamirror --mirror tcga exclude --from penmarks.csv --replace
  tcgamirror --mirror tcga query "select * from exclusions\""""

_INCLUDE = f"""\
take exclusions back

The next update fetches the images again, but for those that exclude --keep kept.

{_FROM}
{JSON}

  tcgamirror --mirror tcga include TCGA-3C-AALI-01Z-00-DX1
  tcgamirror --mirror tcga include --from penmarks.csv"""


def exclude(args: argparse.Namespace) -> ExitCode:
    from tcgamirror.mirror.exclude import exclude as run

    names, mirror = _names(args), open_mirror(args)
    report = run(mirror, names, args.reason, keep=args.keep, replace=args.replace, warn=output.say)
    images = "images kept" if args.keep else f"{text.images(report.removed)} removed"
    words = (
        f"{text.slides(report.slides)} excluded, {report.sampled:,} of them sampled and not "
        f"excluded before; {images}"
    )
    if args.replace:
        words += f"; {text.slides(report.replaced)} added in their place"
        if report.replaced:
            words += f". Fetch by {text.command_line('update', mirror.root)}"
    return _tell(args, report, words)


def include(args: argparse.Namespace) -> ExitCode:
    from tcgamirror.mirror.exclude import include as run

    names, mirror = _names(args), open_mirror(args)
    report = run(mirror, names, output.say)
    words = f"{text.slides(report.slides)} included again, {report.sampled:,} of them sampled"
    if report.sampled:
        words += f". Fetch by {text.command_line('update', mirror.root)}"
    return _tell(args, report, words)


def _names(args: argparse.Namespace) -> list[str]:
    from tcgamirror.sources.namelist import read_names

    names = [name for name in map(str.strip, args.slides) if name]
    for path in args.names or ():
        names += read_names(path)
    if not names:
        raise UsageError("no slide is named. Give SLIDE or --from FILE")
    return names


def _tell(args: argparse.Namespace, report: ExclusionReport, words: str) -> ExitCode:
    if report.unknown:
        many = f"{len(report.unknown):,} name{'' if len(report.unknown) == 1 else 's'}"
        output.say(f"{many} without such a slide: {', '.join(report.unknown)}")
    print(json.dumps(output.members(report)) if args.json else words)
    return ExitCode.DONE


def add_commands(commands: Commands) -> None:
    """Add `exclude` and `include`."""
    for name, run, words in (("exclude", exclude, _EXCLUDE), ("include", include, _INCLUDE)):
        command = add_command(
            commands, name, run, words, **{"from": {"dest": "names", "action": "append"}}
        )
        command.add_argument(
            "slides", nargs="*", metavar="SLIDE", help="barcode, file name or file_id"
        )
