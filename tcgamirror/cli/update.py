"""`update` and its steps `refresh`, `sample` and `fetch`."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import math
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from tcgamirror.catalogue.queue import StatusCounts
from tcgamirror.cli import output
from tcgamirror.cli.common import open_mirror
from tcgamirror.cli.lock import difference_words
from tcgamirror.cli.progress import stoppable_run
from tcgamirror.mirror.eventlog import EventLog
from tcgamirror.mirror.fetch import FetchOptions
from tcgamirror.mirror.forecast import ENOUGH, Forecast
from tcgamirror.mirror.settings import with_options
from tcgamirror.mirror.update import UpdateOptions, UpdateReport, dry_run, run_update
from tcgamirror.model import text
from tcgamirror.model.errors import ExitCode, UsageError
from tcgamirror.system.interrupt import Deadline

SHOWN = 20
"""Slides that a dry run names on the terminal."""


def do_update(args: argparse.Namespace) -> ExitCode:
    """Run all steps of an update, or the one that the command names."""
    given = vars(args).get
    steps = ("refresh", "sample", "fetch") if args.command == "update" else (args.command,)
    options = UpdateOptions(
        refresh="refresh" in steps,
        force_refresh=given("force", False),
        accept_shrink=given("accept_shrink", False),
        sample="sample" in steps,
        slides=given("slides"),
        fetch=_fetch_options(args) if "fetch" in steps else None,
    )
    if given("dry_run"):
        return _dry_run(args, options)
    mirror = open_mirror(args)
    if given("rate"):
        settings = with_options(mirror.settings, {"rate": args.rate})
        mirror = dataclasses.replace(mirror, settings=settings)
    with (
        stoppable_run(args) as (progress, shutdown),
        EventLog(args.log, args.command) as log,
    ):
        report = run_update(mirror, args.command, options, progress, shutdown, log)
    members = output.members(dataclasses.replace(report, error=None))
    if report.error is None:
        del members["error"]
    else:
        members["error"] = str(report.error)
    lines = list(_report_lines(report, options, mirror.root))
    if report.locked is not None:
        lines += difference_words(report.locked, str(mirror.settings.lock))
    return output.finish(args, members, lines, report.exit_code)


do_refresh = do_sample = do_fetch = do_update


def _fetch_options(args: argparse.Namespace) -> FetchOptions:
    shard = vars(args).get("shard")
    if args.dask is not None:
        if shard is not None:
            raise UsageError("--dask: a shard is fetched by one process. Leave out --shard")
        if importlib.util.find_spec("distributed") is None:
            frozen = getattr(sys, "frozen", False)
            lack = "the executable has no Dask" if frozen else "Dask is not installed"
            raise UsageError(
                f"--dask: {lack}. Install tcgamirror for Python with it: "
                "pip install 'tcgamirror[dask]'"
            )
    return FetchOptions(
        retry_failed=args.retry_failed,
        limit=args.limit,
        deadline=Deadline.after(args.time_limit),
        max_bytes=math.inf if args.max_bytes is None else args.max_bytes,
        shard=shard,
        dask=args.dask,
    )


def _dry_run(args: argparse.Namespace, options: UpdateOptions) -> ExitCode:
    with (
        stoppable_run(args) as (progress, shutdown),
        dry_run(open_mirror(args), options, progress, shutdown) as forecast,
    ):
        progress.close()
        # The reader of the output may stop reading, and Ctrl-C ends the wait.
        shutdown.restore_handlers()
        slides = forecast.slides if args.json else ()
        members = {
            "source": forecast.source,
            "slides": [output.members(slide) for slide in slides],
            "bytes": forecast.bytes,
            "seconds": forecast.seconds,
            "measured": forecast.measured,
        }
        code = ExitCode.DONE
        if forecast.error is not None:
            code = forecast.error.exit_code
            members["error"] = str(forecast.error)
        return output.finish(args, members, _forecast_lines(forecast), code)


def _forecast_lines(forecast: Forecast) -> Iterator[str]:
    if not forecast.slides:
        yield "no slide is due, so nothing would be fetched. Nothing was changed"
        return
    for slide in islice(forecast.slides, SHOWN):
        yield f"{slide.file_name}  {text.format_bytes(slide.size or 0)}"
    if len(forecast.slides) > SHOWN:
        yield f"... and {len(forecast.slides) - SHOWN:,} more (all of them with --json)"
    size, seconds = "unknown bytes", "an unknown time"
    if forecast.bytes is not None:
        size = f"about {text.format_bytes(forecast.bytes)}"
    if forecast.seconds is not None:
        seconds = f"about {text.format_duration(forecast.seconds)}"
    by = f"fewer than {ENOUGH} were fetched before"
    if forecast.measured:
        by = "measured by earlier runs"
        if None in (forecast.bytes, forecast.seconds):
            by = "earlier slides are too few, or differ too much"
    yield (
        f"{text.slides(len(forecast.slides))} would be fetched by {forecast.source}: "
        f"{size} in {seconds} ({by}). Nothing was changed"
    )


def _report_lines(report: UpdateReport, options: UpdateOptions, root: Path) -> Iterator[str]:
    standing, fetched = report.standing, report.fetched
    excluded = f"{standing.excluded:,} excluded" if standing.excluded else ""
    changed = report.merged is not None or report.added or fetched.done or fetched.failed
    if report.merged is not None:
        counts = output.members(report.merged).items()
        changes = ", ".join(f"{count:,} {what}" for what, count in counts if count)
        yield f"{report.release}: {changes}"
    if report.added:
        yield f"{text.slides(report.added)} added to the sample"
    if fetched.done or fetched.failed:
        yield (
            f"{text.slides(fetched.done)} fetched, {fetched.failed} failed, "
            f"{text.format_bytes(fetched.bytes)} moved"
        )
    if options.fetch and options.fetch.shard is not None:
        collect = text.command_line("fetch", root)
        recorded = f"recorded; the next run that writes collects it, such as {collect}"
        yield recorded if changed else f"nothing to fetch in shard {options.fetch.shard}"
    elif fetched.done or fetched.failed:
        end = output.unknown(standing.unknown_mpp) + (excluded and f"; {excluded}")
        yield f"{text.images(standing.done)} in {root / 'images'}{end}"
    elif options.fetch and not standing.pending:
        words = _standing_words(standing, root) + (excluded and f", {excluded}")
        yield f"nothing to fetch: {words} ({report.release})"
    elif options.sample and not report.added:
        yield f"nothing to add: {text.slides(standing.sampled)} are sampled"
    elif options.refresh and report.merged is None:
        yield f"nothing new: {report.release}"
    if fetched.left:
        yield f"stopped by {fetched.stopped_by}; {text.slides(fetched.left)} left for the next run"


def _standing_words(standing: StatusCounts, root: Path) -> str:
    failed = ""
    if standing.failed:
        again = f"again from {standing.next}, " if standing.next else ""
        way = f"{again}at once by {text.command_line('update --retry-failed', root)}"
        if standing.unfit == standing.failed:
            way = output.UNFIT
        failed = f", {standing.failed:,} failed ({way})"
    return f"{standing.done:,} of {text.slides(standing.sampled)} done{failed}"
