"""Where an export is written: a directory, a tar file, or standard output."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

from tcgamirror.catalogue.images import Image
from tcgamirror.mirror.directory import LOCK, OLD_LOCK
from tcgamirror.model.errors import UsageError
from tcgamirror.system.files import disk_errors, open_file_digest, sync_disk, sync_folder
from tcgamirror.system.lock import Lock
from tcgamirror.system.openat import Tree
from tcgamirror.system.parallel import start_pool
from tcgamirror.transfer.archive.format import EXPORT_LOCK, UNFINISHED, Form
from tcgamirror.transfer.archive.tar import TarWriter
from tcgamirror.transfer.content import FileContent

_BUFFER_BYTES = 1 << 20
_FLUSH_SECONDS = 0.2


class Destination(Protocol):
    """An export that is being written by one thread."""

    def holds(self, image: Image) -> bool:
        """Return whether a killed export left the image there. Any thread may call it."""
        ...

    def write(self, name: str, content: FileContent) -> None:
        """Write one file."""
        ...

    def finish(self) -> None:
        """Give the complete export its final name."""
        ...

    def close(self) -> None:
        """Close what is open, be the export complete or not."""
        ...


class DirectoryDestination:
    """A directory that is renamed at the end. Right images that a killed export left are kept."""

    def __init__(self, work: Path, dest: Path, *, durable: bool) -> None:
        """Write to `work`, which becomes `dest`.

        durable: whether all of it reaches the disk before it gets its name.
        """
        self._work = work
        self._tree = Tree(work)
        self._dest = dest
        self._durable = durable
        self._names = {EXPORT_LOCK}

    def holds(self, image: Image) -> bool:
        try:
            with self._tree.open(image.path) as file:
                if open_file_digest(file, "sha256") != image.sha256:
                    return False
        except OSError:
            return False
        self._names.add(image.path)
        return True

    def write(self, name: str, content: FileContent) -> None:
        self._names.add(name)
        target = self._work / name
        if content.path == target:
            # The catalogue was copied to its place at once.
            content.close()
            return
        with disk_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            # A killed export may have left a part of a file there, and anybody a link.
            target.unlink(missing_ok=True)
            with target.open("xb") as file:
                file.writelines(content.pieces())
            os.utime(target, ns=(content.mtime_ns, content.mtime_ns))

    def finish(self) -> None:
        with disk_errors(self._dest):
            _clear(self._work, keep=self._names)
            if self._durable:
                sync_disk(self._work)
            self._work.rename(self._dest)
            (self._dest / EXPORT_LOCK).unlink()
            if self._durable:
                sync_folder(self._dest.absolute().parent)

    def close(self) -> None:
        """Do nothing, as no file stays open."""


class TarDestination:
    """A tar archive."""

    def __init__(self, path: Path | None, dest: Path | None, top: str) -> None:
        """Write to `path`, which becomes `dest`. None: standard output. top: a directory in it."""
        self._path = path
        self._dest = dest
        with _writing(path):
            self._file = sys.stdout.buffer if path is None else path.open("xb", _BUFFER_BYTES)
        self._writer = TarWriter(self._write, top)

    def holds(self, image: Image) -> bool:
        del image  # A killed export leaves no part of an archive.
        return False

    def write(self, name: str, content: FileContent) -> None:
        self._writer.put(name, content.size, content.mtime_ns // 10**9, content.pieces())

    def _write(self, data: bytes) -> None:
        with _writing(self._path):
            self._file.write(data)

    def finish(self) -> None:
        self._writer.finish()
        with _writing(self._path):
            self._file.flush()
            if self._path is not None and self._dest is not None:
                os.fsync(self._file.fileno())
                self._file.close()
                self._path.rename(self._dest)
                sync_folder(self._dest.absolute().parent)

    def close(self) -> None:
        if self._path is not None:
            # There may be no room for the rest of an archive that was not finished.
            with suppress(OSError):
                self._file.close()


@contextmanager
def _writing(path: Path | None) -> Iterator[None]:
    """Turn refusals to write at `path`, or to standard output, into errors that name it."""
    if path is not None:
        with disk_errors(path):
            yield
        return
    try:
        yield
    except BrokenPipeError as error:
        raise UsageError(
            "standard output: closed before the export was complete. See what the command "
            "after the pipe says, and run both again"
        ) from error


@contextmanager
def flushing_early(path: Path) -> Iterator[None]:
    """Have the disk of `path` write during the block, so that little is left for its end.

    `sync_disk` or fsync have to follow all the same. Raises as `disk_errors` does.
    """
    ended = threading.Event()

    def flush() -> None:
        while not ended.wait(_FLUSH_SECONDS):
            sync_disk(path)

    with start_pool(1, "flush") as pool:
        flushing = pool.submit(flush)
        try:
            yield
        finally:
            ended.set()
    with disk_errors(path):
        flushing.result()


# The place of an export ------------------------------------------------------------


def check_dest(root: Path, dest: Path | None) -> None:
    """Raise UsageError where no export of the mirror at `root` can be made.

    dest: None for standard output.
    """
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
    empty = dest.is_dir() and not dest.is_symlink() and not any(dest.iterdir())
    if os.path.lexists(dest) and not empty:
        raise UsageError(f"{dest}: exists already. Name another place, or remove it first")


@contextmanager
def unfinished_folder(dest: Path | None, form: Form) -> Iterator[Path]:
    """Yield the folder in which an export is made, locked by this run.

    It lies beside `dest`, or among the temporary files for standard output (None). A killed
    export to a directory leaves it to be resumed; an archive's is removed in any case.
    """
    if dest is None:
        with TemporaryDirectory(prefix="tcgamirror-") as folder:
            yield Path(folder)
        return
    work = dest.with_name(f"{dest.name}{UNFINISHED}")
    _check_ours(work)
    with Lock(work / EXPORT_LOCK, "export"):
        is_here = True
        try:
            _check_free(dest)
            if form is Form.TAR:
                _clear(work, keep={EXPORT_LOCK})
            yield work
            is_here = form is Form.TAR
        finally:
            # After the rename a folder of that name is another run's.
            if is_here:
                with suppress(OSError):
                    if form is Form.TAR:
                        _clear(work, keep={EXPORT_LOCK})
                    if [path.name for path in work.iterdir()] == [EXPORT_LOCK]:
                        (work / EXPORT_LOCK).unlink()
                        work.rmdir()


def _check_ours(work: Path) -> None:
    """Raise UsageError for a folder that no killed export left, such as a mirror."""
    if not os.path.lexists(work):
        return
    # Another user may have put links there.
    if not work.is_symlink() and work.is_dir() and work.stat().st_uid == os.geteuid():
        names = {path.name for path in work.iterdir()}
        # A run that writes to a mirror leaves its own lock there.
        if not names or (EXPORT_LOCK in names and not {LOCK, OLD_LOCK} & names):
            return
    raise UsageError(
        f"{work}: is in the way, as the export would be made there. Move it, or remove it if an "
        "export by an older tcgamirror left it"
    )


def _clear(work: Path, keep: Collection[str]) -> None:
    """Remove the files that a killed export left, but for those to keep, and empty folders."""
    for folder, folders, files in os.walk(work, topdown=False):
        for path in (Path(folder, name) for name in files):
            if path.relative_to(work).as_posix() not in keep:
                path.unlink()
        for path in (Path(folder, name) for name in folders):
            if path.is_symlink():
                path.unlink()
            elif not any(path.iterdir()):
                path.rmdir()
