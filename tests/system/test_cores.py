"""The cores of a container or a cluster job are few of the machine's."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from tcgamirror.system.cores import usable_cores

MACHINE = 64
V1 = "4:memory:/job\n3:cpu,cpuacct:/slurm/job\n1:name=systemd:/\n"


@pytest.mark.parametrize(
    ("groups", "limits", "cores"),
    [
        (None, {}, MACHINE),
        ("nonsense\n", {}, MACHINE),
        ("0::/\n", {}, MACHINE),
        ("0::/\n", {"cpu.max": "max 100000\n"}, MACHINE),
        ("0::/\n", {"cpu.max": "200000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "250000 100000\n"}, 3),
        ("0::/\n", {"cpu.max": "9000000 100000\n"}, MACHINE),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "400000 100000\n"}, 4),
        (V1, {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, MACHINE),
        (
            V1,
            {
                "cpu/slurm/job/cpu.cfs_quota_us": "50000\n",
                "cpu/slurm/job/cpu.cfs_period_us": "100000\n",
            },
            1,
        ),
    ],
)
def test_control_groups_limit_the_cores(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    groups: str | None,
    limits: Mapping[str, str],
    cores: int,
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(MACHINE)), raising=False)
    files = {f"sys/fs/cgroup/{name}": text for name, text in limits.items()}
    if groups is not None:
        files["proc/self/cgroup"] = groups
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert usable_cores(tmp_path) == cores
