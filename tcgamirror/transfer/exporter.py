"""`export`: a consistent copy of a mirror, made while others may write to it.

The catalogue is copied first, then the images it tells of: into a directory those
unread that nothing touched since they were compared with their digests, all others
compared on the way. Where an update has replaced one meanwhile, its rows are taken
again from the mirror. All is made beside its place and renamed at the
end: a killed export leaves nothing under the final name, and the next one goes
on with the directory, or begins the archive anew.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from tcgamirror.catalogue.catalogue import Catalogue
from tcgamirror.catalogue.images import Image
from tcgamirror.imaging.verified import Compared
from tcgamirror.mirror.directory import CATALOGUE, GALLERY, Mirror
from tcgamirror.mirror.settings import FILE_NAME, format_settings
from tcgamirror.model.errors import BadExport, DiskFull, UsageError
from tcgamirror.system.files import free_bytes
from tcgamirror.transfer.archive.format import (
    EARLIER,
    MOST_BYTES,
    MOST_ENTRIES,
    MOST_LOCK,
    README,
    SUMS,
    Form,
    checked_name,
    formatted_sums,
    readme,
)
from tcgamirror.transfer.archive.reader import sums_of
from tcgamirror.transfer.catalogue_copy import Snapshot, image_of, meeting
from tcgamirror.transfer.copier import Loaded, loaded, writing_early
from tcgamirror.transfer.destination import (
    ArchivePlace,
    DirectoryPlace,
    Place,
    are_apart,
    check_dest,
    workplace,
)

_TRIES = 60
_WAIT_SECONDS = 0.05
"""Between two looks at rows that a run is about to write."""

_TOP = "tcgamirror"
"""The directory in an archive whose own name is not one for it."""

_FEW = 10
"""Files in an export beside images and gallery, and a few to spare: there are seven."""

Progress = Callable[[int, int, int], None]
"""Told how many of how many images have been seen to, and their bytes."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked for. only: a condition. since: another export."""

    only: str | None = None
    since: Path | None = None


@dataclass(frozen=True, slots=True)
class Exported:
    """What was made.

    dest: the directory or the archive; `-` for standard output. slides: sampled
    ones, by status. images, bytes: in it. earlier: images left out because an earlier
    export holds them. lacking: paths of images that are damaged or missing in
    the mirror, and therefore to be fetched again where it is imported.
    """

    dest: str
    release: str | None
    target: str
    slides: dict[str, int]
    images: int
    bytes: int
    earlier: int
    lacking: tuple[str, ...]
    seconds: float


def export(mirror: Mirror, dest: Path | None, asked: Asked, on_progress: Progress) -> Exported:
    """Make an export at `dest`: an archive by its ending, else a directory; None: standard output.

    Raises UsageError or BadQuery for what cannot be asked for, Locked if the same
    export is being made by another run, DiskFull, Damaged for the catalogue.
    """
    begun = time.monotonic()
    form = Form.TAR if dest is None else Form.of(dest)
    check_dest(mirror.root, dest)
    earlier = {} if asked.since is None else _earlier(asked.since)
    with ExitStack() as stack:
        with Catalogue.open(mirror.root / CATALOGUE, read_only=True) as live:
            mirror.check_target(live)
            # Both before anything is made: they may be refused.
            names = None if asked.only is None else meeting(live, asked.only)
            work = stack.enter_context(workplace(dest, form))
            copying = Snapshot(live, work / CATALOGUE)
            snapshot = stack.enter_context(closing(copying))
        release = snapshot.release()
        if names is not None:
            snapshot.keep_only(names)
        # Another disk is about to be pulled out. On the mirror's own an export into a directory
        # is as safe from a power cut as what `cp` leaves: whoever takes it in compares it.
        settles = dest is not None and (form is Form.TAR or are_apart(work, mirror.root))
        place: Place
        if form is Form.DIRECTORY:
            place = DirectoryPlace(mirror.root, work, settles=settles)
        elif dest is None:
            place = ArchivePlace(mirror.root, None, _TOP)
        else:
            place = ArchivePlace(mirror.root, work / dest.name, _plain(dest.stem))
        stack.callback(place.close)
        made = _Export(mirror, snapshot, place, earlier, on_progress)
        with writing_early(work) if settles else nullcontext():
            made.put_images(None if dest is None else work)
            made.put_rest(work, asked, release)
        place.end(dest)
    return Exported(
        dest="-" if dest is None else str(dest),
        release=release,
        target=mirror.settings.fixed,
        slides=made.slides,
        images=made.images,
        bytes=made.bytes,
        earlier=made.earlier,
        lacking=tuple(made.lacking),
        seconds=time.monotonic() - begun,
    )


def _earlier(since: Path) -> dict[str, str]:
    try:
        return sums_of(since)
    except BadExport as error:
        raise BadExport(f"{since} is no export to go on from: {error}") from error


def _plain(name: str) -> str:
    """The directory in an archive: its name, where that is one that any system takes."""
    plain = name.isascii() and name.isprintable() and not set(name) & set('\\/:*?"<>|')
    return name if plain and len(name) <= 100 and name.strip(". ") == name else _TOP


class _Export:
    """One export at work."""

    def __init__(
        self,
        mirror: Mirror,
        snapshot: Snapshot,
        place: Place,
        earlier: dict[str, str],
        on_progress: Progress,
    ) -> None:
        self._mirror = mirror
        self._snapshot = snapshot
        self._place = place
        self._earlier = earlier
        self._on_progress = on_progress
        self._sums: dict[str, str] = {}
        self._left_out: dict[str, str] = {}
        self._missing: list[str] = []
        self.lacking: list[str] = []
        self.slides: dict[str, int] = {}
        self.images = self.bytes = self.earlier = 0

    # Images -----------------------------------------------------------------------

    def put_images(self, work: Path | None) -> None:
        """Put every image that is right, and have the copied catalogue say no more than that.

        work: where they are written, which has to have room.
        """
        images = self._snapshot.images()
        wanted = [image for image in images if not self._is_earlier(image)]
        self._check_count(len(wanted))
        if work is not None:
            _check_room(work, sum(image.bytes for image in wanted))
        again = []
        for number, (image, right) in enumerate(self._place.put_all(wanted), start=1):
            if right:
                self._note(image)
            else:
                again.append(image)
            self._on_progress(number, len(wanted), self.bytes)
        self._put_again(again)
        self._snapshot.forget(self._missing)

    def _check_count(self, images: int) -> None:
        """Raises UsageError for so many files that nobody could import them."""
        count = images + sum(1 for _ in _shown(self._mirror.root)) + _FEW
        if count > MOST_ENTRIES:
            raise UsageError(
                f"the export would have {count:,} files, and no more than {MOST_ENTRIES:,} can be "
                "imported: make several by --only, or bring the other mirror in step by sync"
            )

    def _is_earlier(self, image: Image) -> bool:
        if self._earlier.get(image.path) != image.sha256:
            return False
        self._left_out[image.path] = image.sha256
        self.earlier += 1
        return True

    def _note(self, image: Image) -> None:
        self._sums[image.path] = image.sha256
        self.images += 1
        self.bytes += image.bytes

    def _put_again(self, images: Sequence[Image]) -> None:
        """Tries those that were not what the copied catalogue says by what the mirror says now.

        A run that replaces an image makes its row pending, then writes the
        file, then the row: so it is worth while to wait a little, once for all.
        """
        for _ in range(_TRIES):
            if not images:
                return
            with Catalogue.open(self._mirror.root / CATALOGUE, read_only=True) as live:
                looked = [self._looked_again(live, image) for image in images]
            images = [image for image in looked if image is not None]
            if images:
                time.sleep(_WAIT_SECONDS)
        self._missing += [image.file_name for image in images]

    def _looked_again(self, live: Catalogue, image: Image) -> Image | None:
        """What may come yet in place of an image; None if it is put now, or known to be missing."""
        rows = live.rows.slide(image.file_name)
        now = None if rows is None else image_of(rows)
        if rows is not None and now is not None:
            if self._place.put(now):
                self._snapshot.set_rows(rows)
                self._note(now)
                return None
            if not now.done or now.sha256 != image.sha256:
                return now
            self.lacking.append(image.path)
            Compared(self._mirror.root).take_back([image.sha256])
        self._missing.append(image.file_name)
        return None

    # All else ---------------------------------------------------------------------

    def put_rest(self, work: Path, asked: Asked, release: str | None) -> None:
        """Puts gallery, settings, catalogue, and what tells of them all."""
        # The gallery shows the whole sample.
        if asked.only is None:
            self._put_gallery()
        self._snapshot.finish()
        self.slides = self._snapshot.summary()
        self._snapshot.close()
        self._put_settings(part=asked.only is not None)
        self._put_file(CATALOGUE, work / CATALOGUE)
        if self._earlier:
            self._put_text(EARLIER, formatted_sums(self._left_out))
        text = readme(self._mirror.settings, release, self.slides, self.images, self.earlier)
        self._put_text(README, text)
        self._write(SUMS, Loaded.of_text(formatted_sums(self._sums)))

    def _put_settings(self, *, part: bool) -> None:
        settings = self._mirror.settings
        if part:
            # Else the first update elsewhere would add what was left out.
            settings = replace(settings, slides=sum(self.slides.values()), lock=None)
            self._put_text(FILE_NAME, format_settings(settings))
            return
        for name in (FILE_NAME, *([settings.lock] if settings.lock else [])):
            self._put_file(name, self._mirror.root / name)

    def _put_gallery(self) -> None:
        for name in sorted(_shown(self._mirror.root)):
            self._put_file(name, self._mirror.root / name)

    def _put_file(self, name: str, path: Path) -> None:
        file = loaded(path)
        shown = name.startswith(f"{GALLERY}/")
        if file is None:
            # Of a gallery that is being made anew.
            if shown:
                return
            raise UsageError(
                f"{path} is gone or cannot be read, without which the export would be another "
                f"mirror's: put it back, or name no such file in {FILE_NAME}"
            )
        if self._earlier.get(name) == file.sha256 and shown:
            self._left_out[name] = file.sha256
            file.file.close()
            return
        self._sums[name] = file.sha256
        self._write(name, file)

    def _put_text(self, name: str, text: str) -> None:
        file = Loaded.of_text(text)
        self._sums[name] = file.sha256
        self._write(name, file)

    def _write(self, name: str, file: Loaded) -> None:
        """Raises UsageError for a file that nobody could import."""
        unbounded = MOST_LOCK if name == self._mirror.settings.lock else file.size
        most = MOST_BYTES.get(name, unbounded)
        if file.size > most:
            raise UsageError(
                f"{name} would have {file.size:,} bytes, and no more than {most:,} can "
                "be imported: make several exports by --only"
            )
        self._place.write(name, file)


def _check_room(work: Path, size: int) -> None:
    free = free_bytes(work)
    held = sum(file.stat().st_size for file in work.rglob("*") if file.is_file())
    if size > free + held:
        raise DiskFull(f"{work.parent} has {free:,} bytes free, the images need {size:,}")


def _shown(root: Path) -> Iterator[str]:
    """The gallery's files, relative to the mirror. Not of a name that no export has."""
    folders = [GALLERY]
    while folders:
        folder = folders.pop()
        # What is being made anew may go away meanwhile.
        with suppress(OSError), os.scandir(root / folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                # That bounds how deep it goes, too.
                with suppress(BadExport):
                    name = checked_name(f"{folder}/{entry.name}")
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(name)
                    elif entry.is_file(follow_symlinks=False):
                        yield name
