"""Large libraries: check for memory before they load, and have them use it well."""

from __future__ import annotations

import mmap
import os
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

LIBRARY_BYTES = {"numpy": 128 << 20, "openslide": 64 << 20, "imagecodecs": 16 << 20}
"""Address space for libraries that do not report a lack of memory as one when they load.

numpy's OpenBLAS ends the process.
"""

_ARENAS, _TRIM_THRESHOLD, _MMAP_THRESHOLD = -8, -1, -3
"""Options of glibc's `mallopt`."""

_KEPT_BYTES = 64 << 20
"""Freed memory that is not returned to the system."""

_MAPPED_BYTES = 16 << 20
"""Arrays so large are returned to the system at once."""


def check_memory(size: int) -> None:
    """Raise MemoryError if the system would not give `size` more bytes of address space."""
    try:
        mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
    except OSError as error:
        raise MemoryError from error


def keep_freed_memory() -> None:
    """Have threads share freed memory and use it again, where the C library is glibc.

    To return the arrays of each slide to the system and get new ones takes a twelfth of a
    slide's time, and an arena for each thread takes more memory.
    """
    import ctypes

    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        set_option(_ARENAS, 1)
        set_option(_TRIM_THRESHOLD, _KEPT_BYTES)
        set_option(_MMAP_THRESHOLD, _MAPPED_BYTES)


class LibraryGate:
    """A finder of no modules, which prepares the memory before a large library is imported."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        del path, target
        if name in LIBRARY_BYTES:
            check_memory(LIBRARY_BYTES[name])
        if name in ("numpy", "requests"):
            # Before the program's first threads, as each of them would keep an arena of its own.
            keep_freed_memory()
        if name == "numpy":
            # Its own threads wait for each other: several images are made at a time anyway.
            os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
        return None


def guard_imports() -> None:
    """Have the memory prepared before every import of a large library."""
    sys.meta_path.insert(0, LibraryGate())
