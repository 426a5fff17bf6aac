"""Run a command as on a platform without what only Linux has.

`python -m tests.support.other_platform RECORD COMMAND...`

Stands in for macOS: names that Python lacks there are removed, /proc and the system's release
file are missing, and F_FULLFSYNC is there. RECORD gets a line for each use of it.
"""

from __future__ import annotations

import builtins
import ctypes
import errno
import fcntl
import io
import os
import platform
import resource
import signal
import sys
from pathlib import Path
from typing import Any

LINUX_ONLY: tuple[tuple[object, tuple[str, ...]], ...] = (
    (errno, ("EREMOTEIO", "EUCLEAN", "EMEDIUMTYPE", "ENOKEY", "ECOMM", "EBADFD")),
    (os, ("sched_getaffinity", "sched_setaffinity", "posix_fallocate", "posix_fadvise")),
    (os, ("copy_file_range", "splice", "memfd_create", "pidfd_open", "eventfd", "getxattr")),
    (os, ("setxattr", "listxattr", "removexattr", "setns", "unshare", "getrandom", "fdatasync")),
    (os, ("O_TMPFILE", "O_PATH", "O_DIRECT", "O_LARGEFILE", "O_NOATIME", "ST_NODEV", "getresuid")),
    (fcntl, ("F_OFD_SETLK", "F_OFD_GETLK", "F_OFD_SETLKW", "F_SETPIPE_SZ", "F_ADD_SEALS")),
    (signal, ("SIGPWR", "SIGSTKFLT", "SIGPOLL", "SIGRTMIN", "SIGRTMAX", "sigtimedwait")),
    (resource, ("prlimit", "RLIMIT_MSGQUEUE", "RLIMIT_OFILE", "RUSAGE_THREAD")),
)
F_FULLFSYNC = 51
MISSING = ("/proc", "/etc/os-release", "/usr/lib/os-release")


def play(record: Path) -> None:
    """Change this process's modules to those of another platform."""
    for module, names in LINUX_ONLY:
        for name in names:
            if hasattr(module, name):
                delattr(module, name)
    real_open, real_fcntl = io.open, fcntl.fcntl

    def open_there(file: Any, *args: Any, **more: Any) -> Any:
        if isinstance(file, str | os.PathLike) and str(file).startswith(MISSING):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(file))
        return real_open(file, *args, **more)

    def fcntl_there(handle: Any, command: int, *args: Any) -> Any:
        if command == F_FULLFSYNC:
            os.fsync(handle)
            with real_open(record, "a") as file:
                file.write("full\n")
            return 0
        return real_fcntl(handle, command, *args)

    class LibraryThere(ctypes.CDLL):
        """The C library of macOS has no syncfs."""

        def __getattr__(self, name: str) -> Any:
            if name == "syncfs":
                raise AttributeError(name)
            return super().__getattr__(name)

    changes: Any = {
        io: {"open": open_there},
        builtins: {"open": open_there},
        fcntl: {"fcntl": fcntl_there, "F_FULLFSYNC": F_FULLFSYNC},
        ctypes: {"CDLL": LibraryThere},
        platform: {
            "mac_ver": lambda: ("26.1", ("", "", ""), "arm64"),
            "freedesktop_os_release": _none,
        },
    }
    for module, values in changes.items():
        for name, value in values.items():
            setattr(module, name, value)


def _none() -> dict[str, str]:
    raise OSError("no file tells the release")


if __name__ == "__main__":
    play(Path(sys.argv.pop(1)))
    from tcgamirror.__main__ import main

    main()
