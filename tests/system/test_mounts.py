"""Which file system a path lies on, by made-up mounts."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import pytest

from tcgamirror.system.mounts import LOCAL, kind_at, kind_in

MOUNTS = r"""
22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw
30 27 0:40 / /scratch rw master:1 propagate_from:2 - lustre 10.0.0.1@tcp:/fs rw
31 30 0:41 /sub /scratch/fast\040disk rw shared:7 - xfs /dev/sdb1 rw
32 27 0:42 / /home rw - ext4 /dev/sdc rw
33 32 0:43 / /home rw - nfs4 server:/home rw
34 27 254:0 /srv/data /data rw - ext4 /dev/vda rw
35 27 0:44 / /media/a\134b\011c rw - fuse.sshfs me@host: rw
36 27 0:45 / /win rw - 9p drvfs rw
not a line of it
"""


@pytest.mark.parametrize(
    ("path", "kind", "wal"),
    [
        ("/var/mirror", "ext4", True),
        ("/scratch/me", "lustre", False),
        ("/scratch", "lustre", False),
        ("/scratchy", "ext4", True),
        ("/scratch/fast disk/mirror", "xfs", True),
        ("/scratch/fast", "lustre", False),
        ("/home/me", "nfs4", False),
        ("/data/mirror", "ext4", True),
        ("/media/a\\b\tc/m", "fuse.sshfs", False),
        ("/win/m", "9p", False),
    ],
)
def test_the_innermost_and_last_mount_counts(path: str, kind: str, wal: bool) -> None:
    found = kind_in(MOUNTS, PurePosixPath(path))
    assert found == kind and (found in LOCAL) is wal


def test_what_is_not_known_is_not_trusted(tmp_path: Path) -> None:
    assert kind_in("", PurePosixPath("/a")) is None
    assert kind_at(tmp_path, mounts=tmp_path / "missing") is None


def test_links_are_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    mounts = tmp_path / "mountinfo"
    mounts.write_text(f"1 0 0:1 / / rw - ext4 a rw\n2 1 0:2 / {tmp_path}/real rw - gpfs b rw\n")
    assert kind_at(tmp_path / "link" / "missing", mounts) == "gpfs"
