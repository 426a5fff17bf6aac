"""The log: a line for each thing that happened, whatever the network says and the disk does."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import pytest

from tcgamirror.cli.progress import ProgressDisplay
from tcgamirror.mirror import sample
from tcgamirror.mirror.directory import Mirror
from tcgamirror.mirror.eventlog import EventLog, without_secrets
from tcgamirror.mirror.fetch import FetchOptions
from tcgamirror.mirror.update import UpdateOptions, run_update
from tcgamirror.model.errors import DiskFull, NotFound
from tcgamirror.model.slide import Attempt, Outcome
from tcgamirror.system.cores import usable_cores
from tcgamirror.system.interrupt import Shutdown
from tests.gdc import StandIn
from tests.gdc.faults import Fault
from tests.support.catalogues import FETCHED, NOW, PICTURE, slide
from tests.support.command import FROM_WITHIN, inside, run, went_well
from tests.support.mirrors import column, contents, made, says

HOSTILE = "no \x1b[2J\x9b31m\u202e access\nto https://me:secret@host/data/1?token=abc#x now"


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="ascii").splitlines()]


@pytest.mark.parametrize(
    ("place", "why"),
    [
        ("m/catalogue.db", "it holds something else"),
        ("m", "Is a directory"),
        ("missing/log", "No such file or directory"),
    ],
)
def test_an_unwritable_log_ends_the_command(
    tmp_path: Path, small_gdc: StandIn, place: str, why: str
) -> None:
    root = made(tmp_path / "m", small_gdc, slides=1)
    before = contents(root)
    refused = inside("--mirror", root, "update", "--log", tmp_path / place)
    end = f"{tmp_path / place}: nothing can be appended to it ({why}). Name another file by --log"
    says(refused, 2, end)
    assert contents(root) == before and not small_gdc.served


def test_a_run_is_logged_from_its_begin_to_its_end(tmp_path: Path, small_gdc: StandIn) -> None:
    root, log = made(tmp_path / "m", small_gdc, slides=3), tmp_path / "run.jsonl"
    went_well("--mirror", root, "update", "--limit", "2", "--log", log)
    events = lines(log)
    assert [line["event"] for line in events] == ["begin", "listing", "slide", "slide", "end"]
    begin, listing, first, _, end = events
    assert begin["target"] == "4 µm/px, exact, png" and begin["command"] == "update"
    assert begin["workers"] == min(64, 16 * usable_cores())
    assert (listing["added"], listing["data_release"]) == (
        18,
        "Data Release 45.0 - December 04, 2025",
    )
    assert (first["status"], first["source"], first["fault"]) == ("done", "range", None)
    assert first["bytes"] > 0 and first["requests"] > 0 and first["file_name"].endswith(".svs")
    assert (end["exit_code"], end["done"], end["failed"], end["left"]) == (0, 2, 0, 1)
    assert end["bytes"] == sum(line["bytes"] for line in events if line["event"] == "slide")
    assert all(line["time"].endswith("Z") for line in events)
    went_well("--mirror", root, "fetch", "--log", log)
    assert [line["command"] for line in lines(log)[5:]] == ["fetch"] * 3


def test_the_last_line_says_how_a_run_ended(tmp_path: Path, small_gdc: StandIn) -> None:
    root, log = made(tmp_path / "m", small_gdc, "--via", "range", slides=2), tmp_path / "run.jsonl"
    small_gdc.faults.add(Fault(r"/data/|\.svs", "404"))
    assert inside("--mirror", root, "update", "--log", log).code == 3
    events = lines(log)
    assert events[-2]["status"] == "failed" and events[-2]["fault"] == "not there"
    assert events[-1]["exit_code"] == 3
    small_gdc.switch("api", "refused")
    assert inside("--mirror", root, "refresh", "--log", log).code == 4
    assert lines(log)[-1]["exit_code"] == 4 and lines(log)[-1]["error"]


def test_nothing_from_the_network_is_obeyed_or_gives_a_secret_away(tmp_path: Path) -> None:
    log = tmp_path / "run.jsonl"
    attempt = Attempt("range", NOW, 1.0, 5, 1, "refused", HOSTILE)
    with EventLog(log, "update") as events:
        events.add_slide(Outcome(slide("a"), (attempt,), None))
    text = log.read_text(encoding="ascii")
    assert all(" " <= letter <= "~" or letter == "\n" for letter in text)
    assert "secret" not in text and "token" not in text
    assert "https://host/data/1 now" in lines(log)[0]["message"]


@pytest.mark.parametrize(
    ("text", "bare"),
    [
        ("http://a:b@c.d:80/e?f=g", "http://c.d:80/e"),
        ("two: https://u@x/y and ftp://h?q.", "two: https://x/y and ftp://h"),
        ("'https://h/p?x=y'", "'https://h/p'"),
        ("no address: a@b?c", "no address: a@b?c"),
    ],
)
def test_secrets_are_removed_from_addresses(text: str, bare: str) -> None:
    assert without_secrets(text) == bare


def test_a_line_that_was_cut_off_spoils_no_other(tmp_path: Path) -> None:
    log = tmp_path / "run.jsonl"
    log.write_text('{"event": "sli')
    with EventLog(log, "update"):
        pass
    assert json.loads(log.read_text().splitlines()[1])["event"] == "end"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_under_the_log_is_no_room(tmp_path: Path, small_gdc: StandIn) -> None:
    root = made(tmp_path / "m", small_gdc, slides=1)
    ended = run("--mirror", root, "update", "--log", "/dev/full")
    assert ended.code == 6 and "/dev/full" in ended.sentence
    assert column(root, "select exit_code from runs") == [6]


class FullAfterOne(EventLog):
    """A log whose disk is full at the second slide."""

    slides = 0

    def add_slide(self, outcome: Outcome) -> None:
        self.slides += 1
        if self.slides > 1:
            raise DiskFull(f"no room to write the log of {outcome.slide.file_name}")


def test_a_disk_that_fills_up_ends_the_run_in_order(tmp_path: Path, small_gdc: StandIn) -> None:
    root = made(tmp_path / "m", small_gdc, "--workers", "1", slides=6)
    options = UpdateOptions(refresh=True, sample=True, fetch=FetchOptions())
    mirror, progress = Mirror.find(root, above=False), ProgressDisplay(quiet=True)
    with pytest.raises(DiskFull), FullAfterOne(tmp_path / "log", "update") as log:
        run_update(mirror, "update", options, progress, Shutdown(), log)
    assert column(root, "select exit_code from runs") == [6]
    assert column(root, "select count(*) from mirror where status = 'done'") >= [2]
    assert not column(root, "select * from mirror where status = 'failed'")


@FROM_WITHIN
@pytest.mark.parametrize(
    ("error", "code"),
    [
        (MemoryError(), 6),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), 2),
        (ZeroDivisionError("7 / 0"), 1),
    ],
)
def test_runs_and_the_log_have_the_exit_code_of_the_process(
    tmp_path: Path,
    small_gdc: StandIn,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    code: int,
) -> None:
    def fill(*_: object) -> int:
        raise error

    monkeypatch.setattr(sample, "fill", fill)
    root, log = made(tmp_path / "m", small_gdc), tmp_path / "run.jsonl"
    assert inside("--mirror", root, "update", "--log", log).code == code
    assert column(root, "select exit_code from runs") == [code]
    assert lines(log)[-1]["exit_code"] == code and lines(log)[-1]["error"]


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (NotFound("gone \x1b"), 4, "gone  "),
        (ZeroDivisionError(), 1, ""),
        (KeyboardInterrupt(), 130, "interrupted"),
        (
            OSError(errno.ENOSPC, "No space left"),
            6,
            "no room to write the output (No space left). Free some, or use a larger disk",
        ),
    ],
)
def test_an_error_is_logged_as_the_end(
    tmp_path: Path, error: BaseException, code: int, words: str
) -> None:
    log = tmp_path / "run.jsonl"
    with pytest.raises(type(error)), EventLog(log, "update") as events:
        events.add_slide(Outcome(slide("b"), (FETCHED,), PICTURE))
        raise error
    *_, end = lines(log)
    assert (end["exit_code"], end["error"], end["done"]) == (code, words, 1)
