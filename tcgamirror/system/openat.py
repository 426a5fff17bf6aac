"""Files that somebody else may be changing, opened beneath one directory and nowhere else.

Between a look at a name and its opening the name may come to lead elsewhere. So a file
is opened first, component by component from a handle of the directory, and looked at then.
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
    """An open directory, whose plain files can be read. For any number of threads.

    The handle is closed when the object is no longer used. Raises OSError where there
    is no such directory.
    """

    def __init__(self, root: Path) -> None:
        self._handle = os.open(root, _FOLDER)
        weakref.finalize(self, os.close, self._handle)

    def open(self, path: str, *, linked_folders: bool = False) -> io.FileIO:
        """Open the plain file at `path`, relative to the directory, for reading.

        linked_folders: whether the folders in the path may be links.

        Raises:
            FileNotFoundError: if there is none.
            OSError: for a link (ELOOP), for what is not a plain file (ENXIO), and for
                whatever else the system refuses.
        """
        folder, name = self._above(path, linked=linked_folders)
        try:
            handle = _opened(name, _FILE, folder)
        finally:
            os.close(folder)
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            os.close(handle)
            raise OSError(errno.ENXIO, "not a plain file", path)
        return io.FileIO(handle)

    def stat(self, path: str, *, linked_folders: bool = False) -> os.stat_result:
        """Look at what lies at `path`, be it a link. Raises as `open` does."""
        folder, name = self._above(path, linked=linked_folders)
        try:
            return os.stat(name, dir_fd=folder, follow_symlinks=False)
        finally:
            os.close(folder)

    def entries(self, path: str = "") -> Iterator[tuple[str, os.stat_result]]:
        """Yield name and look of all that lies in a folder, by name; of links, of themselves."""
        folder = self._entered(path.split("/") if path else [])
        try:
            with os.scandir(folder) as entries:
                names = sorted(entry.name for entry in entries)
            for name in names:
                try:
                    found = os.stat(name, dir_fd=folder, follow_symlinks=False)
                except FileNotFoundError:
                    # Removed since it was listed.
                    continue
                yield name, found
        finally:
            os.close(folder)

    def _above(self, path: str, *, linked: bool) -> tuple[int, str]:
        """Return a handle of the folder in which `path` lies, and its name there."""
        *folders, name = path.split("/")
        if linked and folders:
            return os.open("/".join(folders), _FOLDER, dir_fd=self._handle), name
        return self._entered(folders), name

    def _entered(self, folders: list[str]) -> int:
        """Return a handle of a folder, reached without following any link."""
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
        # Systems differ in what they say of a link.
        if error.errno in (errno.ENOTDIR, errno.ELOOP, errno.EMLINK) and _is_link(name, folder):
            raise OSError(errno.ELOOP, "a link, which is not followed", name) from error
        raise


def _is_link(name: str, folder: int) -> bool:
    try:
        return stat.S_ISLNK(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    except OSError:
        return False
