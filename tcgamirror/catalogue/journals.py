"""Journals beside a SQLite database, checked as data before SQLite acts on them.

When SQLite opens a database, it rolls back the rollback journal beside it, or reads the
pages of its write-ahead log (WAL). A rollback journal may name a super-journal, which is a
file anywhere that SQLite then deletes. A link in a journal's place has SQLite write to
another file. A catalogue's journal does neither, since no transaction spans two databases.
Source: SQLite's file format (sqlite.org/fileformat.html, "The Rollback Journal", "The
Write-Ahead Log") and `pager.c`.
"""

from __future__ import annotations

import fcntl
import io
import os
import sqlite3
import stat
import struct
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from pathlib import Path

from tcgamirror.catalogue.schema import APPLICATION_ID
from tcgamirror.model.errors import Damaged, Locked
from tcgamirror.system.files import disk_errors
from tcgamirror.system.mounts import NO_LOCKS
from tcgamirror.system.openat import Tree

ROLLBACK, WAL, SHARED_MEMORY = "-journal", "-wal", "-shm"
JOURNALS = (ROLLBACK, WAL, SHARED_MEMORY)

_DATABASE = b"SQLite format 3\0"
_MAGIC = bytes.fromhex("d9d505f920a163d7")
_WAL_MAGIC = (0x377F0682, 0x377F0683)
_UNKNOWN = 0xFFFFFFFF
"""Count of records in a journal's header that leaves the count to the journal's size."""

_SECOND_NAME = "another file's second name, which SQLite would write to"

_PENDING, _SHARED, _SHARED_BYTES = 0x40000000, 0x40000002, 510
"""Offsets and count of the bytes of a database that SQLite locks. Source: `os.h`."""

_WAIT_SECONDS, _LOOK_SECONDS = 30.0, 0.02
_PIECE = 1 << 20


def check_journals(path: Path) -> None:
    """Check that SQLite can open the database at `path` without harm to any other file.

    Raises:
        Damaged: for a journal that is a link, names another file or is another database's.
    """
    # SQLite puts journals beside what a link leads to.
    path = Path(os.path.realpath(path))
    if not path.is_file():
        return
    for suffix in JOURNALS:
        _check_plain(path.with_name(path.name + suffix))
    tree = Tree(path.parent)
    for suffix, fault_of in ((ROLLBACK, _rollback_fault), (WAL, _wal_fault)):
        name = path.name + suffix
        try:
            with tree.open(name) as journal:
                what = fault_of(journal, path)
        except (FileNotFoundError, PermissionError):
            # SQLite reports a journal that this process may not read.
            continue
        except OSError as error:
            what = f"it cannot be read ({error.strerror})"
        if what is not None:
            raise Damaged(
                f"{path.with_name(name)}: {what}. Nothing was opened; if no run of yours left it, "
                "move it away"
            )


def _check_plain(journal: Path) -> None:
    try:
        found = journal.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISREG(found.st_mode):
        what = "a link" if stat.S_ISLNK(found.st_mode) else "not a plain file"
    elif found.st_nlink > 1 and journal.name.endswith(SHARED_MEMORY):
        # SQLite overwrites it. Closing it after a read here would end SQLite's locks on it.
        what = _SECOND_NAME
    else:
        return
    raise Damaged(f"{journal}: it is {what}. Nothing was opened; if no run has it, move it away")


def _rollback_fault(journal: io.FileIO, path: Path) -> str | None:
    size = os.fstat(journal.fileno()).st_size
    if size and _is_other_file(journal, _MAGIC):
        return f"it is {_SECOND_NAME}"
    if size >= 16 and os.pread(journal.fileno(), 8, size - 8) == _MAGIC:
        return "it names another file, which SQLite would delete, as its super-journal"
    head = os.pread(journal.fileno(), 28, 0)
    if len(head) < 28 or not head.startswith(_MAGIC):
        # SQLite ignores it.
        return None
    count, nonce, pages, sector, page_size = struct.unpack(">5I", head[8:28])
    fault = _database_fault(path) or _size_fault(path, page_size, [pages], size)
    first = _first_page(journal, sector, page_size, count, nonce)
    if fault is None and first is not None:
        (mark,) = struct.unpack(">I", first[68:72])
        if not first.startswith(_DATABASE) or mark != APPLICATION_ID:
            return "it is of another database"
    return fault


def _is_other_file(file: io.FileIO, *begins: bytes) -> bool:
    """Return whether a file has a second name and does not begin as a journal does."""
    found = os.fstat(file.fileno())
    return found.st_nlink > 1 and not os.pread(file.fileno(), 8, 0).startswith(begins)


def _database_fault(path: Path) -> str | None:
    """Return the fault of a database with a second name, which a journal would be written to."""
    if path.stat().st_nlink == 1:
        return None
    address = f"{path.as_uri()}?mode=ro&immutable=1"
    try:
        with closing(sqlite3.connect(address, uri=True, isolation_level=None)) as connection:
            (mark,) = connection.execute("PRAGMA application_id").fetchone()
    except sqlite3.Error:
        mark = None
    return None if mark == APPLICATION_ID else f"{path.name} is {_SECOND_NAME}"


def _size_fault(path: Path, page_size: int, counts: Iterable[int], size: int) -> str | None:
    """Return the fault of the page counts of a journal of `size` bytes.

    Args:
        counts: pages of the database, by the journal, at any time.
    """
    if page_size != _page_size(path):
        return f"it is of another database, of pages of {page_size:,} bytes"
    most = (path.stat().st_size + size) // page_size
    pages = next((count for count in counts if count > most), None)
    return None if pages is None else f"it would have the database grow to {pages:,} pages"


def _page_size(path: Path) -> int:
    """Return the page size in the database's header.

    SQLite reads it, and no journal for it. A file opened otherwise would end this process's
    locks when it is closed.
    """
    address = f"{path.as_uri()}?mode=ro"
    with closing(sqlite3.connect(address, uri=True, isolation_level=None)) as connection:
        (page_size,) = connection.execute("PRAGMA page_size").fetchone()
    return int(page_size)


def _first_page(
    journal: io.FileIO, sector: int, page_size: int, count: int, nonce: int
) -> bytes | None:
    """Return the database's first page as the journal holds it; None if it does not."""
    if not 512 <= page_size <= 65536 or not 32 <= sector <= 65536:
        return None
    size = os.fstat(journal.fileno()).st_size
    record = page_size + 8
    there = (size - sector) // record
    for number in range(there if count == _UNKNOWN else min(count, there)):
        place = sector + number * record
        if os.pread(journal.fileno(), 4, place) != b"\0\0\0\1":
            continue
        data = os.pread(journal.fileno(), page_size + 4, place + 4)
        page, checksum = data[:page_size], data[page_size:]
        summed = (nonce + sum(page[page_size - 200 : 0 : -200])) & 0xFFFFFFFF
        if checksum == struct.pack(">I", summed):
            return page
    return None


def _wal_fault(wal: io.FileIO, path: Path) -> str | None:
    size = os.fstat(wal.fileno()).st_size
    if size and _is_other_file(wal, *(struct.pack(">I", magic) for magic in _WAL_MAGIC)):
        return f"it is {_SECOND_NAME}"
    head = os.pread(wal.fileno(), 32, 0)
    if len(head) < 32 or struct.unpack(">I", head[:4])[0] not in _WAL_MAGIC:
        # SQLite ignores it.
        return None
    (page_size,) = struct.unpack(">I", head[8:12])
    counts = _page_counts(wal, head[16:24], page_size)
    return _database_fault(path) or _size_fault(path, page_size, counts, size)


def _page_counts(wal: io.FileIO, salt: bytes, page_size: int) -> Iterator[int]:
    """Yield the database's page count after each transaction in a WAL."""
    place = 32
    while len(frame := os.pread(wal.fileno(), 24, place)) == 24 and frame[8:16] == salt:
        yield struct.unpack(">I", frame[4:8])[0]
        place += 24 + page_size


def copy_database(tree: Tree, name: str, folder: Path, most: int) -> Path:
    """Copy another user's database with its journals, in one state.

    SQLite recovers the copy, and the original is only read. Writers wait meanwhile, as for
    any reader.

    Args:
        tree: where the database lies.
        folder: a private directory of this process.
        most: bytes of the database, and of each journal.

    Raises:
        OSError: as `Tree.open` does.
        Damaged: if it is too large, and as `check_journals` does.
        Locked: if another process keeps writing it.
        DiskFull: if the folder has no room for it.
    """
    copy = folder / "copied.db"
    end = time.monotonic() + _WAIT_SECONDS
    while not _is_copied(tree, name, copy, most):
        if time.monotonic() > end:
            raise Locked(f"{name} is being written all the time: run again later")
        time.sleep(_LOOK_SECONDS)
    check_journals(copy)
    return copy


def _is_copied(tree: Tree, name: str, copy: Path, most: int) -> bool:
    """Copy a database and its journals; return whether neither changed meanwhile."""
    with tree.open(name) as file:
        locked = _is_locked(file.fileno())
        if locked is None:
            return False
        before = _state(tree, name, file, locked=locked)
        _copy(file, copy, most)
        # After the database: a journal holds the changed pages until its transaction ends.
        for suffix in (ROLLBACK, WAL):
            target = copy.with_name(copy.name + suffix)
            target.unlink(missing_ok=True)
            with suppress(FileNotFoundError), tree.open(name + suffix) as journal:
                _copy(journal, target, most)
        return _state(tree, name, file, locked=locked) == before


def _state(tree: Tree, name: str, file: io.FileIO, *, locked: bool) -> tuple[object, ...]:
    """Return what a write to the database changes, unless it only appends to the WAL.

    A WAL is only appended to until its header changes, and holds what is written meanwhile.

    Args:
        locked: whether a transaction may begin, and write its rollback journal, but cannot
            write to the database.
    """
    heads = [b"", b""]
    for place, (suffix, length) in enumerate(((ROLLBACK, 28), (WAL, 32))):
        with suppress(FileNotFoundError), tree.open(name + suffix) as journal:
            heads[place] = os.pread(journal.fileno(), length, 0)
    rollback, wal = heads
    # Without the count of records, which grows.
    journals = (b"" if locked else rollback[:8] + rollback[12:], wal)
    # The file is not opened again: closing it would end the lock.
    found = tree.stat(name)
    if wal:
        return found.st_ino, *journals
    head = os.pread(file.fileno(), 100, 0)
    return found.st_ino, found.st_size, found.st_mtime_ns, head, *journals


def _copy(file: io.FileIO, target: Path, most: int) -> None:
    # The size is checked first: copying part of a file that is too large takes time and space.
    size = os.fstat(file.fileno()).st_size
    with disk_errors(target), target.open("wb") as out:
        while size <= most and (piece := _piece(file)):
            out.write(piece)
            size = max(size, out.tell())
    if size > most:
        raise Damaged(f"the catalogue has more than {most:,} bytes, as no catalogue has")


def _piece(file: io.FileIO) -> bytes:
    try:
        return file.read(_PIECE)
    except OSError as error:
        raise Damaged(f"the catalogue cannot be read ({error.strerror})") from error


def _is_locked(handle: int) -> bool | None:
    """Take SQLite's shared lock, which ends with the handle.

    Return None while a writer has the database, and False where there are no locks.
    """
    try:
        fcntl.lockf(handle, fcntl.LOCK_SH | fcntl.LOCK_NB, 1, _PENDING)
        fcntl.lockf(handle, fcntl.LOCK_SH | fcntl.LOCK_NB, _SHARED_BYTES, _SHARED)
        fcntl.lockf(handle, fcntl.LOCK_UN, 1, _PENDING)
    except (BlockingIOError, PermissionError):
        return None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        return False
    return True
