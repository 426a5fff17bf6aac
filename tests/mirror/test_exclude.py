"""`exclude` and `include`: what a person left out stays out, wherever the mirror goes."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tcgamirror.catalogue.catalogue import Catalogue
from tcgamirror.catalogue.exclusions import Exclusion
from tests.gdc import Listed, StandIn
from tests.support.carrying import exported, imported, inside
from tests.support.command import ROOT, Result, program
from tests.support.mirrors import addresses, column, filled, images, made, rewrite, rows

EXCLUDED = "select file_name, status, error, path from mirror where status = 'excluded' order by 1"
REASONS = "select file_name, reason from exclusions order by 1"


@pytest.fixture(scope="module")
def gdc(small_slides: tuple[Listed, ...]) -> Iterator[StandIn]:
    with StandIn(small_slides) as gdc:
        yield gdc


@pytest.fixture(scope="module")
def pattern(tmp_path_factory: pytest.TempPathFactory, gdc: StandIn) -> Path:
    return filled(tmp_path_factory.mktemp("pattern") / "m", gdc, slides=6)


@pytest.fixture(scope="module")
def order(tmp_path_factory: pytest.TempPathFactory, gdc: StandIn) -> list[str]:
    """The slides of a mirror without exclusions, by rank."""
    plain = made(tmp_path_factory.mktemp("plain") / "m", gdc, slides=12)
    told(plain, "refresh")
    told(plain, "sample")
    return sampled(plain)


@pytest.fixture
def root(tmp_path: Path, pattern: Path) -> Path:
    """A mirror of six slides."""
    return shutil.copytree(pattern, tmp_path / "m")


def told(root: Path, *words: str | Path) -> Result:
    """Run a command that must succeed, in this process."""
    result = inside("--mirror", root, *words)
    assert result.code == 0, result
    return result


def sampled(root: Path) -> list[str]:
    return [str(name) for name in column(root, "select file_name from sample order by rank")]


def test_a_reason_of_one_line_stays_until_another_is_given(root: Path) -> None:
    name = sampled(root)[1]
    reasons = []
    for words in (["--reason", "pen\tmarks,\r\nblurred "], [], ["--reason", "blurred"]):
        told(root, "exclude", name, " ", *words)
        reasons += column(root, "select reason from exclusions")
    assert reasons == ["pen marks, blurred", "pen marks, blurred", "blurred"]
    blank = inside("--mirror", root, "exclude", " ")
    assert (blank.code, blank.sentence.partition(". ")[0]) == (2, "tcgamirror: no slide is named")


def test_an_excluded_slide_keeps_its_place_and_loses_its_image(root: Path) -> None:
    first, second, *_ = names = sampled(root)
    said = told(root, "exclude", second, "--reason", "pen marks")
    assert "(1 in the sample, not excluded before); 1 image removed" in said.out
    assert rows(root, EXCLUDED) == [(second, "excluded", "pen marks", None)]
    assert len(images(root)) == 5
    ((by, at),) = rows(root, "select excluded_by, excluded_at from exclusions")
    assert by and str(at).endswith("Z")
    assert "5 done, 0 pending, 0 failed, 1 excluded" in told(root, "status").out
    assert "pen marks" in told(root, "show", second).out
    assert f"excluded {second} (pen marks, by {by}, {at})" in told(root, "changes").out
    assert sampled(root) == names and first in names


@pytest.mark.parametrize(
    "command", ["update", "update --retry-failed", "fetch", "verify --repair", "refresh --force"]
)
def test_no_command_brings_it_back(root: Path, command: str) -> None:
    told(root, "exclude", sampled(root)[0])
    told(root, *command.split())
    assert len(images(root)) == 5 and len(rows(root, EXCLUDED)) == 1


def test_exclusions_change_no_larger_sample(root: Path, order: list[str]) -> None:
    told(root, "exclude", order[0], order[7])
    assert rows(root, EXCLUDED) == [(order[0], "excluded", "no reason given", None)]
    assert "4 slides added to the sample" in told(root, "sample", "--slides", "10").out
    told(root, "update")
    assert sampled(root) == order[:10]
    assert {name for name, *_ in rows(root, EXCLUDED)} == {order[0], order[7]}
    assert len(images(root)) == 8


def test_the_next_slides_take_a_place_once(root: Path, order: list[str]) -> None:
    for added in ("2 slides", "0 slides"):
        assert f"; {added} added" in told(root, "exclude", *order[:2], "--replace").out
        assert sampled(root) == order[:8]
        assert "\nslides = 8  #" in (root / "tcgamirror.toml").read_text()
    told(root, "exclude", order[8], order[9])
    assert "; 1 slide added in their place" in told(root, "exclude", order[2], "--replace").out
    assert sampled(root) == order[:11]
    told(root, "update")
    assert len(images(root)) == 6


def test_an_unfilled_sample_is_filled_first(order: list[str], gdc: StandIn, tmp_path: Path) -> None:
    new = made(tmp_path / "new", gdc, slides=6)
    told(new, "refresh")
    told(new, "exclude", *order[:2], "--replace")
    told(new, "update")
    assert len(sampled(new)) == 8 and len(images(new)) == 6


KILLED = """
import os, sys
from tcgamirror.mirror import exclude
setattr(exclude, sys.argv.pop(1), lambda *_: os.kill(os.getpid(), 9))
from tcgamirror.cli.main import main
main(sys.argv[1:])
"""
"""The program, killed at the call of a function that its first word names."""


@pytest.mark.parametrize("step", ["write_exclusions", "_remove_images", "raise_slides"])
def test_a_kill_loses_no_replacement(root: Path, step: str) -> None:
    words = ["--mirror", str(root), "exclude", *sampled(root)[:2], "--replace"]
    killed = subprocess.run([sys.executable, "-c", KILLED, step, *words], cwd=ROOT, check=False)
    assert killed.returncode == -9
    told(root, *words[2:])
    told(root, "update")
    assert len(sampled(root)) == 8 and len(images(root)) == 6
    assert "\nslides = 8  #" in (root / "tcgamirror.toml").read_text()


def test_a_slide_has_many_names(root: Path, tmp_path: Path) -> None:
    names = sampled(root)
    cases = column(root, "select case_barcode from mirror order by sample_rank")
    ids = column(root, "select file_id from mirror order by sample_rank")
    barcodes = column(root, "select slide_barcode from mirror order by sample_rank")
    table = tmp_path / "clam.csv"
    table.write_text(
        f"slide_id,process,status\n{names[1].removesuffix('.svs')},1,ok\n"
        f"# {names[5]}\nTCGA-00-0000,0,none\n"
    )
    words = (str(cases[2]), str(ids[3]).upper(), str(barcodes[4]).lower())
    (tmp_path / "first").write_text(f"{names[0]}\n")
    lists = ("--from", tmp_path / "first", "--from", table)
    said = told(root, "exclude", *words, *lists, "--json")
    assert said.json() == {
        **{"slides": 5, "sampled": 5, "removed": 5, "replaced": 0},
        **{"unknown": ["TCGA-00-0000"], "exit_code": 0},
    }
    assert said.sentence == "1 name without such a slide: TCGA-00-0000"
    assert len(images(root)) == 1


def test_names_of_no_slide_are_refused(root: Path, tmp_path: Path) -> None:
    assert "'nothing'" in inside("--mirror", root, "exclude", "nothing").sentence
    assert inside("--mirror", root, "exclude", "nothing").code == 2
    assert inside("--mirror", root, "exclude").code == 2
    (tmp_path / "empty").write_text("# nothing\n")
    assert inside("--mirror", root, "exclude", "--from", tmp_path / "empty").code == 2
    assert "none of these" in inside("--mirror", root, "include", sampled(root)[0]).sentence
    assert not (root / "excluded.tsv").exists()


def test_names_come_by_standard_input_too(root: Path, tmp_path: Path) -> None:
    """`-` for the file of `exclude`, `include` and `init --cases`."""
    names = sorted(sampled(root)[:2])
    for words in (
        ["--mirror", root, "exclude", "--from", "-"],
        ["--mirror", root, "include", "--from", "-"],
        ["init", tmp_path / "n", "--mpp", "4", "--cases", "-"],
    ):
        command = [*program(), *map(str, words)]
        subprocess.run(command, input="\n".join(names), text=True, check=True)
    settings = (tmp_path / "n" / "tcgamirror.toml").read_text()
    assert f'\ncases = ["{names[0]}", "{names[1]}"]' in settings


@pytest.mark.parametrize("keep", [False, True])
def test_what_is_included_again_is_fetched_unless_it_was_kept(root: Path, keep: bool) -> None:
    before, name = images(root), sampled(root)[0]
    told(root, "exclude", name, *(["--keep"] if keep else []))
    assert (images(root) == before) is keep
    assert told(root, "verify").code == 0
    told(root, "include", name)
    (pending,) = column(root, "select count(*) from mirror where status = 'pending'")
    assert pending == (0 if keep else 1)
    told(root, "update")
    assert images(root).keys() == before.keys() and rows(root, REASONS) == []
    assert not (root / "excluded.tsv").exists()


def test_it_goes_with_the_mirror(root: Path, tmp_path: Path, gdc: StandIn) -> None:
    """Carry exclusions by export and import, sync, rebuild, and the lock file."""
    told(root, "exclude", *sampled(root)[1:3], "--reason", "pen\tmarks")
    told(root, "exclude", sampled(root)[4], "--keep")
    expected = rows(root, EXCLUDED.replace(", path", ""))
    assert len(expected) == 3
    here = tmp_path / "imported"
    imported(here, exported(root, tmp_path / "e.tar"))
    assert rows(here, EXCLUDED.replace(", path", "")) == expected
    inside("sync", root, tmp_path / "synced")
    (root / "catalogue.db").rename(root / "gone")
    told(root, "rebuild")
    told(root, "update")
    told(root, "lock", tmp_path / "l")
    told(tmp_path / "again", "init", "--lock", tmp_path / "l", *addresses(gdc))
    told(tmp_path / "again", "update")
    for lost in (here, tmp_path / "synced", tmp_path / "again"):
        (lost / "catalogue.db").unlink()
        told(lost, "rebuild")
    for mirror in (root, here, tmp_path / "synced", tmp_path / "again"):
        assert rows(mirror, EXCLUDED.replace(", path", "")) == expected, mirror
        assert rows(mirror, REASONS) == rows(root, REASONS)
        assert len(images(mirror)) == (4 if mirror == root else 3)
        assert "nothing to fetch: 3 of 6" in told(mirror, "update").out
    assert "6 of 6 slides are as locked" in told(root, "lock", "--check", tmp_path / "l").out
    told(root, "lock", tmp_path / "l")


@pytest.mark.parametrize(
    "command",
    ["update", "refresh", "fetch", "verify --repair", "exclude {}", "include {}", "import {}"],
)
def test_the_next_run_mends_excluded_tsv(root: Path, tmp_path: Path, command: str) -> None:
    """The next run that writes mends the file from which `rebuild` reads exclusions."""
    before, again, third = sampled(root)[:3]
    told(root, "exclude", before, third)
    with Catalogue.open(root / "catalogue.db") as catalogue:
        # As runs that were killed before they wrote the file.
        catalogue.exclusions.remove([before])
        catalogue.exclusions.add([Exclusion(again, "pen marks", "me", "2026-11-29T00:00:00Z")])
    export = exported(root, tmp_path / "export") if "import" in command else third
    told(root, *command.format(export).split())
    expected = rows(root, REASONS)
    assert (again, "pen marks") in expected
    (root / "catalogue.db").unlink()
    told(root, "rebuild")
    assert rows(root, REASONS) == expected


def test_a_lost_mirror_keeps_its_exclusions(root: Path, gdc: StandIn) -> None:
    told(root, "exclude", *sampled(root)[:2])
    expected = rows(root, REASONS)
    for name in ("tcgamirror.toml", "catalogue.db"):
        (root / name).unlink()
    made(root, gdc, slides=6)
    assert rows(root, REASONS) == expected
    told(root, "update")
    assert rows(root, REASONS) == expected


def test_another_file_of_that_name_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "excluded.tsv").write_text("mine\n")
    refused = inside("init", tmp_path, "--mpp", "4")
    assert refused.code == 2 and "line 1: not an excluded slide" in refused.sentence
    assert [path.name for path in tmp_path.iterdir()] == ["excluded.tsv"]


def test_a_mirror_s_own_exclusions_win(root: Path, tmp_path: Path) -> None:
    """Neither an import nor a sync brings an image back; those of a source end with it."""
    own, other = sampled(root)[:2]
    export = exported(root, tmp_path / "export")
    for mirror in (tmp_path / "i", tmp_path / "s"):
        inside("sync", root, mirror)
        told(mirror, "exclude", own, "--reason", "mine")
    told(root, "exclude", own, other, "--reason", "theirs", "--keep")
    told(tmp_path / "i", "import", export)
    inside("sync", root, tmp_path / "s")
    assert rows(tmp_path / "i", REASONS) == [(own, "mine")]
    assert rows(tmp_path / "s", REASONS) == sorted([(own, "mine"), (other, "theirs")])
    assert len(images(tmp_path / "i")) == len(images(tmp_path / "s")) == 5
    told(root, "include", own, other)
    inside("sync", root, tmp_path / "s")
    assert rows(tmp_path / "s", REASONS) == [(own, "mine")]
    assert told(tmp_path / "s", "verify").code == 0


def test_sync_keeps_images_until_delete(root: Path, tmp_path: Path) -> None:
    """The manual's page `transfer` says so."""
    here = tmp_path / "s"
    excluded, *_ = names = sampled(root)
    inside("sync", root, here)
    told(root, "exclude", excluded)
    inside("sync", root, here)
    assert len(images(here)) == 6
    told(here, "include", excluded)
    assert [name for name, *_ in rows(here, EXCLUDED)] == []
    inside("sync", root, here)
    assert [name for name, *_ in rows(here, EXCLUDED)] == [excluded]
    inside("sync", root, here, "--delete")
    assert len(images(here)) == 5
    (here / "catalogue.db").unlink()
    told(here, "rebuild")
    told(root, "include", *names[:1])
    inside("sync", root, here)
    assert [name for name, *_ in rows(here, EXCLUDED)] == [excluded]


def test_a_reason_that_was_corrected_arrives_by_import(root: Path, tmp_path: Path) -> None:
    """The newer of two reasons from elsewhere stays, in any order of arrival."""
    exports = []
    for reason in ("pen", "pen marks"):
        told(root, "exclude", sampled(root)[0], "--reason", reason)
        exports.append(exported(root, tmp_path / reason))
        time.sleep(1.1 if reason == "pen" else 0)
    for export in (*exports, exports[0]):
        told(tmp_path / "i", "import", export)
    assert rows(tmp_path / "i", REASONS) == [(sampled(root)[0], "pen marks")]


def test_the_number_of_slides_is_raised_for_good_and_nothing_else_changes(root: Path) -> None:
    path = root / "tcgamirror.toml"
    rewrite(root, "^slides = 6.*", "# all we have room for\nslides =   6 # not more")
    before = path.read_text()
    told(root, "update", "--slides", "8", "--rate", "50M")
    assert path.read_text() == before.replace("slides =   6", "slides =   8")
    assert len(images(root)) == 8
    refused = inside("--mirror", root, "update", "--slides", "5")
    assert refused.code == 2 and "a lower number would delete nothing" in refused.sentence
    dry = told(root, "update", "--slides", "all", "--dry-run").out
    assert "7 slides would be fetched" in dry and "slides =   8" in path.read_text()
    told(root, "sample", "--slides", "all")
    assert 'slides =   "all" # not more' in path.read_text()
