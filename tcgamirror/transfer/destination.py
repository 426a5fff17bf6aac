"""The destination of an export: a directory, a tar file, or standard output."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

from tcgamirror.catalogue.images import Image
from tcgamirror.mirror.directory import LOCK
from tcgamirror.model.errors import UsageError
from tcgamirror.system.files import disk_errors, open_file_digest, sync_disk, sync_folder
from tcgamirror.system.lock import Lock
from tcgamirror.system.openat import Tree
from tcgamirror.transfer.archive.format import EXPORT_LOCK, UNFINISHED, is_tar
from tcgamirror.transfer.archive.tar import TarWriter
from tcgamirror.transfer.content import Destination, FileContent
from tcgamirror.transfer.objects import StoredArchive

_BUFFER_BYTES = 1 << 18

_TOP = "tcgamirror"
"""Top folder of an archive whose own name some systems do not allow."""


@contextmanager
def open_destination(
    dest: Path | StoredArchive | None, root: Path, size: int
) -> Iterator[tuple[Path, Destination]]:
    """Yield a folder for the catalogue of an export, and the export's destination.

    A file or directory gets the name `dest` when the block ends without an error. The next export
    resumes a killed one to a directory, and starts an archive again.

    Args:
        dest: None for standard output.
        root: the mirror's directory.
        size: bytes of the images to export.
    """
    if not isinstance(dest, Path):
        opened = _standard_output() if dest is None else _stored(dest, size)
        with TemporaryDirectory(prefix="tcgamirror-") as folder, opened as archive:
            yield Path(folder), archive
        return
    with _unfinished_folder(dest) as work:
        if is_tar(dest):
            with _archive_file(work / dest.name, dest) as archive:
                yield work, archive
            return
        # Another disk may be unplugged soon, so it is flushed. On the mirror's own disk an export
        # is no safer from a power cut than what `cp` leaves: an import compares it.
        is_apart = work.stat().st_dev != root.stat().st_dev
        directory = _Directory(work)
        yield work, directory
        with disk_errors(dest):
            _clear(work, keep=directory.names)
            if is_apart:
                sync_disk(work)
            work.rename(dest)
            (dest / EXPORT_LOCK).unlink()
            if is_apart:
                sync_folder(dest.absolute().parent)


class _Directory(Destination):
    """A directory as destination. names: names of the files that belong to the export."""

    in_order = False

    def __init__(self, work: Path) -> None:
        self._work = work
        self._tree = Tree(work)
        self._is_resumed = len(list(work.iterdir())) > 1
        self._folders: set[Path] = set()
        self.names = {EXPORT_LOCK}

    def holds(self, image: Image) -> bool:
        if not self._is_resumed:
            return False
        try:
            with self._tree.open(image.path) as file:
                if open_file_digest(file, "sha256") != image.sha256:
                    return False
        except OSError:
            return False
        self.names.add(image.path)
        return True

    def write(self, name: str, content: FileContent) -> None:
        self.names.add(name)
        target = self._work / name
        with disk_errors(target):
            if self._is_resumed:
                # A killed export may have left a part of a file there, or another user a link.
                target.unlink(missing_ok=True)
            folder = target.parent
            if folder not in self._folders:
                folder.mkdir(parents=True, exist_ok=True)
                self._folders.add(folder)
            with target.open("xb") as file:
                file.writelines(content.pieces(name))
            os.utime(target, ns=(content.mtime_ns, content.mtime_ns))


@contextmanager
def _tar(sink: Callable[[bytes | memoryview], object], name: str) -> Iterator[TarWriter]:
    archive = TarWriter(sink, _top(name))
    yield archive
    archive.finish()


@contextmanager
def _archive_file(part: Path, dest: Path) -> Iterator[TarWriter]:
    """Yield an archive at `part`, which becomes `dest`."""
    with disk_errors(part), part.open("xb", _BUFFER_BYTES) as file:
        try:
            with _tar(file.write, dest.stem) as archive:
                yield archive
            file.flush()
            os.fsync(file.fileno())
            place = dest
            if os.path.lexists(dest):
                # Another program has made it meanwhile; the archive may have taken hours.
                others = (dest.with_stem(f"{dest.stem}-{number}") for number in count(2))
                place = next(other for other in others if not os.path.lexists(other))
            part.rename(place)
            sync_folder(place.absolute().parent)
            if place != dest:
                raise UsageError(f"{dest}: was made meanwhile. The export is complete in {place}")
        finally:
            # On a full disk, closing fails as well: the buffer holds the archive's rest.
            with suppress(OSError):
                file.close()


@contextmanager
def _standard_output() -> Iterator[TarWriter]:
    try:
        with _tar(sys.stdout.buffer.write, _TOP) as archive:
            yield archive
        sys.stdout.buffer.flush()
    except BrokenPipeError as error:
        raise UsageError(
            "standard output: closed before the export was complete. See what the command "
            "after the pipe says, and run both again"
        ) from error


@contextmanager
def _stored(dest: StoredArchive, size: int) -> Iterator[TarWriter]:
    """Yield an archive that is uploaded in parts, and that exists once all of them are there."""
    writer = dest.writer(size)
    # Copied, because a piece is valid until the next one, and the writer may keep it.
    with _tar(lambda data: writer.write(bytes(data)), Path(dest.key).stem) as archive:
        yield archive
    writer.close()


def _top(name: str) -> str:
    """Return an archive's top folder: `name`, if every system can have a folder of that name."""
    is_plain = name.isascii() and name.isprintable() and not set(name) & set('\\/:*?"<>|')
    return name if is_plain and len(name) <= 100 and name.strip(". ") == name else _TOP


# The place of an export ------------------------------------------------------------


def check_dest(root: Path, dest: Path | StoredArchive | None) -> None:
    """Raise UsageError if `dest` cannot be an export of the mirror at `root`.

    dest: None for standard output.
    """
    if isinstance(dest, StoredArchive):
        dest.check_free()
        return
    if dest is None:
        if sys.stdout.isatty():
            raise UsageError("standard output: is a terminal. Pipe the archive, or name a file")
        return
    if dest.resolve().is_relative_to(root.resolve()):
        raise UsageError(f"{dest}: is inside the mirror. Name a place outside")
    if not dest.name or dest.is_mount():
        raise UsageError(f"{dest}: cannot be replaced. Name a directory or an archive in it")
    folder = dest.absolute().parent
    if not folder.is_dir():
        raise UsageError(f"{folder}: is not a directory. Make it, or name another place")
    _check_free(dest)


def _check_free(dest: Path) -> None:
    # Renamed to `dest`, a directory replaces an empty one, and an archive cannot.
    is_empty = dest.is_dir() and not dest.is_symlink() and not any(dest.iterdir())
    if os.path.lexists(dest) and (is_tar(dest) or not is_empty):
        raise UsageError(f"{dest}: exists already. Name another place, or remove it first")


@contextmanager
def _unfinished_folder(dest: Path) -> Iterator[Path]:
    """Yield the folder beside `dest` in which an export is made, locked by this run.

    In the end an archive's folder is removed. A directory's is removed if nothing was made in it.
    """
    work = dest.with_name(f"{dest.name}{UNFINISHED}")
    _check_ours(work)
    with Lock(work / EXPORT_LOCK, "export"):
        is_renamed = False
        try:
            _check_free(dest)
            if is_tar(dest):
                _clear(work, keep={EXPORT_LOCK})
            yield work
            is_renamed = not is_tar(dest)
        finally:
            # After the rename, another run may have made a folder at `work`.
            if not is_renamed:
                with suppress(OSError):
                    if is_tar(dest):
                        _clear(work, keep={EXPORT_LOCK})
                    if [path.name for path in work.iterdir()] == [EXPORT_LOCK]:
                        (work / EXPORT_LOCK).unlink()
                        work.rmdir()


def _check_ours(work: Path) -> None:
    """Raise UsageError if `work` exists and no killed export of this user left it."""
    if not os.path.lexists(work):
        return
    # Another user may have put links there.
    if not work.is_symlink() and work.is_dir() and work.stat().st_uid == os.geteuid():
        names = {path.name for path in work.iterdir()}
        # A folder with a mirror's lock is a mirror.
        if not names or (EXPORT_LOCK in names and LOCK not in names):
            return
    raise UsageError(
        f"{work}: is in the way, as the export would be made there. Move it, or remove it if an "
        "export by an older tcgamirror left it"
    )


def _clear(work: Path, keep: Collection[str]) -> None:
    """Remove all files but those to keep, and then the empty folders."""
    for folder, folders, files in os.walk(work, topdown=False):
        for path in (Path(folder, name) for name in files):
            if path.relative_to(work).as_posix() not in keep:
                path.unlink()
        for path in (Path(folder, name) for name in folders):
            if path.is_symlink():
                path.unlink()
            elif not any(path.iterdir()):
                path.rmdir()
