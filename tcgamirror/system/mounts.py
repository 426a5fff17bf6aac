"""The type of the file system on which a path lies, and whether it has locks.

SQLite always needs POSIX locks, and its WAL mode needs working memory maps. Source: proc(5),
`/proc/[pid]/mountinfo`.
"""

from __future__ import annotations

import errno
import fcntl
import re
from contextlib import suppress
from pathlib import Path, PurePosixPath

from tcgamirror.model.errors import UsageError

NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EINVAL})
"""Errors of a file system without the requested kind of lock."""

MOUNTS = Path("/proc/self/mountinfo")

LOCAL = frozenset(
    {"apfs", "bcachefs", "btrfs", "ext2", "ext3", "ext4", "f2fs"}
    | {"jfs", "overlay", "ramfs", "tmpfs", "xfs", "zfs"}
)
"""Local file systems, where SQLite's WAL and syncfs are known to work. Lustre, GPFS, NFS, CIFS,
FUSE, 9p and unknown ones are not among them."""

_ESCAPE = re.compile(r"\\([0-7]{3})")


def check_locks(path: Path) -> None:
    """Raise UsageError if files cannot be locked where `path` lies or would lie.

    A nameless file is locked, so that nothing is left. If it cannot be made, nothing is
    raised: the next write reports that.
    """
    place = path.absolute()
    # Imported late, as only a mirror that is written to needs it.
    import tempfile

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
    """Return the error for a file system that refused a lock."""
    return UsageError(
        f"{place}: files cannot be locked on this file system ({error.strerror}). Have it mounted "
        "with locks (Lustre: -o flock; NFS: with its lock service), or use another file system"
    )


def kind_at(path: Path, mounts: Path = MOUNTS) -> str | None:
    """Return the type of the file system of `path`; None where the system does not tell."""
    try:
        text = mounts.read_text(encoding="utf-8", errors="surrogateescape")
        return kind_in(text, PurePosixPath(path.resolve()))
    except OSError:
        return None


def is_local(path: Path) -> bool:
    """Return whether `path` lies on a file system that is known to be local."""
    return kind_at(path) in LOCAL


def kind_in(mountinfo: str, path: PurePosixPath) -> str | None:
    """Return the type of the innermost mount above `path`, which has no symbolic links.

    Of several mounts on one directory the last one counts.

    >>> root = "27 1 254:0 / / rw - ext4 /dev/vda rw"
    >>> home = r"31 27 0:40 /users /my\\040home rw shared:1 - nfs4 server:/users rw"
    >>> kind_in(root + chr(10) + home, PurePosixPath("/my home/a"))
    'nfs4'
    """
    best: tuple[int, str] | None = None
    for line in mountinfo.splitlines():
        before, separator, after = line.partition(" - ")
        fields, kinds = before.split(" "), after.split(" ")
        if not separator or len(fields) < 5:
            continue
        # Blanks, tabs, newlines and backslashes are written in octal.
        point = PurePosixPath(_ESCAPE.sub(lambda match: chr(int(match[1], 8)), fields[4]))
        depth = len(point.parts)
        if path.is_relative_to(point) and (best is None or depth >= best[0]):
            best = depth, kinds[0]
    return None if best is None else best[1]
