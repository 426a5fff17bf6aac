"""Replace the rows of one mirror's catalogue by another's, in one transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from tcgamirror.catalogue.catalogue import Catalogue
from tcgamirror.catalogue.columns import TABLES
from tcgamirror.catalogue.database import Row, Value, dicts, insert
from tcgamirror.catalogue.exclusions import apply_exclusions, exclusions_of, put_exclusions
from tcgamirror.catalogue.images import PICTURE_COLUMNS, write_images
from tcgamirror.catalogue.labels import put_labels
from tcgamirror.catalogue.rows import are_different, set_upstream
from tcgamirror.model.slide import Status, Upstream
from tcgamirror.transfer.sync.plan import Arrival, Local
from tcgamirror.transfer.untrusted import UntrustedCatalogue

_OWN_TABLES = ("slides", "former_ids", "sample", "images")
"""Tables that may keep rows of slides that the source does not have, in the order to write them."""


def replace_rows(
    catalogue: Catalogue,
    source: UntrustedCatalogue,
    arrival: Arrival,
    size: Callable[[str], int | None],
) -> int:
    """Replace all rows of an open catalogue, and return how many other slides it keeps.

    Readers see all of the old rows or all of the new ones. Slides that only this catalogue has
    are ranked after the source's, and withdrawn if it does not list them. Their run history is
    dropped. The rows of images that were not received keep the image that was here.

    Args:
        size: returns the bytes of the file at a path, None if there is none.
    """
    local = Local.of(catalogue, size)
    present = {image.file_name for image in local.images if local.has_file(image)}
    keep_others, received = arrival.keep_others, arrival.received
    with catalogue.change() as connection:
        connection.execute("PRAGMA defer_foreign_keys = ON")
        own = _own_rows(connection, source) if keep_others else {}
        updates = _updates(connection, source, received, present, keep_others=keep_others)
        tissue, cases = _own_labels(connection, own)
        own_exclusions = [each for each in exclusions_of(connection) if each.own]
        for table in reversed(list(TABLES)):
            connection.execute(f"DELETE FROM {table}")
        for table, columns in TABLES.items():
            insert(connection, table, list(columns), source.rows(table))
        for table, rows in own.items():
            ranked = _ranked(connection, rows) if table == "sample" else rows
            # Both sides may record a former file_id.
            conflict = "OR IGNORE" if table == "former_ids" else ""
            insert(connection, table, list(TABLES[table]), ranked, conflict=conflict)
        put_labels(connection, tissue, cases, replace=False)
        others = [row["file_name"] for row in own.get("slides", ())]
        set_upstream(connection, others, Upstream.WITHDRAWN)
        write_images(connection, (update.row for update in updates))
        # Exclusions made here win.
        connection.execute("UPDATE exclusions SET own = 0")
        put_exclusions(connection, own_exclusions)
        apply_exclusions(connection)
        for update in updates:
            if update.upstream is not None:
                set_upstream(connection, [update.row["file_name"]], update.upstream)
    return len(own.get("sample", ())) + sum(update.is_only_here for update in updates)


class _Update(NamedTuple):
    """A row for an image that was not received, to replace the source's row.

    upstream: None to keep the source's. is_only_here: the source has no image.
    """

    row: Row
    upstream: Upstream | None
    is_only_here: bool


def _updates(
    connection: sqlite3.Connection,
    source: UntrustedCatalogue,
    received: Collection[str],
    present: Collection[str],
    *,
    keep_others: bool,
) -> list[_Update]:
    """Return rows for images that were not received, unless neither side has one."""
    sql = (
        "SELECT images.*, md5, upstream FROM images JOIN slides USING (file_name) "
        "WHERE path IS NOT NULL"
    )
    ours = {row["file_name"]: row for row in dicts(connection, sql)}
    updates = list(_unsampled_there(ours, source)) if keep_others else []
    for remote in source.sampled():
        name, has_no_image = str(remote["file_name"]), remote["path"] is None
        local = ours.get(name) if keep_others or not has_no_image else None
        is_received = name in received
        if (local is None and has_no_image) or (remote["status"] == Status.DONE and is_received):
            continue
        is_current = local is not None and not are_different(local["md5"], remote["md5"])
        is_whole = is_current and name in present
        if local is not None and local["status"] == Status.DONE and is_whole:
            if not is_received or local["path"] == remote["path"]:
                updates.append(_Update(local, Upstream.CURRENT, has_no_image))
        elif not is_received:
            image = local or dict.fromkeys(PICTURE_COLUMNS)
            status = Status.PENDING if remote["status"] == Status.DONE else remote["status"]
            picture = {column: image[column] for column in PICTURE_COLUMNS}
            is_changed = local is not None and (
                not is_current or local["upstream"] == Upstream.CHANGED
            )
            upstream = Upstream.CHANGED if is_changed else None
            updates.append(_Update({**remote, **picture, "status": status}, upstream, has_no_image))
    return updates


def _unsampled_there(ours: Mapping[Value, Row], source: UntrustedCatalogue) -> Iterator[_Update]:
    """Yield rows for our images of slides that the source lists and has not sampled."""
    sampled = source.names("sample")
    for slide in source.rows("slides"):
        local = ours.get(slide["file_name"])
        if local is None or slide["file_name"] in sampled:
            continue
        is_done = local["status"] == Status.DONE
        if are_different(local["md5"], slide["md5"]):
            row = {**local, "status": Status.PENDING} if is_done else local
            yield _Update(row, Upstream.CHANGED, is_only_here=False)
        elif is_done:
            yield _Update(local, Upstream.CURRENT, is_only_here=False)


def _own_rows(
    connection: sqlite3.Connection, source: UntrustedCatalogue
) -> Mapping[str, Sequence[Row]]:
    """Return our rows, by table, of slides that the source has not sampled, or not listed."""
    sampled = source.names("sample")
    listed = source.names("slides")
    excluded = {"slides": listed, "former_ids": set(), "sample": sampled, "images": sampled}
    return {
        table: [
            row
            for row in dicts(connection, f"SELECT * FROM {table} ORDER BY rowid")
            if row["file_name"] not in excluded[table]
        ]
        for table in _OWN_TABLES
    }


def _own_labels(
    connection: sqlite3.Connection, own: Mapping[str, Sequence[Row]]
) -> tuple[Sequence[Row], Sequence[Row]]:
    """Return our rows of `tissue` and `cases` of these slides."""
    names = {row["file_name"] for table in ("slides", "sample") for row in own.get(table, ())}
    of_cases = "SELECT cases.*, file_name FROM slides JOIN cases USING (case_barcode)"
    tissue, cases = (
        [row for row in dicts(connection, sql) if row["file_name"] in names]
        for sql in ("SELECT * FROM tissue", of_cases)
    )
    return tissue, cases


def _ranked(connection: sqlite3.Connection, rows: Iterable[Row]) -> Iterable[Row]:
    """Return rows of the sample in their order, with ranks that follow the source's."""
    (last,) = connection.execute("SELECT coalesce(max(rank), 0) FROM sample").fetchone()
    ordered = sorted(rows, key=lambda row: int(row["rank"] or 0))
    return [{**row, "rank": rank} for rank, row in enumerate(ordered, start=last + 1)]
