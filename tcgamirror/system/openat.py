"""Safe opening of files that somebody else may be changing, beneath one directory.

A name may be swapped for a link between a check and the opening. So a file is opened first,
component by component from a handle of the directory, and checked by its handle.
"""

from __future__ import annotations

import errno
import io
import os
import stat
import weakref
from collections.abc import Iterator
from pathlib import Path

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Tree:
    """An open directory whose regular files can be read. Thread-safe.

    The handle is closed with the object. Raises OSError if there is no such directory.
    """

    def __init__(self, root: Path) -> None:
        self._handle = os.open(root, _FOLDER)
        weakref.finalize(self, os.close, self._handle)

    def open(self, path: str, *, linked_folders: bool = False) -> io.FileIO:
        """Open the regular file at `path`, relative to the directory, for reading.

        Args:
            linked_folders: Directories in the path may be links.

        Raises:
            FileNotFoundError: There is no such file.
            OSError: ELOOP for a link, ENXIO for what is not a regular file, and others.
        """
        folder, name = self._above(path, linked=linked_folders)
        try:
            handle = _opened(name, _FILE, folder)
        finally:
            os.close(folder)
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            os.close(handle)
            raise OSError(errno.ENXIO, "not a regular file", path)
        return io.FileIO(handle)

    def stat(self, path: str, *, linked_folders: bool = False) -> os.stat_result:
        """Return the status of `path`; of a link, its own. Raises as `open` does."""
        folder, name = self._above(path, linked=linked_folders)
        try:
            return os.stat(name, dir_fd=folder, follow_symlinks=False)
        finally:
            os.close(folder)

    def entries(self, path: str = "") -> Iterator[tuple[str, os.stat_result]]:
        """Yield name and status of a directory's entries, sorted; of links, their own."""
        folder = self._entered(path.split("/") if path else [])
        try:
            with os.scandir(folder) as entries:
                names = sorted(entry.name for entry in entries)
            for name in names:
                try:
                    found = os.stat(name, dir_fd=folder, follow_symlinks=False)
                except FileNotFoundError:
                    # It was removed since it was listed.
                    continue
                yield name, found
        finally:
            os.close(folder)

    def _above(self, path: str, *, linked: bool) -> tuple[int, str]:
        """Return a handle of the parent directory of `path`, and the last name."""
        *folders, name = path.split("/")
        if linked and folders:
            return os.open("/".join(folders), _FOLDER, dir_fd=self._handle), name
        return self._entered(folders), name

    def _entered(self, folders: list[str]) -> int:
        """Return a handle of a directory, reached without following any link."""
        folder = os.dup(self._handle)
        for name in folders:
            try:
                inner = _opened(name, _FOLDER | os.O_NOFOLLOW, folder)
            finally:
                os.close(folder)
            folder = inner
        return folder


def _opened(name: str, flags: int, folder: int) -> int:
    if name in ("", ".", ".."):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
    try:
        return os.open(name, flags, dir_fd=folder)
    except OSError as error:
        # Systems report a link by different errors.
        if error.errno in (errno.ENOTDIR, errno.ELOOP, errno.EMLINK) and _is_link(name, folder):
            raise OSError(errno.ELOOP, "a link, which is not followed", name) from error
        raise


def _is_link(name: str, folder: int) -> bool:
    try:
        return stat.S_ISLNK(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    except OSError:
        return False
