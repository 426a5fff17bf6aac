"""The script of `schedule slurm`, run by a real Slurm with two nodes on this machine."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tcgamirror.model.shard import shard_of
from tests.gdc import Fault, Listed, StandIn
from tests.support import slurm
from tests.support.command import run, succeeded, went_well
from tests.support.mirrors import column, images, made, rewrite, rows, small_slide, until
from tests.support.slurm import Cluster

AWKWARD = "100% of 'my' \"µ\" $HOME `slides` & \\% \\\\% ;#ünï"
SHARDS, SLIDES = 16, 40
SLOW = 120.0
"""Seconds that a chain of jobs may take on a machine with other work."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    if missing := slurm.missing():
        pytest.skip(f"no {', '.join(missing)} here: `make test-slurm` installs Slurm")
    with slurm.cluster() as running:
        yield running


@pytest.fixture
def gdc(tmp_path: Path) -> Iterator[StandIn]:
    folder = tmp_path / "slides"
    folder.mkdir()
    with StandIn([small_slide(folder, number) for number in range(SLIDES)]) as gdc:
        yield gdc


def printed(root: Path, *options: str) -> str:
    """Return the script for a mirror."""
    return succeeded("--mirror", root, "schedule", "slurm", *options).out


def the_next_night(cluster: Cluster) -> str:
    """Return partition, time limit and begin of the only job that waits, which is cancelled."""
    (waiting,) = [job.id for job in cluster.jobs() if job.state == "PENDING"]
    told = cluster.ask("squeue", "--noheader", "--jobs", waiting, "--format=%P %l %S")
    cluster.ask("scancel", waiting)
    return told


def test_one_job_updates_and_submits_the_next_night_once(
    cluster: Cluster, tmp_path: Path, small_gdc: StandIn
) -> None:
    root = made(tmp_path / AWKWARD, small_gdc, slides=2)
    script = printed(root, "--partition", "transfer", "--time-limit", "1h")
    twice = [cluster.submit(script), cluster.submit(script)]
    until(lambda: [cluster.state(job) for job in twice] == ["COMPLETED"] * 2, SLOW, pause=0.2)
    assert column(root, "select status from mirror") == ["done", "done"]
    partition, limit, begin = the_next_night(cluster).split()
    assert (partition, limit, begin[-9:]) == ("transfer", "1:00:00", "T02:15:00")


def test_mirrors_of_one_name_have_nights_of_their_own(
    cluster: Cluster, tmp_path: Path, small_gdc: StandIn
) -> None:
    roots = [made(tmp_path / folder / "tcga", small_gdc, slides=2) for folder in ("a", "b")]
    jobs = [cluster.submit(printed(root)) for root in roots]
    until(lambda: [cluster.state(job) for job in jobs] == ["COMPLETED"] * 2, SLOW, pause=0.2)
    waiting = [job for job in cluster.jobs() if job.state == "PENDING"]
    for job in waiting:
        cluster.ask("scancel", job.id)
    assert len({job.name for job in waiting}) == 2


def test_an_array_with_a_killed_task_and_a_lost_node_makes_one_machines_mirror(
    cluster: Cluster, tmp_path: Path, gdc: StandIn
) -> None:
    killed, lost, failing, *_ = {_shard(file): file for file in gdc.files}.values()
    stalls = [Fault(each.file_name, "stall", when="once") for each in (killed, lost)]
    gdc.faults.add(Fault(failing.file_id, "403"), *stalls)
    root = made(tmp_path / AWKWARD, gdc, "--kind", "all", slides=SLIDES)
    rewrite(root, "^stall = .*", "stall = 100.0")
    head = cluster.submit(printed(root, "--array", str(SHARDS)))
    until(lambda: all(gdc.requests(each.file_name) for each in (killed, lost)), SLOW, pause=0.2)

    cluster.ask("scancel", "--batch", "--signal=KILL", cluster.task(_shard(killed)).id)
    until(lambda: cluster.task(_shard(killed)).state == "FAILED", SLOW, pause=0.2)
    node = cluster.task(_shard(lost)).node
    cluster.kill_node(node)
    until(lambda: cluster.collection().state == "COMPLETED", SLOW, pause=0.5)
    cluster.start_node(node)

    assert cluster.state(head) == cluster.task(_shard(lost)).state == "COMPLETED"
    assert the_next_night(cluster).endswith("T02:15:00")
    alone = made(tmp_path / "alone", gdc, "--kind", "all", slides=SLIDES)
    assert run("--mirror", alone, "update").code == 3
    assert images(root) == images(alone)
    same = "select file_name, status, attempts, error, sha256 from mirror order by 1"
    assert rows(root, same) == rows(alone, same)
    went_well("--mirror", root, "verify")


def _shard(file: Listed) -> int:
    return shard_of(file.file_name, SHARDS)


def test_the_scripts_own_line_ends_all_of_its_jobs(
    cluster: Cluster, tmp_path: Path, small_gdc: StandIn
) -> None:
    small_gdc.faults.add(Fault(r"/data/|\.svs", "stall"))
    root = made(tmp_path / "m", small_gdc, slides=2)
    rewrite(root, "^stall = .*", "stall = 100.0")
    script = printed(root, "--array", "2")
    cluster.submit(script)
    until(lambda: small_gdc.requests(".svs"), SLOW, pause=0.2)
    (end,) = re.findall("^# To end that, .*: (scancel .*)", script, re.MULTILINE)
    cluster.ask("bash", "-c", end)
    live = {"PENDING", "RUNNING", "COMPLETING"}
    until(lambda: not live.intersection(job.state for job in cluster.jobs()), SLOW, pause=0.5)


def test_without_a_listing_no_shard_runs_and_the_last_job_fetches(
    cluster: Cluster, tmp_path: Path, small_gdc: StandIn
) -> None:
    root = made(tmp_path / "m", small_gdc, slides=2)
    for step in ("refresh", "sample"):
        went_well("--mirror", root, step)
    small_gdc.switch("api", "refused")
    head = cluster.submit(printed(root, "--array", "2%1"))
    until(lambda: cluster.state(head) == "FAILED", SLOW, pause=0.2)
    until(lambda: cluster.collection().state == "COMPLETED", SLOW, pause=0.5)
    assert column(root, "select status from mirror") == ["done", "done"]
    assert not list(root.glob("nightly-shard-*"))
    assert the_next_night(cluster).endswith("T02:15:00")
