"""`status`, `changes`, `show` and `query`: look at the mirror and change nothing."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from tcgamirror.cli import output
from tcgamirror.cli.common import Commands, add_command, open_catalogue
from tcgamirror.model import text
from tcgamirror.model.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from tcgamirror.catalogue.catalogue import Catalogue
    from tcgamirror.catalogue.queue import StatusCounts
    from tcgamirror.catalogue.reports import Counts, MergedListing

_STATUS = """\
show counts, bytes, data release and the last runs

--json  print one JSON object

  tcgamirror --mirror tcga status
  tcgamirror --mirror tcga status --json | jq .pending"""

_CHANGES = """\
show how each data release changed the listing

The first listing is shown in numbers only; --json names every slide.

--since RELEASE  only releases after this one, such as 45
--json           print one JSON list

  tcgamirror --mirror tcga changes
  tcgamirror --mirror tcga changes --since 45.0"""

_SHOW = """\
show everything recorded about one slide

--json  print one JSON object

  tcgamirror --mirror tcga show TCGA-3C-AALI-01Z-00-DX1
  tcgamirror --mirror tcga show TCGA-3C-AALI --json"""

_QUERY = """\
run read-only SQL on the catalogue

The view mirror has a row for each sampled slide.

--schema  list all views, tables and columns with units
--format table|csv|json
    default: table

  tcgamirror --mirror tcga query "select project_id, count(*), avg(mpp_x) from mirror group by 1"
  tcgamirror --mirror tcga query "select file_name, error from mirror where status = 'failed'"
  tcgamirror --mirror tcga query "select * from mirror" --format csv > mirror.csv
  tcgamirror --mirror tcga query --schema"""


def status(args: argparse.Namespace) -> ExitCode:
    from tcgamirror.mirror import provenance
    from tcgamirror.mirror.directory import FIXED
    from tcgamirror.mirror.settings import FILE_NAME, plan_values

    with open_catalogue(args) as (mirror, catalogue):
        counts = catalogue.reports.counts()
        standing = catalogue.queue.status_counts(time.time())
        origins = {name: catalogue.fact(f"origin {name}") for name in ("bucket", "gdc")}
        fixed = catalogue.fact(FIXED) or mirror.settings.fixed
        plan = provenance.sample_plan(catalogue, mirror.settings.plan)
        done, failed = mirror.count_uncollected(catalogue)
    origins = {name: words for name, words in origins.items() if words}
    if args.json:
        told: dict[str, object] = {
            "target": fixed,
            "unknown_mpp": standing.unknown_mpp,
            "origins": origins,
            "uncollected": {"done": done, "failed": failed},
        }
        told["drawn"] = None if plan is None else plan_values(plan)
        print(json.dumps(output.members(counts) | told | _retries(standing)))
        return ExitCode.DONE
    asked = mirror.settings.fixed
    other = "" if asked == fixed else f"; {FILE_NAME} asks for {asked}, which update refuses"
    print(f"mirror   {mirror.root.absolute()} ({text.plain(fixed)}{other})")
    print(f"listing  {text.plain(counts.release or 'none yet')}: {text.slides(counts.listed)}")
    by = provenance.plan_words(plan) if plan else "by more than one plan, or one not known"
    print(
        f"sample   {text.slides(counts.sampled)} {text.plain(by)}: {counts.done:,} done, "
        f"{counts.pending:,} pending, {counts.failed:,} failed"
        + (f", {counts.excluded:,} excluded" if counts.excluded else "")
    )
    if counts.failed:
        print(f"failed   {_retry_words(standing)}")
    if done or failed:
        print(
            f"shards   {done:,} done, {failed:,} failed in records that the next run that writes "
            f"collects, such as {text.command_line('fetch', mirror.root)}"
        )
    print(
        f"images   {text.format_bytes(counts.bytes)}, "
        f"for {text.format_bytes(counts.bytes_fetched)} moved"
        + output.unknown(standing.unknown_mpp)
    )
    for name, words in origins.items():
        print(f"{name:8} {text.plain(words)}")
    _status_tables(counts)
    return ExitCode.DONE


def _retries(standing: StatusCounts) -> dict[str, object]:
    """Return the numbers of failed slides by when they are retried."""
    names = ("due", "later", "next", "never", "unfit")
    return {"retries": {name: getattr(standing, name) for name in names}}


def _retry_words(standing: StatusCounts) -> str:
    words = []
    if standing.due:
        words.append(f"{standing.due:,} due again at the next run")
    if standing.later:
        words.append(f"{standing.later:,} later, the first from {standing.next}")
    if standing.never > standing.unfit:
        words.append(f"{standing.never - standing.unfit:,} only with --retry-failed")
    if standing.unfit:
        words.append(f"{standing.unfit:,} {output.UNFIT}")
    return "; ".join(words)


def changes(args: argparse.Namespace) -> ExitCode:
    with open_catalogue(args) as (_, catalogue):
        merges = catalogue.reports.merges(args.since)
        if args.json:
            print(json.dumps([_with_changes(catalogue, merge) for merge in merges]))
            return ExitCode.DONE
        for merge in merges:
            _show_merge(catalogue, merge)
        for each in catalogue.exclusions.all() if args.since is None else ():
            why = f"({each.reason}, by {each.excluded_by}, {each.excluded_at})"
            print(text.plain(f"excluded {each.file_name} {why}"))
    if not merges:
        print("no listing was merged" + (f" after {args.since}" if args.since else " yet"))
    return ExitCode.DONE


def _with_changes(catalogue: Catalogue, merge: MergedListing) -> dict[str, object]:
    changes = [output.members(change) for change in catalogue.reports.changes(merge.merge)]
    return output.members(merge) | {"changes": changes}


def _show_merge(catalogue: Catalogue, merge: MergedListing) -> None:
    counts = [f"{count:,} {what}" for what, count in merge.counts.items()]
    print(
        f"{text.plain(merge.release)} ({merge.merged_at}): {', '.join(counts) or 'no change'}"
        f" ({text.slides(merge.listed)} listed)"
    )
    # The first listing has every slide; its names would bury later changes.
    for change in catalogue.reports.changes(merge.merge) if merge.merge > 1 else ():
        print(text.plain(f"{change.what} {change.file_name} {change.detail or ''}").rstrip())


def _status_tables(counts: Counts) -> None:
    """Print tables of the projects, with bars, the sources and the last runs, if there are any."""
    size, duration = text.format_bytes, text.format_duration
    if projects := counts.by_project:
        rows = [
            (row.project or "unknown", row.sampled, row.done, row.failed, size(row.bytes))
            for row in projects
        ]
        table = _table("project sampled done failed images", rows)
        parts = [
            (row.done, row.failed, row.sampled - row.done - row.failed - row.excluded)
            for row in projects
        ]
        print("\n" + output.beside(table, parts, output.Look.of_stdout()))
    if counts.by_source:
        sources = [
            (row.source, row.images, row.tries, size(row.bytes_fetched), duration(row.seconds))
            for row in counts.by_source
        ]
        print("\n" + _table("source images tries moved time", sources))
    if counts.runs:
        ends = ("no end" if run.exit_code is None else run.exit_code for run in counts.runs)
        runs = [
            (run.started, run.command, run.done, run.failed, size(run.bytes), end)
            for run, end in zip(counts.runs, ends, strict=True)
        ]
        print("\n" + _table("run command done failed moved exit", runs))


def _table(columns: str, rows: Sequence[Sequence[object]]) -> str:
    return output.table(columns.split(), rows, thousands=True)


def show(args: argparse.Namespace) -> ExitCode:
    with open_catalogue(args) as (_, catalogue):
        facts = catalogue.reports.show(args.slide)
    if args.json:
        print(output.as_json(facts))
        return ExitCode.DONE
    width = max(map(len, facts))
    for name, value in facts.items():
        if isinstance(value, list):
            _show_list(name, value)
        elif value is not None:
            print(f"{name:{width}}  {text.plain(value)}")
    return ExitCode.DONE


def _show_list(name: str, rows: Sequence[object]) -> None:
    tables = [row for row in rows if isinstance(row, Mapping)]
    if tables:
        columns = list(tables[0])
        print(f"\n{name}\n" + output.table(columns, [list(row.values()) for row in tables]))
    elif rows:
        print(f"\n{name}\n" + "\n".join(map(text.plain, rows)))


def query(args: argparse.Namespace) -> ExitCode:
    if (args.sql is None) != args.schema:
        raise UsageError("give either SQL or --schema. See tcgamirror query --help")
    with open_catalogue(args) as (_, catalogue):
        if args.schema:
            _show_schema(catalogue, args.format)
            return ExitCode.DONE
        found = catalogue.reports.query(args.sql)
        output.write_rows(found.columns, found.rows, args.format, sys.stdout)
    return ExitCode.DONE


def _show_schema(catalogue: Catalogue, form: str) -> None:
    """Print each column of the views and tables, those of views with the manual's meaning."""
    from tcgamirror.catalogue.reports import SCHEMA
    from tcgamirror.cli.help import columns

    found = list(catalogue.reports.query(SCHEMA).rows)
    meanings = {relation: columns(str(relation)) for relation in {row[0] for row in found}}
    rows = ((*row, meanings[row[0]].get(str(row[1]), "")) for row in found)
    output.write_rows(("relation", "column", "type", "meaning"), rows, form, sys.stdout)


def add_commands(commands: Commands) -> None:
    """Add `status`, `changes`, `show` and `query`."""
    add_command(commands, "status", status, _STATUS)
    add_command(commands, "changes", changes, _CHANGES)
    command = add_command(commands, "show", show, _SHOW)
    command.add_argument("slide", metavar="SLIDE", help="file_id, file name or barcode")
    command = add_command(commands, "query", query, _QUERY, format={"default": "table"})
    command.add_argument("sql", nargs="?", metavar="SQL", help="one statement")
