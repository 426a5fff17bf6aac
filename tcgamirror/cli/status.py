"""`status`, `changes`, `show` and `query`: look at the mirror and change nothing."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from operator import itemgetter

from tcgamirror.catalogue.catalogue import Catalogue
from tcgamirror.catalogue.queue import StatusCounts
from tcgamirror.catalogue.reports import SCHEMA, Cell, Counts, MergedListing
from tcgamirror.cli import output
from tcgamirror.cli.common import open_catalogue
from tcgamirror.mirror import provenance
from tcgamirror.mirror.directory import FIXED, LOCK
from tcgamirror.mirror.settings import FILE_NAME, plan_values
from tcgamirror.model import text
from tcgamirror.model.errors import ExitCode, UsageError
from tcgamirror.system.lock import holder_of

_RETRIES = ("due", "later", "next", "never", "unfit")
"""Numbers of failed slides by when they are retried."""


def do_status(args: argparse.Namespace) -> ExitCode:
    with open_catalogue(args) as (mirror, catalogue):
        # Looked at before the runs: one that ends meanwhile has recorded its end.
        holder = holder_of(mirror.root / LOCK)
        counts = catalogue.reports.counts()
        standing = catalogue.queue.status_counts(time.time())
        facts = {name: catalogue.fact(f"origin {name}") for name in ("bucket", "gdc")}
        fixed = catalogue.fact(FIXED) or mirror.settings.fixed
        plan = provenance.sample_plan(catalogue, mirror.settings.plan)
        done, failed = mirror.count_uncollected(catalogue)
    running = any(
        holder and run.exit_code is None and holder.since <= run.started for run in counts.runs[:1]
    )
    origins = {name: words for name, words in facts.items() if words}
    members = output.members(counts) | {
        "target": fixed,
        "unknown_mpp": standing.unknown_mpp,
        "origins": origins,
        "uncollected": {"done": done, "failed": failed},
        "drawn": None if plan is None else plan_values(plan),
        "retries": {name: getattr(standing, name) for name in _RETRIES},
        "running": running,
    }

    def lines() -> Iterator[str]:
        wanted = mirror.settings.fixed
        other = f"; {FILE_NAME} asks for {wanted}, which update refuses" if wanted != fixed else ""
        yield f"mirror   {mirror.root.absolute()} ({fixed}{other})"
        yield f"listing  {counts.release or 'none yet'}: {text.slides(counts.listed)}"
        by = provenance.plan_words(plan) if plan else "by more than one plan, or one not known"
        excluded = f", {counts.excluded:,} excluded" if counts.excluded else ""
        yield (
            f"sample   {text.slides(counts.sampled)} {by}: {counts.done:,} done, "
            f"{counts.pending:,} pending, {counts.failed:,} failed{excluded}"
        )
        if counts.failed:
            yield f"failed   {'; '.join(_retry_words(standing))}"
        if done or failed:
            yield (
                f"shards   {done:,} done, {failed:,} failed in records that the next run that "
                f"writes collects, such as {text.command_line('fetch', mirror.root)}"
            )
        moved = text.format_bytes(counts.bytes_fetched)
        unknown = output.unknown(standing.unknown_mpp)
        yield f"images   {text.format_bytes(counts.bytes)}, for {moved} moved{unknown}"
        for name, words in origins.items():
            yield f"{name:8} {words}"

    code = output.finish(args, members, lines())
    if not args.json:
        for line in _tables(counts, running=running):
            # Colours are no text of the catalogue: they stay.
            print(line)
    return code


def _retry_words(standing: StatusCounts) -> Iterator[str]:
    if standing.due:
        yield f"{standing.due:,} due again at the next run"
    if standing.later:
        yield f"{standing.later:,} later, the first from {standing.next}"
    if standing.never > standing.unfit:
        yield f"{standing.never - standing.unfit:,} only with --retry-failed"
    if standing.unfit:
        yield f"{standing.unfit:,} {output.UNFIT}"


def _tables(counts: Counts, *, running: bool) -> Iterator[str]:
    """Yield tables of the projects, with bars, the sources and the last runs, if there are any.

    running: whether the last run goes on. Other runs without an end were killed.
    """
    size, duration = text.format_bytes, text.format_duration
    if projects := counts.by_project:
        table = _table(
            "project sampled done failed images",
            [
                (row.project or "unknown", row.sampled, row.done, row.failed, size(row.bytes))
                for row in projects
            ],
        )
        parts = [
            (row.done, row.failed, row.sampled - row.done - row.failed - row.excluded)
            for row in projects
        ]
        heading, *lines = table
        yield heading
        yield from output.beside(lines, parts, output.room_for_bars())
    if counts.by_source:
        yield from _table(
            "source images tries moved time",
            [
                (row.source, row.images, row.tries, size(row.bytes_fetched), duration(row.seconds))
                for row in counts.by_source
            ],
        )
    if counts.runs:
        ends = ["killed" if run.exit_code is None else run.exit_code for run in counts.runs]
        if running:
            ends[0] = "running"
        yield from _table(
            "run command done failed moved exit",
            [
                (run.started, run.command, run.done, run.failed, size(run.bytes), end)
                for run, end in zip(counts.runs, ends, strict=True)
            ],
        )


def _table(columns: str, rows: Sequence[Sequence[object]]) -> Iterator[str]:
    """Yield an empty line and a table."""
    yield ""
    yield from output.table(columns.split(), rows, output.in_thousands)


def do_changes(args: argparse.Namespace) -> ExitCode:
    with open_catalogue(args) as (_, catalogue):
        merges = catalogue.reports.merges(args.since)
        if args.json:
            found = [
                output.members(merge)
                | {"changes": [*map(output.members, catalogue.reports.changes(merge.merge))]}
                for merge in merges
            ]
            print(json.dumps(found))
        else:
            output.show(_change_lines(catalogue, merges, args.since))
    return ExitCode.DONE


def _change_lines(
    catalogue: Catalogue, merges: Sequence[MergedListing], since: str | None
) -> Iterator[str]:
    for merge in merges:
        counts = ", ".join(f"{count:,} {what}" for what, count in merge.counts.items())
        listed = text.slides(merge.listed)
        yield f"{merge.release} ({merge.merged_at}): {counts or 'no change'} ({listed} listed)"
        # The first listing has every slide; its names would bury later changes.
        for change in catalogue.reports.changes(merge.merge) if merge.merge > 1 else ():
            yield f"{change.what} {change.file_name} {change.detail or ''}".rstrip()
    for each in catalogue.exclusions.all() if since is None else ():
        why = f"({each.reason}, by {each.excluded_by}, {each.excluded_at})"
        yield f"excluded {each.file_name} {why}"
    if not merges:
        yield "no listing was merged" + (f" after {since}" if since else " yet")


def do_show(args: argparse.Namespace) -> ExitCode:
    with open_catalogue(args) as (_, catalogue):
        facts = catalogue.reports.show(args.slide)
    if args.json:
        print(json.dumps(facts, default=bytes.hex))
    else:
        output.show(_fact_lines(facts))
    return ExitCode.DONE


def _fact_lines(facts: Mapping[str, object]) -> Iterator[str]:
    width = max(map(len, facts))
    for name, value in facts.items():
        if isinstance(value, list) and value:
            yield from ("", name)
            if isinstance(value[0], Mapping):
                yield from output.table(list(value[0]), [list(row.values()) for row in value])
            else:
                yield from map(str, value)
        elif value is not None and not isinstance(value, list):
            yield f"{name:{width}}  {text.plain(value)}"


def do_query(args: argparse.Namespace) -> ExitCode:
    if (args.sql is None) != args.schema:
        raise UsageError("give either SQL or --schema. See tcgamirror query --help")
    with open_catalogue(args) as (_, catalogue):
        found = catalogue.reports.query(SCHEMA if args.schema else args.sql)
        columns, rows = found.columns, found.rows
        if args.schema:
            columns, rows = (*columns, "meaning"), _with_meanings(rows)
        output.write_rows(columns, rows, args.format, sys.stdout)
    return ExitCode.DONE


def _with_meanings(rows: Iterator[tuple[Cell, ...]]) -> Iterator[tuple[Cell, ...]]:
    """Yield columns of tables and views; those of views with the manual's meaning."""
    from tcgamirror.cli.help import columns

    for relation, group in groupby(rows, itemgetter(0)):
        meanings = columns(str(relation))
        for row in group:
            yield *row, meanings.get(str(row[1]), "")
