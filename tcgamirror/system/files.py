"""Files that survive a kill: atomic writes, digests, the lock, room on the disk."""

from __future__ import annotations

import errno
import filecmp
import hashlib
import os
import shutil
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO, Literal

from tcgamirror.model.errors import Damaged, DiskFull, UsageError

PIECE = 1 << 17
"""Bytes read at once: so few that they are in the processor's cache still when they are used."""

YOUNG = 2.0
"""Seconds within which a file may change twice and keep its time, as file systems tell it."""

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})

FORBIDDEN = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})
"""The place is there, but may not be written."""

_IN_THE_WAY = frozenset(
    {errno.ENOENT, errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ELOOP}
    | {errno.ENAMETOOLONG, errno.ENODEV, errno.ENXIO, errno.ENOTEMPTY, errno.EBUSY}
)
"""A folder is no folder, or gone: in general a disk that is not mounted."""

_NO_PATH = frozenset({errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP})
"""Whatever the disks hold, there can be no such file."""

_BROKEN = frozenset({errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.EREMOTEIO, errno.EUCLEAN})
"""The disk, or the way to it, fails."""


def partial_path(path: Path) -> Path:
    """Return the path of a file while it is written, beside the whole one.

    >>> partial_path(Path("images/TCGA-OV/a.png")).as_posix()
    'images/TCGA-OV/.a.png.part'
    """
    return path.with_name(f".{path.name}.part")


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """A file to write that takes the place of `path` when the block ends well.

    Until then it lies beside it as `.{name}.part`. If the block raises, it is
    removed and the old file stays as it was. Folders missing above are made.
    A crash at any instant leaves either the old file or the whole new one.
    Raises DiskFull or UsageError as `disk_errors` does.
    """
    part = partial_path(path)
    with disk_errors(path):
        make_folder(path.parent)
        # What a killed run left, or anybody else: a pipe would be waited for, a link followed.
        part.unlink(missing_ok=True)
        try:
            with part.open("xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        except BaseException:
            with suppress(OSError):
                part.unlink()
            raise
        sync_folder(path.parent)


def differs(path: Path, file: BinaryIO) -> bool:
    """Whether something lies at `path` that is not byte for byte what was written to `file`."""
    file.flush()
    return os.path.lexists(path) and not filecmp.cmp(path, file.name, shallow=False)


def check_writable(folder: Path) -> None:
    """Makes the folder if it is not there, and writes in it what leaves no trace.

    Raises as `disk_errors` does.
    """
    with disk_errors(folder):
        make_folder(folder)
        with tempfile.TemporaryFile(dir=folder):
            pass


def open_regular(path: Path) -> BufferedReader:
    """Open a regular file for reading. Raises OSError for anything else, and waits for no pipe."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    mode = os.fstat(handle).st_mode
    if stat.S_ISREG(mode):
        return os.fdopen(handle, "rb")
    os.close(handle)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    raise OSError(errno.EINVAL, "it is no plain file", str(path))


def make_folder(path: Path) -> None:
    """Makes a folder and those missing above it, so that they outlast a power cut."""
    if path.is_dir():
        return
    make_folder(path.parent)
    path.mkdir(exist_ok=True)
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Has the folder's entries reach the disk, where the system can say so."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    except OSError as error:
        # Some network file systems know no fsync of a folder; they rename in order anyway.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(folder)


def sync_disk(path: Path) -> None:
    """Has all that was written to the file system `path` lies on reach the disk.

    One wait for all of it is far shorter than one for each file. Raises OSError
    where some of it cannot get there, as far as the system tells.
    """
    # Only now: few commands write so much.
    import ctypes

    syncfs = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
    if syncfs is None:
        # Not on a Mac: there it is asked of all disks, and their failures are not told.
        os.sync()
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        if syncfs(handle):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(path))
    finally:
        os.close(handle)


class Reader(threading.local):
    """Reads open files, each thread into memory of its own that is had once."""

    def __init__(self) -> None:
        self._memory = memoryview(bytearray(PIECE))

    def pieces(self, handle: int) -> Iterator[memoryview]:
        """What is left to read; each piece is valid until the next one."""
        while count := os.readv(handle, (self._memory,)):
            yield self._memory[:count]


def file_digest(
    path: Path,
    algorithm: Literal["md5", "sha256"],
    on_bytes: Callable[[int], None] | None = None,
) -> str:
    """The file's digest in hex. on_bytes: called with the bytes of each piece read."""
    taken = hashlib.new(algorithm, usedforsecurity=False)
    with path.open("rb", buffering=0) as file:
        while piece := file.read(PIECE):
            taken.update(piece)
            if on_bytes is not None:
                on_bytes(len(piece))
    return taken.hexdigest()


def free_bytes(path: Path) -> int:
    """Bytes that may still be written where `path` lies or would lie."""
    place = path.absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turns the system's refusals to write at `path` into errors that name it.

    Raises DiskFull for a full disk, a full quota or a file too large for the file
    system, UsageError where the place is read-only, not permitted or not there at
    all, and Damaged where the disk fails. Where the system names a file, the
    sentence does too; else it names `path`.
    """
    try:
        yield
    except OSError as error:
        # Of a file that cannot take another's place, that place.
        place = error.filename2 or error.filename
        place = place if isinstance(place, str) else path
        if error.errno in _FULL:
            raise DiskFull(
                f"no room to write {place} ({error.strerror}; {_free(path)}): "
                "free some, or move the mirror to a larger disk"
            ) from error
        if error.errno in FORBIDDEN:
            raise _forbidden(place, error) from error
        if error.errno in _IN_THE_WAY:
            raise UsageError(
                f"nothing can be written at {place} ({error.strerror}): mount the disk it lies "
                "on, or remove what is in its way"
            ) from error
        if error.errno in _BROKEN:
            raise Damaged(
                f"the disk fails at {place} ({error.strerror}): look at the system's log, and "
                "run again when it is mended"
            ) from error
        raise


def path_error(error: OSError) -> UsageError | None:
    """What to tell of a path that the system lets nobody look at or into.

    None for any other error, and where the system names no file.
    """
    if not isinstance(error.filename, str):
        if isinstance(error, FileNotFoundError) and not _here_is():
            return UsageError("the directory this runs in was removed: change to another")
        return None
    if error.errno in FORBIDDEN:
        return _forbidden(error.filename, error)
    if error.errno in _NO_PATH:
        return UsageError(f"{error.filename} leads nowhere ({error.strerror}): name another path")
    return None


def _here_is() -> bool:
    """Whether the current directory is there; any relative path leads nowhere if not."""
    try:
        return bool(Path.cwd())
    except FileNotFoundError:
        return False


def _forbidden(place: Path | str, error: OSError) -> UsageError:
    return UsageError(
        f"the system refuses access to {place} ({error.strerror}): "
        "change its permissions or name another place"
    )


def _free(path: Path) -> str:
    try:
        return f"{free_bytes(path):,} bytes free"
    except OSError:
        return "free bytes unknown"
