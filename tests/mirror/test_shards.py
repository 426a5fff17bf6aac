"""Shards: parts of a sample fetched side by side by processes, and collected by the next run."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from tcgamirror.model.shard import Shard
from tests.gdc import Fault, Listed, StandIn
from tests.support.command import Result, ended, run, started, succeeded
from tests.support.mirrors import column, images, made, rows, small_slide, until, updated

SLIDES, SHARDS = 24, 4
DELAY = 0.04
FILES = r"/data/|\.svs"
SAME = (
    "file_name, status, source, level, mpp_x, path, bytes, sha256, pixels_sha256, error, attempts"
)
LOCKED, SOME_FAILED, USAGE, INTERRUPTED = 5, 3, 2, 130


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Sequence[Listed]:
    folder = tmp_path_factory.mktemp("slides")
    return [small_slide(folder, number) for number in range(SLIDES)]


@pytest.fixture
def gdc(slides: Sequence[Listed]) -> Iterator[StandIn]:
    with StandIn(slides) as gdc:
        yield gdc


@pytest.fixture
def root(tmp_path: Path, gdc: StandIn) -> Path:
    """A mirror of 24 sampled slides, none of them fetched."""
    root = made(tmp_path / "m", gdc, "--kind", "all", slides=SLIDES)
    succeeded("--mirror", root, "refresh")
    succeeded("--mirror", root, "sample")
    return root


@pytest.fixture
def single(tmp_path: Path, gdc: StandIn) -> Path:
    """The mirror that one process makes of the same slides."""
    root = made(tmp_path / "single", gdc, "--kind", "all", slides=SLIDES)
    updated(root)
    gdc.clear()
    return root


def recorded(root: Path, columns: str = SAME) -> list[tuple[object, ...]]:
    return rows(root, f"select {columns} from mirror order by sample_rank")


def names(root: Path, shard: Shard) -> list[object]:
    return [name for name in column(root, "select file_name from sample") if shard.holds(str(name))]


def fetch(root: Path, shard: str, *options: str) -> Result:
    return run("--mirror", root, "fetch", "--shard", shard, *options)


def records(root: Path) -> list[str]:
    return sorted(path.name for path in (root / "work").glob("shards/*.jsonl"))


def collect(root: Path) -> Result:
    """Run a `fetch` that collects, and fetches what is due."""
    return run("--mirror", root, "fetch")


def attempts(root: Path) -> Counter[object]:
    return Counter(column(root, "select file_name from attempts"))


# Side by side -------------------------------------------------------------------------


def test_four_shards_one_of_them_killed_make_the_mirror_of_one_run(
    root: Path, single: Path, gdc: StandIn
) -> None:
    gdc.delay = DELAY
    with ExitStack() as stack:
        shards = [
            stack.enter_context(started("--mirror", root, "fetch", "--shard", f"{number}/{SHARDS}"))
            for number in range(1, SHARDS + 1)
        ]
        until(lambda: (root / "work/shards/2-of-4.jsonl").exists(), 60)
        until(lambda: b'"slide"' in (root / "work/shards/2-of-4.jsonl").read_bytes(), 60)
        os.kill(shards[1].pid, signal.SIGKILL)
        shards[1].wait()
        assert [ended(shard).code for shard in shards if shard is not shards[1]] == [0, 0, 0]
    done = sum(path.read_bytes().count(b'"slide"') for path in root.glob("work/shards/*.jsonl"))
    assert done < SLIDES and records(root) == [f"{number}-of-4.jsonl" for number in range(1, 5)]
    assert column(root, "select count(*) from attempts") == [0]
    result = collect(root)
    assert result.code == 0 and f"{SLIDES - done} slides fetched" in result.out
    assert f"{done} slides of shards collected: {done} done, 0 failed" in result.err
    assert images(root) == images(single)
    assert recorded(root) == recorded(single)
    assert set(attempts(root).values()) == {1} and len(attempts(root)) == SLIDES
    assert not list((root / "work").iterdir())
    assert succeeded("--mirror", root, "verify").out.startswith(f"{SLIDES} images")
    commands = "select command, exit_code from runs where command like 'fetch%' order by 1"
    assert rows(root, commands)[1:] == [
        ("fetch --shard 1/4", 0),
        ("fetch --shard 2/4", None),
        ("fetch --shard 3/4", 0),
        ("fetch --shard 4/4", 0),
    ]
    assert column(root, "select key from facts where key like 'collected%'") == []


def test_failures_of_all_shards_are_recorded(root: Path, gdc: StandIn) -> None:
    gdc.faults.add(Fault(FILES, "404"))
    for number in range(1, SHARDS + 1):
        result = fetch(root, f"{number}/{SHARDS}")
        assert result.code in (SOME_FAILED, 4), result
    result = collect(root)
    assert result.code == 0 and f"0 done, {SLIDES} failed" in result.err
    found = rows(root, "select status, attempts, error is not null, failures, retry_at from images")
    assert {row[:4] for row in found} == {("failed", 1, 1, 1)}
    assert all(str(retry_at) > "2" for *_, retry_at in found)
    assert set(attempts(root).values()) == {3}
    assert column(root, "select sum(failed) from runs") == [SLIDES]


# What is refused ----------------------------------------------------------------------


@pytest.mark.parametrize("words", ["0/4", "5/4", "4", "1/0", "1/2/3", "a/b", "-1/4", "", "1/4 "])
def test_a_shard_is_k_of_n(mirror: Path, words: str) -> None:
    result = fetch(mirror, words)
    assert result.code == USAGE and "--shard: " in result.sentence
