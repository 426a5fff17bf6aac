"""Every error a user can meet, in one tree.

Each class says with which exit code a command ends if nobody handles it, and
whether the same request may succeed when it is made again (`passing`). The
message is one sentence that names the thing and, where there is one, the way
out. `fault` is the class's name in words: it is what the catalogue keeps.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Mapping
from enum import IntEnum
from types import MappingProxyType
from typing import ClassVar


class ExitCode(IntEnum):
    """What a command's exit code tells a script."""

    DONE = 0
    BUG = 1
    WRONG_USE = 2
    SOME_FAILED = 3
    UNREACHABLE = 4
    LOCKED = 5
    NO_ROOM = 6
    DAMAGED = 7
    INTERRUPTED = 130


class TcgaMirrorError(Exception):
    """The root of the tree; only its descendants are raised.

    found: what the command had found before, as members of the JSON object that tells the error.
    """

    exit_code: ClassVar[ExitCode] = ExitCode.BUG
    passing: ClassVar[bool] = False
    found: Mapping[str, object] = MappingProxyType({})

    @property
    def fault(self) -> str:
        """The error's name in words, as the catalogue and the log show it.

        >>> WrongSpan("…").fault
        'wrong span'
        """
        return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", type(self).__name__).lower()


# What the user asked for -----------------------------------------------------


class WrongUse(TcgaMirrorError):
    """The command line, the settings or an input file ask for what cannot be."""

    exit_code = ExitCode.WRONG_USE


class NotAMirror(WrongUse):
    """The directory named holds no mirror, or holds one where none may be."""


class BadSettings(WrongUse):
    """`tcgamirror.toml` cannot be read, or changes what was fixed at `init`."""


class BadManifest(WrongUse):
    """The file given is no GDC manifest, or has a row that cannot be taken."""


class BadLockFile(WrongUse):
    """The file given names no sample: it is another file, or was changed since it was made."""


class BadExport(WrongUse):
    """The thing given to `import` is no export, or holds what no export holds."""


class BadQuery(WrongUse):
    """The SQL given to `query` is wrong or would write."""


# The machine -----------------------------------------------------------------


class Locked(TcgaMirrorError):
    """Another run holds the mirror."""

    exit_code = ExitCode.LOCKED


class NoRoom(TcgaMirrorError):
    """The disk or the quota is full."""

    exit_code = ExitCode.NO_ROOM


class NoMemory(TcgaMirrorError):
    """The system gives the process no more memory."""

    exit_code = ExitCode.NO_ROOM


class Damaged(TcgaMirrorError):
    """The catalogue or the mirror's files are not as this program leaves them."""

    exit_code = ExitCode.DAMAGED


class Interrupted(TcgaMirrorError):
    """The user, or the machine going down, stopped the run."""

    exit_code = ExitCode.INTERRUPTED


class Bug(TcgaMirrorError):
    """Slide after slide met what the program was not written for."""

    exit_code = ExitCode.BUG


# The network: fatal to a listing, one source's failure to a slide -------------


class NetworkError(TcgaMirrorError):
    """A server gave no usable answer."""

    exit_code = ExitCode.UNREACHABLE


class Unreachable(NetworkError):
    """No connection: refused, reset before an answer, no such host, bad certificate."""

    passing = True


class TooSlow(NetworkError):
    """A wait reached its limit: to connect, for the first byte, between bytes, in all."""

    passing = True


class CutShort(NetworkError):
    """The body ended, or the connection broke, before what was promised had come."""

    passing = True


class ServerError(NetworkError):
    """A status that tells of the server's trouble, not of the request: 429 and 5xx."""

    passing = True


class Refused(NetworkError):
    """A status that will not change: 400, 401, 403, 416 and the like."""


class NotThere(NetworkError):
    """404 or 410: the server has no such thing."""


class Redirected(NetworkError):
    """The answer points to another host, which is not followed."""


class WrongContent(NetworkError):
    """The body is not what was asked for: HTML, another site's JSON, absurd values."""

    passing = True


class TooLong(NetworkError):
    """The body is longer than the thing asked for can be."""


class RangeIgnored(NetworkError):
    """200 and the whole file, where a part was asked for."""


class WrongSpan(NetworkError):
    """206 with another `Content-Range` than asked for."""

    passing = True


class WrongTotal(NetworkError):
    """The server's file has another size than the listing says."""


class ChangedFile(NetworkError):
    """The ETag changed from one answer to the next: the file was replaced meanwhile."""

    passing = True


class ListingShrunk(TcgaMirrorError):
    """A new listing lacks so many slides that it is not taken over unasked."""

    exit_code = ExitCode.SOME_FAILED


# The slide: what a source got is not an image of it ---------------------------


class SlideError(TcgaMirrorError):
    """One slide cannot be had in one way.

    elsewhere: whether another source of the ladder may do better.
    """

    exit_code = ExitCode.SOME_FAILED
    elsewhere: ClassVar[bool] = True


class ChecksumMismatch(SlideError):
    """The file has its size but not its md5."""


class BadSlide(SlideError):
    """The file is no slide that can be read: not TIFF, damaged, or absurd."""


class UnusualSlide(SlideError):
    """A slide this source cannot read, though another may."""


class BadTile(SlideError):
    """A tile is missing, short, of the wrong size or not decodable."""


class HoleRead(SlideError):
    """Bytes were asked of a partial file that were never fetched."""


class TooFine(SlideError):
    """The resolution asked for is finer than the slide's base level."""

    elsewhere = False


class TooLarge(SlideError):
    """The image asked for does not fit its format."""

    elsewhere = False


# What Python and the system raise ------------------------------------------------


def lack_of_memory(error: BaseException) -> NoMemory | None:
    """Return the error to tell if `error` says that memory ran out, else None.

    >>> str(lack_of_memory(MemoryError()))[:17], lack_of_memory(ValueError())
    ('not enough memory', None)
    """
    no_thread = isinstance(error, RuntimeError) and "start new thread" in str(error)
    no_library = isinstance(error, ImportError) and "failed to map segment" in str(error)
    refused = isinstance(error, OSError) and error.errno == errno.ENOMEM
    if not (isinstance(error, MemoryError) or no_thread or no_library or refused):
        return None
    return NoMemory(
        "not enough memory. Allow more (ulimit -v, or --mem of a batch job), or work on fewer "
        "slides at once (--workers 1)"
    )
