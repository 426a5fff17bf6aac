"""What work may run on."""

from __future__ import annotations

import os


def cores() -> int:
    """Of the processor, those that this process may use; a cluster's job has few of many."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
