"""`verify --repair` and `rebuild`: fetch images again, and make a new catalogue."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import Any

from tcgamirror.catalogue.catalogue import Catalogue
from tcgamirror.cli import output
from tcgamirror.cli.common import open_mirror
from tcgamirror.cli.progress import stoppable_run
from tcgamirror.cli.verify import report_lines, table
from tcgamirror.imaging.store import IMAGES
from tcgamirror.mirror.directory import CATALOGUE
from tcgamirror.mirror.dispatcher import FetchReport
from tcgamirror.mirror.fetch import FetchOptions
from tcgamirror.mirror.orphans import image_files, remove_partial_files
from tcgamirror.mirror.rebuild import LOST, RebuildReport, rebuild_catalogue
from tcgamirror.mirror.update import UpdateOptions, run_update
from tcgamirror.mirror.verify import VerifyOptions, verify_images
from tcgamirror.model import text
from tcgamirror.model.errors import Damaged, ExitCode, Interrupted, TcgaMirrorError


def repair(args: argparse.Namespace, options: VerifyOptions) -> ExitCode:
    """Fetch again every image that is damaged or missing."""
    mirror = open_mirror(args)
    found: dict[str, Any] = {}
    names: list[str] = []

    def prepare(catalogue: Catalogue) -> UpdateOptions:
        """Find the wrong images and return the options of the run that fetches them again."""
        report = verify_images(mirror, catalogue, options, progress, shutdown.stop)
        progress.close()
        found.update(output.members(report), removed=[])
        if not args.json:
            output.show(report_lines(report, options))
        if report.interrupted:
            raise Interrupted("verify: stopped before any repair. Run it again")
        if report.wrong and next(image_files(mirror.root), None) is None:
            raise Damaged(
                f"{mirror.root / IMAGES}: empty. Mount its disk, or, if the images are lost, run "
                f"{text.command_line('rebuild', mirror.root)}, then update"
            )
        found["removed"] = remove_partial_files(mirror, catalogue)
        # Images that an earlier repair failed to fetch are requested again, too.
        names.extend([*(wrong.file_name for wrong in report.wrong), *catalogue.images.to_repair()])
        catalogue.queue.requeue(names)
        fetch = FetchOptions(deadline=options.deadline, only=frozenset(names))
        return UpdateOptions(fetch=fetch if names else None)

    with stoppable_run(args) as (progress, shutdown):
        try:
            report = run_update(
                mirror, "verify", UpdateOptions(), progress, shutdown, prepare=prepare
            )
        except TcgaMirrorError as error:
            error.found = found
            raise
    fetched = report.fetched
    code = ExitCode.DAMAGED if fetched.done < len(names) else ExitCode.DONE
    if fetched.failed:
        code = ExitCode.SOME_FAILED
    members = found | {"fetched": output.members(fetched)}
    return output.finish(args, members, _repair_lines(found["removed"], fetched, len(names)), code)


def _repair_lines(removed: Sequence[str], fetched: FetchReport, requested: int) -> Iterator[str]:
    for path in removed:
        yield f"removed {path}"
    if requested:
        yield (
            f"{text.images(fetched.done)} fetched again, {fetched.failed:,} failed, "
            f"{text.format_bytes(fetched.bytes)} moved" + output.unknown(fetched.unknown_mpp)
        )
    if unrepaired := requested - fetched.done:
        yield f"{text.images(unrepaired)} not repaired; the next --repair tries again"


def do_rebuild(args: argparse.Namespace) -> ExitCode:
    mirror = open_mirror(args)
    with stoppable_run(args) as (progress, shutdown):
        report = rebuild_catalogue(mirror, progress, shutdown, offline=args.offline)
    return output.finish(args, output.members(report), _rebuild_lines(report))


def _rebuild_lines(report: RebuildReport) -> Iterator[str]:
    yield from table("not included", report.refused)
    of = "the images alone" if report.release is None else report.release
    yield (
        f"a new {CATALOGUE} was made from {of}: {text.slides(report.sampled)} sampled, "
        f"{text.images(report.images)} taken, "
        f"{report.sampled - report.images + report.changed:,} to fetch"
    )
    if report.changed:
        changed = text.images(report.changed)
        yield f"{changed} of slides that changed since, or of uncertain resolution"
    if report.unlisted:
        yield f"{text.images(report.unlisted)} of slides that are no longer listed: kept"
    if report.kept is not None:
        yield f"the old catalogue is kept as {report.kept}"
    yield f"not in the new catalogue: {LOST}"
    if report.release is None:
        yield "the sample ranks count these images only; the next update reads the listing"
