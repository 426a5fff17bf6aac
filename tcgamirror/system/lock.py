"""The lock file of the one process that writes a mirror."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import stat
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from tcgamirror.model.errors import Locked, UsageError
from tcgamirror.system.files import disk_errors, make_folder
from tcgamirror.system.mounts import NO_LOCKS, check_locks, no_locks

_BEGINS = b'{"command":'
"""First bytes of a lock's file, unless it is empty."""

_OPENED_AT_MOST = 5
"""Times that a lock's file is opened anew because its last holder removed it meanwhile."""


class Lock:
    """Keeps a second run out of a mirror for as long as the first one lives.

    path: the lock's file, made if missing and left behind. command: what the
    holder does, told to whoever is kept out. The system frees the lock when the
    process ends, however it ends. Entering raises Locked at once if another run
    holds it, DiskFull or UsageError as `disk_errors` does, and UsageError, before anything is
    made, where the file system has no locks.
    """

    def __init__(self, path: Path, command: str) -> None:
        self._path = path
        self._command = command
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
                self._handle = self._taken()
                if self._handle is not None:
                    return self
        raise Locked(f"{self._path} is removed again and again by another run; run again later")

    def _taken(self) -> int | None:
        """The lock's handle; None if the last holder has removed its file just now."""
        make_folder(self._path.parent)
        handle = self._opened()
        try:
            found = os.fstat(handle)
            if not stat.S_ISREG(found.st_mode):
                raise UsageError(f"{self._path} is no plain file, so that no run can lock it")
            if found.st_nlink > 1 and not _BEGINS.startswith(os.pread(handle, len(_BEGINS), 0)):
                # A power cut may leave nonsense in a lock, but does not give it a second name.
                raise UsageError(f"{self._path}: it is another file's second name. Remove it")
            if not _try_lock(self._path, handle):
                raise Locked(f"another run ({self._holder(handle)}) holds {self._path.parent}")
            if _is_at(self._path, handle):
                self._sign(handle)
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)
        return None

    def _opened(self) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            return os.open(self._path, flags, 0o644)
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
            raise UsageError(
                f"{self._path}: it is a link, which a lock is not written through. Remove it"
            ) from error

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._handle is not None:
            with suppress(OSError):
                os.ftruncate(self._handle, 0)
            self._drop()

    def _sign(self, handle: int) -> None:
        text = json.dumps(
            {
                "command": self._command,
                "pid": os.getpid(),
                "host": socket.gethostname(),
                "since": time.strftime("%Y-%m-%d %H:%M"),
            }
        )
        os.ftruncate(handle, 0)
        os.lseek(handle, 0, os.SEEK_SET)
        os.write(handle, text.encode() + b"\n")

    def _holder(self, handle: int) -> str:
        try:
            told = json.loads(os.read(handle, 4096))
            return f"{told['command']}, pid {told['pid']} on {told['host']}, since {told['since']}"
        except (OSError, ValueError, KeyError, TypeError):
            return "it has not said which"


def _is_at(path: Path, handle: int) -> bool:
    """Whether that file is the one at `path`."""
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(handle), path.lstat())
    return False


def _try_lock(path: Path, handle: int) -> bool:
    """Whether this process now holds the lock; False if another does. Raises UsageError."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        return _try_record_lock(path, handle)
    return True


def _try_record_lock(path: Path, handle: int) -> bool:
    """The same with POSIX locks, which Lustre without `flock` and old NFS may still have."""
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError as error:
        if error.errno in NO_LOCKS:
            raise no_locks(path.parent, error) from error
        raise
    return True
