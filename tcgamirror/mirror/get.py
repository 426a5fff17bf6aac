"""Images of single slides, without a mirror: find the slides by name, and fetch them."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath

from tcgamirror.catalogue.catalogue import Catalogue
from tcgamirror.imaging.store import Store
from tcgamirror.mirror.directory import CATALOGUE, LOCK, Mirror, check_not_own
from tcgamirror.mirror.dispatcher import Dispatcher
from tcgamirror.mirror.executor import Threads
from tcgamirror.mirror.outage import is_away
from tcgamirror.mirror.progress import Progress
from tcgamirror.mirror.refresh import open_client
from tcgamirror.mirror.settings import Settings, worker_bounds
from tcgamirror.mirror.slots import Slots
from tcgamirror.model import fields
from tcgamirror.model.errors import Damaged, Interrupted, TcgaMirrorError, UsageError
from tcgamirror.model.names import slide_names, without_suffix
from tcgamirror.model.slide import SLIDE_SUFFIX, ImageFormat, Outcome, Picture, Slide
from tcgamirror.net.client import HttpClient
from tcgamirror.sources import gdc
from tcgamirror.sources.origins import Origins
from tcgamirror.sources.workspace import Workspace
from tcgamirror.system.files import disk_errors, make_folder
from tcgamirror.system.interrupt import Shutdown
from tcgamirror.system.lock import Lock

_BARCODE = re.compile(r"TCGA-\w{2}-\w{4}(-[\w-]+(\.[\w-]+)?)?", re.ASCII | re.IGNORECASE)
_CASE_LENGTH = len("TCGA-3C-AALI")
_NAMED = 20
"""Slides or names that an error lists."""

_SCRATCH = ".tcgamirror-"
"""Prefix of the folders for what is not yet an image."""

_TRIES, _PAUSE = 3, 1.0
"""Limits for interactive use: tries of a request, and seconds of the first pause."""


@dataclass(frozen=True, slots=True)
class GetResult:
    """A slide's image, or why there is none.

    picture: None after a failure. outcome: None for an image that was there already.
    """

    slide: Slide
    path: Path
    picture: Picture | None
    outcome: Outcome | None


def get_images(
    names: Sequence[str],
    output: str,
    settings: Settings,
    mirror: Mirror | None,
    progress: Progress,
    shutdown: Shutdown,
    unknown: list[str],
    *,
    force: bool = False,
) -> Iterator[GetResult]:
    """Yield the images that exist, then the others as they end.

    Args:
        names: file_ids, file names or barcodes of slides.
        output: A file, or a directory ("DIR/").
        mirror: Its catalogue is read to find the slides; the mirror does not change.
        unknown: Names that mean no slide are added to it, and noted.
        force: Replace existing images.

    Raises:
        UsageError: No name means a slide, or a file is in the way. Nothing was fetched.
        Unreachable: The GDC, or every slide, cannot be reached.
        TcgaMirrorError: Any other error that would end every slide.
    """
    limits = settings.timeouts
    tries, pause = min(_TRIES, limits.tries), min(_PAUSE, limits.pause)
    settings = replace(settings, timeouts=replace(limits, tries=tries, pause=pause))
    with open_client(settings, shutdown, progress.pause) as client:
        slides = _find_slides(names, mirror, client, settings.api, unknown)
        if unknown:
            words = f"{_shown(unknown)}: the GDC lists no open TCGA slide of that name"
            if not slides:
                raise UsageError(f"{words}. Name a file_id, file name or barcode")
            progress.note(words)
        store = _Output.of(slides, output, settings.form)
        # All of them are in one folder.
        check_not_own(store.folder / next(iter(store.names.values())))
        _remove_leftovers(store.folder)
        if not force:
            for image in _existing(slides, store, settings, shutdown):
                slides.remove(image.slide)
                yield image
        if slides:
            yield from _fetch(slides, store, settings, client, progress, shutdown)


# Names -------------------------------------------------------------------------


def _find_slides(
    names: Sequence[str], mirror: Mirror | None, client: HttpClient, api: str, unknown: list[str]
) -> list[Slide]:
    """Return the slides that names mean, each once, in the order of the names.

    `slide_names` tells which names a slide has. The GDC is asked for names that the catalogue
    does not know. Names that mean no slide are added to `unknown`.

    Raises UsageError for what can be no name, NetworkError.
    """
    found: dict[str, Sequence[Slide]] = {}
    if mirror is not None:
        with Catalogue.open(mirror.root / CATALOGUE, read_only=True) as catalogue:
            found = {name: catalogue.reports.find_slides(name) for name in names}
    found |= _ask_gdc([name for name in names if not found.get(name)], client, api)
    unknown += [name for name in names if not found[name]]
    return list({slide.file_name: slide for name in names for slide in found[name]}.values())


def _shown(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
    return f"{', '.join(names[:_NAMED])}{more}"


def _ask_gdc(names: Sequence[str], client: HttpClient, api: str) -> dict[str, Sequence[Slide]]:
    """Return the slides of each name, in batches for each kind of name."""
    values: dict[str, dict[str, None]] = {"file_id": {}, "file_name": {}, "cases.submitter_id": {}}
    for name in names:
        # The barcodes of some slides stand in no field, but in the slides' names.
        field, value = "cases.submitter_id", without_suffix(name)[:_CASE_LENGTH].upper()
        if fields.file_id(name):
            field, value = "file_id", name.lower()
        elif name.lower().endswith(SLIDE_SUFFIX):
            field, value = "file_name", name
        elif not _BARCODE.fullmatch(without_suffix(name)):
            raise UsageError(f"{name!r:.120}: expected a file_id, file name or barcode of a slide")
        values[field][value] = None
    slides = [
        slide
        for field, wanted in values.items()
        for slide in gdc.find_slides(client, api, field, list(wanted))
    ]
    names_of = {slide: slide_names(slide) for slide in slides}
    return {
        name: [slide for slide in slides if without_suffix(name).lower() in names_of[slide]]
        for name in names
    }


# Images ------------------------------------------------------------------------


class _Output(Store):
    """The image files of some slides, in a folder of the user's choice."""

    @classmethod
    def of(cls, slides: Sequence[Slide], output: str, form: ImageFormat) -> _Output:
        """Name the slides' images. Raises UsageError for several slides in one file."""
        if output.endswith("/") or Path(output).is_dir():
            usual = Store(Path(), form)
            names = {slide.file_name: PurePosixPath(usual.path(slide)).name for slide in slides}
            return cls(Path(output), form, names)
        if len(slides) > 1:
            listed = ", ".join(slide.file_name for slide in slides[:_NAMED])
            raise UsageError(
                f"-o {output}: one file for {len(slides)} slides ({listed}). "
                f"Name a directory, -o {output}/, or fewer slides"
            )
        path = Path(output)
        return cls(path.parent, form, {slide.file_name: path.name for slide in slides})

    def __init__(self, folder: Path, form: ImageFormat, names: Mapping[str, str]) -> None:
        """names: of the images, by the slides' file names."""
        super().__init__(folder, form)
        self.names = names

    def path(self, slide: Slide) -> str:
        """Return the image's path, relative to the folder."""
        return self.names.get(slide.file_name, "")


@contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """Make and lock a scratch folder in the output folder, and remove it at the end."""
    with ExitStack() as stack:
        with disk_errors(folder):
            make_folder(folder)
            scratch = Path(tempfile.mkdtemp(prefix=_SCRATCH, dir=folder))
        stack.callback(shutil.rmtree, scratch, ignore_errors=True)
        # Where the file system has no locks, a killed run's folder stays.
        with suppress(UsageError):
            stack.enter_context(Lock(scratch / LOCK, "get"))
        yield scratch


def _remove_leftovers(folder: Path) -> None:
    """Remove the scratch folders of killed runs."""
    for lock in folder.glob(f"{_SCRATCH}*/{LOCK}"):
        with suppress(TcgaMirrorError), Lock(lock, "get"):
            shutil.rmtree(lock.parent, ignore_errors=True)


def _existing(
    slides: Sequence[Slide], output: _Output, settings: Settings, shutdown: Shutdown
) -> list[GetResult]:
    """Return the images that are there already.

    Raises UsageError for a file that is not such an image of the slide.
    """
    # Imported late: in general there is nothing to read.
    from tcgamirror.mirror.recovery import read_image

    def check() -> None:
        if shutdown.requested:
            raise Interrupted("interrupted")

    images = []
    for slide in slides:
        path = output.folder / output.path(slide)
        if not path.exists():
            continue
        try:
            found = read_image(output, output.path(slide), settings.target, check)
        except Damaged as error:
            raise UsageError(
                f"{path}: file exists ({error}). Name another file by -o, or replace it by --force"
            ) from error
        except OSError as error:
            raise UsageError(
                f"{path}: file exists, and cannot be read ({error.strerror}). "
                "Name another file by -o"
            ) from error
        images.append(GetResult(slide, path, found.picture, None))
    return images


def _fetch(
    slides: Sequence[Slide],
    output: _Output,
    settings: Settings,
    client: HttpClient,
    progress: Progress,
    shutdown: Shutdown,
) -> Iterator[GetResult]:
    """Yield each slide's image as it ends; several are fetched at a time.

    Raises Unreachable if no slide can be reached, Interrupted, and any error that would end
    every slide.
    """
    # Imported late: it brings numpy and openslide.
    from tcgamirror.mirror.ladder import build_ladder

    with _scratch(output.folder) as scratch:
        remedy = "Free some, or name a directory on a larger disk by -o"
        workspace = Workspace(scratch, None, shutdown.stop, remedy=remedy)
        origins = Origins(settings.api, settings.bucket)
        output.scratch = scratch
        ladder = build_ladder(settings, output, client, origins, workspace)
        workers = worker_bounds(settings)
        away = partial(is_away, client, settings.api)
        dispatcher = Dispatcher(Threads(ladder, Slots(*workers)), progress, shutdown, away)
        progress.start_fetch(len(slides), workers.most)
        with closing(dispatcher.outcomes(slides)) as outcomes:
            for outcome in outcomes:
                path = output.folder / output.path(outcome.slide)
                yield GetResult(outcome.slide, path, outcome.picture, outcome)
    dispatcher.finish()
