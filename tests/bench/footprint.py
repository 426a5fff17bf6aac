"""What a command costs, in seconds and memory: `python -m tests.bench.footprint …` prints it.

A process of its own, because the peak that the system tells of a child is at least what its
parent held when the child began.
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
"""Bytes of the unit in which the system tells the peak."""


@dataclass(frozen=True, slots=True)
class Footprint:
    """seconds: from start to end. cpu: seconds of all cores. peak: bytes of memory held at most."""

    seconds: float
    cpu: float
    peak: int


def footprint(command: Sequence[str]) -> Footprint:
    """Of the command, run on its own. Raises RuntimeError, with what it said, if it fails."""
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
