"""Where a mirror is and what makes it one: its settings beside its catalogue."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from tcgamirror.catalogue import Catalogue
from tcgamirror.errors import BadSettings, NotAMirror, TcgaMirrorError, WrongUse
from tcgamirror.files import FORBIDDEN, make_folder, replacing, room
from tcgamirror.settings import FILE_NAME, Settings, format_settings, read_settings

CATALOGUE = "catalogue.db"
WORK = "work"
FIXED = "fixed at init"
"""The fact that tells what images the mirror was made for."""


@dataclass(frozen=True, slots=True)
class Home:
    """A mirror's directory and its settings."""

    root: Path
    settings: Settings

    @classmethod
    def find(cls, start: Path, *, above: bool) -> Home:
        """The mirror at `start`, or, if `above`, in the nearest directory above it.

        Raises NotAMirror, or BadSettings for settings that cannot be read.
        """
        for root in [start, *(start.absolute().parents if above else [])]:
            if _there(root / FILE_NAME):
                return cls(root, read_settings(root / FILE_NAME))
        if above:
            raise NotAMirror(
                f"neither {start.absolute()} nor a directory above it is a mirror (it would hold "
                f"{FILE_NAME}); make one by tcgamirror init, or name it by --mirror"
            )
        lack = f"holds no {FILE_NAME}" if start.is_dir() else "is no directory"
        raise NotAMirror(
            f"{start.absolute()} is no mirror, it {lack}; make one by tcgamirror init, or name "
            "another by --mirror or TCGAMIRROR"
        )

    @classmethod
    def create(cls, root: Path, settings: Settings) -> Home:
        """A new mirror. The settings are written last: what lacks them is none.

        A catalogue that an init left which was killed before that is replaced.
        Raises NotAMirror if `root` holds a mirror, or another catalogue.
        """
        _make(root)
        if not _there(root / FILE_NAME) and _is_unfinished(root / CATALOGUE):
            (root / CATALOGUE).unlink()
        for name in (FILE_NAME, CATALOGUE):
            if _there(root / name):
                raise NotAMirror(f"{root} holds {name} already; choose another directory")
        with Catalogue.create(root / CATALOGUE) as catalogue:
            catalogue.set_fact(FIXED, settings.fixed)
        try:
            with replacing(root / FILE_NAME) as file:
                file.write(format_settings(settings).encode())
        except BaseException:
            # Left alone it would keep the next init from this directory.
            (root / CATALOGUE).unlink(missing_ok=True)
            raise
        return cls(root, settings)

    def check_target(self, catalogue: Catalogue) -> None:
        """Raises BadSettings if the settings ask for other images than the mirror was made for."""
        fixed = catalogue.fact(FIXED)
        if fixed is not None and fixed != self.settings.fixed:
            raise BadSettings(
                f"{self.root / FILE_NAME} asks for images of {self.settings.fixed}, but the mirror "
                f"was made for {fixed}: change [target] back, or make another mirror by init"
            )


def _there(path: Path) -> bool:
    try:
        # Anything at all: what is no file is told when it is opened.
        return os.path.lexists(path)
    except ValueError as error:
        raise NotAMirror(f"{str(path)!r} is no path ({error})") from error


def _is_unfinished(path: Path) -> bool:
    """Whether there is a catalogue in which nothing was ever listed, sampled or run."""
    if path.is_symlink() or not path.is_file():
        return False
    try:
        with Catalogue.open(path, read_only=True) as catalogue:
            return not (catalogue.merges() or catalogue.sampled() or catalogue.counts().runs)
    except TcgaMirrorError:
        return False


def _make(root: Path) -> None:
    """The directory and those above it. Raises NotAMirror where there can be none."""
    try:
        with room(root):
            make_folder(root)
    except (WrongUse, OSError, ValueError) as error:
        cause = error.__cause__ or error
        if getattr(cause, "errno", None) in FORBIDDEN:
            raise
        why = getattr(cause, "strerror", None) or error
        raise NotAMirror(
            f"the directory {str(root)!r} cannot be made ({why}); choose another"
        ) from error
