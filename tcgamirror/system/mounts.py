"""The file system that a path lies on: its type, and whether files can be locked there.

SQLite's WAL needs one whose memory maps work, and SQLite always needs POSIX locks.
Source: proc(5), `/proc/[pid]/mountinfo`.
"""

from __future__ import annotations

import errno
import fcntl
import re
import tempfile
from contextlib import suppress
from pathlib import Path, PurePosixPath

from tcgamirror.model.errors import UsageError

NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EINVAL})
"""Errors of a file system that does not know the kind of lock asked for."""

MOUNTS = Path("/proc/self/mountinfo")

WAL_WORKS_ON = frozenset(
    {
        "apfs",
        "bcachefs",
        "btrfs",
        "ext2",
        "ext3",
        "ext4",
        "f2fs",
        "jfs",
        "overlay",
        "ramfs",
        "tmpfs",
        "xfs",
        "zfs",
    }
)
"""Local ones. Lustre, GPFS, NFS, CIFS, FUSE, 9p and whatever is unknown are not among them."""

_MOUNT_POINT = 4
_ESCAPE = re.compile(r"\\([0-7]{3})")


def check_locks(path: Path) -> None:
    """Raise UsageError if files cannot be locked where `path` lies or would lie.

    A file without a name is locked, so that nothing is left. What keeps it from
    being made is for others to tell.
    """
    place = path.absolute()
    with suppress(OSError):
        while not place.is_dir():
            place = place.parent
        with tempfile.TemporaryFile(dir=place) as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno in NO_LOCKS:
                    raise no_locks(place, error) from error


def no_locks(place: Path, error: OSError) -> UsageError:
    """Return what to tell of a file system that refused a lock with `error`."""
    return UsageError(
        f"{place}: files cannot be locked on this file system ({error.strerror}). Have it mounted "
        "with locks (Lustre: -o flock; NFS: with its lock service), or use another file system"
    )


def knows_wal(kind: str | None) -> bool:
    """Whether the type is one on which SQLite's WAL is known to work; None: not known which."""
    return kind in WAL_WORKS_ON


def kind_at(path: Path, mounts: Path = MOUNTS) -> str | None:
    """The type of the file system `path` lies on; None where the system does not tell."""
    try:
        text = mounts.read_text(encoding="utf-8", errors="surrogateescape")
        return kind_in(text, PurePosixPath(path.resolve()))
    except OSError:
        return None


def kind_in(mountinfo: str, path: PurePosixPath) -> str | None:
    """The type in the line of the innermost mount above `path`, which holds no symbolic links.

    Of several mounts on one place the last covers the others.

    >>> root = "27 1 254:0 / / rw - ext4 /dev/vda rw"
    >>> home = r"31 27 0:40 /users /my\\040home rw shared:1 - nfs4 server:/users rw"
    >>> kind_in(root + chr(10) + home, PurePosixPath("/my home/a"))
    'nfs4'
    """
    best: tuple[int, str] | None = None
    for line in mountinfo.splitlines():
        before, separator, after = line.partition(" - ")
        fields, kinds = before.split(" "), after.split(" ")
        if not separator or len(fields) <= _MOUNT_POINT:
            continue
        point = PurePosixPath(_unescaped(fields[_MOUNT_POINT]))
        depth = len(point.parts)
        if path.is_relative_to(point) and (best is None or depth >= best[0]):
            best = depth, kinds[0]
    return None if best is None else best[1]


def _unescaped(field: str) -> str:
    r"""The kernel writes blanks, tabs, newlines and backslashes as octal numbers.

    >>> _unescaped(r"/a\040b\134c")
    '/a b\\c'
    """
    return _ESCAPE.sub(lambda match: chr(int(match[1], 8)), field)
