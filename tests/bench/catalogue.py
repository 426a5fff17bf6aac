"""The catalogue with as many slides as TCGA has, and with a million: time and memory of commands.

`python -m tests.bench.catalogue` takes five minutes, and 4 GB where temporary files are. The
listings are made up in the shape of TCGA's manifests; each figure is of one run of a command a
user types, its start included. Where there is none, it is of the call that `update` makes.
"""

from __future__ import annotations

import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

from tcgamirror.mirror.directory import CATALOGUE
from tcgamirror.mirror.settings import FILE_NAME
from tcgamirror.model.sampling import By, Order
from tests.bench.aims import number
from tests.bench.footprint import footprint
from tests.bench.ours import PROGRAM
from tests.bench.report import table
from tests.gdc.listing import made_up_id

TCGA, MILLION = 30_075, 1_000_000
KINDS = ("DX1", "DX2", "TSA", "TS1", "BSA")
"""Of five slides of TCGA, two are diagnostic ones."""

CHANGED = 400
"""Of so many slides one has another md5, one another file_id, one is gone, and one is new."""

HEADING = "## The catalogue with as many slides as TCGA has, and with a million"
LOOKING = {TCGA: 0.3, MILLION: 1.0}
SAMPLING, MERGING, QUIET = 3.0, 30.0, 2.0
MOST_MB = 500
COLUMNS = ("what", "slides", "s", "MB", "aim")

_DUE = """
import sys, time
from pathlib import Path
from tcgamirror.catalogue.catalogue import Catalogue
with Catalogue.open(Path(sys.argv[1]), read_only=True) as catalogue:
    assert len(catalogue.queue.due(retry_failed=False, now=time.time(), limit=int(sys.argv[2])))
"""

# What a listing of the GDC would tell besides, a project for each source of tissue.
_PROJECTS = """
UPDATE slides SET
    project_id = 'TCGA-' || char(65 + unicode(substr(file_name, 6)) % 6)
        || char(65 + unicode(substr(file_name, 7)) % 6),
    primary_site = 'Site ' || unicode(substr(file_name, 6)) % 6;
"""

_NO_SAMPLE = "DELETE FROM images; DELETE FROM sample; DELETE FROM facts WHERE key = 'drawn by'"

# Six of ten slides by rank are done, and one of a hundred has failed by all sources.
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
_ALL_DONE = "UPDATE images SET status = 'done', source = 'range' WHERE status = 'pending'"


@dataclass(frozen=True, slots=True)
class Row:
    """What one command took. slides: listed. megabytes: held at most. aim: seconds."""

    what: str
    slides: int
    seconds: float
    megabytes: float
    aim: float | None


def main() -> None:
    with TemporaryDirectory(prefix="tcgamirror-bench-") as folder:
        rows = []
        for slides in (TCGA, MILLION):
            for row in measured(Path(folder) / str(slides), slides):
                print(f"{row.slides:9,} {row.what:40} {row.seconds:6.2f} s", file=sys.stderr)
                rows.append(row)
    print(f"\n{HEADING}\n\n{table(COLUMNS, map(cells, rows))}")


def cells(row: Row) -> Sequence[str]:
    """One line of the table."""
    aim = "" if row.aim is None else f"≤ {number(row.aim)} s"
    return row.what, f"{row.slides:,}", f"{row.seconds:.2f}", f"{row.megabytes:.0f}", aim


def measured(folder: Path, slides: int) -> Iterator[Row]:
    """All figures for a mirror that lists so many slides, made in `folder`."""
    mirror = Mirror(folder, slides)
    listing = mirror.timed("refresh: the first listing", None, "refresh")
    yield listing
    mirror.sql(_PROJECTS)
    for more, (order, by) in enumerate(product(Order, By)):
        mirror.set(slides=100 + more, order=f'"{order}"', by=f'"{by}"')
        yield mirror.timed(f"sample: {100 if not more else 1}, {order}, {by}", SAMPLING, "sample")
    mirror.sql(_NO_SAMPLE)
    mirror.set(slides='"all"', order='"stable"', by='"none"')
    yield mirror.timed("sample: all", SAMPLING, "sample")
    yield mirror.due("due: the first 10", 10)
    mirror.sql(_FETCHED)
    yield from _looked_at(mirror)
    shutil.copy(mirror.changed, mirror.manifest)
    yield mirror.timed("refresh: 1 % is another", MERGING, "refresh")
    yield mirror.timed("sample: what is new", SAMPLING, "sample")
    mirror.sql(_ALL_DONE)
    yield mirror.timed("update: a quiet night", QUIET, "update")


def _looked_at(mirror: Mirror) -> Iterator[Row]:
    aim = LOOKING.get(mirror.slides)
    name, file_id, barcode = mirror.rows("SELECT file_name, file_id, slide_barcode FROM slides")[0]
    for words in (["--version"], ["--help"], ["status"], ["status", "--json"]):
        yield mirror.timed(" ".join(words), aim, *words)
    for what, given in (("FILE_NAME", name), ("FILE_ID", file_id), ("BARCODE", barcode.lower())):
        yield mirror.timed(f"show {what}", aim, "show", given)
    for sql in (
        "select * from mirror where project_id = 'TCGA-AA' and status = 'failed'",
        "select * from mirror order by sample_rank limit 10",
        "select status, count(*) from mirror group by 1",
    ):
        yield mirror.timed(f"query {sql[7:]}", aim, "query", sql)


class Mirror:
    """A mirror that follows a manifest, and a changed manifest beside it."""

    def __init__(self, folder: Path, slides: int) -> None:
        folder.mkdir()
        self.slides = slides
        self.root = folder / "mirror"
        self.manifest, self.changed = folder / "list.txt", folder / "changed.txt"
        self.manifest.write_text("".join(_lines(slides, changed=False)))
        self.changed.write_text("".join(_lines(slides, changed=True)))
        self._program = [*PROGRAM, "--mirror", str(self.root)]
        wanted = ["--mpp", "15", "--slides", "all", "--kind", "all"]
        listing = ["--manifest", str(self.manifest)]
        subprocess.run(
            [*self._program, "init", *wanted, *listing], check=True, stdout=subprocess.DEVNULL
        )

    def timed(self, what: str, aim: float | None, *words: str) -> Row:
        """One run of a command. Raises RuntimeError if it fails."""
        cost = footprint([*self._program, *words])
        return Row(what, self.slides, cost.seconds, cost.peak / 1e6, aim)

    def due(self, what: str, limit: int) -> Row:
        cost = footprint([sys.executable, "-c", _DUE, str(self.root / CATALOGUE), str(limit)])
        return Row(what, self.slides, cost.seconds, cost.peak / 1e6, SAMPLING)

    def set(self, **settings: object) -> None:
        """Changes settings, each given as it stands in the file."""
        path = self.root / FILE_NAME
        text = path.read_text(encoding="utf-8")
        for name, value in settings.items():
            text = re.sub(rf"(?m)^{name} = [^#\n]*", f"{name} = {value}  ", text, count=1)
        path.write_text(text, encoding="utf-8")

    def sql(self, script: str) -> None:
        with closing(sqlite3.connect(self.root / CATALOGUE)) as connection:
            connection.executescript(f"BEGIN; {script}; COMMIT;")

    def rows(self, sql: str) -> list[tuple[str, ...]]:
        with closing(sqlite3.connect(self.root / CATALOGUE)) as connection:
            return connection.execute(f"{sql} LIMIT 1").fetchall()


def _lines(slides: int, *, changed: bool) -> Iterator[str]:
    yield "id\tfilename\tmd5\tsize\tstate\n"
    for place in range(slides + changed * slides // CHANGED):
        what = place % CHANGED if changed else None
        if what != 0 or place >= slides:
            yield _line(place, other_id=what == 1, other_md5=what == 2)


def _line(place: int, *, other_id: bool, other_md5: bool) -> str:
    uuid = made_up_id(str(place))
    kind = KINDS[place % len(KINDS)]
    sample = "01Z-00" if kind.startswith("DX") else "01A-01"
    name = f"TCGA-{uuid[:2]}-{uuid[2:6]}-{sample}-{kind}.{uuid}".upper()
    file_id = made_up_id(f"{place} again") if other_id else uuid
    md5 = uuid.replace("-", "f" if other_md5 else "0")[:32]
    return f"{file_id}\t{name}.svs\t{md5}\t{10**8 + place}\treleased\n"


if __name__ == "__main__":
    main()
