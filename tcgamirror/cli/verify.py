"""`verify` and `rebuild`: check the mirror and repair it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from tcgamirror.cli import output
from tcgamirror.cli.common import (
    JSON,
    Commands,
    add_command,
    open_catalogue,
    open_mirror,
    stoppable_run,
)
from tcgamirror.model import text
from tcgamirror.model.errors import Damaged, ExitCode, Interrupted, TcgaMirrorError, UsageError

if TYPE_CHECKING:
    from tcgamirror.catalogue.catalogue import Catalogue
    from tcgamirror.cli.progress import ProgressDisplay
    from tcgamirror.mirror.directory import Mirror
    from tcgamirror.mirror.dispatcher import FetchReport
    from tcgamirror.mirror.orphans import Orphan
    from tcgamirror.mirror.rebuild import RebuildReport
    from tcgamirror.mirror.update import UpdateOptions
    from tcgamirror.mirror.verify import BadImage, VerifyOptions, VerifyReport
    from tcgamirror.system.interrupt import Shutdown

SHOWN = 50
"""Files that are named on the terminal."""

_VERIFY = f"""\
check every image against the catalogue

Reads every image from the beginning and compares its digest, size and dimensions. Takes no
lock without --repair.

--quick            compare only names and sizes of files
--decode           also decode every pixel of every image
--sample N         check only N images, other ones every day (UTC)
--repair           fetch damaged and missing images again
--time-limit TIME  stop after this time, such as 2h (default: none)
{JSON}

  tcgamirror --mirror tcga verify
  tcgamirror --mirror tcga verify --repair
  tcgamirror --mirror tcga verify --sample 500 --json"""

_REBUILD = f"""\
make a new catalogue from the images

For a catalogue.db that is damaged or lost. The old one is kept beside the new one.

--offline  use the images only, not the GDC's listing
{JSON}

  tcgamirror --mirror tcga rebuild
  tcgamirror --mirror tcga rebuild --offline"""


# verify ----------------------------------------------------------------------------


def verify(args: argparse.Namespace) -> ExitCode:
    from tcgamirror.mirror.verify import VerifyOptions, verify_images
    from tcgamirror.system.interrupt import Deadline

    if args.quick and args.decode:
        raise UsageError("--quick reads no image, --decode all of them. Give one of the two")
    deadline = Deadline.after(args.time_limit)
    options = VerifyOptions(args.quick, args.decode, args.sample, deadline)
    with stoppable_run(as_json=args.json) as (progress, shutdown):
        if args.repair:
            repair = _Repair(open_mirror(args), options, progress, shutdown, as_json=args.json)
            return repair.run()
        with open_catalogue(args) as (mirror, catalogue):
            report = verify_images(mirror, catalogue, options, progress, shutdown.stop)
    if args.json:
        _print_json(report, report.exit_code)
    else:
        _print_report(report, options)
        if report.wrong:
            print(f"fetch them again by {text.command_line('verify --repair', mirror.root)}")
    return report.exit_code


class _Repair:
    """`verify --repair`: fetch again every image that is damaged or missing."""

    def __init__(
        self,
        mirror: Mirror,
        options: VerifyOptions,
        progress: ProgressDisplay,
        shutdown: Shutdown,
        *,
        as_json: bool,
    ) -> None:
        self._mirror = mirror
        self._options = options
        self._progress = progress
        self._shutdown = shutdown
        self._as_json = as_json
        self._report: VerifyReport | None = None
        self._removed: list[str] = []
        self._requested = 0

    def run(self) -> ExitCode:
        from tcgamirror.mirror.update import UpdateOptions, run_update

        try:
            report = run_update(
                *(self._mirror, "verify", UpdateOptions(), self._progress, self._shutdown),
                prepare=self._prepare,
            )
        except TcgaMirrorError as error:
            if self._report is not None:
                error.found = {**output.members(self._report), "removed": self._removed}
            raise
        self._progress.close()
        return self._end(report.fetched)

    def _prepare(self, catalogue: Catalogue) -> UpdateOptions:
        """Find the wrong images and return the options of the run that fetches them again."""
        from tcgamirror.imaging.store import IMAGES
        from tcgamirror.mirror.fetch import FetchOptions
        from tcgamirror.mirror.orphans import image_files, remove_partial_files
        from tcgamirror.mirror.update import UpdateOptions
        from tcgamirror.mirror.verify import verify_images

        root = self._mirror.root
        report = self._report = verify_images(
            self._mirror, catalogue, self._options, self._progress, self._shutdown.stop
        )
        self._progress.close()
        if not self._as_json:
            _print_report(report, self._options)
        if report.interrupted:
            raise Interrupted("verify: stopped before any repair. Run it again")
        if report.wrong and next(image_files(root), None) is None:
            raise Damaged(
                f"{root / IMAGES}: empty. Mount its disk, or, if the images are lost, run "
                f"{text.command_line('rebuild', root)} and update"
            )
        self._removed = remove_partial_files(self._mirror, catalogue)
        # Images that an earlier repair failed to fetch are requested again, too.
        names = [*(wrong.file_name for wrong in report.wrong), *catalogue.images.to_repair()]
        catalogue.queue.requeue(names)
        self._requested = len(names)
        if not names:
            return UpdateOptions()
        fetch = FetchOptions(deadline=self._options.deadline, only=frozenset(names))
        return UpdateOptions(fetch=fetch)

    def _end(self, fetched: FetchReport) -> ExitCode:
        assert self._report is not None
        unrepaired = self._requested - fetched.done
        code = ExitCode.DAMAGED if unrepaired else ExitCode.DONE
        if fetched.failed:
            code = ExitCode.SOME_FAILED
        if self._as_json:
            more = {"fetched": output.members(fetched), "removed": self._removed}
            _print_json(self._report, code, more)
            return code
        for path in self._removed:
            print(f"removed {text.plain(path)}")
        if self._requested:
            print(
                f"{text.images(fetched.done)} fetched again, {fetched.failed:,} failed, "
                f"{text.format_bytes(fetched.bytes)} moved" + output.unknown(fetched.unknown_mpp)
            )
        if unrepaired:
            print(f"{text.images(unrepaired)} not repaired; the next --repair tries again")
        return code


def _print_json(
    report: VerifyReport, code: ExitCode, more: Mapping[str, object] | None = None
) -> None:
    print(json.dumps({**output.members(report), **(more or {}), "exit_code": int(code)}))


def _print_report(report: VerifyReport, options: VerifyOptions) -> None:
    _table("wrong", report.wrong)
    _table("not in the catalogue", report.strays)
    print(_sentence(report, options))
    if report.awaited:
        print(
            f"{text.images(report.awaited)} not checked, because they are to be fetched again: "
            "changed at the GDC, damaged before, or of uncertain resolution (status tells when)"
        )
    if report.left:
        stopped = "Ctrl-C" if report.interrupted else "--time-limit"
        print(f"stopped by {stopped} with {text.images(report.left)} left")


def _table(title: str, rows: Sequence[BadImage] | Sequence[Orphan]) -> None:
    if rows:
        output.print_first(title, [(row.path, row.what) for row in rows], SHOWN)
        print()


def _sentence(report: VerifyReport, options: VerifyOptions) -> str:
    did = "looked at" if options.quick else "decoded" if options.decode else "read"
    of = f" of {report.of:,}" if report.images != report.of else ""
    how = f", chosen by the day ({report.sample_of})" if report.sample_of else ""
    rate = ""
    if not options.quick:
        speed = text.format_bytes(report.bytes / max(report.seconds, 0.001))
        rate = f", {text.format_bytes(report.bytes)} at {speed}/s"
    wrong = f"{len(report.wrong):,} damaged or missing" if report.wrong else "all as recorded"
    return (
        f"{report.images:,}{of} image{'' if report.of == 1 else 's'} {did}{how}: {wrong}"
        f"{rate} in {text.format_duration(report.seconds)}"
    )


# rebuild ---------------------------------------------------------------------------


def rebuild(args: argparse.Namespace) -> ExitCode:
    from tcgamirror.mirror.rebuild import rebuild_catalogue

    mirror = open_mirror(args)
    with stoppable_run(as_json=args.json) as (progress, shutdown):
        report = rebuild_catalogue(mirror, progress, shutdown, offline=args.offline)
    if args.json:
        print(json.dumps(output.members(report) | {"exit_code": int(ExitCode.DONE)}))
    else:
        for line in _rebuild_lines(report):
            print(line)
    return ExitCode.DONE


def _rebuild_lines(report: RebuildReport) -> list[str]:
    from tcgamirror.mirror.directory import CATALOGUE
    from tcgamirror.mirror.rebuild import LOST

    _table("not included", report.refused)
    of = "the images alone" if report.release is None else report.release
    lines = [
        f"a new {CATALOGUE} was made from {of}: {text.slides(report.sampled)} sampled, "
        f"{text.images(report.images)} taken, "
        f"{report.sampled - report.images + report.changed:,} to fetch"
    ]
    if report.changed:
        lines.append(
            f"{text.images(report.changed)} of slides that changed since, or of "
            "uncertain resolution"
        )
    if report.unlisted:
        lines.append(f"{text.images(report.unlisted)} of slides that are no longer listed: kept")
    if report.kept is not None:
        lines.append(f"the old catalogue is kept as {report.kept}")
    lines.append(f"not in the new catalogue: {LOST}")
    if report.release is None:
        lines.append("the sample ranks count these images only; the next update reads the listing")
    return lines


def add_commands(commands: Commands) -> None:
    """Add `verify` and `rebuild`."""
    add_command(commands, "verify", verify, _VERIFY)
    add_command(commands, "rebuild", rebuild, _REBUILD)
