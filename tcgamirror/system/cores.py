"""The processor cores that this process may use."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


def usable_cores(root: Path = Path("/")) -> int:
    """Return the number of cores: a cluster job or a container has few of the machine's.

    root: of the system's files.
    """
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    return min([cores, *map(_read_quota, _control_groups(root))])


def _control_groups(root: Path) -> Iterator[Path]:
    """Yield the folders of this process's control groups, of Linux, that may limit processors."""
    with suppress(OSError, ValueError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, name = line.split(":", 2)
            # The line of version 2 names no controllers.
            if not controllers or "cpu" in controllers.split(","):
                group = Path(name.lstrip("/"))
                # In a container the group may be the root of what is seen of all groups.
                for path in (group, *group.parents):
                    yield root / "sys/fs/cgroup" / ("cpu" if controllers else "") / path


def _read_quota(group: Path) -> int:
    """Return the cores that a control group allows, of which a part counts as one."""
    with suppress(OSError, ValueError):
        quota, period = (group / "cpu.max").read_text().split()
        return math.ceil(int(quota) / int(period))
    with suppress(OSError, ValueError):
        quota, period = ((group / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        # Version 1 has -1 where there is no limit, and version 2 a word.
        if int(quota) > 0:
            return math.ceil(int(quota) / int(period))
    return 2**31
