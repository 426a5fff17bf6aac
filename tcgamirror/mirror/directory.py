"""A mirror's directory: settings, catalogue, and checks of the place."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tcgamirror.catalogue.catalogue import Catalogue
from tcgamirror.catalogue.exclusions import Exclusion
from tcgamirror.mirror.exclusion_file import read_exclusions, write_exclusions
from tcgamirror.mirror.provenance import PLAN, init_options, parse_plan, plan_facts, plan_words
from tcgamirror.mirror.settings import FILE_NAME, LOCKED, Settings, format_settings, read_settings
from tcgamirror.model.errors import BadSettings, Locked, NotAMirror, TcgaMirrorError, UsageError
from tcgamirror.model.shard import Shard
from tcgamirror.model.text import command_line
from tcgamirror.system.files import atomic_write, differs, disk_errors, make_folder
from tcgamirror.system.lock import Lock
from tcgamirror.system.mounts import check_locks

CATALOGUE = "catalogue.db"
WORK = "work"
SHARDS = f"{WORK}/shards"
"""The folder of shards' records, see `mirror.shards`."""

FIXED = "fixed at init"
"""Key of the fact that holds what images the mirror was made for."""

GALLERY = "gallery"
LOCK = ".lock"
_BEGUN = frozenset({"images", WORK, LOCKED, "lost+found"})
"""Names that a killed import or sync leaves before there are settings, or that a new disk has."""

_OWN = ("images", WORK, GALLERY, LOCK)
"""Names in a mirror of what its runs write, lock or remove, beside the catalogue and settings."""


@dataclass(frozen=True, slots=True)
class Mirror:
    """A mirror's directory and its settings."""

    root: Path
    settings: Settings

    @classmethod
    def find(cls, start: Path, *, above: bool) -> Mirror:
        """Return the mirror at `start`, or, if `above`, in the nearest directory above it.

        Raises:
            NotAMirror: no mirror was found.
            BadSettings: the settings are unreadable or invalid.
            UsageError: this user may not read the catalogue.
        """
        for root in [start, *(start.absolute().parents if above else [])]:
            if _there(root / FILE_NAME):
                path = root / CATALOGUE
                # SQLite would call it unwritable.
                if path.exists() and not os.access(path, os.R_OK):
                    raise UsageError(
                        f"{path}: it cannot be read by this user. Change its permissions"
                    )
                return cls(root, read_settings(root / FILE_NAME))
        if _there(start / CATALOGUE):
            raise NotAMirror(_lost_settings(start))
        if start.is_file():
            raise NotAMirror(
                f"{start.absolute()}: not a mirror, but a file. Name a mirror's directory by "
                "--mirror or TCGAMIRROR"
            )
        lack = f"it holds no {FILE_NAME}" if start.is_dir() else "no such directory"
        what = f"neither it nor a directory above it holds a {FILE_NAME}" if above else lack
        raise NotAMirror(
            f"{start.absolute()}: not a mirror, {what}. Name one by --mirror or TCGAMIRROR, or "
            f"make one by: {command_line('init --mpp 15', start)}"
        )

    @classmethod
    def begin(
        cls,
        root: Path,
        settings: Settings,
        lock: Iterable[bytes] = (),
        exclusions: Sequence[Exclusion] = (),
    ) -> Mirror:
        """Create a mirror under its lock. Raises Locked if another run makes one there."""
        # Checked before the lock file is made, so that a refused place stays as it was.
        with _hold_new(root, "init", cls(root, settings)._check_place):
            return cls.create(root, settings, lock, exclusions)

    @classmethod
    def create(
        cls,
        root: Path,
        settings: Settings,
        lock: Iterable[bytes] = (),
        exclusions: Sequence[Exclusion] = (),
    ) -> Mirror:
        """Create a mirror whose lock is held. The settings are written last and make it a mirror.

        A catalogue that a killed init left is replaced. A used one stays: it is that
        of a mirror whose settings were lost. Exclusions of a mirror that was lost here stay.

        Args:
            lock: lines of the lock file that the settings name.
            exclusions: of slides that may not be listed yet.

        Raises:
            NotAMirror: `root` holds a mirror, another catalogue, or the lock file of
                another sample.
            BadSettings: an invalid `excluded.tsv` is there.
        """
        mirror = cls(root, settings)
        if mirror._check_place():
            mirror._write_settings(lock, others=True)
            return mirror
        exclusions = [*read_exclusions(root), *exclusions]
        (root / CATALOGUE).unlink(missing_ok=True)
        with Catalogue.create(root / CATALOGUE) as catalogue:
            for key, value in mirror.fixed_facts.items():
                catalogue.set_fact(key, value)
            catalogue.exclusions.add(exclusions)
        written = [root / CATALOGUE]
        if settings.lock is not None and not os.path.lexists(root / settings.lock):
            written.append(root / settings.lock)
        try:
            mirror._write_settings(lock)
        except BaseException:
            # A catalogue without settings would refuse an init for other images here.
            for path in written:
                path.unlink(missing_ok=True)
            raise
        # Last, as the next init here takes over the exclusions of such a file.
        with mirror.open_to_write():
            return mirror

    @contextmanager
    def open_to_write(self, note: Callable[[str], None] = lambda _: None) -> Iterator[Catalogue]:
        """Open the catalogue for a run that holds the mirror's lock.

        Records of shards are collected. `excluded.tsv` is made equal to the catalogue, as a
        killed run may have left an older one.

        Args:
            note: called with what was collected, in words.

        Raises BadSettings if the settings ask for other images or slides than at `init`.
        """
        with Catalogue.open(self.root / CATALOGUE) as catalogue:
            self.check_fixed(catalogue.fact)
            self._collect(catalogue, note)
            write_exclusions(self.root, catalogue)
            yield catalogue

    @contextmanager
    def open_copy(self) -> Iterator[Catalogue]:
        """Open a temporary copy of the catalogue, with the records of shards in it.

        Raises BadSettings as `open_to_write` does.
        """
        with Catalogue.open_temporary(self.root / CATALOGUE) as catalogue:
            self.check_fixed(catalogue.fact)
            self._collect(catalogue, lambda _: None, remove=False)
            yield catalogue

    def count_uncollected(self, catalogue: Catalogue) -> tuple[int, int]:
        """Return how many done and failed slides shards recorded that no run has collected."""
        if not (self.root / SHARDS).is_dir():
            return 0, 0
        from tcgamirror.mirror.shards import count_uncollected

        return count_uncollected(catalogue, self.root)

    def _collect(
        self, catalogue: Catalogue, note: Callable[[str], None], *, remove: bool = True
    ) -> None:
        if (self.root / SHARDS).is_dir():
            # Imported late: few mirrors have shards.
            from tcgamirror.mirror.shards import collect

            collect(catalogue, self.root, self.settings.form, note, remove=remove)

    def _check_place(self) -> bool:
        """Make the directory; return whether it holds the catalogue of a lost mirror."""
        root = self.root
        _check_outside(root)
        check_locks(root)
        with disk_errors(root):
            make_folder(root)
        if _there(root / FILE_NAME):
            raise NotAMirror(
                f"{root / FILE_NAME}: exists already. For more slides run: "
                f"{command_line('update --slides N', root)}. For other slides or images choose "
                f"another directory. {_unwanted(root)}"
            )
        if _there(root / CATALOGUE) and not _is_unfinished(root / CATALOGUE):
            self._check_own_catalogue()
            return True
        if _there(root / GALLERY):
            raise NotAMirror(
                f"{root / GALLERY}: exists already, and a mirror's own pages would go in there. "
                "Choose another directory, or move it away"
            )
        return False

    def _write_settings(self, lock: Iterable[bytes], *, others: bool = False) -> None:
        """Write settings and lock file. others: refuse to replace another sample's lock file."""
        if self.settings.lock is not None:
            path = self.root / self.settings.lock
            with atomic_write(path) as file:
                file.writelines(lock)
                if others and differs(path, file):
                    raise NotAMirror(
                        f"{path}: exists already, and names another sample. Name it by --lock, or "
                        "move it away"
                    )
        with atomic_write(self.root / FILE_NAME) as file:
            file.write(format_settings(self.settings).encode())

    def _check_own_catalogue(self) -> None:
        """Raise NotAMirror if the existing catalogue is of other images or slides."""
        path = self.root / CATALOGUE
        try:
            with Catalogue.open(path, read_only=True) as catalogue:
                change = self._change_since_init(lambda key: catalogue.fact(key) or "unknown")
        except TcgaMirrorError as error:
            raise NotAMirror(
                f"{path}: exists already, and cannot be read. Choose another directory, or, if a "
                "mirror lost its settings here, move it away and run: "
                f"{command_line('init', self.root)}, with the options of its images, then: "
                f"{command_line('rebuild', self.root)}"
            ) from error
        if change is not None:
            raise NotAMirror(
                f"{path}: exists already without {FILE_NAME}, and was made for {change[2]}. Choose "
                f"another directory, or write its settings again by: {_init_command(self.root)}"
            )

    @property
    def fixed_facts(self) -> dict[str, str]:
        """Facts of a new catalogue: what the settings may not change any more."""
        return {FIXED: self.settings.fixed, **plan_facts(self.settings.plan)}

    def check_fixed(self, fact: Callable[[str], str | None]) -> None:
        """Raise BadSettings if the settings ask for other images or slides than at `init`.

        fact: returns the catalogue's value of a key, None if there is none.
        """
        if change := self._change_since_init(fact):
            table, there, here = change
            raise BadSettings(
                f"{self.root / FILE_NAME}: it asks for {there}, but the mirror was made for "
                f"{here}. Change [{table}] back, or make another mirror by init in another "
                "directory"
            )

    def _change_since_init(self, fact: Callable[[str], str | None]) -> tuple[str, str, str] | None:
        """Return table and words of another wish of the settings, and the words of `init`'s."""
        settings, fixed, plan = self.settings, fact(FIXED), parse_plan(fact(PLAN))
        if fixed is not None and fixed != settings.fixed:
            return "target", f"images of {settings.fixed}", f"images of {fixed}"
        if plan is not None and plan != settings.plan:
            there, here = (f"slides {plan_words(each)}" for each in (settings.plan, plan))
            return "sample", there, here
        return None


@contextmanager
def hold(root: Path, command: str) -> Iterator[None]:
    """Hold the mirror's lock. Raises as Lock does."""
    with ExitStack() as stack:
        try:
            stack.enter_context(Lock(root / LOCK, command))
        except Locked as error:
            from tcgamirror.mirror.shards import find_holder

            if (holder := find_holder(root)) is None:
                raise
            raise Locked(f"a shard ({holder}) holds {root}. Wait for it to end") from error
        yield


@contextmanager
def hold_shard(root: Path, shard: Shard, command: str) -> Iterator[None]:
    """Hold one shard of the mirror, while others may hold other ones. Raises as Lock does."""
    from tcgamirror.mirror.shards import check_others, path_of

    check_work(root)
    with (
        Lock(root / LOCK, command, shared=True),
        Lock(path_of(root, shard, ".lock"), command, place=root),
    ):
        check_others(root, shard)
        yield


def check_work(root: Path) -> None:
    """Raise UsageError if the mirror's `work/` is a link: what no run knows in it is removed."""
    for work in (root / WORK, root / SHARDS):
        if work.is_symlink():
            raise UsageError(
                f"{work}: it is a link, and what it leads to would be removed. Remove the link; to "
                "have it on another disk, mount that there"
            )


@contextmanager
def scratch(root: Path, command: str) -> Iterator[Path]:
    """Yield a folder of this run's own in the mirror's `work/`, while it holds the mirror's lock.

    What a killed run left there is removed. Where no mirror comes of it, nothing is left.
    Raises Locked, DiskFull, UsageError.
    """
    # Imported late, as most commands remove nothing.
    import shutil

    folder = root / WORK / command
    with _hold_new(root, command):
        check_work(root)
        try:
            shutil.rmtree(folder, ignore_errors=True)
            with disk_errors(folder):
                make_folder(folder.parent)
                folder.mkdir(0o700)
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _hold_new(
    root: Path, command: str, check: Callable[[], object] = lambda: None
) -> Iterator[None]:
    """Hold the lock of a mirror that may still be made, after a check.

    Where no mirror comes of it, neither the lock file nor empty directories are left.
    """
    made = [path for path in (root / WORK, root, *root.absolute().parents) if not path.exists()]
    try:
        check()
        with hold(root, command):
            try:
                yield
            finally:
                with suppress(OSError):
                    if not os.path.lexists(root / FILE_NAME):
                        (root / LOCK).unlink()
    finally:
        for path in made:
            # Only what is empty goes.
            with suppress(OSError):
                path.rmdir()


def check_place(root: Path) -> None:
    """Raise NotAMirror for a directory that is in use for something else.

    Allowed are a mirror, a missing or empty directory, and the remains of a run that
    was killed while it made a mirror. Hidden files do not count: file systems and
    file managers leave them.
    """
    if _there(root / FILE_NAME):
        return
    _check_outside(root)
    if not root.is_dir():
        return
    if _there(root / CATALOGUE) and not _is_unfinished(root / CATALOGUE):
        raise NotAMirror(_lost_settings(root))
    check_unused(root, "Name a mirror, or a new or an empty directory")


def check_unused(root: Path, remedy: str) -> None:
    """Raise NotAMirror for a directory with other things than what a killed run left."""
    for name in sorted(path.name for path in root.iterdir()):
        if name not in _BEGUN and not name.startswith((".", CATALOGUE)):
            raise NotAMirror(
                f"{root.absolute()}: not a mirror, and it holds other things, such as {name!r}. "
                f"{remedy}"
            )


def _unwanted(mirror: Path) -> str:
    """Return the sentence for somebody who did not mean to have this mirror."""
    names = (FILE_NAME, CATALOGUE, LOCKED, *_OWN)
    there = [name for name in names if os.path.lexists(mirror / name)]
    return f"If that mirror is not wanted, remove {', '.join(there)} in {mirror.absolute()}"


def _check_outside(root: Path) -> None:
    """Raise NotAMirror for a place inside another mirror."""
    for above, _ in _mirrors_above(root):
        raise NotAMirror(
            f"{root.absolute()}: it lies in the mirror {above}. Name a directory outside of "
            f"it. {_unwanted(above)}"
        )


def check_same_target(there: str, here: str, source: str, path: Path | str) -> None:
    """Raise BadSettings, which shows the difference, for two targets that differ."""
    if there != here:
        raise BadSettings(
            f"{source}: has images of {there}, but {path} has images of {here}. "
            "Name another directory"
        )


def check_not_own(path: Path) -> None:
    """Raise UsageError for a file that a mirror's runs write, lock or remove, or might."""
    for above, within in _mirrors_above(path):
        if within in _OWN or within.startswith(CATALOGUE):
            raise UsageError(
                f"{path}: the mirror {above} keeps its own files there. Name another file"
            )


def _mirrors_above(path: Path) -> Iterator[tuple[Path, str]]:
    """Yield the mirrors in which a path lies, with the name in the mirror on the way to it."""
    # Both the path and its target: `..` and links lead into a mirror, and out of one.
    places = [Path(os.path.normpath(path.absolute()))]
    # An invalid path is reported when the directory is made.
    with suppress(ValueError):
        places.append(Path(os.path.realpath(path)))
    for place in dict.fromkeys(places):
        for above in place.parents:
            if all(os.path.lexists(above / name) for name in (FILE_NAME, CATALOGUE)):
                yield above, place.relative_to(above).parts[0]


def _lost_settings(root: Path) -> str:
    return (
        f"{root.absolute()}: it holds {CATALOGUE}, but no {FILE_NAME}. Put a copy back, or write "
        f"it again, with its --manifest and servers if any, by: {_init_command(root)}"
    )


def _init_command(root: Path) -> str:
    """Return the command that writes lost settings again, as far as the catalogue tells it."""
    options = None
    with (
        suppress(TcgaMirrorError),
        Catalogue.open(root / CATALOGUE, read_only=True) as catalogue,
    ):
        fixed, plan = catalogue.fact(FIXED), parse_plan(catalogue.fact(PLAN))
        # A lock file has the slides of its own, and maybe other images.
        if not os.path.lexists(root / LOCKED):
            options = init_options(fixed, plan, catalogue.sample.count())
    known = command_line(f"init {options or ''}".strip(), root)
    return known if options else f"{known}, with the options of these images"


def _there(path: Path) -> bool:
    """Return whether anything has this path. Raises NotAMirror where that cannot be known."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return False
    except OSError as error:
        raise NotAMirror(
            f"{path.parent.absolute()}: it cannot be looked into ({error.strerror}). Change its "
            "permissions, or name another mirror by --mirror or TCGAMIRROR"
        ) from error
    return True


def _is_unfinished(path: Path) -> bool:
    """Return whether the catalogue exists but nothing was listed, sampled or run in it."""
    if path.is_symlink() or not path.is_file():
        return False
    try:
        with Catalogue.open(path, read_only=True) as catalogue:
            return not (
                catalogue.listing.count_merges()
                or catalogue.sample.names()
                or catalogue.reports.counts().runs
            )
    except TcgaMirrorError:
        return False
