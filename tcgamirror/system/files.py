"""Files on the disk: atomic writes, forced writes, digests, free space and errors."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import resource
import stat
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from io import BufferedRandom, BufferedReader, BytesIO, FileIO
from pathlib import Path
from typing import BinaryIO, Literal

from tcgamirror.model.errors import (
    Bug,
    Damaged,
    DiskFull,
    ExitCode,
    Interrupted,
    TcgaMirrorError,
    UsageError,
    lack_of_memory,
)
from tcgamirror.system import mounts

PIECE = 1 << 17
"""Bytes read at once; they fit in the processor's cache."""

_SYNCED_AT_ONCE = 8
"""Files forced to the disk at the same time, each by its own thread."""

_ABANDONED = 3600.0
"""Seconds after the last write from which a partial file counts as left by a killed run."""

YOUNG = 2.0
"""Seconds within which a file may change twice and keep its modification time."""

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""Errors of a full disk or quota, or of a file too large for the file system."""

FORBIDDEN = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})
"""Errors of a path that may not be read or written."""

_IN_THE_WAY = frozenset(
    {errno.ENOENT, errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ELOOP}
    | {errno.ENAMETOOLONG, errno.ENODEV, errno.ENXIO, errno.ENOTEMPTY, errno.EBUSY}
)
"""Errors of a path with something missing or in the way, mostly because no disk is mounted."""

_NO_PATH = frozenset({errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP})
"""Errors of a path that no file can have."""

_BROKEN = frozenset(
    getattr(errno, name, errno.EIO)
    for name in ("EIO", "ESTALE", "ENOTCONN", "EREMOTEIO", "EUCLEAN")
)
"""Errors of a failing disk, or of the connection to it. macOS lacks the last two names."""


def open_file_limit() -> int:
    """Return how many files this process may hold open at a time."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft


def partial_path(path: str) -> str:
    """Return the path under which a file is written before it is renamed to `path`.

    >>> partial_path("images/TCGA-OV/a.png")
    'images/TCGA-OV/.a.png.part'
    """
    folder, slash, name = path.rpartition("/")
    return f"{folder}{slash}.{name}.part"


@contextmanager
def atomic_write(
    path: Path, scratch: Path | None = None, *, shared: bool = False
) -> Iterator[BinaryIO]:
    """Write a file that replaces `path` when the block ends without an error.

    The bytes go to a partial file beside it, which is forced to the disk and then renamed. A crash
    at any instant leaves either the old file or the whole new one. Missing directories are made.
    Raises as `disk_errors` does.

    Args:
        scratch: Directory of the partial file, on the same disk.
        shared: Other processes may write the file at the same time; the last one replaces it.
            Partial files of killed processes are removed an hour later.
    """
    # Of two processes with one partial file, the first would rename what the second still writes.
    # Their numbers may be equal, in two containers or on two machines.
    name = f"{path.name}.{os.urandom(4).hex()}" if shared else path.name
    part = Path(partial_path(str((scratch or path.parent) / name)))
    with disk_errors(path):
        make_folder(path.parent)
        # A killed run may have left a part there, and "x" below refuses whatever exists.
        part.unlink(missing_ok=True)
        if shared:
            _remove_abandoned(part.parent, path.name)
        try:
            with part.open("xb") as file:
                yield file
                file.flush()
                sync(file.fileno())
            part.replace(path)
        except BaseException:
            with suppress(OSError):
                part.unlink()
            raise
        sync_folder(path.parent)


def _remove_abandoned(folder: Path, name: str) -> None:
    """Remove the partial files that killed writers of a shared file have left."""
    from glob import escape

    for part in folder.glob(partial_path(f"{escape(name)}.{'[0-9a-f]' * 8}")):
        with suppress(OSError):
            if part.lstat().st_mtime < time.time() - _ABANDONED:
                part.unlink()


def differs(path: Path, file: BinaryIO) -> bool:
    """Return whether `path` exists with other bytes than those written to `file`, a named file."""
    # Imported late, as other modules here, because commands that only read need none of them.
    import filecmp

    file.flush()
    return os.path.lexists(path) and not filecmp.cmp(path, file.name, shallow=False)


def check_writable(folder: Path) -> None:
    """Make the directory if it is missing, and write a nameless file in it.

    Raises as `disk_errors` does.
    """
    import tempfile

    with disk_errors(folder):
        make_folder(folder)
        with tempfile.TemporaryFile(dir=folder):
            pass


def open_regular(path: str | Path) -> BufferedReader:
    """Open a regular file for reading. Raises OSError for anything else; a pipe does not block."""
    return BufferedReader(open_unbuffered(path))


def open_unbuffered(path: str | Path) -> FileIO:
    """Open a file as `open_regular` does, to read it in large pieces."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    mode = os.fstat(handle).st_mode
    if stat.S_ISREG(mode):
        return FileIO(handle)
    os.close(handle)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    raise OSError(errno.EINVAL, "not a regular file", str(path))


def make_folder(path: Path) -> None:
    """Make a directory and its parents, and fsync each parent."""
    if path.is_dir():
        return
    make_folder(path.parent)
    path.mkdir(exist_ok=True)
    sync_folder(path.parent)


def sync(handle: int) -> None:
    """Force an open file or directory to the disk.

    On macOS, fsync leaves the bytes in the disk's own cache, which F_FULLFSYNC flushes. Network
    file systems may lack F_FULLFSYNC.
    """
    full = getattr(fcntl, "F_FULLFSYNC", None)
    if full is not None:
        with suppress(OSError):
            fcntl.fcntl(handle, full)
            return
    os.fsync(handle)


def sync_folder(path: Path) -> None:
    """Force a directory, or a file, to the disk, where the file system supports it."""
    try:
        folder = os.open(path, os.O_RDONLY)
    except PermissionError:
        # A directory that may be written and not read cannot be opened. All disks are flushed.
        os.sync()
        return
    try:
        sync(folder)
    except OSError as error:
        # Some network file systems have no fsync of a directory; they rename in order anyway.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(folder)


def sync_paths(paths: Iterable[str]) -> None:
    """Force files and directories to the disk: by `sync_disk` if it can, else one by one.

    paths: those of directories end with a slash.

    Raises OSError where the system reports a failure.
    """
    from tcgamirror.system.parallel import for_each

    by_folder: dict[str, list[str]] = defaultdict(list)
    by_device: dict[int, list[str]] = defaultdict(list)
    for path in paths:
        by_folder[path.rpartition("/")[0]].append(path)
    for folder, within in by_folder.items():
        by_device[Path(folder).stat().st_dev] += within
    for same in by_device.values():
        if _reports_failed_sync(first := Path(same[0])):
            sync_disk(first)
        else:
            for_each(sync_folder, map(Path, same), _SYNCED_AT_ONCE, "sync")


def _reports_failed_sync(path: Path) -> bool:
    """Return whether `sync_disk` flushes the file system of `path`, and reports a failure.

    Before Linux 5.8 a disk that took no bytes passed for a flushed one (syncfs(2)).
    """
    version = [int(number) for number in re.findall(r"\d+", os.uname().release)[:2]]
    return version >= [5, 8] and mounts.is_local(path)


def sync_disk(path: Path) -> None:
    """Flush the file system of `path` to the disk, which is faster than an fsync of each file.

    Raises OSError where the system reports a failure.
    """
    import ctypes

    syncfs = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
    if syncfs is None:
        # macOS has only sync(), which reports no failure.
        os.sync()
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        if syncfs(handle):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(path))
    finally:
        os.close(handle)


def file_digest(
    path: Path, algorithm: Literal["md5", "sha256"], on_bytes: Callable[[int], None] | None = None
) -> str:
    """Return the digest of the file at `path`, as `open_file_digest`."""
    with path.open("rb", buffering=0) as file:
        return open_file_digest(file, algorithm, on_bytes)


def open_file_digest(
    file: FileIO | BufferedReader | BufferedRandom | BytesIO,
    algorithm: Literal["md5", "sha256"],
    on_bytes: Callable[[int], None] | None = None,
) -> str:
    """Return the digest, in hex, of an open file from its position to its end.

    Args:
        on_bytes: Called with the size of each piece that was read.
    """
    import hashlib

    digest = hashlib.new(algorithm, usedforsecurity=False)
    memory = memoryview(bytearray(PIECE))
    while count := file.readinto(memory):
        digest.update(memory[:count])
        if on_bytes is not None:
            on_bytes(count)
    return digest.hexdigest()


def free_bytes(path: Path) -> int:
    """Return the free bytes of the file system on which `path` lies or would lie."""
    place = path.absolute()
    while not place.exists():
        place = place.parent
    status = os.statvfs(place)
    return status.f_bavail * status.f_frsize


def check_room(path: Path, size: int) -> None:
    """Raise DiskFull if images with a total of `size` bytes do not fit at `path`."""
    free = free_bytes(path)
    if size > free:
        raise DiskFull(
            f"{path}: {free:,} bytes free, the images need {size:,}. Free some, or name a "
            "larger disk"
        )


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Raise errors of this program in place of an OSError. They name its file, or else `path`.

    Raises:
        DiskFull: The disk or quota is full, or the file is too large for the file system.
        UsageError: The path is read-only, forbidden or missing, or something is in its way. Or
            too many files are open.
        Damaged: The disk fails.
        OSError: Any other error, unchanged.
    """
    try:
        yield
    except OSError as error:
        # A failed rename names two files; the second is the target.
        place = error.filename2 or error.filename
        # For a file opened by its directory's handle, the system leaves out the directory.
        place = path if not isinstance(place, str) or place == path.name else place
        if error.errno in _FULL:
            raise _no_room(place, error, f"; {_free(path)}") from error
        if error.errno in FORBIDDEN:
            raise _forbidden(place, error) from error
        if error.errno in _IN_THE_WAY:
            raise UsageError(
                f"nothing can be written at {place} ({error.strerror}): mount the disk it lies "
                "on, or remove what is in its way"
            ) from error
        if error.errno in (errno.EMFILE, errno.ENFILE):
            is_own = error.errno == errno.EMFILE
            remedy = "Allow more by ulimit -n" if is_own else "Close other programs"
            raise UsageError(f"{place}: {error.strerror}. {remedy}") from error
        if error.errno in _BROKEN:
            raise Damaged(
                f"the disk fails at {place} ({error.strerror}): look at the system's log, and "
                "run again when it is mended"
            ) from error
        raise


def exit_code_of(error: BaseException) -> ExitCode:
    """Return the code with which a command ends that raises this error."""
    return (known_failure(error) or Bug).exit_code


def known_failure(error: BaseException) -> TcgaMirrorError | None:
    """Return the error to report for one that Python or the system raised; None for a bug."""
    if isinstance(error, TcgaMirrorError):
        return error
    if isinstance(error, KeyboardInterrupt):
        return Interrupted("interrupted")
    if isinstance(error, RuntimeError) and error.__cause__ is not None:
        # Python 3.11 wraps an error raised while a class is made, as in an import.
        return known_failure(error.__cause__)
    if (memory := lack_of_memory(error)) is not None:
        return memory
    if not isinstance(error, OSError):
        return None
    if error.errno in _FULL:
        return _no_room(error.filename or "the output", error)
    return _path_error(error)


def _path_error(error: OSError) -> UsageError | None:
    """Return the UsageError for a path that is forbidden or that no file can have.

    It is also returned if the current directory was removed. Return None for any other error.
    """
    if not isinstance(error.filename, str):
        if isinstance(error, FileNotFoundError) and not _current_directory_exists():
            return UsageError("the directory this runs in was removed: change to another")
        return None
    if error.errno in FORBIDDEN:
        return _forbidden(error.filename, error)
    if error.errno in _NO_PATH:
        return UsageError(f"{error.filename} leads nowhere ({error.strerror}): name another path")
    return None


def _current_directory_exists() -> bool:
    """Return whether the current directory still exists."""
    try:
        return bool(Path.cwd())
    except FileNotFoundError:
        return False


def _no_room(place: Path | str, error: OSError, free: str = "") -> DiskFull:
    if error.errno == errno.EFBIG:
        return DiskFull(
            f"{place}: the file system, or ulimit -f, allows no larger file. Use another one; an "
            "export may be a directory or parts (see tcgamirror help transfer)"
        )
    return DiskFull(
        f"no room to write {place} ({error.strerror}{free}). Free some, or use a larger disk"
    )


def _forbidden(place: Path | str, error: OSError) -> UsageError:
    remedy = "mount it writable" if error.errno == errno.EROFS else "change its permissions"
    return UsageError(
        f"the system refuses access to {place} ({error.strerror}): {remedy} or name another place"
    )


def _free(path: Path) -> str:
    try:
        return f"{free_bytes(path):,} bytes free"
    except OSError:
        return "free bytes unknown"
