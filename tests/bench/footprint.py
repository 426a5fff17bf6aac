"""Measure a command's seconds and memory: `python -m tests.bench.footprint …` prints them.

This is a process of its own, because a child's peak is at least what its parent held at the fork.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

PEAK_UNIT = 1 if sys.platform == "darwin" else 1024
"""Bytes of `ru_maxrss`'s unit."""


@dataclass(frozen=True, slots=True)
class Footprint:
    """seconds: elapsed. cpu: seconds of all cores. peak: bytes of memory held at most."""

    seconds: float
    cpu: float
    peak: int


def footprint(command: Sequence[str]) -> Footprint:
    """Run the command. Raises RuntimeError, with its stderr, if it fails."""
    watched = [sys.executable, "-m", "tests.bench.footprint", *command]
    done = subprocess.run(watched, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr}")
    return Footprint(**json.loads(done.stdout))


def main() -> None:
    started = time.monotonic()
    done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, check=False)
    seconds = time.monotonic() - started
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu, peak = used.ru_utime + used.ru_stime, used.ru_maxrss * PEAK_UNIT
    print(json.dumps({"seconds": seconds, "cpu": cpu, "peak": peak}))
    sys.exit(done.returncode)


if __name__ == "__main__":
    main()
