"""Stopped by hand, by the system or by kill -9: nothing is half there, and the next run goes on."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest

from tcgamirror.cli.progress import ProgressDisplay
from tcgamirror.mirror.directory import Mirror
from tcgamirror.mirror.fetch import FetchOptions
from tcgamirror.mirror.update import UpdateOptions, run_update
from tcgamirror.model.errors import Interrupted
from tcgamirror.system.interrupt import Shutdown
from tcgamirror.system.lock import Lock
from tests.gdc import Fault, StandIn, listed
from tests.support.command import (
    BINARY,
    ROOT,
    Result,
    ended,
    opened,
    run,
    started,
    succeeded,
    surroundings,
)
from tests.support.mirrors import (
    column,
    filled,
    finished_images,
    images,
    made,
    rewrite,
    rows,
    until,
    updated,
)
from tests.support.publishing import change
from tests.support.slides import SlideSpec, make_slide

SLIDES = 12
DELAY = 0.04
"""Seconds before each answer, so that a run lasts long enough to be met in the middle."""
FILES = r"/data/|\.svs"
INTERRUPTED, LOCKED = 130, 5
SAME = (
    "file_id, file_name, project_id, primary_site, disease_type, sample_type, case_barcode, "
    "slide_barcode, kind, upstream, status, source, level, level_downsample, base_mpp, "
    "mpp_source, mpp_x, mpp_y, width, height, path, bytes, sha256, error, sample_rank, "
    "data_release, patched_tiles, pixels_sha256"
)
"""The columns that do not tell when, how long and how often."""

SOON = 20.0
"""Seconds, on a machine with other work; what the tests let a run wait for lasts longer."""


def ended_soon(process: subprocess.Popen[str], *signals: signal.Signals) -> Result:
    """Send these signals, each when the one before was answered; see the command end as told."""
    assert process.stderr is not None
    answers = []
    for place, number in enumerate(signals):
        if place:
            answers.append(process.stderr.readline())
        process.send_signal(number)
    result = ended(process, SOON)
    assert result.code == INTERRUPTED, result
    return replace(result, err="".join((*answers, result.err)))


def done(root: Path) -> int:
    return len(column(root, "select * from mirror where status = 'done'"))


# Ctrl-C and a request to terminate ----------------------------------------------------


def test_one_ctrl_c_finishes_the_slides_in_flight(tmp_path: Path, small_gdc: StandIn) -> None:
    root = made(tmp_path / "m", small_gdc, slides=SLIDES)
    rewrite(root, "^workers = .*", "workers = 4")
    small_gdc.delay = DELAY
    with started("--mirror", root, "update") as update:
        until(lambda: small_gdc.requests(FILES))
        result = ended_soon(update, signal.SIGINT)
    said, end = result.err.splitlines()
    in_flight = re.fullmatch(r"finishing (\d) slides?; Ctrl-C again abandons them", said)
    assert in_flight is not None and int(in_flight[1]) <= done(root) <= 4 + int(in_flight[1])
    assert end == f"tcgamirror: stopped with {done(root)} slides done; the next run goes on"
    assert len(images(root)) == done(root) < SLIDES
    assert column(root, "select exit_code from runs") == [INTERRUPTED]
    assert f"{SLIDES - done(root)} slides fetched, 0 failed" in updated(root).out


@pytest.mark.parametrize("signals", [[signal.SIGINT, signal.SIGINT], [signal.SIGTERM]])
def test_a_second_ctrl_c_and_terminate_let_go_at_once(
    tmp_path: Path, small_gdc: StandIn, signals: list[signal.Signals]
) -> None:
    root = made(tmp_path / "m", small_gdc, slides=SLIDES)
    small_gdc.faults.add(Fault(FILES, "stall", hold=60.0))
    with started("--mirror", root, "update") as update:
        until(lambda: small_gdc.requests(FILES))
        result = ended_soon(update, *signals)
    assert result.err.endswith("tcgamirror: stopped with 0 slides done; the next run goes on\n")
    assert len(result.err.splitlines()) == len(signals)
    small_gdc.faults.clear()
    assert f"{SLIDES} slides fetched, 0 failed" in updated(root).out


def test_terminating_does_not_wait_for_pixels(tmp_path: Path) -> None:
    # Its image takes much longer than the second that a stopped run leaves to it.
    spec = SlideSpec(
        width=24_000, height=96_000, downsamples=(1,), thumbnail=False, offsets="shared"
    )
    with StandIn([listed(make_slide(tmp_path / "large.svs", spec))]) as gdc:
        root = made(tmp_path / "m", gdc, "--mpp", "0.3", slides=1)
        with started("--mirror", root, "update") as update:
            until(lambda: list(root.glob("images/*/.*.part")))
            result = ended_soon(update, signal.SIGTERM)
    assert result.sentence == "tcgamirror: stopped with 0 slides done; the next run goes on"
    assert not finished_images(root)
    assert column(root, "select exit_code from runs") == [INTERRUPTED]


def test_ctrl_c_ends_the_wait_for_a_listing(tmp_path: Path, small_gdc: StandIn) -> None:
    root = made(tmp_path / "m", small_gdc)
    small_gdc.faults.add(Fault("/files", "stall", hold=60.0))
    with started("--mirror", root, "update") as update:
        until(lambda: small_gdc.requests("/files"))
        assert "/files" in ended_soon(update, signal.SIGINT).sentence


def test_no_slide_begins_after_ctrl_c_while_the_listing_is_merged(
    tmp_path: Path, small_gdc: StandIn
) -> None:
    root = made(tmp_path / "m", small_gdc)
    shutdown = Shutdown()

    class Stopped(ProgressDisplay):
        def listing(self, listed: int, total: int, what: str = "listing") -> None:
            if listed == total > 0 and what == "listing":
                shutdown.request()

    options = UpdateOptions(refresh=True, sample=True, fetch=FetchOptions())
    mirror = Mirror.find(root, above=False)
    with pytest.raises(Interrupted, match="stopped before any slide was fetched"):
        run_update(mirror, "update", options, Stopped(quiet=True), shutdown)
    assert column(root, "select status from mirror") == ["pending"] * 4
    assert not small_gdc.requests(FILES)


def test_ctrl_c_ends_a_long_query(tmp_path: Path, small_gdc: StandIn) -> None:
    root = made(tmp_path / "m", small_gdc)
    endless = "with recursive n(i) as (select 1 union all select i + 1 from n) select sum(i) from n"
    with started("--mirror", root, "query", endless) as query:
        until(lambda: str(root / "catalogue.db") in opened(query.pid))
        # The query begins at once then; a signal before would be answered likewise.
        time.sleep(0.1)
        assert ended_soon(query, signal.SIGINT).sentence == "tcgamirror: interrupted"


INTERRUPTING = """
import os, signal, sys
left = int(os.environ["INTERRUPTED_AT"])
begun = False

def interrupt(event, args):
    global left, begun
    if event != "import":
        return
    begun = begun or args[0] == os.environ["INTERRUPTED_FROM"]
    left -= begun
    if begun and left == 0:
        os.kill(os.getpid(), signal.SIGINT)

sys.addaudithook(interrupt)
"""
"""A `sitecustomize.py` that has a process get a Ctrl-C at one of its imports."""


@pytest.mark.skipif(BINARY in os.environ, reason="an executable reads no sitecustomize")
@pytest.mark.parametrize(
    # Before that, Python itself is looking for the package.
    ("way", "begins", "command"),
    [
        (["main.py"], "tcgamirror", "update"),
        (["-m", "tcgamirror"], "tcgamirror.cli.main", "status"),
    ],
)
def test_ctrl_c_while_modules_are_imported_prints_nothing(
    tmp_path: Path, mirror: Path, way: list[str], begins: str, command: str
) -> None:
    (tmp_path / "sitecustomize.py").write_text(INTERRUPTING)
    env = {"PYTHONPATH": str(tmp_path), "INTERRUPTED_FROM": begins}
    root = shutil.copytree(mirror, tmp_path / "m")
    codes = set()
    # The later ones are those that commands import by themselves, or do not come at all.
    for moment in (1, 2, 3, 4, 5, 8, 13, 21, 34, 55, 89, 144, 233, 377):
        ended = subprocess.run(
            [sys.executable, *way, "--mirror", str(root), command],
            cwd=ROOT,
            env=surroundings({**env, "INTERRUPTED_AT": str(moment)}),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert "Traceback" not in ended.stderr, (moment, ended.stderr)
        if moment <= 89:
            assert (ended.returncode, ended.stdout) == (INTERRUPTED, ""), moment
            # A command that has begun says so.
            assert ended.stderr in ("", "tcgamirror: interrupted\n"), moment
        codes.add(ended.returncode)
    assert codes - {INTERRUPTED} <= {0, 4}


# Killed -------------------------------------------------------------------------------


def recorded(root: Path) -> list[tuple[object, ...]]:
    return rows(root, f"select {SAME} from mirror order by sample_rank")


def kill_after(root: Path, seconds: float) -> bool:
    """Begin an update and kill it after so many seconds; False if it had ended before."""
    with started("--mirror", root, "update") as update:
        try:
            assert update.wait(timeout=seconds) == 0
        except subprocess.TimeoutExpired:
            update.kill()
            return True
    return False


@pytest.mark.parametrize("via", ["range", "tiles", "whole"])
def test_a_kill_changes_nothing_in_the_end(tmp_path: Path, small_gdc: StandIn, via: str) -> None:
    """In the environment, TCGAMIRROR_KILLS says how many in all, TCGAMIRROR_SEED which moments."""
    small_gdc.delay = DELAY
    undisturbed = made(tmp_path / "undisturbed", small_gdc, "--via", via, slides=SLIDES)
    begun = time.monotonic()
    updated(undisturbed)
    seconds, expected = time.monotonic() - begun, images(undisturbed)
    moments = random.Random(int(os.environ.get("TCGAMIRROR_SEED", "1")))
    kills = -(-int(os.environ.get("TCGAMIRROR_KILLS", "6")) // 3)
    for number in count():
        if kills <= 0:
            break
        root = made(tmp_path / str(number), small_gdc, "--via", via, slides=SLIDES)
        # About as many as there are slides to be lost, so that late moments are met too.
        for _ in range(min(kills, 3)):
            if not kill_after(root, moments.uniform(0.1, seconds)):
                break
            kills -= 1
            is_as_promised(root, expected)
        small_gdc.clear()
        before = column(root, "select file_id from mirror where status = 'done'")
        updated(root)
        requests = small_gdc.requests(r"/data/|/tile/|\.svs")
        assert not [each for each in requests if any(str(id) in each.path for id in before)]
        assert recorded(root) == recorded(undisturbed)
        assert images(root) == expected
        assert not list((root / "work").iterdir())


def is_as_promised(root: Path, expected: dict[str, str]) -> None:
    """Right after a kill: what is in its place is whole, and what is recorded is there."""
    # First: it rolls a cut-off change back, which read-only connections such as ours may not.
    succeeded("--mirror", root, "status")
    whole = {path: digest for path, digest in images(root).items() if not path.endswith(".part")}
    assert whole.items() <= expected.items()
    for path, sha256 in rows(root, "select path, sha256 from mirror where status = 'done'"):
        assert whole[str(path)] == sha256
    assert column(root, "pragma integrity_check") == ["ok"]


def test_an_image_without_a_row_is_fetched_again(tmp_path: Path, small_gdc: StandIn) -> None:
    root = filled(tmp_path / "m", small_gdc)
    known, there = rows(root, f"select {SAME} from mirror order by 1"), images(root)
    # As if the run had been killed between an image's rename and its row.
    first = "(select file_name from sample where rank = 1)"
    change(root, f"delete from images where file_name in {first}")
    pending = "insert into images (file_name, status, attempts) select *, 'pending', 0 from"
    change(root, f"{pending} {first}")
    fetched = succeeded("--mirror", root, "update", "--json").json()["fetched"]
    assert (fetched["done"], fetched["failed"], fetched["left"]) == (1, 0, 0) and fetched["bytes"]
    assert rows(root, f"select {SAME} from mirror order by 1") == known
    assert images(root) == there and not list((root / "work").iterdir())


# Two at once --------------------------------------------------------------------------


def test_a_second_run_is_told_who_holds_the_mirror(tmp_path: Path, small_gdc: StandIn) -> None:
    root = made(tmp_path / "m", small_gdc)
    rewrite(root, "^stall = .*", "stall = 100.0")
    small_gdc.faults.add(Fault("/status", "stall", "once", hold=60.0))
    with started("--mirror", root, "update") as first:
        until(lambda: small_gdc.requests("/status"))
        second = run("--mirror", root, "fetch")
        assert second.code == LOCKED
        holder = f"another run (update, pid {first.pid} on {os.uname().nodename}, since 2"
        assert holder in second.sentence
        assert second.sentence.endswith(f"Z) holds {root}. Wait for it to end")
        assert re.search("update .* running$", succeeded("--mirror", root, "status").out, re.M)
        assert succeeded("--mirror", root, "status", "--json").json()["running"]
        first.kill()
        first.wait()
    with Lock(root / ".lock", "rebuild"):
        change(root, "update runs set started = '2000-01-01T00:00:00Z'")
        assert re.search("update .* killed$", succeeded("--mirror", root, "status").out, re.M)
    assert not succeeded("--mirror", root, "status", "--json").json()["running"]
    assert "4 slides fetched" in updated(root).out
