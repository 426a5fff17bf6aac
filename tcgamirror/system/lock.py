"""Lock files: of the one process that writes a mirror, or of several that share it."""

from __future__ import annotations

import fcntl
import json
import os
import stat
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, Self

from tcgamirror.model.errors import Locked, UsageError
from tcgamirror.model.text import timestamp
from tcgamirror.system.files import disk_errors, make_folder, open_regular
from tcgamirror.system.mounts import NO_LOCKS, check_locks, no_locks

_BEGINS = b'{"command":'
"""First bytes of a lock's file, unless it is empty."""

_OPENED_AT_MOST = 5
"""Number of times that a removed lock file is opened again."""


class Holder(NamedTuple):
    """The run that signed a lock. since: when it took the lock, as times in the catalogue."""

    words: str
    since: str


class Lock:
    """Lock of a mirror, held by the one run that writes, or shared by several.

    The system frees it when the process ends, however it ends. The file is made if it is
    missing, and left behind. Entering does not wait.

    Args:
        path: The lock file.
        command: The holder's command, named in the error that others get.
        shared: Others may share the lock, and none may hold it alone. Holders are not named.
        place: The directory named in the error that others get; the lock's own by default.

    Raises:
        Locked: Another run holds the lock.
        UsageError: The file system has no locks; nothing was made. Others as `disk_errors`.
    """

    def __init__(
        self, path: Path, command: str, *, shared: bool = False, place: Path | None = None
    ) -> None:
        self._path = path
        self._place = place or path.parent
        self._command = command
        self._shared = shared
        self._handle: int | None = None
        # An open file's lock lives on in a forked child, which may outlive this process.
        os.register_at_fork(after_in_child=self._drop)

    def _drop(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def __enter__(self) -> Self:
        check_locks(self._path.parent)
        with disk_errors(self._path):
            for _ in range(_OPENED_AT_MOST):
                self._handle = self._acquire()
                if self._handle is not None:
                    return self
        raise Locked(f"{self._path} is removed again and again by another run; run again later")

    def _acquire(self) -> int | None:
        """Return the lock's handle; None if its last holder has just removed the file."""
        make_folder(self._path.parent)
        if self._path.is_symlink():
            raise UsageError(f"{self._path}: a link, which is not written through. Remove it")
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
        handle = os.open(self._path, flags, 0o644)
        try:
            found = os.fstat(handle)
            if not stat.S_ISREG(found.st_mode):
                raise UsageError(f"{self._path}: not a regular file. Remove it")
            if found.st_nlink > 1 and not _BEGINS.startswith(os.pread(handle, len(_BEGINS), 0)):
                # A power cut may leave nonsense in a lock, but does not give it a second name.
                raise UsageError(f"{self._path}: it is another file's second name. Remove it")
            if not _try_lock(self._path, handle, shared=self._shared):
                words = _holder(handle).words
                raise Locked(f"another run ({words}) holds {self._place}. Wait for it to end")
            if _is_at(self._path, handle):
                try:
                    if not self._shared:
                        self._sign(handle)
                except OSError:
                    # A full disk has room for an empty file, and a refused run leaves nothing.
                    self._path.unlink()
                    raise
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)
        return None

    def __exit__(self, *_: object) -> None:
        if self._handle is not None:
            if not self._shared:
                with suppress(OSError):
                    os.ftruncate(self._handle, 0)
            self._drop()

    def _sign(self, handle: int) -> None:
        place = {"pid": os.getpid(), "host": os.uname().nodename}
        signature = {"command": self._command, **place, "since": timestamp(time.time())}
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps(signature).encode() + b"\n", 0)


def holder_of(path: Path) -> Holder | None:
    """Return who holds the lock at `path` alone; None if nobody does."""
    try:
        with open_regular(path) as file:
            # A try refuses the lock to others meanwhile. A run that ends empties the file.
            if not os.fstat(file.fileno()).st_size or _try_lock(path, file.fileno(), shared=True):
                return None
            return _holder(file.fileno())
    except OSError:
        return None


def _holder(handle: int) -> Holder:
    """Return who signed an open lock file."""
    try:
        owner = json.loads(os.read(handle, 4096))
        words = "{command}, pid {pid} on {host}, since {since}".format(**owner)
        return Holder(words, str(owner["since"]))
    except (OSError, ValueError, KeyError, TypeError):
        return Holder("unknown", "")


def _is_at(path: Path, handle: int) -> bool:
    """Return whether the open file is the one at `path`."""
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(handle), path.lstat())
    return False


def _try_lock(path: Path, handle: int, *, shared: bool = False) -> bool:
    """Lock the file and return True; False if another process holds it. Raises UsageError."""
    how = fcntl.LOCK_NB | (fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
    try:
        fcntl.flock(handle, how)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        return _try_record_lock(path, handle, how)
    return True


def _try_record_lock(path: Path, handle: int, how: int) -> bool:
    """Do the same with POSIX locks, which Lustre without `flock` and old NFS may have."""
    try:
        fcntl.lockf(handle, how)
    except (BlockingIOError, PermissionError):
        return False
    except OSError as error:
        if error.errno in NO_LOCKS:
            raise no_locks(path.parent, error) from error
        raise
    return True
