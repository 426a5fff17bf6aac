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


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc keeps freed memory on request")
def test_freed_memory_is_used_again_without_asking_the_system() -> None:
    def faults(*, keep: bool) -> int:
        code = FAULTS.format(keep=keep)
        return int(subprocess.check_output([sys.executable, "-c", code]))

    assert faults(keep=True) < faults(keep=False) / 3
