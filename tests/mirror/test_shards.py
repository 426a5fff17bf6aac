"""Shards: parts of a sample fetched side by side by processes, and collected by the next run."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tcgamirror.mirror import shards
from tcgamirror.mirror.settings import Settings, divided
from tcgamirror.model.errors import Interrupted
from tcgamirror.model.shard import Shard, shard_of
from tcgamirror.model.slide import Target
from tests.gdc import Fault, Listed, StandIn
from tests.mirror.test_hard_times import mounted, small_disk
from tests.support.command import (
    FROM_WITHIN,
    Result,
    ended,
    inside,
    run,
    started,
    succeeded,
    went_well,
)
from tests.support.mirrors import (
    column,
    images,
    made,
    repointed,
    rewrite,
    rows,
    small_slide,
    until,
    updated,
)
from tests.support.publishing import change

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


@pytest.fixture(scope="module")
def sampled(tmp_path_factory: pytest.TempPathFactory, slides: Sequence[Listed]) -> Path:
    """A mirror of 24 sampled slides, none of them fetched."""
    with StandIn(slides) as gdc:
        root = made(tmp_path_factory.mktemp("sampled") / "m", gdc, "--kind", "all", slides=SLIDES)
        went_well("--mirror", root, "refresh")
        went_well("--mirror", root, "sample")
    return root


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory, slides: Sequence[Listed]) -> Path:
    """The mirror that one process makes of the same slides."""
    with StandIn(slides) as gdc:
        root = made(tmp_path_factory.mktemp("single") / "m", gdc, "--kind", "all", slides=SLIDES)
        updated(root)
    return root


@pytest.fixture
def root(tmp_path: Path, sampled: Path, gdc: StandIn) -> Path:
    return repointed(sampled, tmp_path / "m", gdc)


def recorded(root: Path, columns: str = SAME) -> list[tuple[object, ...]]:
    return rows(root, f"select {columns} from mirror order by sample_rank")


def statuses(root: Path) -> Counter[object]:
    return Counter(column(root, "select status from images"))


def file_ids(root: Path) -> dict[str, str]:
    return {str(name): str(id) for name, id in rows(root, "select file_name, file_id from slides")}


def names(root: Path, shard: Shard) -> list[str]:
    return [*filter(shard.holds, map(str, column(root, "select file_name from sample")))]


def fetch(root: Path, shard: str, *options: str) -> Result:
    return inside("--mirror", root, "fetch", "--shard", shard, *options)


def lines(root: Path) -> list[dict[str, Any]]:
    """The outcomes in the records that wait."""
    texts = [path.read_bytes() for path in sorted((root / "work").glob("shards/*.jsonl"))]
    whole = [line for text in texts for line in text.splitlines(keepends=True) if b"\n" in line]
    return [entry for line in whole if (entry := json.loads(line))["event"] == "slide"]


def records(root: Path) -> list[str]:
    return sorted(path.name for path in (root / "work").glob("shards/*.jsonl"))


def collect(root: Path) -> Result:
    """Run a `fetch` that collects, and fetches what is due."""
    return inside("--mirror", root, "fetch")


def attempts(root: Path) -> Counter[object]:
    return Counter(column(root, "select file_name from attempts"))


def is_as_one_run(root: Path, single: Path) -> bool:
    """Return whether a mirror is what one process makes, each slide being fetched once."""
    once = set(attempts(root).values()) == {1} and not list((root / "work").iterdir())
    is_same = (images(root), recorded(root)) == (images(single), recorded(single))
    return once and is_same and succeeded("--mirror", root, "verify").code == 0


# Side by side -------------------------------------------------------------------------


def test_four_shards_one_of_them_killed_make_the_mirror_of_one_run(
    root: Path, single: Path, gdc: StandIn
) -> None:
    gdc.delay = DELAY
    # Held until the kill, however slow this machine is.
    last = names(root, Shard(2, SHARDS))[-1]
    gdc.faults.add(Fault(file_ids(root)[last], "stall"))
    rewrite(root, "^stall = .*", "stall = 100.0")
    with ExitStack() as stack:
        shards = [
            stack.enter_context(started("--mirror", root, "fetch", "--shard", f"{number}/{SHARDS}"))
            for number in range(1, SHARDS + 1)
        ]
        killed = root / "work/shards/2-of-4.jsonl"
        until(lambda: killed.exists() and b'"slide"' in killed.read_bytes(), 60)
        shards[1].kill()
        shards[1].wait()
        gdc.faults.clear()
        assert [ended(shard).code for shard in shards if shard is not shards[1]] == [0, 0, 0]
    done = len(lines(root))
    assert done < SLIDES and records(root) == [f"{number}-of-4.jsonl" for number in range(1, 5)]
    assert column(root, "select count(*) from attempts") == [0]
    result = collect(root)
    assert result.code == 0 and f"{SLIDES - done} slide" in result.out
    assert f"{done} slides of shards collected: {done} done, 0 failed" in result.err
    assert is_as_one_run(root, single)
    commands = "select command, exit_code from runs where command like 'fetch%' order by 1"
    assert rows(root, commands)[1:] == [
        ("fetch --shard 1/4", 0),
        ("fetch --shard 2/4", None),
        ("fetch --shard 3/4", 0),
        ("fetch --shard 4/4", 0),
    ]
    assert column(root, "select key from facts where key like 'collected%'") == []


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_shard_keeps_what_it_recorded(
    root: Path, gdc: StandIn, end: signal.Signals
) -> None:
    gdc.delay = DELAY
    # So few that many slides are left when the first has been recorded.
    rewrite(root, "^workers = .*", "workers = 2")
    with started("--mirror", root, "fetch", "--shard", "1/1") as shard:
        until(lambda: lines(root), 60)
        shard.send_signal(end)
        result = ended(shard)
    assert result.code == (INTERRUPTED if end != signal.SIGKILL else -signal.SIGKILL)
    kept = len(lines(root))
    assert 0 < kept < SLIDES
    gdc.delay = 0
    gdc.clear()
    # The same shard goes on, in the same file.
    assert f"{SLIDES - kept} slides fetched" in fetch(root, "1/1").out
    assert f"{SLIDES} slides of shards collected: {SLIDES} done" in collect(root).err
    assert set(attempts(root).values()) == {1} and len(attempts(root)) == SLIDES
    codes = column(root, "select exit_code from runs where command like '%shard%' order by run")
    assert codes == [None if end == signal.SIGKILL else INTERRUPTED, 0]


def test_an_image_whose_record_a_kill_prevented_is_fetched_again(root: Path, single: Path) -> None:
    assert fetch(root, "1/1").code == 0
    file = root / "work/shards/1-of-1.jsonl"
    begin, *outcomes, _end = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join([begin, *outcomes[3:]]))
    assert "3 slides fetched" in collect(root).out
    assert is_as_one_run(root, single)


def test_random_kills_of_random_divisions_lose_nothing(
    root: Path, single: Path, gdc: StandIn
) -> None:
    """In the environment, TCGAMIRROR_KILLS says how many, TCGAMIRROR_SEED which moments."""
    gdc.delay = DELAY
    chance = random.Random(int(os.environ.get("TCGAMIRROR_SEED", "1")))
    fresh, left = shutil.copytree(root, root.with_name("fresh")), 0
    for _ in range(-(-int(os.environ.get("TCGAMIRROR_KILLS", "6")) // 3)):
        if left == 0:
            shutil.rmtree(root)
            shutil.copytree(fresh, root)
        count = chance.choice((1, 2, 3))
        with ExitStack() as stack:
            shards = [
                stack.enter_context(started("--mirror", root, "fetch", "--shard", f"{n}/{count}"))
                for n in range(1, count + 1)
            ]
            time.sleep(chance.uniform(0.3, 2))
            for shard in shards:
                shard.kill()
                shard.wait()
        if chance.random() < 0.5:
            with started("--mirror", root, "sample") as collecting:
                time.sleep(chance.uniform(0.2, 0.8))
                collecting.kill()
        assert succeeded("--mirror", root, "status", "--json").json()["sampled"] == SLIDES
        left = chance.choice((0, 0, 1))
        if left == 0:
            assert collect(root).code == 0
            assert is_as_one_run(root, single)


def test_another_division_fetches_no_slide_twice(root: Path, single: Path, gdc: StandIn) -> None:
    ids = file_ids(root)
    failing = names(root, Shard(1, 4))[:2]
    for name in failing:
        gdc.faults.add(Fault(ids[name], "404"))
    assert [fetch(root, f"{number}/4").code for number in (1, 3)] == [SOME_FAILED, 0]
    there = images(root)
    tried = {str(entry["file_name"]) for entry in lines(root)}
    gdc.faults.clear()
    gdc.clear()
    for number in (1, 2, 3):
        assert fetch(root, f"{number}/3").code == 0
    # Failed slides wait for their next try.
    assert len(lines(root)) == SLIDES and len(images(root)) == SLIDES - len(failing)
    asked = " ".join(record.path for record in gdc.requests(FILES))
    assert not [name for name in tried if ids[name] in asked]
    # By another shard, too, they are tried again if asked for.
    for number in (1, 2):
        assert fetch(root, f"{number}/2", "--retry-failed").code == 0
    assert collect(root).code == 0
    assert images(root) == images(single) and there.items() <= images(root).items()
    tries = column(root, "select attempts from images order by 1 desc")
    assert tries == [2] * len(failing) + [1] * (SLIDES - len(failing))
    assert set(column(root, "select status || failures from images")) == {"done0"}


def test_limits_hold_for_each_shard(root: Path) -> None:
    for number in (1, 2):
        result = fetch(root, f"{number}/2", "--limit", "3", "--json").json()["fetched"]
        slides = len(names(root, Shard(number, 2)))
        assert (result["done"], result["left"]) == (3, slides - 3)
        assert result["stopped_by"] == "--limit"
    assert len(lines(root)) == 6


def test_a_slide_that_moved_to_another_project_has_one_image(root: Path) -> None:
    updated(root)
    change(root, "update slides set project_id = 'TCGA-OV', upstream = 'changed'")
    change(root, "update images set status = 'pending'")
    old = images(root)
    assert fetch(root, "1/1").code == 0
    assert old.items() < images(root).items()
    assert collect(root).code == 0
    assert {path.split("/")[1] for path in images(root)} == {"TCGA-OV"}
    assert len(images(root)) == SLIDES
    assert succeeded("--mirror", root, "verify").code == 0


def test_partial_downloads_of_other_shards_stay(root: Path) -> None:
    ids = file_ids(root)
    others = [root / "work" / ids[name] / "whole" for name in names(root, Shard(2, 2))]
    for folder in others:
        folder.mkdir(parents=True)
        (folder / "part").write_bytes(b"0")
    rewrite(root, "^work_limit = .*", "work_limit = 10_000_000")
    assert fetch(root, "1/2", "--retry-failed").code == 0
    assert all((folder / "part").exists() for folder in others)
    assert fetch(root, "2/2").code == 0
    assert not any(folder.exists() for folder in others)


# Beside records that wait ---------------------------------------------------------------


@pytest.fixture(scope="module")
def fetched(
    tmp_path_factory: pytest.TempPathFactory, slides: Sequence[Listed], sampled: Path
) -> Path:
    """The mirror with records of 24 slides, one of them failed, that no run has collected."""
    with StandIn(slides) as gdc:
        root = repointed(sampled, tmp_path_factory.mktemp("fetched") / "m", gdc)
        failing = names(root, Shard(1, 2))[0]
        gdc.faults.add(Fault(file_ids(root)[failing], "404"))
        assert [fetch(root, f"{number}/2").code for number in (1, 2)] == [SOME_FAILED, 0]
    return root


@pytest.fixture
def waiting(tmp_path: Path, fetched: Path, gdc: StandIn) -> Path:
    return repointed(fetched, tmp_path / "m", gdc)


def test_status_tells_of_records_that_wait(waiting: Path) -> None:
    status = succeeded("--mirror", waiting, "status", "--json").json()
    assert (status["done"], status["pending"]) == (0, SLIDES)
    assert status["uncollected"] == {"done": SLIDES - 1, "failed": 1}
    out = succeeded("--mirror", waiting, "status").out
    assert f"shards   {SLIDES - 1} done, 1 failed in records" in out and " fetch" in out
    collect(waiting)
    status = succeeded("--mirror", waiting, "status", "--json").json()
    assert (status["done"], status["failed"]) == (SLIDES - 1, 1)
    assert status["uncollected"] == {"done": 0, "failed": 0}
    assert "shards" not in succeeded("--mirror", waiting, "status").out.splitlines()[5]
    failure = "attempts, failures, error is not null, retry_at > '2'"
    assert rows(waiting, f"select {failure} from images where status = 'failed'") == [(1, 1, 1, 1)]
    assert sorted(attempts(waiting).values()) == [1] * (SLIDES - 1) + [3]
    assert column(waiting, "select sum(failed) from runs") == [1]


READING = (
    *("verify", "verify --quick", "gallery", "changes", "query select+1", "lock L"),
    *("export E", "table clam", "update --dry-run", "show {name}", "doctor"),
)


@pytest.mark.parametrize("command", READING)
def test_reading_commands_leave_records(waiting: Path, tmp_path: Path, command: str) -> None:
    name = column(waiting, "select file_name from sample limit 1")[0]
    before = records(waiting), len(images(waiting))
    words = command.format(name=name).split()
    result = run("--mirror", waiting, *(word.replace("+", " ") for word in words), cwd=tmp_path)
    assert "Traceback" not in result.err
    assert result.code in ((0,) if words[0] != "table" else (0, 2)), result
    assert (records(waiting), len(images(waiting))) == before


WRITING = (
    *("update", "refresh", "sample", "fetch", "verify --repair", "exclude {name}"),
    *("import {other}", "sync {other}"),
)


@pytest.mark.parametrize("command", WRITING)
def test_every_writing_command_collects(waiting: Path, single: Path, command: str) -> None:
    name = names(waiting, Shard(1, 2))[1]
    words = command.format(name=name, other=single).split()
    if words[0] == "sync":
        result = inside("sync", single, waiting)
    else:
        result = inside("--mirror", waiting, *words)
    assert result.code == 0 and f"{SLIDES} slides of shards collected" in result.err
    assert records(waiting) == []
    found = statuses(waiting)
    assert len(images(waiting)) == found["done"]
    if words[0] in ("import", "sync"):
        assert found == {"done": SLIDES}
    else:
        excluded = {"excluded": 1} if words[0] == "exclude" else {}
        assert found == {"done": SLIDES - 1 - len(excluded), "failed": 1, **excluded}
        assert set(column(waiting, "select attempts from images")) == {1}
    assert run("--mirror", waiting, "verify").code == 0


def test_a_copy_that_lacks_records_says_so(waiting: Path, tmp_path: Path) -> None:
    export = ("--mirror", waiting, "export", tmp_path / "e")
    for words in (export, ("sync", waiting, tmp_path / "d")):
        result = inside(*words)
        assert result.code == 0 and f"{waiting}: records of shards wait" in result.err


def test_a_slide_stays_done_whatever_the_clock_of_a_failed_shard_says(
    root: Path, gdc: StandIn
) -> None:
    gdc.faults.add(Fault(FILES, "404"))
    assert fetch(root, "1/1").code == SOME_FAILED
    gdc.faults.clear()
    path = root / "work/shards/1-of-1.jsonl"
    path.write_text(re.sub(r'"time": "\d{4}', '"time": "2199', path.read_text()))
    assert fetch(root, "1/2", "--retry-failed").code == 0
    done = len(names(root, Shard(1, 2)))
    assert inside("--mirror", root, "sample").code == 0
    assert statuses(root) == {"done": done, "failed": SLIDES - done}
    sql = "select attempts, failures, error, retry_at from images where status = 'done'"
    assert {row[:3] for row in rows(root, sql)} == {(2, 0, None)}
    assert succeeded("--mirror", root, "verify").code == 0


def test_a_rebuilt_catalogue_gets_the_records(waiting: Path) -> None:
    (waiting / "catalogue.db").unlink()
    assert succeeded("--mirror", waiting, "rebuild").code == 0
    assert len(records(waiting)) == 2
    assert collect(waiting).code == 0
    assert statuses(waiting) == {"done": SLIDES - 1, "failed": 1}
    assert set(column(waiting, "select attempts from images")) == {1}


@FROM_WITHIN
@pytest.mark.parametrize("removed", [False, True])
def test_a_run_killed_while_it_removed_the_records_counts_nothing_twice(
    waiting: Path, monkeypatch: pytest.MonkeyPatch, removed: bool
) -> None:
    def killed(*_: object) -> None:
        raise Interrupted("killed")

    monkeypatch.setattr(shards, "_remove", killed)
    assert inside("--mirror", waiting, "sample").code == INTERRUPTED
    assert len(records(waiting)) == 2
    before = recorded(waiting), attempts(waiting), column(waiting, "select count(*) from runs")
    status = inside("--mirror", waiting, "status", "--json").json()
    assert status["uncollected"] == {"done": 0, "failed": 0}
    # A shard does not count them twice either.
    assert "nothing to fetch in shard 1/3" in fetch(waiting, "1/3").out
    monkeypatch.undo()
    for path in (waiting / "work/shards").glob("*.jsonl") if removed else ():
        path.unlink()
    assert collect(waiting).code == 0
    assert not (waiting / "work/shards").exists()
    after = recorded(waiting), attempts(waiting)
    assert after == before[:2]
    assert column(waiting, "select key from facts where key like 'collected%'") == []
    assert records(waiting) == []


# What is refused ----------------------------------------------------------------------

HOSTILE: Mapping[str, Mapping[str, Sequence[object]]] = {
    "": {
        "file_name": ("../../x.svs", "unknown.svs", None, 5, ["a"]),
        "time": ("yesterday", 5, None, "9999-99-99T00:00:00Z"),
        "id": ("x", 5, None),
        "event": ("drop", None, ["slide"]),
        "md5": ("0" * 32, 5),
        "attempts": (5, [5], [[5]], [{"source": "range"}], "x", None),
        "picture": (5, [5], {"path": None}, "x"),
    },
    "picture": {
        "path": ("../x.png", "/etc/passwd", "images/a/other.png", None),
        **dict.fromkeys(("sha256", "bytes", "level", "base_mpp"), (None,)),
        "width": (-1, 1.5, "1", 10**400, float("nan"), None),
        "mpp_source": ("guess",),
        "source": ("magic", None),
    },
    "attempt": {
        "source": ("../x",),
        "started": (float("inf"), "now"),
        "seconds": (-1,),
        "bytes_fetched": (-1,),
        "message": (5,),
    },
}
"""Values that no shard writes, by the part of a record and its field."""

RUBBISH = (
    *(b"[" * 100_000, b"\xff\xfe", b"{", b"", b'{"event": "begin"}', b"0" * 3_000_000),
    *(b'{"event": "end"}', b"5", b'"slide"', b"[]", b"null"),
)


def hostile_lines(record: Mapping[str, Any]) -> Iterator[bytes]:
    for part, fields in HOSTILE.items():
        for field, values in fields.items():
            for value in values:
                entry = deepcopy(record)
                parts = {"": entry, "picture": entry["picture"], "attempt": entry["attempts"][0]}
                parts[part][field] = value
                yield json.dumps(entry).encode()
    end = {name: record[name] for name in ("time", "id", "command")} | {"event": "end"}
    yield json.dumps({**end, "origins": 5}).encode()
    yield json.dumps({**end, "exit_code": 700}).encode()
    yield from RUBBISH


def test_invalid_lines_are_left_out(waiting: Path) -> None:
    (record,) = [
        entry for entry in lines(waiting) if entry["file_name"] == names(waiting, Shard(1, 2))[1]
    ]
    path = waiting / "work/shards/1-of-2.jsonl"
    first, second, *others = path.read_bytes().splitlines()
    bad = list(hostile_lines(record))
    # The last line was cut off.
    path.write_bytes(b"\n".join([first, second, *bad, *others, second[:-30]]))
    result = collect(waiting)
    assert result.code == 0 and "Traceback" not in result.err
    assert f"{path}: {len(bad)} of its lines are not records of sampled slides" in result.err
    assert f"{SLIDES - 1} done, 1 failed" in result.err
    assert set(column(waiting, "select attempts from images")) == {1}
    assert recorded(waiting, "path")[1:] and records(waiting) == []
    assert run("--mirror", waiting, "verify").code == 0
    assert not list(waiting.parent.rglob("x.*"))


def test_a_damaged_first_line_leaves_a_run_its_slides(waiting: Path) -> None:
    assert fetch(waiting, "1/2", "--retry-failed").code == 0
    path = waiting / "work/shards/1-of-2.jsonl"
    path.write_text(path.read_text().replace('"begin"', '"begin'))
    assert f"{path}: 2 of its lines" in collect(waiting).err
    slides = len(names(waiting, Shard(1, 2)))
    assert rows(waiting, "select exit_code, done, failed from runs where command like '%1/2'") == [
        (SOME_FAILED, slides - 1, 1),
        (0, 1, 0),
    ]
    assert statuses(waiting) == {"done": SLIDES}


FOREIGN: Mapping[str, Callable[[Path, Path], object]] = {
    "text": lambda path, _: path.write_text("mine\n"),
    "link": Path.symlink_to,
    "folder": lambda path, _: path.mkdir(),
    "pipe": lambda path, _: os.mkfifo(path),
    "empty": lambda path, _: path.touch(),
    "torn": lambda path, _: path.write_text('{"event": "beg'),
}


@pytest.mark.parametrize("what", FOREIGN)
def test_a_foreign_file_in_the_records_place(waiting: Path, tmp_path: Path, what: str) -> None:
    path, other = waiting / "work/shards/7-of-9.jsonl", tmp_path / "other"
    other.write_text("mine\n")
    FOREIGN[what](path, other)
    status = succeeded("--mirror", waiting, "status", "--json").json()
    assert status["uncollected"] == {"done": SLIDES - 1, "failed": 1}
    if is_foreign := what not in ("empty", "torn"):
        result = fetch(waiting, "7/9")
        assert result.code == USAGE and str(path) in result.sentence
    result = collect(waiting)
    assert result.code == 0 and "Traceback" not in result.err
    assert (f"{path}: not the records of a shard" in result.err) == is_foreign
    assert path.exists() == is_foreign
    assert f"{SLIDES - 1} done, 1 failed" in result.err
    assert inside("--mirror", waiting, "export", tmp_path / "e").err == ""
    assert other.read_text() == "mine\n"


def test_a_link_in_place_of_the_folder_is_refused(root: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (root / "work").mkdir(exist_ok=True)
    (root / "work/shards").symlink_to(tmp_path / "other")
    result = fetch(root, "1/2")
    assert result.code == USAGE and "work/shards: it is a link" in result.sentence
    assert list((tmp_path / "other").iterdir()) == []


def test_a_full_disk_ends_a_shard_and_loses_nothing(root: Path, single: Path) -> None:
    with mounted(*small_disk(root / "work" / "shards", "12k")) as full:
        (full / "filler").write_bytes(b"0" * 2048)
        result = fetch(root, "1/1")
        assert result.code == 6 and "no room to write" in result.sentence
        kept = len(lines(root))
        (full / "filler").unlink()
        left = full.joinpath("1-of-1.jsonl").read_bytes()
        assert left.endswith(b"\n")
    (root / "work/shards/1-of-1.jsonl").write_bytes(left)
    assert 0 < kept < SLIDES
    result = collect(root)
    assert f"{kept} done, 0 failed" in result.err
    assert f"{SLIDES - kept} slides fetched" in result.out
    assert images(root) == images(single)


def test_locks_keep_shards_and_other_runs_apart(root: Path, gdc: StandIn) -> None:
    rewrite(root, "^stall = .*", "stall = 100.0")
    gdc.faults.add(Fault(FILES, "stall", hold=60.0))
    here = os.uname().nodename
    with (
        started("--mirror", root, "fetch", "--shard", "1/2") as one,
        started("--mirror", root, "fetch", "--shard", "2/2") as two,
    ):
        until(lambda: len(records(root)) == 2, 60)
        for command in ("update", "fetch", "exclude x", "verify --repair", "import x", "rebuild"):
            result = run("--mirror", root, *command.split())
            holder = f"a shard (fetch --shard 1/2, pid {one.pid} on {here}, since 2"
            assert result.code == LOCKED and holder in result.sentence, command
            assert f"holds {root}" in result.sentence
        result = fetch(root, "2/2")
        assert result.code == LOCKED and f"(fetch --shard 2/2, pid {two.pid}" in result.sentence
        assert result.sentence.endswith(f"holds {root}. Wait for it to end")
        result = fetch(root, "1/3")
        assert result.code == LOCKED and "another number of shards" in result.sentence
        assert succeeded("--mirror", root, "status").code == 0
        one.kill()
        one.wait()
        result = run("--mirror", root, "fetch")
        assert result.code == LOCKED and f"(fetch --shard 2/2, pid {two.pid}" in result.sentence
        two.kill()
    gdc.faults.clear()
    assert records(root) == ["1-of-2.jsonl", "2-of-2.jsonl"]
    gdc.faults.add(Fault("/status", "stall", "once", hold=60.0))
    gdc.clear()
    with started("--mirror", root, "update") as update:
        until(lambda: gdc.requests("/status"))
        result = fetch(root, "1/2")
        assert result.code == LOCKED and f"(update, pid {update.pid}" in result.sentence
        update.kill()
    assert collect(root).code == 0


@pytest.mark.parametrize("words", ["0/4", "5/4", "4", "1/0", "1/2/3", "a/b", "-1/4", "", "1/4 "])
def test_a_shard_is_k_of_n(mirror: Path, words: str) -> None:
    result = fetch(mirror, words)
    assert result.code == USAGE and "--shard: " in result.sentence


def test_shards_share_what_the_settings_allow() -> None:
    settings = Settings(Target(15.0, None), workers=8, rate=4e6)
    settings = replace(settings, api_connections=4, bucket_connections=16)
    for whole, count, expected in (
        (settings, 4, (2, 1e6, 1, 4)),
        (Settings(Target(15.0, None)), 100, (None, None, 1, 1)),
    ):
        part = divided(whole, count)
        parts = (part.workers, part.rate, part.api_connections, part.bucket_connections)
        assert parts == expected


def test_the_function_shard_divides_the_sample(root: Path) -> None:
    sql = "select shard(file_name, 4), count(*), shard(null, 4), shard(file_name, 0) from mirror"
    counts = [len(names(root, Shard(number, 4))) for number in (1, 2, 3, 4)]
    expected = "".join(f"{number},{count},,\n" for number, count in enumerate(counts, start=1))
    found = succeeded("--mirror", root, "query", f"{sql} group by 1", "--format", "csv").out
    assert found.partition("\n")[2] == expected


def test_every_shard_has_slides_of_another_divisions_part() -> None:
    part = [name for name in map(str, range(400)) if shard_of(name, 4) == 3]
    assert 60 < len(part) < 140
    for count in (2, 8, 16):
        assert {shard_of(name, count) for name in part} == {*range(1, count + 1)}
