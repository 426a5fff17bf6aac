"""What lies beside a SQLite database, read as data before SQLite acts on it.

Whoever opens a database has SQLite roll back the rollback journal beside it, or take over
the pages of its WAL. A rollback journal may name a super-journal, a file that SQLite then
deletes, wherever it is; a link in its place has SQLite write to another file. No journal of
a catalogue does either, as no transaction ever spans two databases. Source: SQLite's file
format (sqlite.org/fileformat.html, "The Rollback Journal", "The Write-Ahead Log") and `pager.c`.
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
"""Count of a journal's records that is told by its size."""

_SECOND_NAME = "another file's second name, which SQLite would write to"

_PENDING, _SHARED, _SHARED_BYTES = 0x40000000, 0x40000002, 510
"""The bytes of a database that SQLite locks. Source: `os.h`."""

_WAIT_SECONDS, _LOOK_SECONDS = 30.0, 0.02
_PIECE = 1 << 20


def check_journals(path: Path) -> None:
    """Make sure that SQLite can open the database at `path` without harm to any other file.

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
            # What this process may not read SQLite cannot use, and says so.
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
        # Whatever it holds is overwritten. To read it here would end SQLite's locks on it.
        what = _SECOND_NAME
    else:
        return
    raise Damaged(f"{journal}: it is {what}. Nothing was opened; if no run has it, move it away")


def _rollback_fault(journal: io.FileIO, path: Path) -> str | None:
    size = os.fstat(journal.fileno()).st_size
    if size and _is_of_others(journal, _MAGIC):
        return f"it is {_SECOND_NAME}"
    if size >= 16 and os.pread(journal.fileno(), 8, size - 8) == _MAGIC:
        return "it names another file, which SQLite would delete, as its super-journal"
    head = os.pread(journal.fileno(), 28, 0)
    if len(head) < 28 or not head.startswith(_MAGIC):
        # SQLite plays nothing of it back.
        return None
    count, nonce, pages, sector, page_size = struct.unpack(">5I", head[8:28])
    fault = _database_fault(path) or _size_fault(path, page_size, [pages], size)
    first = _first_page(journal, sector, page_size, count, nonce)
    if fault is None and first is not None:
        (mark,) = struct.unpack(">I", first[68:72])
        if not first.startswith(_DATABASE) or mark != APPLICATION_ID:
            return "it is of another database"
    return fault


def _is_of_others(file: io.FileIO, *begins: bytes) -> bool:
    """Return whether it is a file with a second name that does not begin as a journal does."""
    found = os.fstat(file.fileno())
    return found.st_nlink > 1 and not os.pread(file.fileno(), 8, 0).startswith(begins)


def _database_fault(path: Path) -> str | None:
    """Return what is wrong with a database of two names, into which a journal would be played."""
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
    """Return what is wrong with the pages that a journal of `size` bytes tells of.

    counts: what it says how many the database has at any time.
    """
    if page_size != _page_size(path):
        return f"it is of another database, of pages of {page_size:,} bytes"
    most = (path.stat().st_size + size) // page_size
    pages = next((count for count in counts if count > most), None)
    return None if pages is None else f"it would have the database grow to {pages:,} pages"


def _page_size(path: Path) -> int:
    """Return what the database says in its header.

    By SQLite, which reads no journal for that, because a file that is opened otherwise ends
    the locks of this process when it is closed.
    """
    address = f"{path.as_uri()}?mode=ro"
    with closing(sqlite3.connect(address, uri=True, isolation_level=None)) as connection:
        (page_size,) = connection.execute("PRAGMA page_size").fetchone()
    return int(page_size)


def _first_page(
    journal: io.FileIO, sector: int, page_size: int, count: int, nonce: int
) -> bytes | None:
    """Return what the database's first page was, where the journal's first records tell it."""
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
        page, told = data[:page_size], data[page_size:]
        summed = (nonce + sum(page[page_size - 200 : 0 : -200])) & 0xFFFFFFFF
        if told == struct.pack(">I", summed):
            return page
    return None


def _wal_fault(wal: io.FileIO, path: Path) -> str | None:
    size = os.fstat(wal.fileno()).st_size
    if size and _is_of_others(wal, *(struct.pack(">I", magic) for magic in _WAL_MAGIC)):
        return f"it is {_SECOND_NAME}"
    head = os.pread(wal.fileno(), 32, 0)
    if len(head) < 32 or struct.unpack(">I", head[:4])[0] not in _WAL_MAGIC:
        # SQLite takes nothing over from it.
        return None
    (page_size,) = struct.unpack(">I", head[8:12])
    counts = _sizes(wal, head[16:24], page_size)
    return _database_fault(path) or _size_fault(path, page_size, counts, size)


def _sizes(wal: io.FileIO, salt: bytes, page_size: int) -> Iterator[int]:
    """Yield the database's pages after each transaction in a WAL."""
    place = 32
    while len(frame := os.pread(wal.fileno(), 24, place)) == 24 and frame[8:16] == salt:
        yield struct.unpack(">I", frame[4:8])[0]
        place += 24 + page_size


# Copies ----------------------------------------------------------------------------


def copy_database(tree: Tree, name: str, folder: Path, most: int) -> Path:
    """Copy a database of somebody else's, with its journals, as it is at one moment.

    The copy is for SQLite to recover; the original is only read. Writers wait meanwhile
    as for any reader.

    Args:
        tree: where the database lies.
        folder: a directory of this process alone.
        most: bytes of the database, and of each journal.

    Raises:
        OSError: as `Tree.open` does.
        Damaged: for what is too large, and as `check_journals` does.
        Locked: if it is written all the time.
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
    """Copy all of it; whether nothing has changed meanwhile."""
    with tree.open(name) as file:
        locked = _is_locked(file.fileno())
        if locked is None:
            return False
        before = _state(tree, name, file, locked=locked)
        _copy(file, copy, most)
        # After the database: a journal holds, until its transaction ends, the pages changed.
        for suffix in (ROLLBACK, WAL):
            target = copy.with_name(copy.name + suffix)
            target.unlink(missing_ok=True)
            with suppress(FileNotFoundError), tree.open(name + suffix) as journal:
                _copy(journal, target, most)
        return _state(tree, name, file, locked=locked) == before


def _state(tree: Tree, name: str, file: io.FileIO, *, locked: bool) -> tuple[object, ...]:
    """Return what a write to the database changes, other than one to the end of its WAL.

    locked: whether no rollback journal can be of a transaction that writes to the database,
    though one may begin. A WAL is only ever added to, until its header changes. It holds
    what is written to the database meanwhile.
    """
    begun = [b"", b""]
    for place, (suffix, length) in enumerate(((ROLLBACK, 28), (WAL, 32))):
        with suppress(FileNotFoundError), tree.open(name + suffix) as journal:
            begun[place] = os.pread(journal.fileno(), length, 0)
    rollback, wal = begun
    # But for the count of records, which grows.
    journals = (b"" if locked else rollback[:8] + rollback[12:], wal)
    # Never opened a second time: closing that would end the lock of the first.
    found = tree.stat(name)
    if wal:
        return found.st_ino, *journals
    head = os.pread(file.fileno(), 100, 0)
    return found.st_ino, found.st_size, found.st_mtime_ns, head, *journals


def _copy(file: io.FileIO, target: Path, most: int) -> None:
    # Looked at first: to copy the beginning of what is too large takes long, and room.
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
