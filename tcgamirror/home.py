"""Where a mirror is and what makes it one: its settings beside its catalogue."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tcgamirror.catalogue import Catalogue
from tcgamirror.errors import BadSettings, NotAMirror
from tcgamirror.files import make_folder, replacing, room
from tcgamirror.settings import FILE_NAME, Settings, format_settings, read_settings

CATALOGUE = "catalogue.db"
WORK = "work"
_FIXED = "fixed at init"


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
            if (root / FILE_NAME).is_file():
                return cls(root, read_settings(root / FILE_NAME))
        where = f"neither {start.absolute()} nor a directory above it" if above else str(start)
        verb = "is" if above else "is not"
        raise NotAMirror(
            f"{where} {verb} a mirror (it would hold {FILE_NAME}); "
            "make one by tcgamirror init, or name it by --mirror"
        )

    @classmethod
    def create(cls, root: Path, settings: Settings) -> Home:
        """A new mirror. The settings are written last: what lacks them is none.

        Raises NotAMirror if `root` holds one, or a catalogue without settings.
        """
        for name in (FILE_NAME, CATALOGUE):
            if (root / name).exists():
                raise NotAMirror(f"{root} holds {name} already; choose another directory")
        if root.exists() and not root.is_dir():
            raise NotAMirror(f"{root} is no directory")
        with room(root):
            make_folder(root)
        home = cls(root, settings)
        with Catalogue.create(root / CATALOGUE) as catalogue:
            catalogue.set_fact(_FIXED, settings.fixed)
        with replacing(root / FILE_NAME) as file:
            file.write(format_settings(settings).encode())
        return home

    def check_target(self, catalogue: Catalogue) -> None:
        """Raises BadSettings if the settings ask for other images than the mirror was made for."""
        fixed = catalogue.fact(_FIXED)
        if fixed is not None and fixed != self.settings.fixed:
            raise BadSettings(
                f"{self.root / FILE_NAME} asks for images of {self.settings.fixed}, but the mirror "
                f"was made for {fixed}: change [target] back, or make another mirror by init"
            )
