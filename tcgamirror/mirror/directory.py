"""Where a mirror is and what makes it one: its settings beside its catalogue."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tcgamirror.catalogue.catalogue import Catalogue
from tcgamirror.mirror.provenance import PLAN, parse_plan, plan_facts, plan_words
from tcgamirror.mirror.settings import FILE_NAME, LOCKED, Settings, format_settings, read_settings
from tcgamirror.model.errors import BadSettings, NotAMirror, TcgaMirrorError, UsageError
from tcgamirror.model.text import command_line
from tcgamirror.system.files import FORBIDDEN, atomic_write, differs, disk_errors, make_folder
from tcgamirror.system.lock import Lock
from tcgamirror.system.mounts import check_locks

CATALOGUE = "catalogue.db"
WORK = "work"
FIXED = "fixed at init"
"""The fact that tells what images the mirror was made for."""

GALLERY = "gallery"
LOCK = "lock"
_BEGUN = frozenset({LOCK, "images", WORK, LOCKED, "lost+found"})
"""What a killed import or sync may leave before there are settings, or a new disk brings along."""

_OBSOLETE = (".verify.json", ".compared.txt")
"""Files of older versions: how far verify came, and which images it found good."""


@dataclass(frozen=True, slots=True)
class Mirror:
    """A mirror's directory and its settings."""

    root: Path
    settings: Settings

    @classmethod
    def find(cls, start: Path, *, above: bool) -> Mirror:
        """The mirror at `start`, or, if `above`, in the nearest directory above it.

        Raises NotAMirror, BadSettings for settings that cannot be read, and UsageError
        for a catalogue that may not be.
        """
        for root in [start, *(start.absolute().parents if above else [])]:
            if _there(root / FILE_NAME):
                check_readable(root / CATALOGUE)
                return cls(root, read_settings(root / FILE_NAME))
        if above and not _there(start / CATALOGUE):
            raise NotAMirror(
                f"{start.absolute()}: neither it nor a directory above it is a mirror with a "
                f"{FILE_NAME}. Name a mirror by --mirror, or make one by tcgamirror init"
            )
        if _there(start / CATALOGUE):
            raise NotAMirror(_lost_settings(start))
        lack = f"it holds no {FILE_NAME}" if start.is_dir() else "no such directory"
        raise NotAMirror(
            f"{start.absolute()}: not a mirror, {lack}. Name another by --mirror or TCGAMIRROR, "
            f"or make one by {command_line('init', start)}"
        )

    @classmethod
    def begin(cls, root: Path, settings: Settings, lock: Iterable[bytes] = ()) -> Mirror:
        """`create` under the mirror's lock. Raises Locked if another run makes one there."""
        # Before the lock's file is made: what is refused is left as it was.
        cls(root, settings)._check_place()
        with Lock(root / LOCK, "init"):
            return cls.create(root, settings, lock)

    @classmethod
    def create(cls, root: Path, settings: Settings, lock: Iterable[bytes] = ()) -> Mirror:
        """A new mirror, for who holds its lock. Settings are written last: what lacks them is none.

        lock: the lines of its lock file, if the settings name one. A catalogue that an
        init left which was killed before that is replaced. One that was used stays, as
        that of a mirror whose settings were lost. Raises NotAMirror if `root` holds a
        mirror, a catalogue of other images or none, or the lock file of another sample.
        """
        mirror = cls(root, settings)
        if mirror._check_place():
            mirror._write_settings(lock, others=True)
            return mirror
        (root / CATALOGUE).unlink(missing_ok=True)
        with Catalogue.create(root / CATALOGUE) as catalogue:
            for key, value in mirror.fixed_facts.items():
                catalogue.set_fact(key, value)
        try:
            mirror._write_settings(lock)
        except BaseException:
            # Left alone it would keep an init for other images from this directory.
            (root / CATALOGUE).unlink(missing_ok=True)
            raise
        return mirror

    def _check_place(self) -> bool:
        """Makes the directory; whether the catalogue of a mirror without settings lies there."""
        root = self.root
        _check_outside(root)
        check_locks(root)
        _make(root)
        if _there(root / FILE_NAME):
            raise NotAMirror(
                f"{root} holds {FILE_NAME} already: for more or other slides change it there; for "
                "other images choose another directory"
            )
        if _there(root / CATALOGUE) and not _is_unfinished(root / CATALOGUE):
            self._check_own_catalogue()
            return True
        if _there(root / GALLERY):
            raise NotAMirror(
                f"{root / GALLERY} is there already, and a mirror's own pages would go in there: "
                "choose another directory, or move it away"
            )
        return False

    def _write_settings(self, lock: Iterable[bytes], *, others: bool = False) -> None:
        """others: whether a lock file that is there already may be of what is sampled there."""
        if self.settings.lock is not None:
            path = self.root / self.settings.lock
            with atomic_write(path) as file:
                file.writelines(lock)
                if others and differs(path, file):
                    raise NotAMirror(
                        f"{path} is there already and names another sample: give that one as "
                        "--lock, or move it away"
                    )
        with atomic_write(self.root / FILE_NAME) as file:
            file.write(format_settings(self.settings).encode())

    def _check_own_catalogue(self) -> None:
        """Raises NotAMirror if the catalogue that is there already is not of such images."""
        try:
            with Catalogue.open(self.root / CATALOGUE, read_only=True) as catalogue:
                fixed = catalogue.fact(FIXED)
                plan = parse_plan(catalogue.fact(PLAN))
        except TcgaMirrorError as error:
            raise NotAMirror(
                f"{self.root} holds {CATALOGUE} already, which cannot be read: choose another "
                "directory, or, if a mirror lost its settings here, move it away, run tcgamirror "
                "init again, and then tcgamirror rebuild"
            ) from error
        if fixed != self.settings.fixed:
            raise NotAMirror(
                f"{self.root} holds {CATALOGUE} already, which was made for {fixed}: choose "
                "another directory, or run tcgamirror init for such images to write its settings "
                "again"
            )
        if plan is not None and plan != self.settings.plan:
            raise NotAMirror(
                f"{self.root} holds {CATALOGUE} already, which was made for slides "
                f"{plan_words(plan)}: choose another directory, or run tcgamirror init for such "
                "slides to write its settings again"
            )

    @property
    def fixed_facts(self) -> dict[str, str]:
        """Facts of a new catalogue: what the settings may not change any more."""
        return {FIXED: self.settings.fixed, **plan_facts(self.settings.plan)}

    def check_fixed(self, fact: Callable[[str], str | None]) -> None:
        """Raise BadSettings if the settings ask for other images or slides than at `init`.

        fact: returns the catalogue's value of a key, None if there is none.
        """
        file, fixed, plan = self.root / FILE_NAME, fact(FIXED), parse_plan(fact(PLAN))
        if fixed is not None and fixed != self.settings.fixed:
            raise BadSettings(
                f"{file} asks for images of {self.settings.fixed}, but the mirror was made for "
                f"{fixed}: change [target] back, or make another mirror by init"
            )
        if plan is not None and plan != self.settings.plan:
            raise BadSettings(
                f"{file} asks for slides {plan_words(self.settings.plan)}, but the mirror was made "
                f"for slides {plan_words(plan)}: change [sample] back, or make another mirror by "
                "init"
            )

    def remove_obsolete(self) -> None:
        """Remove notes that older versions kept beside the catalogue, where that is allowed."""
        for name in _OBSOLETE:
            with suppress(OSError):
                (self.root / name).unlink(missing_ok=True)


def check_work(root: Path) -> None:
    """Raise UsageError if the mirror's `work/` is a link: what no run knows in it is removed."""
    work = root / WORK
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
    folder = root / WORK / command
    made = [path for path in (root / WORK, root, *root.absolute().parents) if not path.exists()]
    with Lock(root / LOCK, command):
        check_work(root)
        try:
            shutil.rmtree(folder, ignore_errors=True)
            with disk_errors(folder):
                make_folder(folder.parent)
                folder.mkdir(0o700)
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            with suppress(OSError):
                if not os.path.lexists(root / FILE_NAME):
                    (root / LOCK).unlink()
                for path in made:
                    # Only what is empty goes.
                    path.rmdir()


def check_readable(catalogue: Path) -> None:
    """Raises UsageError for a catalogue of which SQLite would say that it cannot be written."""
    if catalogue.exists() and not os.access(catalogue, os.R_OK):
        raise UsageError(f"{catalogue} cannot be read by this user; change its permissions")


def check_place(root: Path) -> None:
    """Raises NotAMirror for a directory that is in use for something else.

    Not so are a mirror, what is not there yet or empty, and what was left by a run
    that was killed while it made a mirror. Hidden files count as nothing, as file
    systems and file managers leave them.
    """
    if _there(root / FILE_NAME):
        return
    _check_outside(root)
    if not root.is_dir():
        return
    if _there(root / CATALOGUE) and not _is_unfinished(root / CATALOGUE):
        raise NotAMirror(_lost_settings(root))
    for name in sorted(path.name for path in root.iterdir()):
        if name not in _BEGUN and not name.startswith((".", CATALOGUE)):
            raise NotAMirror(
                f"{root.absolute()} is no mirror and holds other things, such as {name!r}: "
                "name a mirror, or a new or an empty directory"
            )


def _check_outside(root: Path) -> None:
    """Raises NotAMirror for a place in another mirror, where it would be a stray."""
    # By its name and by where that leads: `..` and links lead into a mirror, and out of one.
    places = [Path(os.path.normpath(root.absolute()))]
    # What is no path at all is told when it is made.
    with suppress(ValueError):
        places.append(Path(os.path.realpath(root)))
    for above in dict.fromkeys(above for place in places for above in place.parents):
        if all(os.path.lexists(above / name) for name in (FILE_NAME, CATALOGUE)):
            raise NotAMirror(
                f"{root.absolute()} lies in the mirror {above}: name a directory outside of it"
            )


def _lost_settings(root: Path) -> str:
    return (
        f"{root.absolute()}: holds {CATALOGUE}, but no {FILE_NAME}. Put a copy back, or run "
        f"{command_line('init', root)} with the options of these images to write it again"
    )


def _there(path: Path) -> bool:
    """Anything at all: what is no file is told when it is opened."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except ValueError as error:
        raise NotAMirror(f"{str(path)!r} is no path ({error})") from error
    except OSError as error:
        raise NotAMirror(
            f"{path.parent.absolute()} cannot be looked into ({error.strerror}): change its "
            "permissions, or name another mirror by --mirror or TCGAMIRROR"
        ) from error
    return True


def _is_unfinished(path: Path) -> bool:
    """Whether there is a catalogue in which nothing was ever listed, sampled or run."""
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


def _make(root: Path) -> None:
    """The directory and those above it. Raises NotAMirror where there can be none."""
    try:
        with disk_errors(root):
            make_folder(root)
    except (UsageError, OSError, ValueError) as error:
        cause = error.__cause__ or error
        if getattr(cause, "errno", None) in FORBIDDEN:
            raise
        why = getattr(cause, "strerror", None) or error
        raise NotAMirror(
            f"the directory {str(root)!r} cannot be made ({why}); choose another"
        ) from error
