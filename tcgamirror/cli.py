"""The commands: parse, call one function, print, exit code.

What only looks (`status`, `show`, `query`, `--help`) imports neither numpy nor
the network: those imports stand in the commands that need them.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tcgamirror import __version__, console, options
from tcgamirror.catalogue import Catalogue
from tcgamirror.errors import ExitCode, TcgaMirrorError
from tcgamirror.home import CATALOGUE, Home
from tcgamirror.lookups import Counts

if TYPE_CHECKING:
    from tcgamirror.mirror import Report, Wishes
    from tcgamirror.settings import Settings


SHOWN = 20
"""Slides that a dry run names on the terminal."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code. The only place that catches everything."""
    try:
        options_given = options.parsed(arguments)
        return int(_COMMANDS[options_given.command](options_given))
    except TcgaMirrorError as error:
        console.say(f"tcgamirror: {error}")
        return int(error.exit_code)
    except KeyboardInterrupt:
        console.say("tcgamirror: interrupted")
        return int(ExitCode.INTERRUPTED)
    except BrokenPipeError:
        # Whoever read our output has had enough, as `head` does; let Python's own flush not fail.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return int(ExitCode.DONE)
    except Exception as error:  # noqa: BLE001
        return _bug(error)


def _bug(error: Exception) -> int:
    """One sentence for the user; what a developer needs only where it was asked for."""
    if os.environ.get("TCGAMIRROR_DEBUG"):
        traceback.print_exc()
    console.say(
        f"tcgamirror: a bug: {type(error).__name__}: {error}; nothing recorded is lost. Please "
        f"report it with what TCGAMIRROR_DEBUG=1 in the environment prints (version {__version__})"
    )
    return int(ExitCode.BUG)


# Where the mirror is -----------------------------------------------------------


def _home(given: argparse.Namespace) -> Home:
    named = given.mirror or os.environ.get("TCGAMIRROR")
    if named:
        return Home.find(Path(named), above=False)
    return Home.find(Path(), above=True)


# init --------------------------------------------------------------------------


def _init(given: argparse.Namespace) -> ExitCode:
    from tcgamirror.manifest import read_manifest

    settings = _settings(given)
    root = Path(given.mirror or os.environ.get("TCGAMIRROR") or ".")
    # Read first: a manifest that cannot be taken leaves no mirror behind.
    listing = read_manifest(Path(settings.manifest)) if settings.manifest else None
    home = Home.create(root, settings)
    print(f"made a mirror in {home.root}: {_sample_words(settings)} at {settings.fixed}")
    if listing is not None:
        print(f"{settings.manifest} lists {console.slides(len(listing.slides))}")
    print(f"next: tcgamirror --mirror {home.root} update")
    return ExitCode.DONE


def _settings(given: argparse.Namespace) -> Settings:
    from tcgamirror import settings as setting
    from tcgamirror.model import ImageFormat
    from tcgamirror.sampling import By, Order

    api = setting.address(given.api or setting.GDC, "--api")
    elsewhere = api != setting.GDC
    tiles = given.tiles or (f"{api}/tile" if elsewhere else setting.GDC_TILES)
    bucket = given.bucket or ("none" if elsewhere else setting.BUCKET)
    via = given.via.split(",") if given.via else setting.SOURCES
    return setting.Settings(
        target=setting.target(given.mpp, given.max_size, given.resample),
        form=ImageFormat(given.format),
        slides=given.slides,
        seed=given.seed,
        order=Order(given.order),
        by=By(given.by),
        kinds=setting.kinds(given.kind, "--kind"),
        projects=tuple(given.project),
        manifest=str(given.manifest.absolute()) if given.manifest else None,
        via=setting.ladder(via, "--via"),
        workers=setting.count(given.workers, "--workers", setting.MOST_WORKERS),
        rate=given.rate,
        api=api,
        tiles=setting.address(tiles, "--tiles"),
        bucket=None if bucket == "none" else setting.address(bucket, "--bucket"),
    )


def _sample_words(settings: Settings) -> str:
    count = "all slides" if settings.slides is None else console.slides(settings.slides)
    return f"{count} by seed {settings.seed} ({settings.order})"


# update and its steps ----------------------------------------------------------


def _update(given: argparse.Namespace) -> ExitCode:
    from tcgamirror.mirror import Wishes

    wishes = _limits(given, Wishes())
    return _rehearse(given, wishes) if given.dry_run else _perform(given, wishes)


def _rehearse(given: argparse.Namespace, wishes: Wishes) -> ExitCode:
    from tcgamirror.brake import Brake
    from tcgamirror.mirror import rehearse

    brake = Brake()
    brake.listen()
    seen = rehearse(_home(given), wishes, console.Progress(quiet=given.json), brake)
    if given.json:
        print(json.dumps(dataclasses.asdict(seen)))
        return ExitCode.DONE
    for slide in seen.slides[:SHOWN]:
        print(f"{slide.file_name}  {console.in_bytes(slide.size or 0)}")
    if len(seen.slides) > SHOWN:
        print(f"... and {len(seen.slides) - SHOWN:,} more (all of them with --json)")
    print(
        f"{console.slides(len(seen.slides))} would be fetched by {seen.source}: "
        f"about {console.in_bytes(seen.bytes)} in about {console.in_time(seen.seconds)} "
        f"({'by earlier runs' if seen.measured else 'a rough guess'}); nothing was changed"
    )
    return ExitCode.DONE


def _refresh(given: argparse.Namespace) -> ExitCode:
    from tcgamirror.mirror import Wishes

    return _perform(given, Wishes(sample=False, fetch=False))


def _sample(given: argparse.Namespace) -> ExitCode:
    from tcgamirror.mirror import Wishes

    return _perform(given, Wishes(refresh=False, fetch=False))


def _fetch(given: argparse.Namespace) -> ExitCode:
    from tcgamirror.mirror import Wishes

    return _perform(given, _limits(given, Wishes(refresh=False, sample=False)))


def _limits(given: argparse.Namespace, wishes: Wishes) -> Wishes:
    return dataclasses.replace(
        wishes,
        retry_failed=given.retry_failed,
        limit=given.limit,
        time_limit=given.time_limit,
    )


def _perform(given: argparse.Namespace, wishes: Wishes) -> ExitCode:
    from tcgamirror.brake import Brake
    from tcgamirror.mirror import perform

    home = _home(given)
    if getattr(given, "rate", None):
        home = dataclasses.replace(
            home, settings=dataclasses.replace(home.settings, rate=given.rate)
        )
    as_json = getattr(given, "json", False)
    brake = Brake()
    brake.listen()
    progress = console.Progress(quiet=as_json)
    try:
        report = perform(home, given.command, wishes, progress, brake)
    finally:
        progress.close()
    with Catalogue.open(home.root / CATALOGUE, read_only=True) as catalogue:
        counts = catalogue.counts()
    if as_json:
        print(json.dumps(dataclasses.asdict(report) | {"exit_code": int(report.exit_code)}))
    else:
        for line in _report_words(report, counts, wishes):
            print(line)
    return report.exit_code


def _report_words(report: Report, counts: Counts, wishes: Wishes) -> list[str]:
    lines = []
    if report.merged is not None:
        merged = dataclasses.asdict(report.merged)
        changes = [f"{count:,} {what}" for what, count in merged.items() if count]
        lines.append(f"{report.release}: {', '.join(changes)}")
    if report.added:
        lines.append(f"{console.slides(report.added)} added to the sample")
    fetched = report.fetched
    if fetched.done or fetched.failed:
        lines.append(
            f"{console.slides(fetched.done)} fetched, {fetched.failed} failed, "
            f"{console.in_bytes(fetched.bytes)} moved"
        )
    elif wishes.fetch and not counts.pending:
        lines.append(f"nothing to fetch: {_standing(counts)} ({report.release})")
    elif wishes.sample and not report.added:
        lines.append(f"nothing to add: {console.slides(counts.sampled)} are sampled")
    elif wishes.refresh and report.merged is None:
        lines.append(f"nothing new: {report.release}")
    if fetched.left:
        lines.append(f"{console.slides(fetched.left)} left for the next run")
    return lines


def _standing(counts: Counts) -> str:
    failed = f", {counts.failed} failed (see --retry-failed)" if counts.failed else ""
    return f"{counts.done} of {console.slides(counts.sampled)} done{failed}"


# What only looks ---------------------------------------------------------------


def _status(given: argparse.Namespace) -> ExitCode:
    home = _home(given)
    with Catalogue.open(home.root / CATALOGUE, read_only=True) as catalogue:
        counts = catalogue.counts()
        origins = {name: catalogue.fact(f"origin {name}") for name in ("bucket", "gdc")}
    origins = {name: words for name, words in origins.items() if words}
    if given.json:
        print(json.dumps(dataclasses.asdict(counts) | {"origins": origins}))
        return ExitCode.DONE
    print(f"mirror   {home.root.absolute()} ({home.settings.fixed})")
    print(f"listing  {counts.release or 'none yet'}: {console.slides(counts.listed)}")
    print(
        f"sample   {console.slides(counts.sampled)}: {counts.done} done, "
        f"{counts.pending} pending, {counts.failed} failed"
    )
    print(
        f"images   {console.in_bytes(counts.bytes)}, "
        f"for {console.in_bytes(counts.bytes_fetched)} moved"
    )
    for name, words in origins.items():
        print(f"{name:8} {words}")
    _status_tables(counts)
    return ExitCode.DONE


def _status_tables(counts: Counts) -> None:
    if counts.by_project:
        rows = [
            (
                row.project or "unknown",
                row.sampled,
                row.done,
                row.failed,
                console.in_bytes(row.bytes),
            )
            for row in counts.by_project
        ]
        print("\n" + console.table(("project", "sampled", "done", "failed", "images"), rows))
    if counts.by_source:
        sources = [
            (
                row.source,
                row.images,
                row.tries,
                console.in_bytes(row.bytes_fetched),
                console.in_time(row.seconds),
            )
            for row in counts.by_source
        ]
        print("\n" + console.table(("source", "images", "tries", "moved", "time"), sources))
    if counts.runs:
        runs = [
            (
                run.started,
                run.command,
                run.done,
                run.failed,
                console.in_bytes(run.bytes),
                run.exit_code,
            )
            for run in counts.runs
        ]
        print("\n" + console.table(("run", "command", "done", "failed", "moved", "exit"), runs))


def _show(given: argparse.Namespace) -> ExitCode:
    home = _home(given)
    with Catalogue.open(home.root / CATALOGUE, read_only=True) as catalogue:
        facts = catalogue.show(given.slide)
    if given.json:
        print(json.dumps(facts, ensure_ascii=False))
        return ExitCode.DONE
    width = max(map(len, facts))
    for name, value in facts.items():
        if isinstance(value, list):
            _show_list(name, value)
        elif value is not None:
            print(f"{name:{width}}  {value}")
    return ExitCode.DONE


def _show_list(name: str, rows: Sequence[object]) -> None:
    tables = [row for row in rows if isinstance(row, Mapping)]
    if tables:
        columns = list(tables[0])
        print(f"\n{name}\n" + console.table(columns, [list(row.values()) for row in tables]))
    elif rows:
        print(f"\n{name}\n" + "\n".join(map(str, rows)))


def _query(given: argparse.Namespace) -> ExitCode:
    home = _home(given)
    with Catalogue.open(home.root / CATALOGUE, read_only=True) as catalogue:
        found = catalogue.query(given.sql)
        console.write_rows(found.columns, found.rows, given.format, sys.stdout)
    return ExitCode.DONE


_COMMANDS: Mapping[str, Callable[[argparse.Namespace], ExitCode]] = {
    "init": _init,
    "update": _update,
    "refresh": _refresh,
    "sample": _sample,
    "fetch": _fetch,
    "status": _status,
    "show": _show,
    "query": _query,
}
