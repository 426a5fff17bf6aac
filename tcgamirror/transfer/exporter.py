"""Make a consistent copy of a mirror while others may write to it.

The catalogue is copied first, then every image that it records. Each is compared with its
digest. Where an update has replaced an image meanwhile, its rows are copied again. The export
is made beside its place and renamed at the end.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from tcgamirror.catalogue.catalogue import Catalogue
from tcgamirror.catalogue.images import Image
from tcgamirror.mirror.directory import CATALOGUE, GALLERY, Mirror
from tcgamirror.mirror.progress import Progress
from tcgamirror.mirror.settings import FILE_NAME, format_settings
from tcgamirror.mirror.shards import note_waiting
from tcgamirror.model.errors import UsageError
from tcgamirror.model.text import command_line, timestamp
from tcgamirror.system.files import check_room
from tcgamirror.system.parallel import in_batches, thread_count
from tcgamirror.transfer.archive.format import (
    EARLIER,
    README,
    SUMS,
    format_sums,
    readme,
)
from tcgamirror.transfer.archive.reader import sums_since
from tcgamirror.transfer.catalogue_copy import (
    check_path,
    copy_catalogue,
    finish,
    keep_only,
    matching_slides,
)
from tcgamirror.transfer.content import Destination, FileContent, read_content
from tcgamirror.transfer.destination import check_dest, open_destination
from tcgamirror.transfer.objects import StoredArchive

_COPY = "copy.db"
"""The copied catalogue, beside the files of the export."""

_PAGE = re.compile(rf"{GALLERY}(/[A-Za-z0-9_][A-Za-z0-9_.-]{{0,200}}){{1,2}}")
"""Path of a file that `gallery` makes."""

_RETRIES = 60
_WAIT_SECONDS = 0.05
"""Between two looks at rows that a run is about to write."""

_MAX_THREADS = 4
"""More do not make a disk faster, and each holds a batch of small images in memory."""


@dataclass(frozen=True, slots=True)
class ExportResult:
    """An export that was made.

    dest: the directory or the archive; `-` for standard output. slides: those sampled, by
    status. images, bytes: in it. earlier: images left out because an earlier export has
    them. lacking: paths of images that are damaged or missing in the mirror. An import
    leaves their slides to be fetched again.
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


def export(
    mirror: Mirror,
    dest: Path | StoredArchive | None,
    progress: Progress,
    *,
    only: str | None = None,
    since: Path | None = None,
) -> ExportResult:
    """Make an export at `dest`: an archive by its suffix, else a directory.

    Args:
        dest: None for an archive on standard output.
        only: a condition on the view `mirror`, in SQL.
        since: another export, whose images are left out.

    Raises:
        UsageError, BadQuery: for what cannot be exported.
        Locked: if another run makes the same export.
        DiskFull: if the images do not fit.
        Damaged: for the catalogue.
    """
    start = time.monotonic()
    check_dest(mirror.root, dest)
    note_waiting(mirror.root, progress.note)
    earlier = {} if since is None else sums_since(since)
    with ExitStack() as stack:
        with Catalogue.open(mirror.root / CATALOGUE, read_only=True) as live:
            mirror.check_fixed(live.fact)
            # Before anything is made, as the condition may be refused.
            names = None if only is None else matching_slides(live, only)
            size = live.images.total_bytes()
            work, destination = stack.enter_context(open_destination(dest, mirror.root, size))
            copy = stack.enter_context(copy_catalogue(live, work / _COPY))
        release = copy.listing.release()
        if names is not None:
            keep_only(copy, names)
        export = _Export(mirror, copy, destination, earlier, progress)
        export.put_images(work if isinstance(dest, Path) else None)
        left_out = len(export.left_out)
        export.put_rest(work / _COPY, release, is_part=only is not None)
    return ExportResult(
        dest="-" if dest is None else str(dest),
        release=release,
        target=mirror.settings.fixed,
        slides=export.slides,
        images=export.images,
        bytes=export.bytes,
        earlier=left_out,
        lacking=tuple(export.lacking),
        seconds=time.monotonic() - start,
    )


@dataclass(slots=True)
class _Export:
    """The state of one export.

    copy: the export's catalogue. earlier: digests by path of files in an earlier export.
    sums: of the files in this one. left_out: of files that the earlier one has. missing: file
    names of slides whose images are not in the export.
    """

    mirror: Mirror
    copy: Catalogue
    destination: Destination
    earlier: Mapping[str, str]
    progress: Progress
    sums: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    lacking: list[str] = field(default_factory=list)
    slides: dict[str, int] = field(default_factory=dict)
    images: int = 0
    bytes: int = 0

    # Images ------------------------------------------------------------------------

    def put_images(self, folder: Path | None) -> None:
        """Put every image that is right, and remove the others from the copied catalogue.

        folder: its disk has to have room for all of them.
        """
        recorded = self.copy.images.recorded()
        for image in recorded:
            check_path(image, self.mirror.root)
        sums = ((image.path, image.sha256) for image in recorded)
        self.left_out = dict(pair for pair in sums if pair in self.earlier.items())
        images = [image for image in recorded if image.path not in self.left_out]
        size = sum(image.bytes for image in images)
        if folder is not None:
            resumed = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
            check_room(folder.parent, size - resumed)
        self.progress.start_images(len(images), size)
        retry = []
        for batch in in_batches(
            self._read,
            images,
            at_once=thread_count(_MAX_THREADS),
            size_of=lambda image: image.bytes,
        ):
            for image, content in batch:
                if not self._put_image(image, content):
                    retry.append(image)
            self.progress.add_images(len(batch), sum(image.bytes for image, _ in batch))
        self._put_again(retry)
        self.copy.images.clear(self.missing)

    def _read(self, image: Image) -> FileContent | bool:
        """Return the content of an image to write in order, else whether the export has it now."""
        if self.destination.holds(image):
            return True
        content = read_content(f"{self.mirror.root}/{image.path}", image.sha256)
        if content is None or self.destination.in_order:
            return content or False
        self.destination.write(image.path, content)
        return True

    def _put_image(self, image: Image, content: FileContent | bool) -> bool:
        """Return whether the export has the image now."""
        if isinstance(content, FileContent):
            self.destination.write(image.path, content)
        elif not content:
            return False
        self.sums[image.path] = image.sha256
        self.images += 1
        self.bytes += image.bytes
        return True

    def _put_again(self, images: Sequence[Image]) -> None:
        """Put images that differ from the copied catalogue as the mirror has them now.

        A run that replaces an image makes its row pending, then writes the file, then the
        row. So all of them are waited for together, for a few seconds.
        """
        for _ in range(_RETRIES):
            if not images:
                return
            with Catalogue.open(self.mirror.root / CATALOGUE, read_only=True) as live:
                current = [self._put_current(live, image) for image in images]
            images = [image for image in current if image is not None]
            if images:
                time.sleep(_WAIT_SECONDS)
        self.missing += [image.file_name for image in images]

    def _put_current(self, live: Catalogue, image: Image) -> Image | None:
        """Return the image to wait for; None if it is put or missing."""
        rows = live.rows.slide(image.file_name)
        if rows is not None and rows.image["sha256"] is not None:
            current = Image.of_row(rows.image)
            check_path(current, self.mirror.root)
            if self._put_image(current, self._read(current)):
                self.copy.rows.replace(rows)
                return None
            if not current.done or current.sha256 != image.sha256:
                return current
            self.lacking.append(image.path)
        self.missing.append(image.file_name)
        return None

    # Other files -------------------------------------------------------------------

    def put_rest(self, catalogue: Path, release: str | None, *, is_part: bool) -> None:
        """Put gallery, settings, the copied catalogue, and the digests of all files."""
        settings, earlier = self.mirror.settings, len(self.left_out)
        # The gallery shows the whole sample.
        if not is_part:
            self._put_gallery()
        self.slides = finish(self.copy)
        self.copy.close()
        if is_part:
            # Otherwise the first update there would add the slides that were left out.
            part = replace(settings, slides=sum(self.slides.values()), lock=None)
            self._put(FILE_NAME, FileContent.of_text(format_settings(part)))
        else:
            self._put_file(FILE_NAME)
            if settings.lock:
                self._put_file(settings.lock)
        self._put_file(CATALOGUE, catalogue)
        if self.earlier:
            self._put(EARLIER, FileContent.of_text(format_sums(self.left_out)))
        page = readme(settings, release, self.slides, self.images, earlier)
        self._put(README, FileContent.of_text(page))
        self._put(SUMS, FileContent.of_text(format_sums(self.sums)))

    def _put_gallery(self) -> None:
        """Put the gallery, unless it is older than an exclusion, and may show the slide."""
        root = self.mirror.root
        # A build that changes no page still writes the gallery's lock.
        built = max((path.lstat().st_mtime for path in root.glob(f"{GALLERY}/*")), default=None)
        excluded = max((each.excluded_at for each in self.copy.exclusions.all()), default="")
        if built is not None and timestamp(built) < excluded:
            self.progress.note(
                f"{root / GALLERY}: older than the last exclusion, so it is left out. Renew it "
                f"by: {command_line('gallery', root)}"
            )
            return
        for path in sorted((*root.glob(f"{GALLERY}/*"), *root.glob(f"{GALLERY}/*/*"))):
            name = path.relative_to(root).as_posix()
            # A person may have put other files there, and another run may be writing.
            is_page = _PAGE.fullmatch(name) and not path.is_symlink()
            content = read_content(path) if is_page else None
            if content is None:
                continue
            if self.earlier.get(name) == content.sha256:
                self.left_out[name] = content.sha256
                content.close()
            else:
                self._put(name, content)

    def _put_file(self, name: str, path: Path | None = None) -> None:
        """Put a file of the mirror, or that at `path`."""
        path = path or self.mirror.root / name
        content = read_content(path)
        if content is None:
            raise UsageError(
                f"{path}: is missing or cannot be read, and the mirror depends on it. Restore it, "
                f"or remove its name from {FILE_NAME}"
            )
        self._put(name, content)

    def _put(self, name: str, content: FileContent) -> None:
        self.sums[name] = content.sha256
        self.destination.write(name, content)
