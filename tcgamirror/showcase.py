"""A mirror's gallery, copied from one directory to another as rsync would."""

from __future__ import annotations

import os
import shutil
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

from tcgamirror.errors import Interrupted
from tcgamirror.files import make_folder, replacing, room
from tcgamirror.home import GALLERY

MOST_DEEP = 8
"""Folders below each other that are looked into: a gallery has one."""

_SAME_SECONDS = 2.0
"""By which file systems such as FAT round times."""


def copy_gallery(source: Path, root: Path, stop: threading.Event, *, delete: bool) -> int:
    """Copies the files of the gallery whose size or time is another; how many it were.

    The pages come last, after what they show. delete: whether files go that the source lacks.
    Links are not followed; what begins with a dot, or lies too deep, is left out.
    """
    theirs, ours = source / GALLERY, root / GALLERY
    if theirs.is_symlink() or not theirs.is_dir() or ours.is_symlink():
        return 0
    wanted = dict(_files(theirs))
    copied = 0
    for name in sorted(wanted, key=lambda name: ("/" not in name, name)):
        if stop.is_set():
            raise Interrupted("stopped while copying the gallery; the next sync goes on")
        copied += _copy(theirs / name, wanted[name], ours / name)
    if delete and ours.is_dir():
        for name, _ in list(_files(ours)):
            if name not in wanted:
                (ours / name).unlink(missing_ok=True)
    return copied


def _files(
    folder: Path, above: str = "", deep: int = MOST_DEEP
) -> Iterator[tuple[str, os.stat_result]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                if deep:
                    yield from _files(Path(entry.path), f"{above}{entry.name}/", deep - 1)
            elif entry.is_file(follow_symlinks=False):
                yield f"{above}{entry.name}", entry.stat(follow_symlinks=False)


def _copy(source: Path, wanted: os.stat_result, target: Path) -> bool:
    try:
        found = os.lstat(target)
    except OSError:
        found = None
    if (
        found is not None
        and stat.S_ISREG(found.st_mode)
        and found.st_size == wanted.st_size
        and abs(found.st_mtime - wanted.st_mtime) < _SAME_SECONDS
    ):
        return False
    with room(target):
        make_folder(target.parent)
        with source.open("rb") as file, replacing(target) as copy:
            shutil.copyfileobj(file, copy)
        os.utime(target, ns=(wanted.st_mtime_ns, wanted.st_mtime_ns))
    return True
