"""Checks for memory before a library or a thread would end the process for lack of it."""

from __future__ import annotations

import mmap
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

LIBRARY_BYTES = {"numpy": 128 << 20, "openslide": 64 << 20}
"""Address space for libraries that do not report a lack of memory as one when they load.

numpy's OpenBLAS ends the process.
"""


def check_memory(size: int) -> None:
    """Raise MemoryError if the system would not give `size` more bytes of address space."""
    try:
        mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
    except OSError as error:
        raise MemoryError from error


class LibraryGate:
    """A finder of no modules, which checks for memory before a large library is imported."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        del path, target
        if name in LIBRARY_BYTES:
            check_memory(LIBRARY_BYTES[name])
        return None


def guard_imports() -> None:
    """Have every import of a large library check for memory first."""
    sys.meta_path.insert(0, LibraryGate())
