"""Every error a user can meet, in one tree.

Each class has the exit code with which a command ends if nobody handles the
error, and says whether a retry may succeed (`retryable`). The message is one
sentence: `<thing>: <problem>. <remedy>`. `fault` names the class in the
catalogue and the log.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Mapping
from enum import IntEnum
from types import MappingProxyType
from typing import ClassVar

from tcgamirror.model.text import plain


class ExitCode(IntEnum):
    """A command's exit code, as scripts read it."""

    DONE = 0
    BUG = 1
    USAGE_ERROR = 2
    SOME_FAILED = 3
    UNREACHABLE = 4
    LOCKED = 5
    DISK_FULL = 6
    DAMAGED = 7
    INTERRUPTED = 130


class TcgaMirrorError(Exception):
    r"""The root of the tree; only its descendants are raised.

    fault: The class's name in words. Catalogues keep it, so a renamed class keeps its old one.
    found: What the command found before, as members of the JSON object that reports the error.

    >>> ServerError.fault, Timeout("...").fault
    ('server error', 'too slow')
    >>> str(Timeout("two\nlines"))
    'two lines'
    """

    exit_code: ClassVar[ExitCode] = ExitCode.BUG
    retryable: ClassVar[bool] = False
    fault: ClassVar[str] = "error"
    found: Mapping[str, object] = MappingProxyType({})

    def __init_subclass__(
        cls, *, exit_code: ExitCode | None = None, retryable: bool = False, fault: str | None = None
    ) -> None:
        cls.exit_code = cls.exit_code if exit_code is None else exit_code
        cls.retryable = retryable
        cls.fault = fault or re.sub(r"(?<=[a-z])(?=[A-Z])", " ", cls.__name__).lower()

    def __str__(self) -> str:
        """Return the message in one printable line, as it may quote any server, file or SQL."""
        return plain(super().__str__())


# What the user asked for -----------------------------------------------------


class UsageError(TcgaMirrorError, fault="wrong use", exit_code=ExitCode.USAGE_ERROR):
    """The command line, the settings or an input file are invalid."""


class NotAMirror(UsageError):
    """The given directory is not a mirror, or is one where none may be."""


class BadSettings(UsageError):
    """`tcgamirror.toml` cannot be read, or changes what was fixed at `init`."""


class BadManifest(UsageError):
    """The given file is not a GDC manifest, or has an invalid row."""


class BadLockFile(UsageError):
    """The given file is not a lock file, or was changed since it was written."""


class BadExport(UsageError):
    """The source of an import or a sync is not an export, or holds what no export holds."""


class BadQuery(UsageError):
    """The SQL given to `query` is invalid or would write."""


# The machine -----------------------------------------------------------------


class Locked(TcgaMirrorError, exit_code=ExitCode.LOCKED):
    """Another run holds the mirror."""


class DiskFull(TcgaMirrorError, fault="no room", exit_code=ExitCode.DISK_FULL):
    """The disk or the quota is full."""


class NoMemory(TcgaMirrorError, exit_code=ExitCode.DISK_FULL):
    """The system gives the process no more memory."""


class Damaged(TcgaMirrorError, exit_code=ExitCode.DAMAGED):
    """The catalogue or a file of the mirror is not as this program writes it."""


class Interrupted(TcgaMirrorError, exit_code=ExitCode.INTERRUPTED):
    """The user, or the system shutting down, stopped the run."""


class Bug(TcgaMirrorError, exit_code=ExitCode.BUG):
    """Several slides in a row failed by an unforeseen exception."""


# The network: fatal to a listing, one source's failure to a slide -------------


class NetworkError(TcgaMirrorError, exit_code=ExitCode.UNREACHABLE):
    """A server gave no usable answer."""


class Unreachable(NetworkError, retryable=True):
    """No connection: refused, reset before an answer, no such host, bad certificate."""


class Timeout(NetworkError, fault="too slow", retryable=True):
    """A time limit was reached: to connect, for the first byte, between bytes, or in all."""


class Truncated(NetworkError, fault="cut short", retryable=True):
    """The body ended, or the connection broke, before the announced length."""


class ServerError(NetworkError, retryable=True):
    """A status of the server's own trouble: 429 and 5xx."""


class Refused(NetworkError):
    """A status that a retry does not change: 400, 401, 403, 416 and the like."""


class NotFound(NetworkError, fault="not there"):
    """404 or 410: the server does not have the file."""


class Redirected(NetworkError):
    """A redirect to another host, which is not followed."""


class WrongContent(NetworkError, retryable=True):
    """The body is not what was requested: HTML, another site's JSON, absurd values."""


class TooLong(NetworkError):
    """The body is longer than the requested file can be."""


class RangeUnsupported(NetworkError, fault="range ignored"):
    """200 and the whole file in answer to a Range request."""


class RangeMismatch(NetworkError, fault="wrong span", retryable=True):
    """206 with another `Content-Range` than requested."""


class SizeMismatch(NetworkError, fault="wrong total"):
    """The server's file does not have the listed size."""


class ChangedFile(NetworkError, retryable=True):
    """The ETag changed from one answer to the next: the file was replaced meanwhile."""


class WorkerLost(NetworkError, retryable=True):
    """The workers of a cluster that had the slide died, or do not answer."""


AWAY = frozenset(
    error.fault for error in (Unreachable, Timeout, Truncated, ServerError, WrongContent)
)
"""Faults of a site that is down, or that answers with a login page."""


class ListingShrunk(TcgaMirrorError, exit_code=ExitCode.SOME_FAILED):
    """A new listing lacks so many slides that `--accept-shrink` is needed."""


# The slide: what a source got is not an image of it ---------------------------


class SlideError(TcgaMirrorError, exit_code=ExitCode.SOME_FAILED):
    """One slide cannot be read from one source. The next source may succeed."""


class ChecksumMismatch(SlideError):
    """The file has the listed size but another md5."""


class BadSlide(SlideError):
    """The file is not a readable slide: not TIFF, damaged, or absurd."""


class UnsupportedSlide(SlideError, fault="unusual slide"):
    """A slide that this source cannot read, though another may."""


class BadTile(SlideError):
    """A tile is missing, short, of the wrong size or not decodable."""


class NotFetched(SlideError, fault="hole read"):
    """Bytes of a partial file were read that were never fetched."""


class Unfit(SlideError):
    """The target does not allow for the slide, whatever the source."""


class TooFine(Unfit):
    """The requested resolution is finer than the slide's base level."""


class NoSuchLevel(Unfit):
    """The slide has no level of the requested index."""


class TooLarge(Unfit):
    """The requested image does not fit its format."""


# What Python and the system raise ------------------------------------------------


def lack_of_memory(error: BaseException) -> NoMemory | None:
    """Return the error to tell if `error` says that memory ran out, else None.

    >>> str(lack_of_memory(MemoryError()))[:17], lack_of_memory(ValueError())
    ('not enough memory', None)
    """
    no_thread = isinstance(error, RuntimeError) and "start new thread" in str(error)
    no_library = isinstance(error, OSError | ImportError) and "failed to map" in str(error)
    refused = isinstance(error, OSError) and error.errno == errno.ENOMEM
    # CPython's own import machinery may lose a MemoryError.
    nulls = ("returned NULL", "without exception set")
    lost = isinstance(error, SystemError) and any(words in str(error) for words in nulls)
    if not (isinstance(error, MemoryError) or no_thread or no_library or refused or lost):
        return None
    return NoMemory(
        "not enough memory. Allow more (ulimit -v, or --mem of a batch job), or work on fewer "
        "slides at once (workers = 1 in tcgamirror.toml)"
    )
