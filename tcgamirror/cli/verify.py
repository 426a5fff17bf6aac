"""`verify`: check every image."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence

from tcgamirror.cli import output
from tcgamirror.cli.common import open_catalogue
from tcgamirror.cli.progress import stoppable_run
from tcgamirror.mirror.orphans import Orphan
from tcgamirror.mirror.verify import BadImage, VerifyOptions, VerifyReport, verify_images
from tcgamirror.model import text
from tcgamirror.model.errors import ExitCode, UsageError
from tcgamirror.system.interrupt import Deadline

SHOWN = 50
"""Files that are named on the terminal."""


def do_verify(args: argparse.Namespace) -> ExitCode:
    if args.quick and args.decode:
        raise UsageError("--quick reads no image, --decode all of them. Give one of the two")
    deadline = Deadline.after(args.time_limit)
    options = VerifyOptions(args.quick, args.decode, args.sample, deadline)
    if args.repair:
        # Imported late: it needs the network's libraries.
        from tcgamirror.cli.repair import repair

        return repair(args, options)
    with (
        stoppable_run(args) as (progress, shutdown),
        open_catalogue(args) as (mirror, catalogue),
    ):
        report = verify_images(mirror, catalogue, options, progress, shutdown.stop)
    lines = [*report_lines(report, options)]
    if report.wrong:
        lines.append(f"fetch them again by {text.command_line('verify --repair', mirror.root)}")
    return output.finish(args, output.members(report), lines, report.exit_code)


def report_lines(report: VerifyReport, options: VerifyOptions) -> Iterator[str]:
    yield from table("wrong", report.wrong)
    yield from table("not in the catalogue", report.strays)
    did = "looked at" if options.quick else "decoded" if options.decode else "read"
    of = f" of {report.of:,}" if report.images != report.of else ""
    how = f", chosen by the day ({report.sample_of})" if report.sample_of else ""
    rate = ""
    if not options.quick:
        speed = text.format_bytes(report.bytes / max(report.seconds, 0.001))
        rate = f", {text.format_bytes(report.bytes)} at {speed}/s"
    wrong = f"{len(report.wrong):,} damaged or missing" if report.wrong else "all as recorded"
    yield (
        f"{report.images:,}{of} image{'' if report.of == 1 else 's'} {did}{how}: {wrong}"
        f"{rate} in {text.format_duration(report.seconds)}"
    )
    if report.awaited:
        yield (
            f"{text.images(report.awaited)} not checked, because they are to be fetched again: "
            "changed at the GDC, damaged before, or of uncertain resolution (status tells when)"
        )
    if report.left:
        stopped = "Ctrl-C" if report.interrupted else "--time-limit"
        yield f"stopped by {stopped} with {text.images(report.left)} left"


def table(title: str, rows: Sequence[BadImage] | Sequence[Orphan]) -> Iterator[str]:
    if rows:
        yield from output.first_rows(title, [(row.path, row.what) for row in rows], SHOWN)
        yield ""
