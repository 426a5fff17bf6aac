"""`update` and its steps `refresh`, `sample` and `fetch`."""

from __future__ import annotations

import argparse
import json
import sys
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from tcgamirror.cli import output
from tcgamirror.cli.argtypes import slides
from tcgamirror.cli.common import JSON, Commands, add_command, open_mirror, stoppable_run
from tcgamirror.model import text
from tcgamirror.model.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from tcgamirror.catalogue.queue import StatusCounts
    from tcgamirror.mirror.forecast import Forecast
    from tcgamirror.mirror.update import UpdateOptions, UpdateReport

SHOWN = 20
"""Slides that a dry run names on the terminal."""

_SHRINK = """\
--accept-shrink  accept a listing that lacks more than a tenth of the slides listed before"""

_SLIDES = """\
--slides N  raise the number of slides in the settings to N, or all, for good"""

_LIMITS = """\
--limit N          fetch at most N slides (default: all that are due)
--time-limit TIME  start no slide after this time, such as 90s, 30m or 2h (default: none)
--rate BYTES       limit of bytes per second, such as 5M (default: that of the settings)
--max-bytes BYTES  start no slide after this many bytes, such as 20G (default: none)
--retry-failed     retry failed slides now (default: after an hour, then days, up to 30)
--dask SCHEDULER   have the workers of a Dask scheduler fetch, or local:N for N processes"""

_LOG = "--log FILE  append events to FILE as JSON lines"

_UPDATE = f"""\
refresh the listing, fill up the sample and fetch images

Run it again after any interruption: finished slides are kept. Run it every night for new
releases. Ctrl-C finishes the slides in flight; pressed again, it stops at once.

{_SHRINK}
{_SLIDES}
{_LIMITS}
--dry-run  print what would be fetched; change nothing
{_LOG}
{JSON}

  tcgamirror --mirror tcga update
  tcgamirror --mirror tcga update --time-limit 2h --retry-failed
  tcgamirror --mirror tcga update --slides 200
  tcgamirror --mirror tcga update --dry-run"""

_REFRESH = f"""\
only the first step: read the GDC's listing

{_SHRINK}
--force  read the listing even if the release is the same
{_LOG}

  tcgamirror --mirror tcga refresh
  tcgamirror --mirror tcga refresh --accept-shrink"""

_SAMPLE = f"""\
only the second step: fill up the sample from the listing

--slides raises the number of slides in DIR/tcgamirror.toml for good. Sampled slides stay.

{_SLIDES}
{_LOG}

  tcgamirror --mirror tcga sample --slides 200"""

_FETCH = f"""\
only the third step: fetch the images of sampled slides

--shard fetches one of N parts of the sample, while other processes or machines fetch the
others. Its records wait in DIR/work/shards for the next command that writes.

--shard K/N        fetch part K of N, K from 1
{_LIMITS}
{_LOG}
{JSON}

  tcgamirror --mirror tcga fetch --limit 10
  tcgamirror --mirror tcga fetch --retry-failed
  tcgamirror --mirror tcga fetch --shard 3/8"""


def update(args: argparse.Namespace) -> ExitCode:
    """Run all steps of an update, or the one that the command names."""
    import math

    from tcgamirror.mirror.fetch import FetchOptions
    from tcgamirror.mirror.update import UpdateOptions
    from tcgamirror.system.interrupt import Deadline

    given = vars(args)
    steps = ("refresh", "sample", "fetch") if args.command == "update" else (args.command,)
    fetch = None
    if "fetch" in steps:
        max_bytes = math.inf if args.max_bytes is None else args.max_bytes
        deadline = Deadline.after(args.time_limit)
        shard = given.get("shard")
        if args.dask is not None:
            _check_dask(with_shard=shard is not None)
        fetch = FetchOptions(
            args.retry_failed, args.limit, deadline, max_bytes, shard=shard, dask=args.dask
        )
    options = UpdateOptions(
        refresh="refresh" in steps,
        force_refresh=given.get("force", False),
        accept_shrink=given.get("accept_shrink", False),
        sample="sample" in steps,
        slides=given.get("slides"),
        fetch=fetch,
    )
    return _dry_run(args, options) if given.get("dry_run") else _run(args, options)


def _check_dask(*, with_shard: bool) -> None:
    """Raise UsageError where slides cannot be fetched by Dask."""
    import importlib.util

    if with_shard:
        raise UsageError("--dask: a shard is fetched by one process. Leave out --shard")
    if importlib.util.find_spec("distributed") is None:
        frozen = getattr(sys, "frozen", False)
        lack = "the executable has no Dask" if frozen else "Dask is not installed"
        raise UsageError(
            f"--dask: {lack}. Install tcgamirror for Python with it: pip install 'tcgamirror[dask]'"
        )


def _dry_run(args: argparse.Namespace, options: UpdateOptions) -> ExitCode:
    from tcgamirror.mirror.update import dry_run

    with (
        stoppable_run(as_json=args.json) as (progress, shutdown),
        dry_run(open_mirror(args), options, progress, shutdown) as forecast,
    ):
        progress.close()
        # The reader of the output may stop reading, and Ctrl-C ends the wait.
        shutdown.restore_handlers()
        if args.json:
            _print_forecast_json(forecast)
        else:
            _print_forecast(forecast)
    return ExitCode.DONE if forecast.error is None else forecast.error.exit_code


def _print_forecast_json(forecast: Forecast) -> None:
    """Print one line, whole or not at all; slides are written one by one, for there may be many."""
    import shutil
    import tempfile

    from tcgamirror.system.files import disk_errors

    head = {"source": forecast.source, "slides": []}
    rest: dict[str, object] = {
        "bytes": forecast.bytes,
        "seconds": forecast.seconds,
        "measured": forecast.measured,
    }
    if forecast.error is not None:
        rest |= {"exit_code": int(forecast.error.exit_code), "error": str(forecast.error)}
    with (
        disk_errors(Path(tempfile.gettempdir())),
        tempfile.TemporaryFile("w+", encoding="ascii") as line,
    ):
        line.write(json.dumps(head)[: -len("]}")])
        between = ""
        for slide in forecast.slides:
            line.write(f"{between}{json.dumps(output.members(slide))}")
            between = ", "
        line.write(f"], {json.dumps(rest)[1:]}\n")
        line.seek(0)
        with disk_errors(Path("/dev/stdout")):
            shutil.copyfileobj(line, sys.stdout)
            sys.stdout.flush()


def _print_forecast(forecast: Forecast) -> None:
    for slide in islice(forecast.slides, SHOWN):
        print(f"{slide.file_name}  {text.format_bytes(slide.size or 0)}")
    if len(forecast.slides) > SHOWN:
        print(f"... and {len(forecast.slides) - SHOWN:,} more (all of them with --json)")
    size, seconds = "unknown bytes", "an unknown time"
    if forecast.bytes is not None:
        size = f"about {text.format_bytes(forecast.bytes)}"
    if forecast.seconds is not None:
        seconds = f"about {text.format_duration(forecast.seconds)}"
    by = "no images of before tell more"
    if forecast.measured:
        by = "measured by earlier runs"
        if None in (forecast.bytes, forecast.seconds):
            by = "earlier slides are too few, or differ too much"
    print(
        f"{text.slides(len(forecast.slides))} would be fetched by {forecast.source}: "
        f"{size} in {seconds} ({by}). Nothing was changed"
    )


def _run(args: argparse.Namespace, options: UpdateOptions) -> ExitCode:
    import dataclasses

    from tcgamirror.cli.lock import difference_words
    from tcgamirror.mirror.eventlog import EventLog
    from tcgamirror.mirror.settings import with_options
    from tcgamirror.mirror.update import run_update

    mirror = open_mirror(args)
    if getattr(args, "rate", None):
        settings = with_options(mirror.settings, {"rate": args.rate})
        mirror = dataclasses.replace(mirror, settings=settings)
    as_json = getattr(args, "json", False)
    with (
        stoppable_run(as_json=as_json) as (progress, shutdown),
        EventLog(args.log, args.command) as log,
    ):
        report = run_update(mirror, args.command, options, progress, shutdown, log)
    if as_json:
        print(json.dumps(_report_object(report)))
        return report.exit_code
    lines = _report_words(report, options, mirror.root)
    if report.locked is not None:
        lines += difference_words(report.locked, str(mirror.settings.lock))
    for line in lines:
        print(text.plain(line))
    return report.exit_code


def _report_object(report: UpdateReport) -> dict[str, object]:
    """Return the report for JSON, with `error` only if there is one."""
    import dataclasses

    members = output.members(dataclasses.replace(report, error=None))
    del members["error"]
    error = {} if report.error is None else {"error": str(report.error)}
    return {**members, "exit_code": int(report.exit_code), **error}


def _report_words(report: UpdateReport, options: UpdateOptions, root: Path) -> list[str]:
    lines = []
    standing = report.standing
    shard = None if options.fetch is None else options.fetch.shard
    if report.merged is not None:
        merged = output.members(report.merged)
        changes = [f"{count:,} {what}" for what, count in merged.items() if count]
        lines.append(f"{report.release}: {', '.join(changes)}")
    if report.added:
        lines.append(f"{text.slides(report.added)} added to the sample")
    fetched = report.fetched
    if fetched.done or fetched.failed:
        lines.append(
            f"{text.slides(fetched.done)} fetched, {fetched.failed} failed, "
            f"{text.format_bytes(fetched.bytes)} moved"
        )
    if shard is not None:
        collect = text.command_line("fetch", root)
        what = f"recorded; the next run that writes collects it, such as {collect}"
        lines.append(what if lines else f"nothing to fetch in shard {shard}")
    elif fetched.done or fetched.failed:
        lines.append(
            f"{text.images(standing.done)} in {root / 'images'}"
            + output.unknown(standing.unknown_mpp)
            + _excluded(standing, "; ")
        )
    elif options.fetch and not standing.pending:
        lines.append(f"nothing to fetch: {_standing_words(standing, root)} ({report.release})")
    elif options.sample and not report.added:
        lines.append(f"nothing to add: {text.slides(standing.sampled)} are sampled")
    elif options.refresh and report.merged is None:
        lines.append(f"nothing new: {report.release}")
    if fetched.left:
        lines.append(
            f"stopped by {fetched.stopped_by}; {text.slides(fetched.left)} left for the next run"
        )
    return lines


def _standing_words(standing: StatusCounts, root: Path) -> str:
    failed = ""
    if standing.failed:
        again = f"again from {standing.next}, " if standing.next else ""
        way = f"{again}at once by {text.command_line('update --retry-failed', root)}"
        if standing.unfit == standing.failed:
            way = output.UNFIT
        failed = f", {standing.failed:,} failed ({way})"
    return f"{standing.done:,} of {text.slides(standing.sampled)} done{failed}" + _excluded(
        standing, ", "
    )


def _excluded(standing: StatusCounts, before: str) -> str:
    return f"{before}{standing.excluded:,} excluded" if standing.excluded else ""


def add_commands(commands: Commands) -> None:
    """Add `update` and its steps `refresh`, `sample` and `fetch`."""
    add_command(commands, "update", update, _UPDATE, slides={"type": slides})
    add_command(commands, "refresh", update, _REFRESH)
    add_command(commands, "sample", update, _SAMPLE, slides={"type": slides})
    add_command(commands, "fetch", update, _FETCH)
