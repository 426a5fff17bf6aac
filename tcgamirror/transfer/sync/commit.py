"""The rows of one mirror's catalogue in place of another's, in one transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tcgamirror.catalogue.catalogue import Catalogue
from tcgamirror.catalogue.database import Row, Value, dicts
from tcgamirror.catalogue.images import PICTURE_COLUMNS, write_images
from tcgamirror.catalogue.rows import are_different, insert, set_upstream
from tcgamirror.model.slide import Status, Upstream
from tcgamirror.transfer.columns import TABLES
from tcgamirror.transfer.untrusted import UntrustedCatalogue

_KEPT = ("slides", "former_ids", "sample", "images")
"""Tables of which rows may be kept that the source lacks, in the order to write them."""


def take_over(
    path: Path,
    source: UntrustedCatalogue,
    *,
    others: bool,
    arrived: Collection[str],
    whole: Collection[str],
) -> int:
    """Gives the catalogue at `path` the source's rows; how many slides it keeps of its own.

    others: whether what the source lacks is kept: images, and slides, which are ranked
    after the source's, but not their runs and tries. A slide it does not list is withdrawn.
    arrived: file names of slides whose images are here as the source tells of them. Of
    all others, what is told of an image stays what it was here. whole: file names of
    those whose images of before are here.
    Whoever reads meanwhile sees all of the old rows or all of the new ones.
    """
    with Catalogue.open(path) as catalogue, catalogue.change() as connection:
        connection.execute("PRAGMA defer_foreign_keys = ON")
        kept = _own_rows(connection, source) if others else {}
        left = _left_rows(connection, source, arrived, whole, others=others)
        for table in reversed(list(TABLES)):
            connection.execute(f"DELETE FROM {table}")
        for table, columns in TABLES.items():
            insert(connection, table, list(columns), source.rows(table))
        for table, own in kept.items():
            # A former file_id may be known to both sides.
            rows = _ranked(connection, own) if table == "sample" else own
            twice = table == "former_ids"
            insert(connection, table, list(TABLES[table]), rows, or_ignore=twice)
        for row in kept.get("slides", ()):
            set_upstream(connection, str(row["file_name"]), Upstream.WITHDRAWN)
        write_images(connection, (each.row for each in left))
        for each in left:
            if each.upstream is not None:
                set_upstream(connection, str(each.row["file_name"]), each.upstream)
    return len(kept.get("sample", ())) + sum(each.is_ours_alone for each in left)


class _Left(NamedTuple):
    """What to say of an image that has not come from the source.

    upstream: to be noted of its slide, if it is another than the source tells.
    is_ours_alone: whether there is an image here and none at the source.
    """

    row: Row
    upstream: Upstream | None
    is_ours_alone: bool


def _left_rows(
    connection: sqlite3.Connection,
    source: UntrustedCatalogue,
    arrived: Collection[str],
    whole: Collection[str],
    *,
    others: bool,
) -> list[_Left]:
    """The images that have not come, but for those of which neither side has one."""
    sql = (
        "SELECT images.*, md5, upstream FROM images JOIN slides USING (file_name) "
        "WHERE path IS NOT NULL"
    )
    ours = {row["file_name"]: row for row in dicts(connection, sql)}
    left: list[_Left] = []
    if others:
        left += _of_others(ours, source)
    for theirs in source.sampled():
        name, bare = str(theirs["file_name"]), theirs["path"] is None
        mine = ours.get(name) if others or not bare else None
        if (mine is None and bare) or (theirs["status"] == Status.DONE and name in arrived):
            continue
        right = mine is not None and not are_different(mine["md5"], theirs["md5"])
        if mine is not None and right and mine["status"] == Status.DONE and name in whole:
            if name not in arrived or mine["path"] == theirs["path"]:
                left.append(_Left(mine, Upstream.CURRENT, bare))
        elif name not in arrived:
            image = mine or dict.fromkeys(PICTURE_COLUMNS)
            waits = theirs["status"] == Status.DONE
            status = Status.PENDING if waits else theirs["status"]
            row = {
                **theirs,
                **{column: image[column] for column in PICTURE_COLUMNS},
                "status": status,
            }
            changed = mine is not None and (not right or mine["upstream"] == Upstream.CHANGED)
            left.append(_Left(row, Upstream.CHANGED if changed else None, bare))
    return left


def _of_others(ours: Mapping[Value, Row], source: UntrustedCatalogue) -> Iterator[_Left]:
    """The images of slides that the source lists and has not sampled."""
    sampled = {row["file_name"] for row in source.rows("sample")}
    for slide in source.rows("slides"):
        mine = ours.get(slide["file_name"])
        if mine is None or slide["file_name"] in sampled:
            continue
        if are_different(mine["md5"], slide["md5"]):
            waits = mine["status"] == Status.DONE
            row = {**mine, "status": Status.PENDING} if waits else mine
            yield _Left(row, Upstream.CHANGED, is_ours_alone=False)
        elif mine["status"] == Status.DONE:
            yield _Left(mine, Upstream.CURRENT, is_ours_alone=False)


def _own_rows(
    connection: sqlite3.Connection, source: UntrustedCatalogue
) -> Mapping[str, Sequence[Row]]:
    """What this catalogue has of slides that the source has not sampled, or not even listed."""
    sampled = {row["file_name"] for row in source.rows("sample")}
    listed = {row["file_name"] for row in source.rows("slides")}
    theirs = {"slides": listed, "former_ids": set(), "sample": sampled, "images": sampled}
    return {
        table: [
            row
            for row in dicts(connection, f"SELECT * FROM {table} ORDER BY rowid")
            if row["file_name"] not in theirs[table]
        ]
        for table in _KEPT
    }


def _ranked(connection: sqlite3.Connection, own: Iterable[Row]) -> Iterable[Row]:
    """Rows of the sample in their order, with ranks that follow the source's."""
    (last,) = connection.execute("SELECT coalesce(max(rank), 0) FROM sample").fetchone()
    ranked = sorted(own, key=lambda row: int(row["rank"] or 0))
    return [{**row, "rank": rank} for rank, row in enumerate(ranked, start=last + 1)]
