"""Where an export's files go: into a directory by several threads, or one after another.

Where an export is made: beside its place, by one run alone, and of nobody else's files.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol, TypeVar

from tcgamirror.catalogue.images import Image
from tcgamirror.imaging.store import IMAGES
from tcgamirror.imaging.verified import Compared
from tcgamirror.mirror.directory import CATALOGUE, LOCK
from tcgamirror.model.errors import UsageError
from tcgamirror.system.files import disk_errors, make_folder, sync_disk, sync_folder
from tcgamirror.system.lock import Lock
from tcgamirror.system.parallel import in_batches, thread_count
from tcgamirror.transfer.archive.format import HELD, UNFINISHED, Form
from tcgamirror.transfer.archive.writer import TarWriter
from tcgamirror.transfer.copier import Copier, Loaded, loaded

MOST_THREADS = 4
"""A disk is no faster for more, and an archive's images are in memory meanwhile."""

_BUFFER = 1 << 20
"""Bytes that are written at once: of small images, a dozen."""

Result = TypeVar("Result")


class Place(Protocol):
    """What is being filled. An image is put only if it has its digest."""

    def put_all(self, images: Sequence[Image]) -> Iterator[tuple[Image, bool]]:
        """Each with whether it was put, in order."""
        ...

    def put(self, image: Image) -> bool: ...

    def write(self, name: str, file: Loaded) -> None:
        """Any other file, which is closed then."""
        ...

    def end(self, dest: Path | None) -> None:
        """Give all of it its final name; None for an archive on standard output."""
        ...

    def close(self) -> None: ...


class DirectoryPlace:
    """A directory that is renamed at the end. What lies there and is right is left.

    settles: whether all of it reaches the disk before that.
    """

    def __init__(self, root: Path, work: Path, *, settles: bool) -> None:
        self._root = root
        self._work = work
        self._settles = settles
        self._copier = Copier(Compared(root).signs())
        self._names = {HELD}

    def put_all(self, images: Sequence[Image]) -> Iterator[tuple[Image, bool]]:
        fresh = not (self._work / IMAGES).exists()
        copy = self._copier.copied_anew if fresh else self._copier.copied

        def put(image: Image) -> bool:
            return copy(*self._ends(image), image.sha256)

        with disk_errors(self._work):
            for folder in {image.path.rpartition("/")[0] for image in images}:
                (self._work / folder).mkdir(parents=True, exist_ok=True)
            for image, right in _abreast(put, images):
                yield image, self._noted(image, right)

    def put(self, image: Image) -> bool:
        source, target = self._ends(image)
        with disk_errors(Path(target)):
            make_folder(Path(target).parent)
            return self._noted(image, self._copier.copied(source, target, image.sha256))

    def _ends(self, image: Image) -> tuple[str, str]:
        return f"{self._root}/{image.path}", f"{self._work}/{image.path}"

    def _noted(self, image: Image, right: bool) -> bool:
        if right:
            self._names.add(image.path)
        return right

    def write(self, name: str, file: Loaded) -> None:
        self._names.add(name)
        target = self._work / name
        with file.file, disk_errors(target):
            if _is_at(target, file):
                return
            make_folder(target.parent)
            part = target.with_name(f".{target.name}.part")
            part.unlink(missing_ok=True)
            # Buffered: a bare file may take a part of what it is given, and say so to nobody.
            with part.open("xb") as out:
                out.writelines(file.pieces())
            os.utime(part, (file.made, file.made))
            part.replace(target)

    def end(self, dest: Path | None) -> None:
        assert dest is not None
        with disk_errors(dest):
            self._remove_others()
            if self._settles:
                sync_disk(self._work)
            self._work.rename(dest)
            (dest / HELD).unlink()
            if self._settles:
                sync_folder(dest.absolute().parent)

    def _remove_others(self) -> None:
        """What a killed export left that this one does not hold."""
        for folder, folders, files in os.walk(self._work, topdown=False):
            inside = Path(folder).relative_to(self._work)
            above = f"{inside}/" if inside.parts else ""
            for name in files:
                if above + name not in self._names:
                    Path(folder, name).unlink()
            for name in folders:
                path = Path(folder, name)
                if path.is_symlink():
                    path.unlink()
                    continue
                with suppress(OSError):
                    path.rmdir()

    def close(self) -> None:
        """Nothing is open."""


class ArchivePlace:
    """A tar archive, written by one thread while others read ahead.

    path: of the file to make, which is renamed at the end; None for standard output.
    """

    def __init__(self, root: Path, path: Path | None, top: str) -> None:
        self._root = root
        self._path = path
        with _writing(path):
            self._file = sys.stdout.buffer if path is None else path.open("xb", _BUFFER)
        self._writer = TarWriter(self._write, top)

    def put_all(self, images: Sequence[Image]) -> Iterator[tuple[Image, bool]]:
        for image, file in _abreast(lambda image: loaded(self._root / image.path), images):
            yield image, self._put(image, file)

    def put(self, image: Image) -> bool:
        return self._put(image, loaded(self._root / image.path))

    def _put(self, image: Image, file: Loaded | None) -> bool:
        if file is None or file.sha256 != image.sha256:
            if file is not None:
                file.file.close()
            return False
        self.write(image.path, file)
        return True

    def write(self, name: str, file: Loaded) -> None:
        self._writer.put(name, file.size, file.made, file.pieces())

    def _write(self, data: bytes) -> None:
        with _writing(self._path):
            self._file.write(data)

    def end(self, dest: Path | None) -> None:
        self._writer.end()
        with _writing(self._path):
            self._file.flush()
            if self._path is not None and dest is not None:
                os.fsync(self._file.fileno())
                self._file.close()
                self._path.rename(dest)
                sync_folder(dest.absolute().parent)

    def close(self) -> None:
        if self._path is not None:
            # What is in its buffer still, of an archive that was not ended, need not fit.
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


def _is_at(target: Path, file: Loaded) -> bool:
    """Whether the file lies there already: the catalogue does, where it was copied to."""
    try:
        return os.path.samestat(os.fstat(file.file.fileno()), target.lstat())
    except (FileNotFoundError, io.UnsupportedOperation):
        # The latter of a text that is no file.
        return False


def _abreast(
    work: Callable[[Image], Result], images: Sequence[Image]
) -> Iterator[tuple[Image, Result]]:
    """Each with what `work` gives for it, in order, by a few threads a little ahead."""
    at_once = thread_count(MOST_THREADS)
    for batch in in_batches(work, images, at_once=at_once, size_of=lambda image: image.bytes):
        yield from batch


def check_dest(root: Path, dest: Path | None) -> None:
    """Raise UsageError where the mirror at `root` cannot be exported to. None: standard output."""
    if dest is None:
        if sys.stdout.isatty():
            raise UsageError("standard output is a terminal: pipe the archive, or name a file")
        return
    if dest.resolve().is_relative_to(root.resolve()):
        raise UsageError(f"{dest} is in the mirror itself: name a place outside")
    if not dest.name or dest.is_mount():
        raise UsageError(f"{dest} is no place of its own: name a directory or an archive in it")
    if not dest.absolute().parent.is_dir():
        raise UsageError(
            f"{dest.absolute().parent}: not a directory. Make it, or name another place"
        )
    _check_free(dest)


def _check_free(dest: Path) -> None:
    empty = dest.is_dir() and not dest.is_symlink() and not any(dest.iterdir())
    if os.path.lexists(dest) and not empty:
        raise UsageError(f"{dest} is there already: name another place, or remove it first")


def are_apart(work: Path, root: Path) -> bool:
    """Whether the two lie on different disks, as far as the system tells."""
    return work.stat().st_dev != root.stat().st_dev


@contextmanager
def workplace(dest: Path | None, form: Form) -> Iterator[Path]:
    """The directory beside `dest` where it is made, held by this run alone.

    An archive's is removed at the end however it ends; a directory's is what it becomes.
    For standard output (None) it is among the temporary files.
    """
    if dest is None:
        with TemporaryDirectory(prefix="tcgamirror-") as folder:
            yield Path(folder)
        return
    work = dest.with_name(f"{dest.name}{UNFINISHED}")
    _check_ours(work, dest, form)
    with Lock(work / HELD, "export"):
        here = True
        try:
            _check_free(dest)
            if form is not Form.DIRECTORY:
                _remove_archive(work, dest)
            yield work
            here = form is not Form.DIRECTORY
        finally:
            # Once it is in its place, what lies here is another run's.
            if here:
                if form is not Form.DIRECTORY:
                    _remove_archive(work, dest)
                _remove_if_empty(work)


def _remove_if_empty(work: Path) -> None:
    """Removes the directory where nothing but the lock is left in it."""
    with suppress(OSError):
        if [path.name for path in work.iterdir()] == [HELD]:
            (work / HELD).unlink()
            work.rmdir()


def _check_ours(work: Path, dest: Path, form: Form) -> None:
    """Raises UsageError for what no killed export left: it may be a mirror, or anybody's."""
    if not os.path.lexists(work):
        return
    # Whoever else made it may have put links there.
    if not work.is_symlink() and work.is_dir() and work.stat().st_uid == os.geteuid():
        there = {path.name: path for path in work.iterdir()}
        others = [name for name, path in there.items() if path.is_dir() or not _is_of(dest, name)]
        # A run that writes to a mirror leaves its own lock there.
        ours = HELD in there and LOCK not in there and (form is Form.DIRECTORY or not others)
        if ours or not there:
            return
    raise UsageError(
        f"{work} is in the way, where the export would be made: move it, or remove it if it is "
        "what an older tcgamirror left of an export that was killed"
    )


def _is_of(dest: Path, name: str) -> bool:
    """Whether a file of that name is of an archive `dest` that is being made."""
    return name in (HELD, dest.name) or name.startswith(CATALOGUE)


def _remove_archive(work: Path, dest: Path) -> None:
    """What an archive was made of, and nothing else. The lock stays."""
    with suppress(OSError):
        for path in work.iterdir():
            if path.name != HELD and _is_of(dest, path.name):
                path.unlink()
