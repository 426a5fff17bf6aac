"""Nights on which the GDC is partly away, lists less, or lists what is not there yet."""

from __future__ import annotations

import os
import resource
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.gdc import Fault, Listed, StandIn, listed, listed_without_data, made_up_name
from tests.gdc.listing import made_up_id
from tests.support.catalogues import make_older
from tests.support.command import Result, inside, run, succeeded, went_well
from tests.support.mirrors import (
    DIAGNOSTIC,
    addresses,
    column,
    filled,
    images,
    made,
    rewrite,
    updated,
)
from tests.support.nights import Nights
from tests.support.publishing import change
from tests.support.raw_server import Listener
from tests.support.slides import SlideSpec, make_slide

NEXT = "Data Release 46.0 - March 10, 2026"
SAME = "Data Release 45.0 - December 04, 2025"
SOME_FAILED, UNREACHABLE = 3, 4


def night(root: Path, *more: str) -> Result:
    return inside("--mirror", root, "update", *more)


def asked(gdc: StandIn) -> list[str]:
    """The paths asked for since the last call."""
    paths = [record.path for record in gdc.served]
    gdc.clear()
    return paths


# The API away while the bucket is there ---------------------------------------------


@pytest.mark.parametrize("state", ["refused", "503"])
def test_an_update_without_the_api(tmp_path: Path, small_gdc: StandIn, state: str) -> None:
    root = made(tmp_path / "m", small_gdc, slides=6)
    assert "2 slides fetched" in went_well("--mirror", root, "update", "--limit", "2").out
    small_gdc.switch("api", "503" if state == "503" else "refused")
    ended = night(root)
    assert ended.code == UNREACHABLE
    # Before it come the pauses of a server that is busy.
    assert ended.err.splitlines()[-1].startswith("the listing stays as it was: 127.0.0.1")
    assert "4 slides fetched, 0 failed" in ended.out
    assert column(root, "select count(*) from mirror where status = 'done'") == [6]
    quiet = night(root, "--json", "--log", str(tmp_path / "log"))
    end = (tmp_path / "log").read_text().splitlines()[-1]
    assert '"exit_code": 4' in end and "/status" in end
    told = quiet.json()
    assert (quiet.code, told["exit_code"], told["fetched"]["done"]) == (4, 4, 0)
    assert "/status" in told["error"] and told["error"] in quiet.err
    assert column(root, "select exit_code from runs") == [0, 4, 4]
    small_gdc.switch("api", "up")
    assert "nothing to fetch: 6 of 6" in updated(root).out


def test_an_outage_delays_no_slide(tmp_path: Path, small_gdc: StandIn) -> None:
    root = made(tmp_path / "m", small_gdc, slides=6)
    went_well("--mirror", root, "update", "--limit", "2")
    # It is tried only once, as it is no longer listed.
    change(
        root,
        "update slides set upstream = 'withdrawn' where file_name = "
        "(select file_name from images where status = 'pending')",
    )
    small_gdc.switch("api", "refused")
    small_gdc.switch("bucket", "refused")
    for command in ("update", "fetch --retry-failed", "fetch --shard 1/1"):
        assert inside("--mirror", root, *command.split()).code == UNREACHABLE
        # It collects what a shard recorded.
        assert inside("--mirror", root, "sample").code == 0
        assert column(root, "select status from images order by status") == [
            *["done"] * 2,
            *["pending"] * 4,
        ]
    small_gdc.switch("api", "up")
    small_gdc.switch("bucket", "up")
    assert "4 slides fetched, 0 failed" in updated(root).out


def test_refresh_and_a_first_night_need_the_api(tmp_path: Path, small_gdc: StandIn) -> None:
    root, other = (made(tmp_path / name, small_gdc, slides=1) for name in "mn")
    updated(other)
    small_gdc.switch("api", "refused")
    for ended in (night(root), inside("--mirror", other, "refresh")):
        assert (ended.code, ended.out) == (UNREACHABLE, "")
        assert ended.sentence.startswith("tcgamirror: 127.0.0.1")


def test_a_bad_certificate_of_the_api_is_named(
    tmp_path: Path, small_gdc: StandIn, tls_server: tuple[str, Listener]
) -> None:
    root = made(tmp_path / "m", small_gdc, slides=3)
    went_well("--mirror", root, "update", "--limit", "1")
    rewrite(root, "^api = .*", f'api = "{tls_server[0]}"')
    ended = night(root)
    assert ended.code == UNREACHABLE
    assert "certificate is not valid" in ended.sentence
    assert "2 slides fetched, 0 failed" in ended.out


# Less than before -------------------------------------------------------------------


def _many(one: Listed, count: int) -> list[Listed]:
    return [
        replace(one, file_name=made_up_name(str(number)), file_id=made_up_id(str(number)))
        for number in range(count)
    ]


def test_a_refused_shrink_keeps_the_listing(tmp_path: Path, small_slides: Sequence[Listed]) -> None:
    many = _many(small_slides[0], 40)
    with StandIn(many) as gdc:
        root = made(tmp_path / "m", gdc, slides=40)
        went_well("--mirror", root, "update", "--limit", "1")
        gdc.publish(many[5:], NEXT)
        ended = night(root, "--limit", "2")
        assert not gdc.requests("/files/versions")
        assert ended.code == SOME_FAILED
        assert "lacks 5 of the 40 slides" in ended.sentence and "--accept-shrink" in ended.sentence
        assert "2 slides fetched, 0 failed" in ended.out
        assert f"listing  {SAME}" in went_well("--mirror", root, "status").out
        assert column(root, "select count(*) from releases") == [1]
        told = night(root, "--limit", "2", "--json")
        assert (told.code, told.json()["exit_code"]) == (SOME_FAILED, SOME_FAILED)
        assert "--accept-shrink" in told.json()["error"]
        alone = inside("--mirror", root, "refresh")
        assert (alone.code, alone.out) == (SOME_FAILED, "")
        accepted = went_well("--mirror", root, "update", "--limit", "1", "--accept-shrink")
        assert "5 withdrawn" in accepted.out
        assert f"nothing new: {NEXT}" in went_well("--mirror", root, "refresh").out
    assert column(root, "select count(*) from slides") == [40]


def test_withdrawn_slides_stop_no_night(tmp_path: Path, small_slides: Sequence[Listed]) -> None:
    diagnostic = small_slides[:DIAGNOSTIC]
    with StandIn(small_slides) as gdc:
        root = filled(tmp_path / "m", gdc, slides=DIAGNOSTIC)
        gdc.publish(small_slides[1:], NEXT)
        assert "1 withdrawn" in updated(root).out
        rewrite(root, "^slides = .*", f"slides = {DIAGNOSTIC + 5}")
        more = night(root)
        assert more.code == 0
        assert more.sentence == (
            "20 slides are asked for, but there are only 15 of kind diagnostic: all are taken"
        )
        assert updated(root).code == 0
        gdc.publish(small_slides[2:], "Data Release 47.0 - June 10, 2026")
        less = night(root)
        assert less.code == 0 and "only 15" in less.sentence
    assert len(images(root)) == len(diagnostic)


# When the listing is read -----------------------------------------------------------


def test_a_denied_slide_is_listed_anew(tmp_path: Path, small_slides: Sequence[Listed]) -> None:
    late = small_slides[0]
    with StandIn(small_slides) as gdc:
        root = made(tmp_path / "m", gdc, slides=DIAGNOSTIC)
        # A release's first day: listed, but neither open at the GDC nor in the bucket.
        denied = [
            Fault(late.file_id, "404", host="bucket"),
            Fault(f"/data/{late.file_id}", "403"),
            Fault(f"/tile/metadata/{late.file_id}", "404"),
        ]
        gdc.faults.add(*denied)
        assert night(root).code == SOME_FAILED
        asked(gdc)
        # The same release, by now with the file that is meant.
        mended = replace(late, file_id=made_up_id("mended"))
        gdc.publish([mended, *small_slides[1:]], SAME)
        again = night(root)
        assert "1 reidentified" in again.out and "1 slide fetched, 0 failed" in again.out
        assert again.code == 0 and "/files" in asked(gdc)
        updated(root)
        assert asked(gdc) == ["/status"]


def test_a_denied_slide_has_the_listing_read_once(tmp_path: Path, small_gdc: StandIn) -> None:
    root = made(tmp_path / "m", small_gdc, slides=3)
    small_gdc.faults.add(Fault(r"/data/|\.svs|/tile/", "403"))
    assert night(root).code == SOME_FAILED
    merges = "select count(*) from releases"
    for expected in (True, False, False):
        asked(small_gdc)
        assert "3 failed" in updated(root).out
        assert ("/files" in asked(small_gdc)) == expected
    # Read again, and the same: that is no event.
    assert column(root, merges) == [1]
    assert len(went_well("--mirror", root, "changes", "--json").json()) == 1


def test_a_withdrawn_slide_is_no_reason(tmp_path: Path, small_slides: Sequence[Listed]) -> None:
    with StandIn(small_slides) as gdc:
        root = made(tmp_path / "m", gdc, slides=1)
        went_well("--mirror", root, "refresh")
        went_well("--mirror", root, "sample")
        (name,) = column(root, "select file_name from mirror")
        gdc.publish([file for file in small_slides if file.file_name != name], NEXT)
        assert night(root).code == SOME_FAILED
        asked(gdc)
        updated(root)
        assert asked(gdc) == ["/status"]


@pytest.mark.parametrize(("days", "read"), [(29, False), (31, True), (-2, True), (None, True)])
def test_the_listing_is_read_again_after_thirty_days(
    tmp_path: Path, small_gdc: StandIn, days: int | None, read: bool
) -> None:
    root = filled(tmp_path / "m", small_gdc, slides=1)
    if days is None:
        # As an older version left it.
        change(root, "DELETE FROM facts WHERE key = 'listing read'")
    else:
        then = (datetime.now(UTC) - timedelta(days=days)).strftime("%Y-%m-%dT%H:%M:%SZ")
        change(root, "UPDATE facts SET value = ? WHERE key = 'listing read'", f"{then} 1")
    asked(small_gdc)
    assert "nothing to fetch" in updated(root).out
    assert ("/files" in asked(small_gdc)) == read
    updated(root)
    assert asked(small_gdc) == ["/status"]


def test_refresh_by_force_reads_the_listing(tmp_path: Path, small_slides: Sequence[Listed]) -> None:
    with StandIn(small_slides) as gdc:
        root = made(tmp_path / "m", gdc, slides=1)
        went_well("--mirror", root, "refresh")
        assert f"nothing new: {SAME}" in went_well("--mirror", root, "refresh", "--force").out
        gdc.publish(small_slides[1:], SAME)
        assert "nothing new" in went_well("--mirror", root, "refresh").out
        assert "1 withdrawn" in went_well("--mirror", root, "refresh", "--force").out


# What is told of new images ---------------------------------------------------------


def test_new_images_of_unknown_resolution_are_counted(tmp_path: Path) -> None:
    specs = [
        SlideSpec(width=500, height=400, downsamples=(1,), mpp=mpp, app_mag=None, seed=number)
        for number, mpp in enumerate((0.25, None, None))
    ]
    files = [
        listed(make_slide(tmp_path / f"{number}.svs", spec), file_name=made_up_name(str(number)))
        for number, spec in enumerate(specs)
    ]
    with StandIn(files) as gdc:
        root = made(tmp_path / "m", gdc, slides=3)
        assert updated(root).out.endswith("; 2 of unknown resolution\n")
        other = made(tmp_path / "n", gdc, slides=3)
        assert night(other, "--json").json()["fetched"]["unknown_mpp"] == 2
        assert "unknown resolution" not in updated(root).out


# Resolutions that an older version never read ---------------------------------------


def _unread(root: Path) -> str:
    """Make the mirror an older version's, which could not read one slide's header; name that."""
    (name,) = column(root, "select file_name from mirror where sample_rank = 1")
    change(
        root,
        "UPDATE images SET source = 'tiles', base_mpp = NULL, mpp_source = 'unknown', "
        "mpp_x = NULL, mpp_y = NULL WHERE file_name = ?",
        str(name),
    )
    make_older(root, 3)
    return str(name)


def test_images_of_an_unread_header_are_fetched_anew(tmp_path: Path, small_gdc: StandIn) -> None:
    root = filled(tmp_path / "m", small_gdc, slides=2)
    name = _unread(root)
    held = images(root)
    # A release's first days: there are tiles, but no file yet.
    small_gdc.faults.add(Fault(name, "404", host="bucket"), Fault("/data/", "403"))
    failed = night(root)
    assert failed.code == SOME_FAILED
    assert "0 slides fetched, 1 failed" in failed.out
    assert images(root) == held
    verified = went_well("--mirror", root, "verify").out
    assert "1 image not checked" in verified and "of uncertain resolution" in verified
    small_gdc.faults.clear()
    assert "1 slide fetched, 0 failed" in went_well("--mirror", root, "fetch", "--retry-failed").out
    assert column(root, "select count(*) from mirror where mpp_x is null") == [0]
    assert "nothing to fetch" in updated(root).out


def test_verify_by_itself_repairs_an_unread_header(tmp_path: Path, small_gdc: StandIn) -> None:
    root = filled(tmp_path / "m", small_gdc, slides=2)
    _unread(root)
    assert "1 image fetched again" in went_well("--mirror", root, "verify", "--repair").out
    assert column(root, "select count(*) from mirror where mpp_x is null") == [0]


def test_what_the_header_truly_does_not_tell_is_fetched_again_once(tmp_path: Path) -> None:
    spec = SlideSpec(width=500, height=400, downsamples=(1,), mpp=None, app_mag=None)
    with StandIn([listed(make_slide(tmp_path / "a.svs", spec))]) as gdc:
        root = made(tmp_path / "m", gdc, "--via", "tiles", slides=1)
        assert updated(root).out.endswith("; 1 of unknown resolution\n")
        make_older(root, 3)
        assert "1 slide fetched, 0 failed" in updated(root).out
        assert "nothing to fetch: 1 of 1 slide" in updated(root).out
        # Its image does not tell whether the header was read: a new catalogue asks once more.
        (root / "catalogue.db").unlink()
        assert "1 to fetch" in went_well("--mirror", root, "rebuild").out
        assert "1 slide fetched, 0 failed" in updated(root).out


# At random ---------------------------------------------------------------------------

SOAK = bool(os.environ.get("TCGAMIRROR_SOAK"))
SEEDS = range(4) if SOAK else [int(os.environ.get("TCGAMIRROR_SEED", "1"))]
NIGHTS = int(os.environ.get("TCGAMIRROR_NIGHTS", "60" if SOAK else "12"))


@pytest.mark.timeout(3600 if SOAK else 300)
@pytest.mark.parametrize("seed", SEEDS)
def test_whatever_happens_each_mirror_has_what_it_must(tmp_path: Path, seed: int) -> None:
    with StandIn([]) as gdc:
        nights = Nights(tmp_path, seed, gdc)
        try:
            nights.run(NIGHTS)
        except BaseException:
            print("\n".join(nights.acts))
            raise


# Quiet nights and limits --------------------------------------------------------------


LISTED = 30_075


def _quiet(root: Path) -> tuple[float, Result]:
    """A night without news: seconds of the processor, and what it said."""
    before = sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
    result = succeeded("--mirror", root, "update", "--json")
    return sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2]) - before, result


def _all_done(root: Path, gdc: StandIn) -> Path:
    """A mirror that has all that is listed, by its catalogue."""
    everything = ("--slides", "all", "--kind", "all", "--mpp", "15")
    succeeded("--mirror", root, "init", *everything, *addresses(gdc))
    succeeded("--mirror", root, "refresh")
    succeeded("--mirror", root, "sample")
    change(root, "update images set status = 'done'")
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
    root = filled(tmp_path / "m", small_gdc, "--manifest", str(manifest), slides=1)
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


def test_slides_in_flight_count_for_the_bytes_of_a_run(tmp_path: Path, small_gdc: StandIn) -> None:
    options = ("--kind", "all", "--workers", "8")
    root = made(tmp_path / "m", small_gdc, *options, slides=18)
    whole = succeeded("--mirror", root, "update", "--json").json()["fetched"]["bytes"]
    again = made(tmp_path / "again", small_gdc, *options, slides=18)
    succeeded("--mirror", again, "update", "--max-bytes", str(whole // 2))
    (fetched,) = column(again, "select bytes from runs where done > 0")
    assert whole // 4 < int(str(fetched)) < 0.75 * whole
    # Also before any has ended, when nothing tells yet what they move.
    brief = made(tmp_path / "brief", small_gdc, *options, slides=18)
    report = succeeded("--mirror", brief, "update", "--max-bytes", "1", "--json").json()["fetched"]
    assert (report["done"], report["left"]) == (1, 17)


def test_each_limit_says_that_it_stopped_the_run(tmp_path: Path, small_gdc: StandIn) -> None:
    root = made(tmp_path / "m", small_gdc, "--workers", "1", slides=12)
    stopped = "stopped by {}; {} slides left for the next run\n"
    first = succeeded("--mirror", root, "update", "--limit", "2").out
    assert first.endswith(stopped.format("--limit", 10))
    bytes_ = succeeded("--mirror", root, "fetch", "--max-bytes", "1k").out
    assert "1 slide fetched" in bytes_ and bytes_.endswith(stopped.format("--max-bytes", 9))
    report = succeeded("--mirror", root, "fetch", "--max-bytes", "1k", "--json").json()["fetched"]
    assert (report["done"], report["left"], report["stopped_by"]) == (1, 8, "--max-bytes")
    assert run("--mirror", root, "fetch", "--max-bytes", "many").code == 2
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
    # As if an earlier version, or a person, had let it in.
    change(root, "update slides set disease_type = ?, state = ?", HOSTILE, HOSTILE)
    change(root, "update changes set detail = ?", HOSTILE)
    change(root, "update attempts set message = ?", HOSTILE)
    change(root, "update releases set release = release || ?", HOSTILE)
    (file_id,) = column(root, "select file_id from mirror")
    looks = [["show", str(file_id)], ["changes"], ["status"], ["query", "select * from slides"]]
    shown += [succeeded("--mirror", root, *words) for words in looks]
    for result in shown:
        assert not [sign for sign in TERMINAL_OBEYS if sign in result.out + result.err], result
