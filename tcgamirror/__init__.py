"""An offline mirror of TCGA whole-slide images at a low, known resolution.

From Python, `open` gives a mirror's slides and their images (`tcgamirror help python`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

__version__ = "0.1.0"
__all__ = ["Mirror", "MirrorSlide", "open"]

if TYPE_CHECKING:
    import os

    from tcgamirror.mirror.python import Mirror, MirrorSlide


def open(path: str | os.PathLike[str]) -> Mirror:
    """Return the mirror in a directory, to be read.

    Raises:
        tcgamirror.model.errors.NotAMirror: the directory is not a mirror.
        tcgamirror.model.errors.UsageError: the catalogue cannot be read by this user, or another
            version of this program made it.
        tcgamirror.model.errors.Damaged: the catalogue is missing or damaged.
        tcgamirror.model.errors.Locked: another process locks the catalogue for 30 s.

    >>> open("/nowhere")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    tcgamirror.model.errors.NotAMirror: /nowhere: not a mirror, no such directory. ...
    """
    from tcgamirror.mirror.python import Mirror

    return Mirror.open(path)


if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        """Import a public class at its first use, so that `import tcgamirror` stays light."""
        if name in __all__:
            from tcgamirror.mirror import python

            return getattr(python, name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
