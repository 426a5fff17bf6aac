"""Settings and lock file of another mirror."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from tcgamirror.mirror.lockfile import MOST_BYTES as MOST_LOCK
from tcgamirror.mirror.lockfile import lock_lines, read_lock
from tcgamirror.mirror.settings import FILE_NAME, Settings, read_settings
from tcgamirror.mirror.settings import MOST_BYTES as MOST_SETTINGS
from tcgamirror.model.errors import BadLockFile, BadSettings


def read_copies(
    copy: Callable[[str, int], Path | None], source: str
) -> tuple[Settings, Iterable[bytes] | None]:
    """Return a mirror's settings, and the lines of its lock file; None without such a file.

    Args:
        copy: copies a file of at most so many bytes; returns the copy, None for a missing file.
        source: name of the mirror.

    Raises:
        BadSettings, BadLockFile: with the name of the mirror, as the copy is temporary.
    """
    name, path = FILE_NAME, copy(FILE_NAME, MOST_SETTINGS)
    try:
        settings = read_settings(path or Path(name))
        if settings.lock is None:
            return settings, None
        name, path = settings.lock, copy(settings.lock, MOST_LOCK)
        return settings, None if path is None else lock_lines(read_lock(path))
    except (BadSettings, BadLockFile) as error:
        raise type(error)(str(error).replace(str(path), f"{source}/{name}")) from error
