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
_WAL_MAGICS = (bytes.fromhex("377f0682"), bytes.fromhex("377f0683"))
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
    tree = Tree(path.parent)
    for suffix in JOURNALS:
        try:
            fault = _fault(tree, path, suffix)
        except (FileNotFoundError, PermissionError):
            # SQLite reports a journal that this process may not read.
            continue
        except OSError as error:
            fault = f"it cannot be read ({error.strerror})"
        if fault is not None:
            raise Damaged(
                f"{path}{suffix}: {fault}. Nothing was opened; if no run of yours left it, "
                "move it away"
            )


def _fault(tree: Tree, path: Path, suffix: str) -> str | None:
    name = path.name + suffix
    found = tree.stat(name)
    if stat.S_ISLNK(found.st_mode):
        return "it is a link"
    if not stat.S_ISREG(found.st_mode):
        return "it is not a plain file"
    if suffix == SHARED_MEMORY:
        # Closing it after a read here would end SQLite's locks on it.
        return f"it is {_SECOND_NAME}" if found.st_nlink > 1 else None
    with tree.open(name) as journal:
        handle = journal.fileno()
        found, head = os.fstat(handle), os.pread(handle, 28, 0)
        is_journal = head.startswith(_MAGIC if suffix == ROLLBACK else _WAL_MAGICS)
        if found.st_size and found.st_nlink > 1 and not is_journal:
            return f"it is {_SECOND_NAME}"
        if suffix == ROLLBACK and found.st_size >= 16:
            if os.pread(handle, 8, found.st_size - 8) == _MAGIC:
                return "it names another file, which SQLite would delete, as its super-journal"
            if is_journal and _is_foreign(handle, found.st_size, head):
                return "it is of another database"
    # SQLite ignores what does not begin as a journal does.
    return _database_fault(path) if is_journal else None


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


def _is_foreign(handle: int, size: int, head: bytes) -> bool:
    """Return whether a rollback journal has the first page of another program's database."""
    nonce, _, sector, page_size = struct.unpack(">4I", head[12:28])
    if not 512 <= page_size <= 65536 or not 32 <= sector <= 65536:
        return False
    for place in range(sector, size, page_size + 8):
        number = os.pread(handle, 4, place)
        if number == bytes(4):
            # SQLite reads no further, and a sparse file may go on for terabytes.
            return False
        if number != b"\0\0\0\1":
            continue
        data = os.pread(handle, page_size + 4, place + 4)
        page, checksum = data[:page_size], data[page_size:]
        # SQLite restores no page whose checksum is wrong.
        if checksum == struct.pack(">I", (nonce + sum(page[-200:0:-200])) & 0xFFFFFFFF):
            mark = page[68:72]
            return not page.startswith(_DATABASE) or mark != struct.pack(">I", APPLICATION_ID)
    return False


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
    """Copy a database and its journals; return whether all are of one state."""
    with tree.open(name) as file:
        if not _lock(file.fileno()):
            return False
        before = _state(tree, name, file)
        _copy(file, copy, most)
        # After the database: a journal holds the changed pages until its transaction ends.
        for suffix in (ROLLBACK, WAL):
            target = copy.with_name(copy.name + suffix)
            target.unlink(missing_ok=True)
            with suppress(FileNotFoundError), tree.open(name + suffix) as journal:
                _copy(journal, target, most)
        return _state(tree, name, file) == before


def _state(tree: Tree, name: str, file: io.FileIO) -> tuple[object, ...]:
    """Return what a write to the database changes, unless it only appends to the WAL.

    A WAL is only appended to until its header changes, and holds what is written meanwhile.
    """
    found = tree.stat(name)
    with suppress(FileNotFoundError), tree.open(name + WAL) as wal:
        if header := os.pread(wal.fileno(), 32, 0):
            return found.st_ino, header
    # The file is not opened again: closing it would end the lock.
    return found.st_ino, found.st_size, found.st_mtime_ns, os.pread(file.fileno(), 100, 0)


def check_size(size: int, most: int) -> None:
    """Raise Damaged for a catalogue of more than `most` bytes."""
    if size > most:
        raise Damaged(f"the catalogue has more than {most:,} bytes, as no catalogue has")


def _copy(file: io.FileIO, target: Path, most: int) -> None:
    # Copying a part of a file that is too large takes time and space.
    check_size(os.fstat(file.fileno()).st_size, most)
    with disk_errors(target), target.open("wb") as out:
        while piece := _piece(file):
            out.write(piece)
            check_size(out.tell(), most)


def _piece(file: io.FileIO) -> bytes:
    try:
        return file.read(_PIECE)
    except OSError as error:
        raise Damaged(f"the catalogue cannot be read ({error.strerror})") from error


def _lock(handle: int) -> bool:
    """Take SQLite's shared lock, which ends with the handle, where there are locks.

    Return whether no writer has the database.
    """
    try:
        fcntl.lockf(handle, fcntl.LOCK_SH | fcntl.LOCK_NB, 1, _PENDING)
        fcntl.lockf(handle, fcntl.LOCK_SH | fcntl.LOCK_NB, _SHARED_BYTES, _SHARED)
        fcntl.lockf(handle, fcntl.LOCK_UN, 1, _PENDING)
    except (BlockingIOError, PermissionError):
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
    return True
