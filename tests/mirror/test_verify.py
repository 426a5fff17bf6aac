"""`verify` finds every damage and no other, by the real program against the stand-in GDC."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tcgamirror.cli import progress
from tests.gdc import Fault, Listed, StandIn, listed
from tests.support.command import Result, ended, inside, opened, run, started, went_well
from tests.support.mirrors import (
    column,
    contents,
    filled,
    finished_images,
    images,
    point_to,
    rewrite,
    rows,
    until,
)
from tests.support.publishing import change
from tests.support.slides import SlideSpec, make_slide

NEXT = "Data Release 46.0 - March 04, 2026"
OF_RANK = "where file_name = (select file_name from sample where rank = ?)"


@pytest.fixture(scope="module")
def whole(
    tmp_path_factory: pytest.TempPathFactory, small_slides: tuple[Listed, ...]
) -> Iterator[tuple[Path, StandIn]]:
    """A mirror of 18 slides that is done, never to be changed, and its GDC."""
    with StandIn(small_slides) as gdc:
        root = filled(tmp_path_factory.mktemp("whole") / "m", gdc, "--kind", "all", slides=18)
        yield root, gdc


@pytest.fixture
def mirror(tmp_path: Path, whole: tuple[Path, StandIn]) -> Path:
    return shutil.copytree(whole[0], tmp_path / "m")


@pytest.fixture
def gdc(whole: tuple[Path, StandIn]) -> StandIn:
    whole[1].clear()
    return whole[1]


def image_paths(root: Path) -> list[Path]:
    paths = column(root, "select path from mirror order by sample_rank")
    return [root / str(path) for path in paths]


def verified(root: Path, *options: str) -> Result:
    return inside("--mirror", root, "verify", *options)


def alone_is_open(pid: int, image: Path) -> bool:
    """Whether for a second it has been the only one, because all others are read."""
    for _ in range(20):
        images = {path for path in opened(pid) if path.startswith(f"{image.resolve().parents[1]}/")}
        if images != {str(image.resolve())}:
            return False
        time.sleep(0.05)
    return True


def flip(path: Path, place: int = -40) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def spoil(root: Path) -> dict[str, str]:
    """Damage five images, each in another way. Return words for each path."""
    flipped, cut, gone, other, folder, model = image_paths(root)[:6]
    flip(flipped)
    cut.write_bytes(cut.read_bytes()[:-9])
    gone.unlink()
    shutil.copy(model, other)
    folder.unlink()
    folder.mkdir()
    words = ("changed bytes", "bytes instead of", "missing", "another image", "not a file")
    paths = (flipped, cut, gone, other, folder)
    return {str(path.relative_to(root)): word for path, word in zip(paths, words, strict=True)}


def wrong(root: Path, *options: str, code: int = 7) -> dict[str, str]:
    """Verify a mirror. Return what is wrong by path."""
    result = run("--mirror", root, "verify", "--json", *options, timeout=30)
    assert (result.code, result.err) == (code, ""), result
    return {bad["path"]: bad["what"] for bad in result.json()["wrong"]}


# What is found -------------------------------------------------------------------


def test_a_whole_mirror_is_clean_and_nothing_is_written(mirror: Path) -> None:
    before = contents(mirror)
    for options in ((), ("--quick",), ("--decode", "--sample", "3")):
        assert "all as recorded" in went_well("--mirror", mirror, "verify", *options).out
    assert contents(mirror) == before


def test_every_kind_of_damage_is_found_and_named(mirror: Path) -> None:
    expected = spoil(mirror)
    found = wrong(mirror)
    assert set(found) == set(expected)
    assert all(words in found[path] for path, words in expected.items())
    people = verified(mirror)
    assert people.code == 7
    assert "18 images read: 5 damaged or missing" in people.out
    assert all(path in people.out for path in expected)
    assert "verify --repair" in people.out
    # Without reading, all but changed bytes are found.
    _, *others = expected
    quick = verified(mirror, "--quick", "--json").json()
    assert [bad["path"] for bad in quick["wrong"]] == others and quick["bytes"] == 0


def test_anything_else_in_an_images_place_is_named_without_waiting(mirror: Path) -> None:
    paths = image_paths(mirror)[:4]
    for path in paths:
        path.unlink()
    folder, pipe, nowhere, endless = paths
    folder.mkdir()
    os.mkfifo(pipe)
    nowhere.symlink_to("gone")
    endless.symlink_to("/dev/zero")
    for options in ((), ("--quick",), ("--decode",)):
        found = wrong(mirror, *options)
        assert set(found.values()) == {"a link, or not a file"}
        assert [mirror / path for path in found] == paths


def test_a_row_that_says_other_dimensions_or_a_path_outside_is_wrong(mirror: Path) -> None:
    change(mirror, f"update images set width = width + 1 {OF_RANK}", 1)
    change(mirror, f"update images set path = 'images/../../../etc/passwd' {OF_RANK}", 2)
    size, outside = wrong(mirror).values()
    assert "recorded as" in size and "etc/passwd" in outside


def test_decode_finds_what_was_bad_when_it_was_recorded(mirror: Path) -> None:
    bad, other = image_paths(mirror)[:2]
    flip(bad)
    digest = images(mirror)[str(bad.relative_to(mirror))]
    change(mirror, f"update images set sha256 = ? {OF_RANK}", digest, 1)
    change(mirror, f"update images set pixels_sha256 = '{'cd' * 32}' {OF_RANK}", 2)
    assert verified(mirror).code == 0
    found = wrong(mirror, "--decode")
    assert [mirror / path for path in found] == [bad, other]
    damaged, changed = found.values()
    assert "as it was recorded, but" in damaged
    assert "its pixels have another digest" in changed


def test_a_sample_is_the_same_all_day_and_says_so(mirror: Path) -> None:
    assert verified(mirror, "--quick", "--decode").code == 2
    result = verified(mirror, "--sample", "4", "--json").json()
    assert (result["images"], result["of"]) == (4, 18)
    assert result["sample_of"] in verified(mirror, "--sample", "99").out


def test_unknown_files_are_listed_and_are_not_damage(mirror: Path) -> None:
    (mirror / "images" / "notes.txt").write_text("mine")
    (mirror / "images" / "TCGA-LUAD" / "my\x1b[31m.png").write_text("mine")
    (mirror / "images" / "TCGA-LUAD" / "inner").mkdir()
    path = image_paths(mirror)[0]
    fresh = path.with_name(f".{path.name}.part")
    fresh.write_text("half")
    result = verified(mirror)
    assert result.code == 0 and "\x1b" not in result.out
    assert result.out.count("no row of the catalogue knows it") == 3
    assert fresh.name not in result.out, "another run may be writing it"
    os.utime(fresh, (0, 0))
    assert "left unfinished by a run that was killed" in verified(mirror).out


def test_a_damaged_catalogue_is_recognised_with_the_way_out(mirror: Path) -> None:
    path = mirror / "catalogue.db"
    data = bytearray(path.read_bytes())
    for page in range(len(data) // 4096 - 6, len(data) // 4096):
        data[page * 4096 : page * 4096 + 2000] = os.urandom(2000)
    path.write_bytes(data)
    result = verified(mirror)
    assert result.code == 7
    command = f"tcgamirror --mirror {mirror} rebuild"
    assert "catalogue.db" in result.sentence and command in result.sentence
    path.unlink()
    assert command in inside("--mirror", mirror, "status").sentence


# Repairing -----------------------------------------------------------------------


def test_repair_fetches_again_what_is_damaged_and_nothing_else(mirror: Path, gdc: StandIn) -> None:
    before = images(mirror)
    paths = image_paths(mirror)[:4]
    flip(paths[0])
    paths[1].write_bytes(b"")
    paths[2].unlink()
    partial = paths[3].with_name(f".{paths[3].name}.part")
    partial.write_text("half")
    (mirror / "images" / "notes.txt").write_text("mine")
    result = verified(mirror, "--repair", "--json")
    assert result.code == 0, result
    report = result.json()
    assert (report["fetched"]["done"], len(report["wrong"])) == (3, 3)
    assert report["removed"] == [str(partial.relative_to(mirror))]
    assert (mirror / "images" / "notes.txt").read_text() == "mine"
    (mirror / "images" / "notes.txt").unlink()
    assert images(mirror) == before
    names = {record.path.split("/")[-1] for record in gdc.requests(r"\.svs")}
    assert len(names) == 3
    assert verified(mirror).code == 0


def test_repair_leaves_what_is_only_pending_to_update(mirror: Path) -> None:
    change(mirror, f"update images set status = 'pending' {OF_RANK}", 1)
    change(mirror, f"update slides set upstream = 'changed' {OF_RANK}", 1)
    image_paths(mirror)[5].unlink()
    assert verified(mirror, "--repair").code == 0
    assert column(mirror, "select count(*) from mirror where status = 'pending'") == [1]


def test_an_interrupted_repair_resumes(mirror: Path, gdc: StandIn) -> None:
    before = images(mirror)
    for path in image_paths(mirror)[:5]:
        path.unlink()
    rewrite(mirror, "^workers = .*", "workers = 1")
    gdc.delay = 0.3
    with started("--mirror", mirror, "verify", "--repair") as process:
        until(lambda: 0 < len(finished_images(mirror)) - (len(before) - 5) < 5)
        process.send_signal(signal.SIGINT)
        assert ended(process).code == 130
    gdc.delay = 0.0
    assert len(images(mirror)) < len(before)
    assert verified(mirror, "--repair").code == 0
    assert images(mirror) == before
    assert column(mirror, "select distinct status from mirror") == ["done"]


def test_an_image_that_cannot_be_repaired_is_failed_and_exits_3(mirror: Path, gdc: StandIn) -> None:
    rewrite(mirror, "^via = .*", 'via = ["range"]')
    lost, found = image_paths(mirror)[:2]
    lost.unlink()
    found.unlink()
    file_id = str(column(mirror, "select file_id from mirror where sample_rank = 1")[0])
    gdc.faults.add(Fault(file_id, "404"))
    result = verified(mirror, "--repair")
    gdc.faults.clear()
    assert result.code == 3
    assert "1 image fetched again, 1 failed" in result.out
    first_two = "select status from mirror where sample_rank < 3 order by sample_rank"
    assert column(mirror, first_two) == ["failed", "done"]
    # What was found wrong is not forgotten where it could not be mended.
    again = verified(mirror)
    assert "1 image not checked" in again.out and "to be fetched again" in again.out
    assert verified(mirror, "--json").json()["awaited"] == 1
    repaired = verified(mirror, "--repair")
    assert repaired.code == 0 and "1 image fetched again, 0 failed" in repaired.out
    assert column(mirror, first_two) == ["done", "done"]


def test_repair_without_mounted_images_fetches_nothing(mirror: Path, gdc: StandIn) -> None:
    (mirror / "images").rename(mirror / "elsewhere")
    result = verified(mirror, "--repair")
    assert result.code == 7
    assert "Mount" in result.err and not gdc.served
    assert column(mirror, "select distinct status from mirror") == ["done"]


def test_progress_without_bytes_shows_no_rate(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tcgamirror.cli.progress.QUIET_SECONDS", 0)
    reading = progress.ProgressDisplay(quiet=False)
    reading.start_images(20, 0)
    reading.add_images(10, 0)
    assert capsys.readouterr().err == "10 of 20 images\n"


# Stopped, and beside an update ------------------------------------------------------


def test_a_run_stopped_half_way_reports_its_findings(mirror: Path) -> None:
    paths = image_paths(mirror)
    flip(paths[2])
    last = paths[-1]
    kept = last.read_bytes()
    os.truncate(last, 200 << 30)
    with started("--mirror", mirror, "verify") as process:
        until(lambda: alone_is_open(process.pid, last))
        process.send_signal(signal.SIGINT)
        result = ended(process)
    assert result.code == 130, result
    assert "16 of 18 images read: 1 damaged or missing" in result.out
    assert "stopped by Ctrl-C with 2 images left\n" in result.out
    last.write_bytes(kept)
    assert "18 images read: 1 damaged" in verified(mirror).out, "it starts from the beginning"


def test_every_thread_that_reads_a_large_image_stops_at_once(mirror: Path) -> None:
    paths = image_paths(mirror)
    for path in paths:
        os.truncate(path, 200 << 30)
    names = {str(path.resolve()) for path in paths}
    with started("--mirror", mirror, "verify") as process:
        until(lambda: len(names & opened(process.pid)) >= 2)
        process.send_signal(signal.SIGINT)
        # Reading one of them takes minutes.
        result = ended(process, 20)
    assert result.code == 130 and "0 of 18 images read" in result.out, result


def test_a_time_limit_stops_before_an_endless_image(mirror: Path) -> None:
    os.truncate(image_paths(mirror)[-1], 200 << 30)
    result = verified(mirror, "--time-limit", "1s")
    assert result.code == 0 and "stopped by --time-limit with " in result.out


def test_a_time_limit_may_end_a_recheck(mirror: Path) -> None:
    gone, slow, other = image_paths(mirror)[:3]
    gone.unlink()
    endless = other.with_name("endless.png")
    endless.touch()
    os.truncate(endless, 400 << 30)
    os.truncate(slow, 2 << 30)
    with started("--mirror", mirror, "verify", "--time-limit", "5s") as process:
        until(lambda: str(slow.resolve()) in opened(process.pid))
        # As an update would that runs meanwhile: what was missing is recorded elsewhere now.
        change(mirror, f"update images set path = ? {OF_RANK}", str(endless.relative_to(mirror)), 1)
        result = ended(process)
    assert (result.code, result.err) == (0, ""), result
    assert "stopped by --time-limit with" in result.out


def test_an_update_meanwhile_raises_no_alarm(mirror: Path, gdc: StandIn, tmp_path: Path) -> None:
    files = []
    for number, old in enumerate(gdc.files):
        spec = SlideSpec(width=700, height=500, downsamples=(1, 4), seed=100 + number)
        new = listed(make_slide(tmp_path / f"{number}.svs", spec), file_name=old.file_name)
        files.append(dataclasses.replace(new, project_id=old.project_id))
    with StandIn(files, release=NEXT) as newer:
        point_to(mirror, newer)
        rewrite(mirror, "^workers = .*", "workers = 1")
        before = images(mirror)
        times = 0
        with started("--mirror", mirror, "update") as process:
            while process.poll() is None or not times:
                result = verified(mirror)
                assert (result.code, result.err) == (0, ""), result
                assert "no row" not in result.out
                times += 1
            assert ended(process).code == 0
    assert not set(before.values()) & set(images(mirror).values())
    assert verified(mirror).code == 0
    assert rows(mirror, "select count(*) from mirror where status = 'done'") == [(18,)]
