"""`exclude` and `include`: leave slides out, and take them back."""

from __future__ import annotations

import argparse

from tcgamirror.cli import output
from tcgamirror.cli.common import open_mirror
from tcgamirror.mirror.exclude import ExclusionReport, exclude, include
from tcgamirror.model import text
from tcgamirror.model.errors import ExitCode, UsageError
from tcgamirror.sources.namelist import read_names


def do_exclude(args: argparse.Namespace) -> ExitCode:
    names, mirror = _names(args), open_mirror(args)
    report = exclude(
        mirror, names, args.reason, keep=args.keep, replace=args.replace, warn=output.say
    )
    images = "images kept" if args.keep else f"{text.images(report.removed)} removed"
    words = (
        f"{text.slides(report.slides)} excluded ({report.sampled:,} in the sample, not excluded "
        f"before); {images}"
    )
    if args.replace:
        words += f"; {text.slides(report.replaced)} added in their place"
        if report.replaced:
            words += f". Fetch by {text.command_line('update', mirror.root)}"
    return _finish(args, report, words)


def do_include(args: argparse.Namespace) -> ExitCode:
    names, mirror = _names(args), open_mirror(args)
    report = include(mirror, names, output.say)
    words = f"{text.slides(report.slides)} included again, {report.sampled:,} of them sampled"
    if report.sampled:
        words += f". Fetch by {text.command_line('update', mirror.root)}"
    return _finish(args, report, words)


def _names(args: argparse.Namespace) -> list[str]:
    names = [name for name in map(str.strip, args.slide) if name]
    for path in vars(args)["from"] or ():
        names += read_names(path)
    if not names:
        raise UsageError("no slide is named. Give SLIDE or --from FILE")
    return names


def _finish(args: argparse.Namespace, report: ExclusionReport, words: str) -> ExitCode:
    if report.unknown:
        many = f"{len(report.unknown):,} name{'' if len(report.unknown) == 1 else 's'}"
        output.say(f"{many} without such a slide: {', '.join(report.unknown)}")
    return output.finish(args, output.members(report), [words])
