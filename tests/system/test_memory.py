"""Memory that is freed and used again."""

from __future__ import annotations

import subprocess
import sys

import pytest

FAULTS = """
import resource
from tcgamirror.system.memory import keep_freed_memory
if {keep}:
    keep_freed_memory()
for _ in range(20):
    arrays = [bytearray(1 << 20) for _ in range(8)]
    del arrays
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
"""


ARENAS = """
import ctypes, sys, threading
from tcgamirror.system.memory import guard_imports
guard_imports()
if {networked}:
    import requests
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
together = threading.Barrier(4)
def work():
    libc.malloc(1000)
    together.wait()
threads = [threading.Thread(target=work) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
libc.malloc_info(0, ctypes.c_void_p.in_dll(libc, "stdout"))
libc.fflush(None)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc keeps freed memory on request")
def test_freed_memory_is_used_again_without_asking_the_system() -> None:
    def faults(*, keep: bool) -> int:
        code = FAULTS.format(keep=keep)
        return int(subprocess.check_output([sys.executable, "-c", code]))

    assert faults(keep=True) < faults(keep=False) / 3


@pytest.mark.skipif(sys.platform != "linux", reason="other C libraries have no arenas")
def test_threads_of_a_command_that_uses_the_network_share_freed_memory() -> None:
    """Arrays of many slides take more memory if each thread keeps its own."""

    def arenas(*, networked: bool) -> int:
        code = ARENAS.format(networked=networked)
        return subprocess.check_output([sys.executable, "-c", code]).count(b"<heap nr=")

    assert arenas(networked=True) == 1 < arenas(networked=False)
