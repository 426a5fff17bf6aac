"""Where an export's files go: into a directory by several threads, or one after another."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from tcgamirror.files import make_folder, room, sync_folder
from tcgamirror.store import IMAGES
from tcgamirror.transfer.copying import Loaded, ahead, copied, copied_anew, loaded
from tcgamirror.transfer.snapshot import Image
from tcgamirror.transfer.writers import Writer

LOCK = "lock"


class Place(Protocol):
    """What is being filled. An image is put only if it has its digest."""

    def put_all(self, images: Sequence[Image]) -> Iterator[tuple[Image, bool]]:
        """Each with whether it was put, in order."""
        ...

    def put(self, image: Image) -> bool: ...

    def write(self, name: str, file: Loaded) -> None:
        """Any other file, which is closed then."""
        ...

    def end(self, dest: Path) -> list[Path]:
        """Gives all of it its final name; what was made."""
        ...

    def close(self) -> None: ...


class DirectoryPlace:
    """A directory that is renamed at the end. What lies there and is right is left."""

    def __init__(self, root: Path, work: Path) -> None:
        self._root = root
        self._work = work
        self._names = {LOCK}

    def put_all(self, images: Sequence[Image]) -> Iterator[tuple[Image, bool]]:
        fresh = not (self._work / IMAGES).exists()
        copy = copied_anew if fresh else copied
        for folder in {image.path.rpartition("/")[0] for image in images}:
            make_folder(self._work / folder)

        def put(image: Image) -> bool:
            return copy(self._root / image.place, self._work / image.path, image.sha256)

        for image, right in ahead(put, images):
            yield image, self._noted(image, right)

    def put(self, image: Image) -> bool:
        place, target = self._root / image.place, self._work / image.path
        make_folder(target.parent)
        return self._noted(image, copied(place, target, image.sha256))

    def _noted(self, image: Image, right: bool) -> bool:
        if right:
            self._names.add(image.path)
        return right

    def write(self, name: str, file: Loaded) -> None:
        self._names.add(name)
        target = self._work / name
        with file.file, room(target):
            with suppress(FileNotFoundError):
                if file.data is None and os.path.samestat(
                    os.fstat(file.file.fileno()), target.stat()
                ):
                    return
            make_folder(target.parent)
            part = target.with_name(f".{target.name}.part")
            with part.open("wb", buffering=0) as out:
                for piece in file.pieces():
                    out.write(piece)
            os.utime(part, (file.made, file.made))
            part.replace(target)

    def end(self, dest: Path) -> list[Path]:
        with room(dest):
            self._remove_others()
            # One wait for the whole disk is far shorter than one for each file.
            os.sync()
            self._work.rename(dest)
            (dest / LOCK).unlink()
            sync_folder(dest.absolute().parent)
        return [dest]

    def _remove_others(self) -> None:
        """What a killed export left that this one does not hold."""
        for path in sorted(self._work.rglob("*"), reverse=True):
            if path.is_dir() and not path.is_symlink():
                with suppress(OSError):
                    path.rmdir()
            elif str(path.relative_to(self._work)) not in self._names:
                path.unlink()

    def close(self) -> None:
        """Nothing is open."""


class ArchivePlace:
    """An archive, written by one thread while others read ahead."""

    def __init__(self, root: Path, writer: Writer) -> None:
        self._root = root
        self._writer = writer

    def put_all(self, images: Sequence[Image]) -> Iterator[tuple[Image, bool]]:
        for image, file in ahead(lambda image: loaded(self._root / image.place), images):
            yield image, self._put(image, file)

    def put(self, image: Image) -> bool:
        return self._put(image, loaded(self._root / image.place))

    def _put(self, image: Image, file: Loaded | None) -> bool:
        if file is None or file.sha256 != image.sha256:
            if file is not None:
                file.file.close()
            return False
        self.write(image.path, file)
        return True

    def write(self, name: str, file: Loaded) -> None:
        self._writer.put(name, file.size, file.made, file.pieces())

    def end(self, dest: Path) -> list[Path]:
        files = self._writer.end()
        with room(dest):
            # The first part comes last: until it is there, nothing can be read.
            for file in reversed(files):
                file.rename(dest.with_name(file.name))
            sync_folder(dest.absolute().parent)
        return [dest.with_name(file.name) for file in files]

    def close(self) -> None:
        self._writer.close()
