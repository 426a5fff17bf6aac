"""The catalogue with as many slides as TCGA has, and with a million: time and memory of commands.

The listings are made up in the shape of TCGA's manifests. Each figure is of one run of a command
a user types, its start included. All together take two minutes, and 4 GB of temporary files.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from textwrap import fill

from tcgamirror.mirror.directory import CATALOGUE
from tests.bench.figures import LINE, aim, cell, number, table
from tests.bench.footprint import Footprint, footprint
from tests.bench.ours import PROGRAM
from tests.bench.plan import Plan
from tests.gdc.listing import made_up_id
from tests.support.command import succeeded

MILLION = 1_000_000
KINDS = ("DX1", "DX2", "TSA", "TS1", "BSA")
"""Of five slides of TCGA, two are diagnostic ones."""
CHANGED = 400
"""One slide in so many has another md5, one another file_id, one is gone, and one is new."""
SAMPLING, MERGING, QUIET, EXCLUDING = 3.0, 30.0, 2.0, 1.0
"""Seconds, at most."""

# A manifest names no projects: each source of tissue becomes one.
_PROJECTS = """
UPDATE slides SET
    project_id = 'TCGA-' || char(65 + unicode(substr(file_name, 6)) % 6)
        || char(65 + unicode(substr(file_name, 7)) % 6),
    primary_site = 'Site ' || unicode(substr(file_name, 6)) % 6;
"""

# Six of ten slides by rank are done, and one of a hundred failed by all sources.
_FETCHED = """
CREATE TEMP TABLE ranks AS SELECT file_name, rank FROM sample;
CREATE INDEX temp.ranks_by_name ON ranks (file_name, rank);
UPDATE images SET status = 'done', attempts = 1, bytes_fetched = 3000000, seconds = 2.5,
    source = 'range', level = 2, level_downsample = 16.002, base_mpp = 0.25,
    mpp_source = 'header', mpp_x = 15.01, mpp_y = 14.99, width = 2000, height = 1500,
    path = 'images/TCGA-AA/' || file_name, bytes = 4000000, sha256 = lower(hex(randomblob(32))),
    fetched_at = '2026-11-22T13:57:58Z'
WHERE (SELECT rank % 100 < 60 FROM ranks WHERE ranks.file_name = images.file_name);
UPDATE images SET status = 'failed', attempts = 3, failures = 3, error = 'whole: 404 for /data',
    retry_at = strftime('%Y-%m-%dT%H:%M:%SZ', 'now', '+2 days')
WHERE (SELECT rank % 100 = 99 FROM ranks WHERE ranks.file_name = images.file_name);
INSERT INTO attempts (run, file_name, source, started, seconds, bytes, requests)
    SELECT 1, file_name, 'range', '2026-11-22T13:57:58Z', 2.5, 3000000, 7
    FROM images WHERE status <> 'pending';
"""
_NAMES = "SELECT file_name FROM slides ORDER BY file_name LIMIT 1000"
_ALL_DONE = "UPDATE images SET status = 'done', source = 'range' WHERE status = 'pending'"


@dataclass(frozen=True, slots=True)
class Row:
    """The cost of one command on so many listed slides. most: seconds it may take."""

    what: str
    slides: int
    cost: Footprint
    most: float | None


def section(plan: Plan) -> str:
    with TemporaryDirectory(prefix="tcgamirror-bench-") as folder:
        folders = {slides: Path(folder, str(slides)) for slides in plan.listing_sizes}
        rows = [row for slides, path in folders.items() for row in measured(path, slides)]
    prose = (
        "Seconds of one run of each command, its start included, and its peak memory, by the "
        "number of listed slides."
    )
    return "\n\n".join(["## The catalogue", fill(prose, LINE), rows_table(rows)])


def rows_table(rows: list[Row]) -> str:
    """Return a table of a line for each command, with its seconds and MB by number of slides."""
    counts = list(dict.fromkeys(row.slides for row in rows))
    costs = (f"{count:,} slides, {unit}" for count in counts for unit in ("s", "MB"))
    columns = ["command", *costs, "aim"]
    lines: dict[str, list[str]] = {}
    for row in rows:
        line = lines.setdefault(row.what, [row.what])
        line += [cell(row.cost.seconds, most=row.most), number(row.cost.peak / 1e6)]
    for what, line in lines.items():
        aims = dict.fromkeys(aim(None, row.most) for row in rows if row.what == what)
        line.append(", ".join(f"{each} s" for each in aims if each))
    return table(columns, lines.values())


def measured(folder: Path, slides: int) -> Iterator[Row]:
    """Yield all costs for a mirror that lists so many slides, made in `folder`."""
    mirror = Mirror(folder, slides)
    yield mirror.timed("refresh: the first listing", None, "refresh")
    mirror.sql(_PROJECTS)
    yield mirror.timed("sample: all slides", SAMPLING, "sample")
    mirror.sql(_FETCHED)
    looking = 0.3 if slides < MILLION else 1.0
    yield mirror.timed("status", looking, "status")
    names = folder / "names.txt"
    names.write_text("".join(f"{name}\n" for (name,) in mirror.rows(_NAMES)))
    looked_up = EXCLUDING if slides < MILLION else None
    yield mirror.timed("exclude --from: 1,000 names", looked_up, "exclude", "--from", str(names))
    sql = "select status, count(*) from mirror group by 1"
    yield mirror.timed(f"query {sql[7:]}", looking, "query", sql)
    shutil.copy(mirror.changed, mirror.manifest)
    yield mirror.timed("refresh: 1 % changed", MERGING, "refresh")
    succeeded("--mirror", mirror.root, "sample")
    mirror.sql(_ALL_DONE)
    yield mirror.timed("update: a quiet night", QUIET, "update")


class Mirror:
    """A mirror that follows a manifest, and a changed manifest beside it."""

    def __init__(self, folder: Path, slides: int) -> None:
        folder.mkdir()
        self.slides = slides
        self.root = folder / "mirror"
        self.manifest, self.changed = folder / "list.txt", folder / "changed.txt"
        self.manifest.write_text("".join(_lines(slides, changed=False)))
        self.changed.write_text("".join(_lines(slides, changed=True)))
        sample = ("--mpp", "15", "--slides", "all", "--kind", "all")
        succeeded("--mirror", self.root, "init", *sample, "--manifest", self.manifest)

    def timed(self, what: str, most: float | None, *words: str) -> Row:
        """Run a command. Raises RuntimeError if it fails."""
        cost = footprint([*PROGRAM, "--mirror", str(self.root), *words])
        return Row(what, self.slides, cost, most)

    def sql(self, script: str) -> None:
        with closing(sqlite3.connect(self.root / CATALOGUE)) as connection:
            connection.executescript(f"BEGIN; {script}; COMMIT;")

    def rows(self, sql: str) -> list[tuple[str, ...]]:
        with closing(sqlite3.connect(self.root / CATALOGUE)) as connection:
            return connection.execute(sql).fetchall()


def _lines(slides: int, *, changed: bool) -> Iterator[str]:
    yield "id\tfilename\tmd5\tsize\tstate\n"
    for index in range(slides + changed * slides // CHANGED):
        change = index % CHANGED if changed else None
        if change != 0 or index >= slides:
            yield _line(index, other_id=change == 1, other_md5=change == 2)


def _line(index: int, *, other_id: bool, other_md5: bool) -> str:
    uuid = made_up_id(str(index))
    kind = KINDS[index % len(KINDS)]
    sample = "01Z-00" if kind.startswith("DX") else "01A-01"
    name = f"TCGA-{uuid[:2]}-{uuid[2:6]}-{sample}-{kind}.{uuid}".upper()
    file_id = made_up_id(f"{index} again") if other_id else uuid
    md5 = uuid.replace("-", "f" if other_md5 else "0")[:32]
    return f"{file_id}\t{name}.svs\t{md5}\t{10**8 + index}\treleased\n"
