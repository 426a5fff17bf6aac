"""Nights: quiet ones cost one request, and limits end a run in order and say so."""

from __future__ import annotations

import resource
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from tests.gdc import Listed, StandIn, listed_without_data
from tests.support.command import Result, run, succeeded
from tests.support.mirrors import addresses, column, made, rewrite, updated

LISTED = 30_075


def _childrens_seconds() -> float:
    """Of the processor, that the children ended so far have taken."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _quiet(root: Path) -> tuple[float, Result]:
    """A night without news: seconds of the processor, and what it said."""
    before = _childrens_seconds()
    result = succeeded("--mirror", root, "update", "--json")
    return _childrens_seconds() - before, result


def _all_done(root: Path, gdc: StandIn) -> Path:
    """A mirror that has all that is listed, by its catalogue."""
    everything = ("--slides", "all", "--kind", "all", "--mpp", "15")
    succeeded("--mirror", root, "init", *everything, *addresses(gdc))
    succeeded("--mirror", root, "refresh")
    succeeded("--mirror", root, "sample")
    with closing(sqlite3.connect(root / "catalogue.db")) as catalogue, catalogue:
        catalogue.execute("update images set status = 'done'")
    return root


def test_a_quiet_night_makes_one_request_and_one_row_and_little_work(tmp_path: Path) -> None:
    with StandIn(listed_without_data(LISTED)) as gdc, StandIn(listed_without_data(10)) as few:
        root, small = _all_done(tmp_path / "m", gdc), _all_done(tmp_path / "few", few)
        gdc.clear()
        told = _quiet(root)[1].json()
        assert [record.path for record in gdc.served] == ["/status"]
        assert (told["merged"], told["added"], told["exit_code"]) == (None, 0, 0)
        assert column(root, "select command from runs") == ["refresh", "sample", "update"]
        assert column(root, "select exit_code from runs") == [0, 0, 0]
        assert not list(root.glob("catalogue.db-*"))
        took = [(_quiet(root)[0], _quiet(small)[0]) for _ in range(5)]
    # However many slides are listed; the least of some, because machines have other work.
    assert min(many for many, _ in took) < 1.5 * min(few for _, few in took)


def test_other_settings_end_the_quiet(tmp_path: Path, small_gdc: StandIn) -> None:
    root = made(tmp_path / "m", small_gdc, slides=5)
    assert "5 slides added" in succeeded("--mirror", root, "update", "--limit", "1").out
    rewrite(root, "^slides = .*", "slides = 8")
    assert "3 slides added" in succeeded("--mirror", root, "sample").out
    assert "nothing to add: 8 slides" in succeeded("--mirror", root, "sample").out


def test_an_unchanged_manifest_is_merged_once(tmp_path: Path, small_gdc: StandIn) -> None:
    manifest = tmp_path / "manifest.txt"
    row = "{0.file_id}\t{0.file_name}\t{0.md5}\t{0.size}\treleased"
    lines = ["id\tfilename\tmd5\tsize\tstate", *map(row.format, small_gdc.files)]
    manifest.write_text("\n".join(lines))
    root = made(tmp_path / "m", small_gdc, "--manifest", str(manifest), slides=1)
    updated(root)
    assert "nothing to fetch" in updated(root).out
    assert column(root, "select count(*) from releases") == [1]
    manifest.write_text("\n".join(lines[:-1]))
    assert "1 withdrawn" in updated(root).out
    manifest.unlink()
    gone = run("--mirror", root, "update")
    assert gone.code == 0 and "nothing to fetch" in gone.out
    assert f"the manifest {manifest} is gone" in gone.sentence
    manifest.write_text("\n".join(lines[:3]))
    refused = run("--mirror", root, "update")
    assert refused.code == 3 and "by --accept-shrink" in refused.sentence
    assert "withdrawn" in succeeded("--mirror", root, "update", "--accept-shrink").out


def test_after_so_many_bytes_no_slide_begins(tmp_path: Path, small_gdc: StandIn) -> None:
    root = made(tmp_path / "m", small_gdc, "--workers", "1", slides=4)
    ended = succeeded("--mirror", root, "update", "--max-bytes", "1k")
    assert "1 slide fetched" in ended.out
    assert ended.out.endswith("stopped by --max-bytes; 3 slides left for the next run\n")
    told = succeeded("--mirror", root, "fetch", "--max-bytes", "1k", "--json").json()["fetched"]
    assert (told["done"], told["left"], told["stopped_by"]) == (1, 2, "--max-bytes")
    assert run("--mirror", root, "fetch", "--max-bytes", "many").code == 2


def test_each_limit_says_that_it_stopped_the_run(tmp_path: Path, small_gdc: StandIn) -> None:
    root = made(tmp_path / "m", small_gdc, "--workers", "1", slides=12)
    stopped = "stopped by {}; {} slides left for the next run\n"
    first = succeeded("--mirror", root, "update", "--limit", "2").out
    assert first.endswith(stopped.format("--limit", 10))
    small_gdc.delay = 0.2
    timed = succeeded("--mirror", root, "fetch", "--time-limit", "1s").out
    (left,) = column(root, "select count(*) from mirror where status = 'pending'")
    assert timed.endswith(stopped.format("--time-limit", left))
    small_gdc.delay = 0.0
    assert "stopped" not in succeeded("--mirror", root, "fetch", "--limit", "12").out


HOSTILE = "\x1b[2J\x9b31m\u202eowned\x07"
TERMINAL_OBEYS = ("\x1b", "\x9b", "\u202e", "\x07", "\r")


def test_no_terminal_obeys_the_gdc(tmp_path: Path, small_slides: tuple[Listed, ...]) -> None:
    bad = [
        replace(file, primary_site=HOSTILE, disease_type=HOSTILE, state=HOSTILE,
                sample_type=HOSTILE, version=HOSTILE, updated_datetime=HOSTILE)
        for file in small_slides
    ]  # fmt: skip
    with StandIn(bad) as gdc:
        root = made(tmp_path / "m", gdc, slides=1)
        assert "1 slide fetched" in updated(root).out
        named = [replace(file, file_name=HOSTILE + file.file_name) for file in bad]
        gdc.publish(named, "Data Release 46.0 - March 10, 2026")
        refused = run("--mirror", root, "update")
        assert refused.code == 4 and "unsafe name" in refused.sentence
        shown = [refused]
        gdc.publish(bad[1:], "Data Release 47.0 - June 10, 2026")
        shown.append(succeeded("--mirror", root, "refresh"))
    with closing(sqlite3.connect(root / "catalogue.db")) as catalogue, catalogue:
        # As if an earlier version, or a person, had let it in.
        catalogue.execute("update slides set disease_type = ?, state = ?", (HOSTILE, HOSTILE))
        catalogue.execute("update changes set detail = ?", (HOSTILE,))
        catalogue.execute("update attempts set message = ?", (HOSTILE,))
        catalogue.execute("update releases set release = release || ?", (HOSTILE,))
    (file_id,) = column(root, "select file_id from mirror")
    looks = [["show", str(file_id)], ["changes"], ["status"], ["query", "select * from slides"]]
    shown += [succeeded("--mirror", root, *words) for words in looks]
    for result in shown:
        assert not [sign for sign in TERMINAL_OBEYS if sign in result.out + result.err], result
