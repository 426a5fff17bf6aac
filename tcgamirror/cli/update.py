"""`update` and its steps `refresh`, `sample` and `fetch`."""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import sys
import tempfile
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from tcgamirror.catalogue.queue import StatusCounts
from tcgamirror.cli import output
from tcgamirror.cli.argtypes import byte_count, duration, whole_number
from tcgamirror.cli.common import home_of, leave_if_busy, say_log
from tcgamirror.cli.lock import difference_words
from tcgamirror.cli.progress import ProgressDisplay
from tcgamirror.mirror.eventlog import EventLog
from tcgamirror.mirror.forecast import Forecast
from tcgamirror.mirror.settings import byte_rate
from tcgamirror.model import text
from tcgamirror.model.errors import ExitCode, TcgaMirrorError
from tcgamirror.system.files import disk_errors
from tcgamirror.system.interrupt import Shutdown

if TYPE_CHECKING:
    from tcgamirror.mirror.fetch import FetchOptions
    from tcgamirror.mirror.update import UpdateOptions, UpdateReport

SHOWN = 20
"""Slides that a dry run names on the terminal."""

UPDATE = """\
What is done is kept: run it again after any interruption, and nightly for new releases.
Ctrl-C finishes the slides in hand; pressed again, it lets go of them.

examples:
  tcgamirror --mirror tcga update
  tcgamirror --mirror tcga update --time-limit 2h --retry-failed
  tcgamirror --mirror tcga update --dry-run"""

REFRESH = """\
example:
  tcgamirror --mirror tcga refresh"""

SAMPLE = """\
To have more slides, raise sample.slides in DIR/tcgamirror.toml first; what is sampled stays.

example:
  tcgamirror --mirror tcga sample"""

FETCH = """\
examples:
  tcgamirror --mirror tcga fetch --limit 10
  tcgamirror --mirror tcga fetch --retry-failed"""


def update(given: argparse.Namespace) -> ExitCode:
    from tcgamirror.mirror.update import UpdateOptions

    options = UpdateOptions(
        refresh=True,
        accept_shrink=given.accept_shrink,
        sample=True,
        fetch=_fetch_options(given),
    )
    return _rehearse(given, options) if given.dry_run else _perform(given, options)


def _rehearse(given: argparse.Namespace, options: UpdateOptions) -> ExitCode:
    from tcgamirror.mirror.update import dry_run

    shutdown = Shutdown()
    shutdown.install_handlers()
    progress = ProgressDisplay(quiet=given.json)
    try:
        with dry_run(home_of(given), options, progress, shutdown) as seen:
            progress.close()
            # Whoever reads what is printed may keep it waiting.
            shutdown.restore_handlers()
            if given.json:
                _print_rehearsed(seen)
            else:
                _tell_rehearsed(seen)
    finally:
        progress.close()
    return ExitCode.DONE if seen.error is None else seen.error.exit_code


def _print_rehearsed(seen: Forecast) -> None:
    """One line, whole or not at all, of which a slide is held at a time: there may be a million."""
    told = {"source": seen.source, "slides": []}
    rest: dict[str, object] = {
        "bytes": seen.bytes,
        "seconds": seen.seconds,
        "measured": seen.measured,
    }
    if seen.error is not None:
        rest |= {"exit_code": int(seen.error.exit_code), "error": str(seen.error)}
    with (
        disk_errors(Path(tempfile.gettempdir())),
        tempfile.TemporaryFile("w+", encoding="ascii") as line,
    ):
        line.write(json.dumps(told)[: -len("]}")])
        between = ""
        for slide in seen.slides:
            line.write(f"{between}{json.dumps(dataclasses.asdict(slide))}")
            between = ", "
        line.write(f"], {json.dumps(rest)[1:]}\n")
        line.seek(0)
        with disk_errors(Path("/dev/stdout")):
            shutil.copyfileobj(line, sys.stdout)
            sys.stdout.flush()


def _tell_rehearsed(seen: Forecast) -> None:
    for slide in islice(seen.slides, SHOWN):
        print(f"{slide.file_name}  {text.in_bytes(slide.size or 0)}")
    if len(seen.slides) > SHOWN:
        print(f"... and {len(seen.slides) - SHOWN:,} more (all of them with --json)")
    print(
        f"{text.slides(len(seen.slides))} would be fetched by {seen.source}: "
        f"about {text.in_bytes(seen.bytes)} in about {text.in_time(seen.seconds)} "
        f"({'by earlier runs' if seen.measured else 'a rough guess'}); nothing was changed"
    )


def refresh(given: argparse.Namespace) -> ExitCode:
    from tcgamirror.mirror.update import UpdateOptions

    options = UpdateOptions(
        refresh=True, force_refresh=given.force, accept_shrink=given.accept_shrink
    )
    return _perform(given, options)


def sample(given: argparse.Namespace) -> ExitCode:
    from tcgamirror.mirror.update import UpdateOptions

    return _perform(given, UpdateOptions(sample=True))


def fetch(given: argparse.Namespace) -> ExitCode:
    from tcgamirror.mirror.update import UpdateOptions

    return _perform(given, UpdateOptions(fetch=_fetch_options(given)))


def _fetch_options(given: argparse.Namespace) -> FetchOptions:
    from tcgamirror.mirror.fetch import FetchOptions

    return FetchOptions(
        retry_failed=given.retry_failed,
        limit=given.limit,
        time_limit=given.time_limit,
        max_bytes=given.max_bytes,
    )


def _perform(given: argparse.Namespace, options: UpdateOptions) -> ExitCode:
    from tcgamirror.mirror.update import run_update

    mirror = home_of(given)
    if getattr(given, "rate", None):
        rate = byte_rate(given.rate, "--rate")
        mirror = dataclasses.replace(
            mirror, settings=dataclasses.replace(mirror.settings, rate=rate)
        )
    as_json = getattr(given, "json", False)
    shutdown = Shutdown()
    shutdown.install_handlers()
    progress = ProgressDisplay(quiet=as_json)
    try:
        with EventLog(given.log, given.command) as log:
            report = run_update(mirror, given.command, options, progress, shutdown, log)
    except TcgaMirrorError as error:
        progress.close()
        leave_if_busy(shutdown, error, as_json=as_json)
        raise
    finally:
        progress.close()
    if as_json:
        print(json.dumps(_report_object(report)))
    else:
        for line in _report_words(report, options):
            print(text.plain(line))
        if report.locked is not None:
            for line in difference_words(report.locked, str(mirror.settings.lock)):
                print(line)
    return report.exit_code


def _report_object(report: UpdateReport) -> dict[str, object]:
    """Return the report as JSON has it, with `error` only where there is one."""
    told = dataclasses.asdict(dataclasses.replace(report, error=None))
    del told["error"]
    error = {} if report.error is None else {"error": str(report.error)}
    return {**told, "exit_code": int(report.exit_code), **error}


def _report_words(report: UpdateReport, options: UpdateOptions) -> list[str]:
    lines = []
    standing = report.standing
    if report.merged is not None:
        merged = dataclasses.asdict(report.merged)
        changes = [f"{count:,} {what}" for what, count in merged.items() if count]
        lines.append(f"{report.release}: {', '.join(changes)}")
    if report.added:
        lines.append(f"{text.slides(report.added)} added to the sample")
    fetched = report.fetched
    if fetched.done or fetched.failed:
        lines.append(
            f"{text.slides(fetched.done)} fetched, {fetched.failed} failed, "
            f"{text.in_bytes(fetched.bytes)} moved" + output.unknown(fetched.unknown_mpp)
        )
    elif options.fetch and not standing.pending:
        lines.append(f"nothing to fetch: {_standing_words(standing)} ({report.release})")
    elif options.sample and not report.added:
        lines.append(f"nothing to add: {text.slides(standing.sampled)} are sampled")
    elif options.refresh and report.merged is None:
        lines.append(f"nothing new: {report.release}")
    if fetched.left:
        lines.append(
            f"stopped by {fetched.stopped_by}; {text.slides(fetched.left)} left for the next run"
        )
    return lines


def _standing_words(standing: StatusCounts) -> str:
    failed = ""
    if standing.failed:
        again = f"again from {standing.next}, " if standing.next else ""
        way = f"{again}at once by --retry-failed"
        if standing.unfit == standing.failed:
            way = output.UNFIT
        failed = f", {standing.failed:,} failed ({way})"
    return f"{standing.done:,} of {text.slides(standing.sampled)} done{failed}"


def say_fetching(command: argparse.ArgumentParser) -> None:
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
    say_log(command)
    command.add_argument("--json", action="store_true", help="the result as one JSON line")
